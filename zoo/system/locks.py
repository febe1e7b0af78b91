"""Locks between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path, timeout: float = -1.0) -> Iterator[None]:
    """Hold an exclusive lock between processes; remove its file afterwards.

    The kernel releases the lock when this process ends, however it ends. A negative `timeout` waits without limit.
    Raises filelock.Timeout if another process holds the lock for longer than `timeout` seconds.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout):
        try:
            yield
        finally:
            # Remove it while it is held: a waiting process sees that it is gone and creates a new one (filelock 3.24).
            with suppress(OSError):  # Windows does not remove open files
                path.unlink()


def lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock."""
    from filelock import Timeout

    if not path.exists():
        return False
    try:
        with locked(path, timeout=0):
            return False
    except Timeout:
        return True
