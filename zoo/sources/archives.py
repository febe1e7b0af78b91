"""Unpack a downloaded archive to a folder, completely or not at all.

Archives are untrusted: names, links and sizes are checked before a byte is written.
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
from zoo.system.locks import locked
from zoo.system.progress import Progress

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# A zip bomb: it unpacks to more than 100 times its size and to more than NO_BOMB_BYTES. Compression saves about a tenth
# of images and nine tenths of tables.
MAX_ARCHIVE_RATIO = 100
NO_BOMB_BYTES = 100 * 2**20
MAX_SHOWN, SHOWN_OF_NAME = 200, 60  # characters: a longer entry name is cut to 60 in messages
MAX_TAR_HEADER_BYTES = 2**20  # of a long name or extended header in a tar, which is read into memory
TAR_MAGIC = b"ustar"
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
    """Return the cached folder of an archive's files, unpacking the archive on first use.

    If the archive contains a single folder, return that folder. The cache key is path, size and modification time, so
    a replaced archive is unpacked again.
    """
    status = archive.stat()
    key = hash_bytes(str(archive.resolve()), str(status.st_size), str(status.st_mtime_ns))[:16]
    stem = next(archive.name[: -len(suffix)] for suffix in ARCHIVE_SUFFIXES if archive.name.lower().endswith(suffix))
    folder = cache / "unpacked" / key / (stem or "archive")
    if not folder.is_dir():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():  # another process unpacked it meanwhile, and may be reading it
                unpack(archive, folder, progress)
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> Path:
    """Unpack a zip or tar to `folder`, completely or not at all; a DataError names the archive and the entry."""
    if not archive.is_file():
        raise DataError(
            f"{archive}: " + ("not a regular file" if archive.exists() else "no such file"),
            fix="name a .zip or .tar file, or the folder it unpacks to",
        )
    is_zip = is_zip_archive(archive)
    try:
        with folder_written_whole(folder) as temporary:
            limit = largest_amount(archive, temporary)
            (unpack_zip if is_zip else unpack_tar)(archive, temporary, limit, progress)
            if not any(temporary.iterdir()):
                raise DataError(f"{archive}: the archive contains no files", fix="download it again, or name another")
    except DAMAGE as error:
        raise DataError(
            f"{archive}: damaged or truncated: {error or type(error).__name__}", fix="download it again", code="archive"
        ) from error
    except OSError as error:
        raise DataError(
            f"{archive}: cannot be unpacked to {folder}: {error.strerror or error}",
            fix="free some disk space, or set ZOO_CACHE to another folder",
            code="archive",
        ) from error
    return folder


def is_zip_archive(archive: Path) -> bool:
    """Return True for a zip and False for a tar; raise DataError for anything else, such as a saved login page."""
    with open(archive, "rb") as stream:
        head = stream.read(512)
    if re.match(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise DataError(
            f"{archive}: this is a web page, not an archive; the download probably required a login",
            fix="log in, download the file again and replace this one",
            code="archive",
        )
    for magic, kind in OTHER_KINDS.items():
        if head.startswith(magic):
            raise DataError(
                f"{archive}: {kind} archives are not supported",
                fix="unpack it and name the folder as the dataset",
                code="archive",
            )
    if head[257:262] == TAR_MAGIC:  # first: the last file of a tar may be a zip, such as an `.npz`
        return False
    if zipfile.is_zipfile(archive):
        return True
    if head.startswith(b"PK"):
        raise DataError(f"{archive}: truncated zip: its end is missing", fix="download it again", code="archive")
    try:
        tarfile.open(archive).close()
    except DAMAGE as error:
        raise DataError(f"{archive}: neither a zip nor a tar", fix="download it again", code="archive") from error
    return False


def largest_amount(archive: Path, folder: Path) -> int:
    """Return how many bytes the archive may unpack to, given its size and the free disk space."""
    return min(max(NO_BOMB_BYTES, MAX_ARCHIVE_RATIO * archive.stat().st_size), shutil.disk_usage(folder).free)


def check_amount(archive: Path, total: int, limit: int) -> None:
    if total > limit:
        size = archive.stat().st_size
        raise DataError(
            f"{archive}: {size / 1e6:.3g} MB unpack to more than {limit / 1e9:.2g} GB, "
            + (
                "too much for a set of images" if limit >= MAX_ARCHIVE_RATIO * size else "more than the free disk space"
            ),
            fix="if you trust it, unpack it yourself and name the folder",
            code="archive",
        )


def refused(archive: Path, name: str, what: str) -> DataError:
    display_name = name if len(name) <= MAX_SHOWN else f"{name[:SHOWN_OF_NAME]}..."
    return DataError(
        f"{archive}: entry {display_name!r}: {what}; nothing was unpacked",
        fix="unpack it yourself and name the folder",
        code="archive",
    )


def plain_name(archive: Path, name: str) -> str:
    """Normalize an entry's name: `./a//b` becomes `a/b`, the folder itself "". `tar -C base .` writes such names.

    Raise DataError for a name that leads out of the folder or cannot be displayed.
    """
    if not name:
        raise refused(archive, name, "its name is empty")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise refused(archive, name, "its name contains a control character")
    if "\\" in name:
        raise refused(archive, name, "its name contains a backslash")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or (parts and re.match(r"[A-Za-z]:", parts[0])):
        raise refused(archive, name, "its name is an absolute path")
    if ".." in parts:
        raise refused(archive, name, "its name leads out of the folder")
    return "/".join(parts)


def is_left_out(name: str) -> bool:
    """Whether an operating system left this file: __MACOSX, .DS_Store and the like."""
    return any(is_ignored(part) for part in name.split("/"))


def unpack_zip(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as opened:
        entries = []
        for entry in opened.infolist():
            name = plain_name(archive, entry.orig_filename)  # `filename` ends at a NUL
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(archive, entry.filename, "it is a link or a device")
            if entry.flag_bits & 0x1:
                raise DataError(
                    f"{archive}: the archive is encrypted",
                    fix="unpack it with its password and name the folder",
                    code="archive",
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
    """A tar entry whose long name is limited: tarfile reads long names and extended headers into memory."""

    def _proc_member(self, opened: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in LONG_HEADERS and self.size > MAX_TAR_HEADER_BYTES:
            raise DataError(
                f"{opened.name!s}: a header has {self.size} bytes, at most {MAX_TAR_HEADER_BYTES} are read",
                fix="unpack it yourself and name the folder",
                code="archive",
            )
        result: tarfile.TarInfo = super()._proc_member(opened)  # type: ignore[misc]
        return result


def unpack_tar(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    total = 0
    with tarfile.open(archive, tarinfo=CheckedHeader) as opened:
        # Iterate: listing the entries of a compressed tar would decompress all of it.
        while (entry := opened.next()) is not None:
            opened.members = []  # type: ignore[attr-defined]  # a million entries are not kept
            name = plain_name(archive, entry.name)
            if not (entry.isreg() or entry.isdir()):
                raise refused(archive, entry.name, "it is a link or a device")
            tarfile.data_filter(entry, str(folder))
            if entry.isdir() or is_left_out(name):
                continue
            total += entry.size
            check_amount(archive, total, limit)
            source = opened.extractfile(entry)
            assert source is not None  # the entry is a regular file
            with create(archive, folder, name) as target:
                write(source, entry.size, target)
            if progress:
                progress(total, None)
        assert opened.fileobj is not None
        opened.fileobj.seek(opened.offset)
        # tarfile stops at an invalid header as it does at the end
        if opened.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise EOFError(f"a header at byte {opened.offset} cannot be read")


def create(archive: Path, folder: Path, name: str) -> IO[bytes]:
    """Open the file that an entry is written to; refuse a name that is repeated, or both a file and a folder."""
    path = folder / name
    try:
        try:
            return open(path, "xb")
        except FileNotFoundError:  # perf: create a folder when its first file needs it, not before every file
            path.parent.mkdir(parents=True, exist_ok=True)
            return open(path, "xb")
    except (FileExistsError, NotADirectoryError) as error:
        what = "another entry is a folder of this name" if path.is_dir() else "another entry has the same name"
        what = what if path.exists() else "its folder is a file in another entry"
        raise refused(archive, name, what) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise refused(archive, name, "its name is too long for the disk") from error


def write(source: IO[bytes], size: int, target: IO[bytes]) -> int:
    """Copy exactly `size` bytes, the size that the entry declares."""
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        done += len(chunk)
        if done > size:
            break
        target.write(chunk)
    if done != size:
        raise EOFError(f"{Path(target.name).name} does not have the {size} bytes that its header declares")
    return done
