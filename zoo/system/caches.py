"""List, measure and clear the cache folder, and keep it within its size limit."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.errors import UsageError
from zoo.system.files import discard, sweep
from zoo.system.locks import locked

# The folders of the cache and what each holds. DOWNLOADED needs the network to be restored; MADE is computed again.
MADE = {
    "images": "images decoded at one size",
    "volumes": "volumes decoded at one spacing",
    "features": "features of frozen models",
    "scores": "what boards computed from stored predictions",
    "checkpoints": "interrupted training runs",
    "fingerprints": "image fingerprints for the audit",
    "unpacked": "unpacked archives",
    "sheets": "contact sheets",
    "plans": "the last plans, for `zoo why`",
    "precision": "training speed in bf16 and fp32 on this processor",
    "plugins": "which plugins can be imported",
}
DOWNLOADED = {"datasets": "downloaded datasets", "weights": "downloaded weights"}
CACHE_KINDS = {**MADE, **DOWNLOADED}
# The kinds of which the least recently used entries are removed beyond the limit.
LIMITED = ("images", "volumes", "features", "scores")

DEFAULT_LIMIT_GB = 100.0
BENCH_LOCK = ".bench-*.lock"
IN_USE_SECONDS = 24 * 3600.0  # an entry used within this time may be open in a running bench


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or folder in the cache that is removed as a whole."""

    kind: str
    name: str
    path: Path
    size_bytes: int
    used: float  # seconds since the epoch


def limit_bytes() -> int:
    """The size limit of decoded images and volumes, features and scores together: `$ZOO_CACHE_LIMIT_GB`, or 100 GB."""
    text = os.environ.get("ZOO_CACHE_LIMIT_GB", "")
    try:
        limit = float(text) if text else DEFAULT_LIMIT_GB
    except ValueError:
        limit = -1.0
    if not 0 <= limit * 1e9 < float("inf"):
        raise UsageError(
            f"ZOO_CACHE_LIMIT_GB={text}: expected a number of gigabytes", fix="export ZOO_CACHE_LIMIT_GB=100"
        )
    return int(limit * 1e9)


def list_entries(cache: Path, kinds: Iterable[str] = CACHE_KINDS) -> list[Entry]:
    """The entries of some kinds, ordered by kind and least recent use."""
    entries = []
    for kind in kinds:
        paths = []
        with suppress(FileNotFoundError, NotADirectoryError):
            paths = [path for path in (cache / kind).iterdir() if not is_lock(path)]
        for path in paths:
            with suppress(FileNotFoundError):  # removed by another process
                entries.append(
                    Entry(
                        kind=kind,
                        name=path.name,
                        path=path,
                        size_bytes=measure_size(path),
                        used=path.stat().st_mtime,
                    )
                )
    order = {kind: position for position, kind in enumerate(CACHE_KINDS)}
    return sorted(entries, key=lambda entry: (order[entry.kind], entry.used, entry.name))


def is_lock(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix == ".lock"


def measure_size(path: Path) -> int:
    """The size in bytes of a file, or of all files in a folder. Symbolic links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(folder, name).lstat().st_size
    return total


@contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Mark the cache as used by a bench, so that other processes do not clear it."""
    with locked(cache / BENCH_LOCK.replace("*", uuid.uuid4().hex[:8])):
        yield


def is_in_use(cache: Path) -> bool:
    """Whether a running bench uses the cache. Locks left by killed processes are removed."""
    from filelock import Timeout

    for path in cache.glob(BENCH_LOCK):
        try:
            with locked(path, timeout=0):
                pass
        except Timeout:
            return True
    return False


def mark_used(path: Path) -> None:
    """Record that an entry was used now, if the cache is writable."""
    with suppress(OSError):
        os.utime(path)


def remove_entries(entries: Iterable[Entry]) -> int:
    """Remove entries, each atomically, and return the freed bytes."""
    freed = 0
    for entry in entries:
        try:
            discard(entry.path)
        except FileNotFoundError:
            continue
        freed += entry.size_bytes
    return freed


def keep_within(cache: Path, limit: int, now: float | None = None) -> list[Entry]:
    """Remove the least recently used images, volumes, features and scores until the rest fits; return what was removed.

    Entries used within the last 24 hours are kept, even if they exceed the limit.
    """
    entries = list_entries(cache, LIMITED)
    total = sum(entry.size_bytes for entry in entries)
    oldest = (now or time.time()) - IN_USE_SECONDS
    removed = []
    for entry in sorted(entries, key=lambda entry: entry.used):
        if total <= limit or entry.used > oldest:
            break
        remove_entries([entry])
        total -= entry.size_bytes
        removed.append(entry)
    return removed


def choose_entries(
    cache: Path, kinds: Sequence[str] = (), *, older_days: float | None = None, everything: bool = False
) -> list[Entry]:
    """The entries of the requested kinds; by default of all kinds that can be computed again, or of `everything`."""
    if older_days is None and is_in_use(cache):
        raise UsageError(
            "a bench is using the cache", fix="wait until it ends, or pass --older DAYS", code="cache-in-use"
        )
    unknown = [kind for kind in kinds if kind not in CACHE_KINDS]
    if unknown:
        raise UsageError(f"unknown cache kind {unknown[0]!r}", fix=f"choose from {', '.join(CACHE_KINDS)}")
    chosen = list_entries(cache, kinds or (CACHE_KINDS if everything else MADE))
    if older_days is None:
        return chosen
    return [entry for entry in chosen if entry.used < time.time() - older_days * 24 * 3600]


def describe_cache(cache: Path) -> dict[str, Any]:
    """The contents of the cache as plain data."""
    entries = list_entries(cache)
    return {
        "folder": str(cache),
        "gigabytes": round(sum(entry.size_bytes for entry in entries) / 1e9, 6),
        "limit_gigabytes": limit_bytes() / 1e9,
        "entries": [
            {
                "kind": entry.kind,
                "megabytes": round(entry.size_bytes / 1e6, 3),
                "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
                "name": entry.name,
                "title": CACHE_KINDS[entry.kind],
            }
            for entry in entries
        ],
    }


CACHE_DEPTH = 2  # of the files and folders that are written atomically: unpacked/KEY/NAME, datasets/NAME/FILE


def open_cache(folder: Path) -> None:
    """Create the cache folder, and remove incomplete files left by killed processes."""
    try:
        for kind in ("", *CACHE_KINDS):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        sweep(folder, depth=CACHE_DEPTH)
    except OSError as error:
        raise UsageError(
            f"cache folder {error.filename or folder}: {error.strerror}",
            fix="set ZOO_CACHE to a writable folder",
            code="cache-unusable",
        ) from error
