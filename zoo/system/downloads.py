"""From a URL to a file that is whole and the right one, whatever the network, the server or another process does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import DataError
from zoo.system.files import CHUNK_BYTES, hash_file, sync_folder
from zoo.system.locks import locked
from zoo.system.progress import Progress


def download(
    url: str,
    path: Path,
    *,
    md5: str = "",
    sha256: str = "",
    progress: Progress | None = None,
    timeout: float = 15.0,
) -> Path:
    """Bring `url` to `path`, whole or not at all: resumed by range, its checksum compared, then renamed.

    `sha256` may be the start of it. A file that is there already is kept where its checksum agrees. Of several
    processes that want one file, one downloads and the others wait. Only http and https are followed, also in
    redirects. Raises DataError naming the URL and the file.
    """
    expected = {"md5": md5, "sha256": sha256}
    if path.exists():
        return check_digest(path, expected)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = PartialFile(url=url, path=path.with_name(f"{path.name}.part"), is_checked=bool(md5 or sha256))
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process brought it meanwhile
            return check_digest(path, expected)
        was_resumed = bring(part, path, progress, timeout)
        fault = wrong_digest(part.path, expected)
        if fault and was_resumed:  # its start may be that of an older file
            part.drop()
            bring(part, path, progress, timeout)
            fault = wrong_digest(part.path, expected)
        if fault:
            part.drop()
            raise DataError(f"{url}: {fault}", fix=f"run again, or put the right file at {path}", code="checksum")
        part.path.replace(path)
        part.drop()
        sync_folder(path.parent)
    return path


def check_digest(path: Path, expected: Mapping[str, str]) -> Path:
    if fault := wrong_digest(path, expected):
        raise DataError(f"{path.name}: {fault}", fix=f"delete {path} and run again", code="checksum")
    return path


def wrong_digest(path: Path, expected: Mapping[str, str]) -> str:
    """What a file's digest is and should be, or "" where it is right; only as much is compared as is expected."""
    for algorithm, digest in expected.items():
        found = hash_file(path, algorithm)[: len(digest)] if digest else ""
        if found != digest:
            return f"expected {algorithm} {digest}, got {found}"
    return ""


@dataclass(frozen=True, kw_only=True)
class PartialFile:
    """What has arrived of a file, and beside it what the server called that version of it."""

    url: str
    path: Path
    is_checked: bool  # whether the checksum will tell if old and new do not go together

    @property
    def label(self) -> Path:
        return self.path.with_name(f"{self.path.name}.from")

    def wanted(self) -> dict[str, str]:
        """The headers that ask for the rest, but for all of it where the server's file is another by now."""
        # Not compressed on the way: range and length must be those of the file.
        headers = {"Accept-Encoding": "identity"}
        size = self.path.stat().st_size if self.path.exists() else 0
        url, version = "", ""
        with suppress(OSError, ValueError):
            url, version = json.loads(self.label.read_text(encoding="utf-8"))
        if size and url == self.url and (version or self.is_checked):
            headers["Range"] = f"bytes={size}-"
            if version:
                headers["If-Range"] = version
        return headers

    def note_version(self, headers: Mapping[str, str]) -> None:
        """Remember what the server calls the version it is about to send: a strong tag, else a date, else nothing."""
        tag = headers.get("ETag", "")
        version = tag if tag.startswith('"') else headers.get("Last-Modified", "")
        self.label.write_text(json.dumps([self.url, version]), encoding="utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.label.unlink(missing_ok=True)


def bring(part: PartialFile, path: Path, progress: Progress | None, timeout: float) -> bool:
    """Receive all that a part lacks; returns whether it was resumed. DataError where it is not whole afterwards."""
    import requests

    was_resumed = "Range" in part.wanted()
    try:
        done, total = receive(part, progress, timeout)
    except requests.RequestException as error:
        raise DataError(
            f"{part.url}: {type(error).__name__}: {error}",
            fix=f"check the network and run again (what arrived is kept), or put the file at {path}",
            code="download",
        ) from error
    except OSError as error:
        raise DataError(
            f"{part.path}: {error.strerror or error}",
            fix="make room, or set ZOO_CACHE to another folder",
            code="cache-unusable",
        ) from error
    if total is not None and done != total:
        raise DataError(
            f"{part.url}: got {done} of {total} bytes", fix="run again: it goes on where it stopped", code="download"
        )
    return was_resumed


def receive(part: PartialFile, progress: Progress | None, timeout: float) -> tuple[int, int | None]:
    """Append to a part what it lacks; returns the bytes it then has and, where known, should have."""
    import requests

    headers = part.wanted()
    start = part.path.stat().st_size if "Range" in headers else 0
    with requests.get(part.url, stream=True, timeout=timeout, headers=headers) as response:
        span = response.headers.get("Content-Range", "")
        if start and response.status_code == 416 and span == f"bytes */{start}":
            return start, start  # all had arrived
        if start and (response.status_code == 416 or (response.status_code == 206 and not starts_at(span, start))):
            part.drop()  # longer than the file, or answered with another part of it
            return receive(part, progress, timeout)
        response.raise_for_status()
        refuse_page(part, response.headers)
        if response.status_code != 206:  # this server does not resume, or has another version by now
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and "Content-Encoding" not in response.headers else None
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", "") and not part.is_checked:
            raise DataError(
                f"{part.url}: its server does not say how long it is, so that nobody can tell whether it is whole",
                fix=f"download it by other means and put it at {part.path.with_suffix('')}",
                code="download",
            )
        done = start
        if not start:
            part.note_version(response.headers)
        with open(part.path, "ab" if start else "wb") as stream:
            for chunk in response.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
            stream.flush()
            os.fsync(stream.fileno())
    return done, total


def starts_at(span: str, start: int) -> bool:
    """Whether a Content-Range header is that of the rest from `start`."""
    return span.startswith(f"bytes {start}-")


def refuse_page(part: PartialFile, headers: Mapping[str, str]) -> None:
    """A web page where a file was asked for is a login, a proxy's word or a notice."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    path = part.path.with_suffix("")
    if kind in ("text/html", "application/xhtml+xml") and path.suffix.lower() not in (".html", ".htm"):
        raise DataError(
            f"{part.url}: a web page came instead of {path.name}",
            fix=f"open it in a browser to see what it asks for, and put the file at {path}",
            code="download",
        )
