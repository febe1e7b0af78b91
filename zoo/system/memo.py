"""Remember what was computed from a file until the file changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError

if TYPE_CHECKING:
    import sqlite3
from zoo.system.files import hash_bytes, hash_file

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
