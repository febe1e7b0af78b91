"""Files that are whole or absent: content hashes, durable writes, what was left half-written removed."""

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from zoo.system.locks import lock_of, locked

CHUNK_BYTES = 1 << 16
# What `temporary_beside` and `folder_written_whole` leave where they are killed.
LEFT_OVER = re.compile(r"(?P<stem>\.(?P<target>.+)\.[0-9a-f]{8})\.(tmp|old|tmp\.lock)")


def cache_root() -> Path:
    """The folder for everything that can be made again: `$ZOO_CACHE`, or the platform's user cache."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"])
    from platformdirs import user_cache_path

    return user_cache_path("zoo")


# tomllib's words for a key or a section that is given twice
REPEATED = re.compile(r"Cannot (overwrite|declare)|[Dd]uplicate")


def hash_bytes(*parts: bytes | str) -> str:
    """SHA-256, in hex, of the parts one after the other, each preceded by its length so that none can slide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def require_regular(path: Path) -> None:
    """Raise OSError for what would be waited for without end, or replaced by a file: a pipe, a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_regular(path: Path) -> str:
    """The text of a file that is one."""
    require_regular(path)
    return path.read_text(encoding="utf-8")


HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")


def hash_in_name(name: str) -> str:
    """The start of a published file's sha256 as its name has it, "f37072fd" of resnet18-f37072fd.pth; else ""."""
    match = HASH_IN_NAME.search(name)
    return match[1] if match else ""


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, in hex."""
    require_regular(path)
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable. Windows cannot open folders and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` that nobody else uses; whatever lies there is removed when the block ends.

    A lock beside it says that it is in use, so that `sweep` can tell what is left over from what is being written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with locked(lock_of(temporary)):
        try:
            yield temporary
        finally:
            remove_path(temporary)


def remove_path(path: Path) -> None:
    """Remove a file or a folder, or nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it becomes `path`, durably, else it is gone."""
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
    """Write `document` durably; NaN is refused, because undefined is null."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


SEAL = "seal"


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """`write_json` of a document that carries its own digest, so that `unseal` can tell whether it was damaged."""
    write_json(path, {**document, SEAL: digest_of(document)})


def unseal(document: dict[str, Any]) -> bool:
    """Take the seal off, and tell whether the rest is what was sealed; documents of before there were seals pass."""
    seal = document.pop(SEAL, None)
    return seal is None or seal == digest_of(document)


def digest_of(document: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(document, sort_keys=True, ensure_ascii=True))


def keep_arrays(path: Path, **arrays: Any) -> None:
    """Keep arrays in the cache, for `kept_arrays` to find."""
    import numpy as np

    with written_whole(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def kept_arrays(path: Path) -> dict[str, Any] | None:
    """All arrays of a file in the cache; None where it is absent or not what was written: they can be made again."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)  # read whole, so that every checksum of the archive is compared
    except Exception:  # what a damaged archive makes zipfile, zlib and numpy raise cannot be listed
        return None


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; when the block ends well it becomes `folder`, durably, else it is gone.

    A folder that is there already is replaced: set aside, then removed once the new one stands.
    """
    with temporary_beside(folder) as temporary:
        aside = temporary.with_suffix(".old")
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            if path.is_dir():  # an unpacked archive: it can be made again, and syncing 100,000 files takes minutes
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
    """Remove a file or a folder, whole or not at all for whoever looks on. Raises FileNotFoundError."""
    with temporary_beside(path) as temporary:
        path.rename(temporary)


def sweep(root: Path, depth: int) -> list[Path]:
    """Remove what processes that are no more left half-written, down to `depth` folders below `root`; return what went.

    A folder that one of them had set aside, and not replaced yet, takes its place again.
    """
    from filelock import Timeout

    hidden = [path for level in range(depth + 1) for path in root.glob("*/" * level + ".*")]
    found = {path: match for path in hidden if (match := LEFT_OVER.fullmatch(path.name))}
    temporaries = {
        path.with_name(f"{match['stem']}.tmp"): path.with_name(match["target"]) for path, match in found.items()
    }
    gone = []
    for temporary, target in sorted(temporaries.items()):
        with suppress(Timeout, OSError), locked(lock_of(temporary), timeout=0):  # else in use, or not ours to remove
            aside = temporary.with_suffix(".old")
            if aside.exists() and not target.exists():
                aside.rename(target)
            remove_path(aside)
            remove_path(temporary)
            gone.append(temporary)
    for path in hidden:
        if path.suffix == ".lock" and path not in found and path.exists():
            with suppress(Timeout, OSError), locked(path, timeout=0):
                pass
    return gone
