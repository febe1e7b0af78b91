"""Files that are whole or absent: content hashes, durable writes, cache folders, downloads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError

if TYPE_CHECKING:
    import sqlite3

CHUNK_BYTES = 1 << 16  # what is lost at most when a download is cut


def cache_root() -> Path:
    """The folder for everything that can be made again: `$ZOO_CACHE`, or the platform's user cache."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"])
    from platformdirs import user_cache_path

    return user_cache_path("zoo")


def hash_bytes(*parts: bytes | str) -> str:
    """SHA-256, in hex, of the parts one after the other, each preceded by its length so that none can slide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


class FileMemo:
    """What was found out about files, remembered by path, size and modification time, so that a set is read once.

    By default their SHA-256. `what` names another fact (and the version of the code that finds it), `find` finds it;
    a fact is any JSON document.
    """

    def __init__(self, folder: Path, what: str = "sha256", find: Callable[[Path], Any] = hash_file) -> None:
        import sqlite3

        folder.mkdir(parents=True, exist_ok=True)
        self.what, self.find = what, find
        self.fresh: list[tuple[str, str, int, int, str]] = []  # written at the end: a transaction stops other benches
        path = folder / "files.sqlite3"
        try:
            self.connection = self.connect(path)
        except sqlite3.OperationalError:
            raise  # locked or not writable: it may be whole
        except sqlite3.DatabaseError:  # damaged: all it held can be computed again
            path.unlink()
            self.connection = self.connect(path)

    def connect(self, path: Path) -> sqlite3.Connection:
        import sqlite3

        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS facts "
                "(what TEXT, path TEXT, size INTEGER, mtime INTEGER, fact TEXT, PRIMARY KEY (what, path))"
            )
        return connection

    def __call__(self, path: Path) -> Any:
        key = self.key(path)
        if (known := self.look_up(key)) is not None:
            return known
        fact = self.find(path)
        self.fresh.append((*key, json.dumps(fact)))
        return fact

    def recall(self, path: Path) -> Any:
        """What is remembered of a file; None where nothing is."""
        return self.look_up(self.key(path))

    def remember(self, path: Path, fact: Any) -> None:
        self.fresh.append((*self.key(path), json.dumps(fact)))

    def key(self, path: Path) -> tuple[str, str, int, int]:
        status = path.stat()
        return self.what, str(path.resolve()), status.st_size, status.st_mtime_ns

    def look_up(self, key: tuple[str, str, int, int]) -> Any:
        row = self.connection.execute(
            "SELECT fact FROM facts WHERE what = ? AND path = ? AND size = ? AND mtime = ?", key
        ).fetchone()
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        with self.connection:
            self.connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", self.fresh)
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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it becomes `path`, durably, else it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_json(path: Path, document: Any) -> None:
    """Write `document` durably; NaN is refused, because undefined is null."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; when the block ends well it becomes `folder`, durably, else it is gone.

    A folder that is there already is replaced: set aside, then removed once the new one stands.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
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
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def download(
    url: str,
    path: Path,
    *,
    md5: str = "",
    progress: Callable[[int, int | None], None] | None = None,
    timeout: float = 15.0,
) -> Path:
    """Bring `url` to `path`, whole or not at all: resumed by range, its checksum compared, then renamed.

    A file that is there already is kept where its md5 agrees. Only http and https are followed, also in redirects.
    Raises DataError naming the URL and the file.
    """
    import requests

    if path.exists():
        if not md5 or hash_file(path, "md5") == md5:
            return path
        raise DataError(
            f"{path.name}: expected md5 {md5}, got {hash_file(path, 'md5')}",
            fix=f"delete {path} and run again",
            code="checksum",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        done, total = receive(url, partial, progress, timeout)
    except requests.RequestException as error:
        raise DataError(
            f"{url}: {type(error).__name__}: {error}",
            fix=f"check the network and run again (what arrived is kept), or put the file at {path}",
            code="download",
        ) from error
    if total is not None and done != total:
        raise DataError(
            f"{url}: got {done} of {total} bytes", fix="run again: it goes on where it stopped", code="download"
        )
    if md5 and (found := hash_file(partial, "md5")) != md5:
        partial.unlink()
        raise DataError(
            f"{url}: expected md5 {md5}, got {found}",
            fix=f"run again, or put the right file at {path}",
            code="checksum",
        )
    partial.replace(path)
    sync_folder(path.parent)
    return path


def receive(
    url: str, partial: Path, progress: Callable[[int, int | None], None] | None, timeout: float
) -> tuple[int, int | None]:
    """Append to `partial` what it lacks of `url`; returns the bytes it then has and, where known, should have."""
    import requests

    start = partial.stat().st_size if partial.exists() else 0
    # Not compressed on the way: range and length must be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=timeout, headers=headers) as response:
        if start and response.status_code == 416:
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return start, start  # all had arrived
            partial.unlink()  # longer than the file
            return receive(url, partial, progress, timeout)
        response.raise_for_status()
        if response.status_code != 206:  # this server does not resume
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and "Content-Encoding" not in response.headers else None
        done = start
        with open(partial, "ab" if start else "wb") as stream:
            for chunk in response.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
            stream.flush()
            os.fsync(stream.fileno())
    return done, total
