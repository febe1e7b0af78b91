"""Atomic, durable writes, content hashes, and removal of incomplete files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo.system.locks import lock_of, locked

CHUNK_BYTES = 1 << 16
# Names that `temporary_beside` and `folder_written_whole` leave behind when they are killed.
LEFT_OVER = re.compile(r"(?P<stem>\.(?P<target>.+)\.[0-9a-f]{8})\.(tmp|old|tmp\.lock)")


def cache_root() -> Path:
    """The cache folder: `$ZOO_CACHE`, or the platform's user cache."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"])
    from platformdirs import user_cache_path

    return user_cache_path("zoo")


def hash_bytes(*parts: bytes | str) -> str:
    """SHA-256, in hex, of the parts in order, each preceded by its length to keep their boundaries."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def require_regular(path: Path) -> None:
    """Raise OSError for a pipe or a device, which would block a reader or be replaced by a writer."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_regular(path: Path) -> str:
    """The text of a regular file. Raises OSError for a pipe or a device."""
    require_regular(path)
    return path.read_text(encoding="utf-8")


HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")


def hash_in_name(name: str) -> str:
    """The sha256 prefix in the name of a published file ("f37072fd" in resnet18-f37072fd.pth), or ""."""
    match = HASH_IN_NAME.search(name)
    return match[1] if match else ""


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, in hex."""
    require_regular(path)
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable. Windows cannot open folders and does not need this."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a unique temporary path beside `path`; remove it when the block ends.

    A lock file beside it marks it as in use, so that `sweep` removes only the leftovers of killed processes.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with locked(lock_of(temporary)):
        try:
            yield temporary
        finally:
            remove_path(temporary)


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` durably if the block succeeds, else remove it."""
    require_regular(path)
    if path.is_symlink():
        path = path.resolve()
    with temporary_beside(path) as temporary:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


def write_json(path: Path, document: Any) -> None:
    """Write `document` durably. NaN is an error: an undefined value is null."""
    with written_whole(path) as temporary:
        temporary.write_text(json_text(document), encoding="utf-8")


def json_text(document: Any) -> str:
    """The text of a JSON file. NaN is an error."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


SEAL = "seal"


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """Write a document with its own digest, with which `unseal` detects damage."""
    write_json(path, seal(document))


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its own digest."""
    return {**document, SEAL: digest_of(document)}


def unseal(document: dict[str, Any]) -> bool:
    """Remove the digest of a document and return whether it matches; older documents without a digest pass."""
    seal = document.pop(SEAL, None)
    return seal is None or seal == digest_of(document)


def digest_of(document: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(document, sort_keys=True, ensure_ascii=True))


def save_arrays(path: Path, **arrays: Any) -> None:
    """Store arrays in the cache, for `load_arrays` to read."""
    import numpy as np

    with written_whole(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_arrays(path: Path) -> dict[str, Any] | None:
    """All arrays of a file in the cache; None if it is missing or damaged, so that they are computed again."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)  # reads everything, which verifies every checksum of the archive
    except Exception:  # a damaged archive raises many kinds of errors in zipfile, zlib and numpy
        return None


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; rename it to `folder` durably if the block succeeds, else remove it.

    An existing folder is replaced: it is renamed first, and removed after the new one is in place.
    """
    with temporary_beside(folder) as temporary:
        aside = temporary.with_suffix(".old")
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            if path.is_dir():  # an unpacked archive can be unpacked again, and syncing 100,000 files takes minutes
                continue
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
        sync_folder(temporary)
        with suppress(FileNotFoundError):
            folder.rename(aside)
        try:
            temporary.rename(folder)
        except OSError:
            with suppress(OSError):
                aside.rename(folder)
            raise
        sync_folder(folder.parent)
        remove_path(aside)


def discard(path: Path) -> None:
    """Remove a file or a folder atomically. Raises FileNotFoundError."""
    with temporary_beside(path) as temporary:
        path.rename(temporary)


def sweep(root: Path, depth: int) -> list[Path]:
    """Remove what ended processes left incomplete, down to `depth` folders below `root`; return the removed paths.

    A folder that a process had renamed but not replaced yet is restored.
    """
    from filelock import Timeout

    hidden = [path for level in range(depth + 1) for path in root.glob("*/" * level + ".*")]
    leftovers = {path: match for path in hidden if (match := LEFT_OVER.fullmatch(path.name))}
    temporaries = {
        path.with_name(f"{match['stem']}.tmp"): path.with_name(match["target"]) for path, match in leftovers.items()
    }
    removed = []
    for temporary, target in sorted(temporaries.items()):
        with suppress(Timeout, OSError), locked(lock_of(temporary), timeout=0):  # in use, or no permission
            aside = temporary.with_suffix(".old")
            if aside.exists() and not target.exists():
                aside.rename(target)
            remove_path(aside)
            remove_path(temporary)
            removed.append(temporary)
    for path in hidden:
        if path.suffix == ".lock" and path not in leftovers and path.exists():
            with suppress(Timeout, OSError), locked(path, timeout=0):
                pass
    return removed
