"""Download files: resume partial ones, verify checksums, and download once for all processes."""

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
    """Download `url` to `path`: resume a partial file, verify the checksum, then rename.

    `sha256` may be a prefix of the digest. An existing file is kept if its checksum matches. If several processes
    request the same file, one downloads it and the others wait. Only http and https are allowed, also in redirects.
    Raises DataError with the URL and the file.
    """
    expected = {"md5": md5, "sha256": sha256}
    if path.exists():
        return check_digest(path, expected)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = PartialFile(url=url, path=path.with_name(f"{path.name}.part"), is_checked=bool(md5 or sha256))
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process downloaded it meanwhile
            return check_digest(path, expected)
        was_resumed = complete(part, path, progress, timeout)
        mismatch = describe_mismatch(part.path, expected)
        if mismatch and was_resumed:  # its start may be that of an older version
            part.drop()
            complete(part, path, progress, timeout)
            mismatch = describe_mismatch(part.path, expected)
        if mismatch:
            part.drop()
            raise DataError(f"{url}: {mismatch}", fix=f"run again, or put the correct file at {path}", code="checksum")
        part.path.replace(path)
        part.drop()
        sync_folder(path.parent)
    return path


def check_digest(path: Path, expected: Mapping[str, str]) -> Path:
    if mismatch := describe_mismatch(path, expected):
        raise DataError(f"{path.name}: {mismatch}", fix=f"delete {path} and run again", code="checksum")
    return path


def describe_mismatch(path: Path, expected: Mapping[str, str]) -> str:
    """Compare a file with the expected digests, each of which may be a prefix; return "" if it matches."""
    for algorithm, digest in expected.items():
        actual = hash_file(path, algorithm)[: len(digest)] if digest else ""
        if actual != digest:
            return f"expected {algorithm} {digest}, got {actual}"
    return ""


@dataclass(frozen=True, kw_only=True)
class PartialFile:
    """The received part of a file, and beside it a label: the URL and the server's version tag."""

    url: str
    path: Path
    is_checked: bool  # whether a checksum is known, which detects a mix of two versions

    @property
    def label(self) -> Path:
        return self.path.with_name(f"{self.path.name}.from")

    def request_headers(self) -> dict[str, str]:
        """Headers that request the rest of the file, or all of it if the server has a newer version."""
        # No compression in transit: range and length must be those of the file.
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
        """Store the version that the server is about to send: a strong ETag, else a date, else nothing."""
        tag = headers.get("ETag", "")
        version = tag if tag.startswith('"') else headers.get("Last-Modified", "")
        self.label.write_text(json.dumps([self.url, version]), encoding="utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.label.unlink(missing_ok=True)


def complete(part: PartialFile, path: Path, progress: Progress | None, timeout: float) -> bool:
    """Receive the rest of a partial file; return whether it was resumed. Raises DataError if it stays incomplete."""
    import requests

    was_resumed = "Range" in part.request_headers()
    try:
        done, total = receive(part, progress, timeout)
    except requests.RequestException as error:
        raise DataError(
            f"{part.url}: {type(error).__name__}: {error}",
            fix=f"check the network and run again (it resumes), or put the file at {path}",
            code="download",
        ) from error
    except OSError as error:
        raise DataError(
            f"{part.path}: {error.strerror or error}",
            fix="free some disk space, or set ZOO_CACHE to another folder",
            code="cache-unusable",
        ) from error
    if total is not None and done != total:
        raise DataError(
            f"{part.url}: got {done} of {total} bytes", fix="run again: it resumes where it stopped", code="download"
        )
    return was_resumed


def receive(part: PartialFile, progress: Progress | None, timeout: float) -> tuple[int, int | None]:
    """Append the rest to a partial file; return its size and, if known, the full size."""
    import requests

    headers = part.request_headers()
    start = part.path.stat().st_size if "Range" in headers else 0
    with requests.get(part.url, stream=True, timeout=timeout, headers=headers) as response:
        span = response.headers.get("Content-Range", "")
        if start and response.status_code == 416 and span == f"bytes */{start}":
            return start, start  # it was complete
        if start and (response.status_code == 416 or (response.status_code == 206 and not starts_at(span, start))):
            part.drop()  # longer than the file, or the response is a different range
            return receive(part, progress, timeout)
        response.raise_for_status()
        refuse_page(part, response.headers)
        if response.status_code != 206:  # the server does not support ranges, or has a newer version
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and "Content-Encoding" not in response.headers else None
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", "") and not part.is_checked:
            raise DataError(
                f"{part.url}: the server does not report its length, so it is unknown whether the download is complete",
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
    """Whether a Content-Range header describes the range from `start`."""
    return span.startswith(f"bytes {start}-")


def refuse_page(part: PartialFile, headers: Mapping[str, str]) -> None:
    """Refuse a web page in place of a file: it is a login page, a proxy's message or a notice."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    path = part.path.with_suffix("")
    if kind in ("text/html", "application/xhtml+xml") and path.suffix.lower() not in (".html", ".htm"):
        raise DataError(
            f"{part.url}: the server sent a web page instead of {path.name}",
            fix=f"open the URL in a browser to see why, and put the file at {path}",
            code="download",
        )
