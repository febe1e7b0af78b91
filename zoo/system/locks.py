"""Locks between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@contextmanager
def locked(path: Path, timeout: float = -1.0) -> Iterator[None]:
    """Hold a lock that no other process has; the file that stands for it is gone afterwards.

    The kernel drops it with this process, however that ends: no clock and no other machine's word is asked. Raises
    filelock.Timeout where another process holds it for longer than `timeout`; below zero it is waited for.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout):
        try:
            yield
        finally:
            # While it is held: whoever waits for this file sees that it is gone, and makes another (filelock 3.24).
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()


def lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")
