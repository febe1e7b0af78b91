"""Files that are whole or absent: content hashes, durable writes, what was left half-written removed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

CHUNK_BYTES = 1 << 16
# What `temporary_beside` and `folder_written_whole` leave where they are killed.
LEFT_OVER = re.compile(r"(?P<stem>\.(?P<target>.+)\.[0-9a-f]{8})\.(tmp|old|tmp\.lock)")


def cache_root() -> Path:
    """The folder for everything that can be made again: `$ZOO_CACHE`, or the platform's user cache."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"])
    from platformdirs import user_cache_path

    return user_cache_path("zoo")


MAX_NESTING = 50  # no card and no suite is deeper than five; pydantic gives up at some hundreds


# tomllib's words for a key or a section that is given twice
REPEATED = re.compile(r"Cannot (overwrite|declare)|[Dd]uplicate")


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document. ValueError where it is none, is nested too deep, or has a number of thousands of digits."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        if REPEATED.search(str(error)) and (repeated := find_repeated_key(text)):
            key, first, second = repeated
            raise ValueError(f"line {second}: {key!r} is given twice, first in line {first}") from error
        raise
    level: list[Any] = [document]
    for _ in range(MAX_NESTING):
        level = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise ValueError("nested too deep")
    return document


def find_repeated_key(text: str) -> tuple[str, int, int] | None:
    """The first key or section that a TOML text gives twice, and both lines; the parser's own error may name none."""
    section, seen = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]", line):  # one more table of a list: its keys are new
            section = table[1]
            seen = {key: first for key, first in seen.items() if not key.startswith(f"{section}.")}
            continue
        found = re.match(r"\s*(?:\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$|([A-Za-z0-9_.\-]+|\"[^\"]*\")\s*=)", line)
        if not found:
            continue
        section = found[1] or section
        key = found[1] or (f"{section}.{found[2]}" if section else found[2])
        if key in seen:
            return key, seen[key], number
        seen[key] = number
    return None


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


FileStamp = tuple[int, int, int, int]


def file_stamp(path: Path) -> FileStamp:
    """Size, time of modification, time of the last change (ns), and number of a file: another file has another one."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class FileMemo:
    """What was found out about files, remembered by path, size and times, so that a set is read once.

    Of the times the one of the last change counts too, which no program can set back, and the number of the file: an
    archive may give all its files one time of modification, and then two of them change places.

    By default their SHA-256. `what` names another fact (and the version of the code that finds it), `find` finds it;
    a fact is any JSON document.
    """

    def __init__(self, folder: Path, what: str = "sha256", find: Callable[[Path], Any] = hash_file) -> None:
        import sqlite3

        folder.mkdir(parents=True, exist_ok=True)
        self.what, self.find = what, find
        self.fresh: list[tuple[str, str, int, str, str]] = []  # written at the end: a transaction stops other benches
        path = folder / "files.sqlite3"
        try:
            self.connection = self.connect(path)
        except sqlite3.OperationalError as error:  # locked or not writable: it may be whole
            raise UsageError(
                f"{path}: {error}",
                fix="make room, or set ZOO_CACHE to a folder that can be written to",
                code="cache-unusable",
            ) from error
        except sqlite3.DatabaseError:  # damaged: all it held can be computed again
            path.unlink()
            self.connection = self.connect(path)

    def connect(self, path: Path) -> sqlite3.Connection:
        import sqlite3

        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS known "
                "(what TEXT, path TEXT, size INTEGER, stamp TEXT, fact TEXT, PRIMARY KEY (what, path))"
            )
        return connection

    def __call__(self, path: Path) -> Any:
        key = self.key(path)
        if (known := self.look_up(key)) is not None:
            return known
        fact = self.find(path)
        self.note(key, fact)
        return fact

    def recall(self, path: Path) -> Any:
        """What is remembered of a file; None where nothing is."""
        return self.look_up(self.key(path))

    def remember(self, path: Path, fact: Any) -> None:
        self.note(self.key(path), fact)

    def key(self, path: Path) -> tuple[str, str, int, str]:
        size, *times = file_stamp(path)
        return self.what, str(path.resolve()), size, " ".join(map(str, times))

    def look_up(self, key: tuple[str, str, int, str]) -> Any:
        import sqlite3

        try:
            row = self.connection.execute(
                "SELECT fact FROM known WHERE what = ? AND path = ? AND size = ? AND stamp = ?", key
            ).fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return None  # a damaged page
        checksum, _, fact = str(row[0]).partition(" ") if row else ("", "", "")
        return json.loads(fact) if row and checksum == self.checksum(key, fact) else None

    def checksum(self, key: tuple[str, str, int, str], fact: str) -> str:
        return hash_bytes(json.dumps(key), fact)[:16]

    def note(self, key: tuple[str, str, int, str], fact: Any) -> None:
        text = json.dumps(fact)
        self.fresh.append((*key, f"{self.checksum(key, text)} {text}"))

    def close(self) -> None:
        import sqlite3

        # A full disk, a damaged file: what is not remembered is found out again.
        with suppress(sqlite3.DatabaseError), self.connection:
            self.connection.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", self.fresh)
        self.connection.close()


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable. Windows cannot open folders and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- locks -----------------------------------------------------------------------------------------------------------
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


# --- what is written whole -------------------------------------------------------------------------------------------
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
            remove(temporary)


def lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def remove(path: Path) -> None:
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
        remove(aside)


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
            remove(aside)
            remove(temporary)
            gone.append(temporary)
    for path in hidden:
        if path.suffix == ".lock" and path not in found and path.exists():
            with suppress(Timeout, OSError), locked(path, timeout=0):
                pass
    return gone
