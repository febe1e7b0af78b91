"""An archive that somebody downloaded to a folder of plain files: whole or absent, nothing written beside it.

Nothing in an archive is believed: names, links and sizes are checked before a byte is written.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import IO

from zoo.errors import DataError
from zoo.images.formats import is_ignored
from zoo.system.files import CHUNK_BYTES, folder_written_whole, hash_bytes
from zoo.system.progress import Progress

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What unpacks to more than 100 times its size, and more than this, is a bomb: images shrink by a tenth, tables to one.
MAX_ARCHIVE_RATIO = 100
NO_BOMB_BYTES = 100 * 2**20
MAX_SHOWN, SHOWN_OF_NAME = 200, 60  # of a name in a message
MAX_TAR_HEADER_BYTES = 2**20  # a tar's long name or extended header, which is read into memory whole
OTHER_KINDS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR"}
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, ValueError, OverflowError),
)


def is_archive_name(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def find_unpacked(archive: Path, cache: Path, progress: Progress | None = None) -> Path:
    """The folder of an archive's files in the cache, unpacked now if need be; where it holds one folder alone, that.

    It is known by path, size and modification time: another file of the same name is unpacked anew.
    """
    status = archive.stat()
    key = hash_bytes(str(archive.resolve()), str(status.st_size), str(status.st_mtime_ns))[:16]
    stem = next(archive.name[: -len(suffix)] for suffix in ARCHIVE_SUFFIXES if archive.name.lower().endswith(suffix))
    folder = cache / "unpacked" / key / (stem or "archive")
    if not folder.is_dir():
        unpack(archive, folder, progress)
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> Path:
    """Unpack a zip or tar to `folder`, whole or not at all; DataError names the archive and the entry at fault."""
    if not archive.is_file():
        raise DataError(
            f"{archive}: " + ("not a regular file" if archive.exists() else "no such file"),
            fix="name a .zip or .tar file, or the folder it unpacks to",
        )
    is_zip = recognise(archive)
    try:
        with folder_written_whole(folder) as temporary:
            limit = largest_amount(archive, temporary)
            (unpack_zip if is_zip else unpack_tar)(archive, temporary, limit, progress)
            if not any(temporary.iterdir()):
                raise DataError(f"{archive}: an archive without files", fix="bring it again, or name another")
    except DAMAGE as error:
        raise DataError(
            f"{archive}: damaged or truncated: {error or type(error).__name__}", fix="download it again", code="archive"
        ) from error
    except OSError as error:
        raise DataError(
            f"{archive}: cannot be unpacked to {folder}: {error.strerror or error}",
            fix="make room, or set ZOO_CACHE to another folder",
            code="archive",
        ) from error
    return folder


def recognise(archive: Path) -> bool:
    """Whether it is a zip (True) or a tar (False); DataError for what is neither, such as a login page saved as one."""
    with open(archive, "rb") as stream:
        head = stream.read(512)
    if re.match(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise DataError(
            f"{archive}: a web page, not an archive: the download asked for a login",
            fix="log in, download again and replace it",
            code="archive",
        )
    for magic, kind in OTHER_KINDS.items():
        if head.startswith(magic):
            raise DataError(
                f"{archive}: a {kind} archive", fix="unpack it and name the folder as the dataset", code="archive"
            )
    if zipfile.is_zipfile(archive):
        return True
    if head.startswith(b"PK"):
        raise DataError(f"{archive}: truncated: a zip without its end", fix="download it again", code="archive")
    try:
        tarfile.open(archive).close()
    except DAMAGE as error:
        raise DataError(f"{archive}: neither a zip nor a tar", fix="download it again", code="archive") from error
    return False


def largest_amount(archive: Path, folder: Path) -> int:
    """How many bytes it may unpack to: as its size allows, and as the disk has room for."""
    return min(max(NO_BOMB_BYTES, MAX_ARCHIVE_RATIO * archive.stat().st_size), shutil.disk_usage(folder).free)


def check_amount(archive: Path, total: int, limit: int) -> None:
    if total > limit:
        size = archive.stat().st_size
        raise DataError(
            f"{archive}: unpacks to more than {limit / 1e9:.2g} GB from {size / 1e6:.3g} MB: "
            + (
                "too much for any image set" if limit >= MAX_ARCHIVE_RATIO * size else "more than the disk has room for"
            ),
            fix="if you trust it, unpack it yourself and name the folder",
            code="archive",
        )


def refused(archive: Path, name: str, what: str) -> DataError:
    shown = name if len(name) <= MAX_SHOWN else f"{name[:SHOWN_OF_NAME]}..."
    return DataError(
        f"{archive}: entry {shown!r}: {what}; nothing was unpacked",
        fix="unpack it yourself and name the folder",
        code="archive",
    )


def plain_name(archive: Path, name: str) -> str:
    """A name without what says nothing in it: `./a//b` is `a/b`, the folder itself "". `tar -C base .` writes such.

    One that would be written elsewhere, or that cannot be shown, is refused.
    """
    if not name:
        raise refused(archive, name, "no name at all")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise refused(archive, name, "a control character in its name")
    if "\\" in name:
        raise refused(archive, name, "a backslash in its name")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or (parts and re.match(r"[A-Za-z]:", parts[0])):
        raise refused(archive, name, "an absolute path")
    if ".." in parts:
        raise refused(archive, name, "it leads out of the folder")
    return "/".join(parts)


def is_left_out(name: str) -> bool:
    """What an operating system left: __MACOSX, .DS_Store and the like."""
    return any(is_ignored(part) for part in name.split("/"))


def unpack_zip(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as opened:
        entries = []
        for entry in opened.infolist():
            name = plain_name(archive, entry.orig_filename)  # `filename` ends at a NUL
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(archive, entry.filename, "a link or device")
            if entry.flag_bits & 0x1:
                raise DataError(
                    f"{archive}: encrypted", fix="unpack it with its password and name the folder", code="archive"
                )
            if not entry.is_dir() and not is_left_out(name):
                entries.append((name, entry))
        total = sum(entry.file_size for _, entry in entries)
        check_amount(archive, total, limit)
        done = 0
        for name, entry in entries:
            with opened.open(entry) as source, create(archive, folder, name) as target:
                done += write(source, entry.file_size, target)
            if progress:
                progress(done, total)


class CheckedHeader(tarfile.TarInfo):
    """A tar's entry. Names that are longer than a header are read into memory: not megabytes of them."""

    def _proc_member(self, opened: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in LONG_HEADERS and self.size > MAX_TAR_HEADER_BYTES:
            raise DataError(
                f"{opened.name!s}: a header of {self.size} bytes",
                fix="unpack it yourself and name the folder",
                code="archive",
            )
        result: tarfile.TarInfo = super()._proc_member(opened)  # type: ignore[misc]
        return result


def unpack_tar(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    total = 0
    with tarfile.open(archive, tarinfo=CheckedHeader) as opened:
        # One after the other: a list of a compressed tar's entries decompresses all of it.
        while (entry := opened.next()) is not None:
            opened.members = []  # type: ignore[attr-defined]  # a million entries are not kept
            name = plain_name(archive, entry.name)
            if not (entry.isreg() or entry.isdir()):
                raise refused(archive, entry.name, "a link or device")
            tarfile.data_filter(entry, str(folder))
            if entry.isdir() or is_left_out(name):
                continue
            total += entry.size
            check_amount(archive, total, limit)
            source = opened.extractfile(entry)
            assert source is not None  # it is a regular file
            with create(archive, folder, name) as target:
                write(source, entry.size, target)
            if progress:
                progress(total, None)
        assert opened.fileobj is not None
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # the reader stops at a bad header as at the end
            raise EOFError(f"a header at byte {opened.offset} cannot be read")


def create(archive: Path, folder: Path, name: str) -> IO[bytes]:
    """The file that an entry is written to: each name once, and none both a file and a folder."""
    path = folder / name
    try:
        try:
            return open(path, "xb")
        except FileNotFoundError:  # perf: asked for after the first file of a folder, not before each
            path.parent.mkdir(parents=True, exist_ok=True)
            return open(path, "xb")
    except (FileExistsError, NotADirectoryError) as error:
        what = "another entry is a folder of that name" if path.is_dir() else "stands in it twice"
        what = what if path.exists() else "it lies in what another entry says is a file"
        raise refused(archive, name, what) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise refused(archive, name, "a name longer than the disk takes") from error


def write(source: IO[bytes], size: int, target: IO[bytes]) -> int:
    """Copy what an entry says it holds, and not a byte more."""
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        done += len(chunk)
        if done > size:
            break
        target.write(chunk)
    if done != size:
        raise EOFError(f"{Path(target.name).name} holds another number of bytes than it says")
    return done
