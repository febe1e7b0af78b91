"""Headers of image files, the mapping of their values to levels, and checks that all readers share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError

# Signatures of file kinds: offset, bytes, name of the kind, suffixes
FILE_KINDS = (
    (4, b"ftyphei", "HEIC", (".heic", ".heif")),
    (4, b"ftypmif1", "HEIF", (".heic", ".heif")),
    (4, b"ftypavif", "AVIF", (".avif",)),
    (4, b"ftyp", "a video or an image in an MP4 container", (".mp4", ".mov", ".m4v", ".heic", ".heif", ".avif")),
    (128, b"DICM", "DICOM", (".dcm", ".dicom", ".ima")),
    (344, b"n+1\0", "NIfTI", (".nii",)),
    (0, b"NRRD0", "NRRD", (".nrrd", ".nhdr")),
    (0, b"ObjectType = Image", "MetaImage", (".mha", ".mhd")),
    (0, b"\x89PNG", "PNG", (".png",)),
    (0, b"\xff\xd8\xff", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif")),
    (0, b"II*\0", "TIFF", (".tif", ".tiff")),
    (0, b"MM\0*", "TIFF", (".tif", ".tiff")),
    (0, b"GIF8", "GIF", (".gif",)),
    (0, b"\xff\x0a", "JPEG XL", (".jxl",)),
    (0, b"\x93NUMPY", "a NumPy array", (".npy",)),
    (0, b"\x1f\x8b", "compressed by gzip", (".nii.gz", ".gz")),
    (0, b"PK\x03\x04", "a zip archive", (".zip", ".npz")),
    (0, b"%PDF", "a PDF", (".pdf",)),
    (0, b"\x89HDF", "HDF5", (".h5", ".hdf5")),
)
# Pillow opens these by content, so their suffixes may be interchanged
RASTER_KINDS = ("PNG", "JPEG", "TIFF", "GIF")
RASTER_SUFFIXES = (
    ".png .jpg .jpeg .jpe .jfif .tif .tiff .bmp .dib .webp .jp2 .pgm .ppm .pnm .pbm".split()  # noqa: SIM905
)
NAMED_SUFFIXES = frozenset((*RASTER_SUFFIXES, *(suffix for *_, suffixes in FILE_KINDS for suffix in suffixes)))
MISSING_CODEC = re.compile(
    r"imagecodecs|not available|missing dependenc|no module named|not installed|unsupported", re.IGNORECASE
)
STRIP_ROWS = 256
MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs: 900 Mpx fit into 109 KB of PNG, 120 Mpx into 15
MAX_BYTES = 240_000_000  # of pixels; decoders temporarily need three to four times as much


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of an image file. All frames (slices, pages) of a file have the same size."""

    width: int  # 0: the file has no pixels, and `skip` describes it
    height: int
    channels: int
    frames: int | None = None  # None: a single image, read without a frame number
    bits: int = 8
    values: tuple[float, float] = (0.0, 255.0)  # the range of possible pixel values, in its own units
    step: float = 1.0  # smallest difference between two values; 0 for floating point
    modality: str = ""  # as in DICOM: "CT", "DX", "US"
    is_rescaled: bool = False  # DICOM, NIfTI: a slope, an intercept or a modality LUT changes the values of all frames
    has_window: bool = False  # DICOM: it has its own window or VOI LUT
    is_volume: bool = False  # its frames are slices
    blank: tuple[int, ...] = ()  # frames with a single value, if known
    skip: str = ""  # why it is excluded from a dataset unless it is listed explicitly: "secondary capture"
    tags: Mapping[str, str] = field(default_factory=dict)  # DICOM: keyword -> text


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The mapping of the files of a dataset to uint8 or uint16: one for the whole dataset, not one per image.

    It is part of the dataset's content hash. The default keeps 8- and 16-bit files unchanged.
    """

    window: Literal["", "dicom"] = ""  # dicom: map by each file's own VOI LUT or window
    levels: tuple[float, float] | None = None  # values, in the file's units, mapped to 0 and the highest level
    percentiles: tuple[float, float] | None = None  # instead of levels: percentiles of each volume
    bits: Literal[8, 16] = 8
    crop: Literal["", "ultrasound-region"] = ""
    axis: int | None = None  # the axis of a volume along which slices are stacked; None: the default of its file kind
    pages: bool = False  # the pages of a TIFF are slices of a volume
    readers: tuple[str, ...] = ()  # of plugins, `SuffixReader.identity`


AS_STORED = Reading()


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case; `.nii.gz` is one suffix."""
    stem, suffix = os.path.splitext(name.lower())  # noqa: PTH122  perf: takes half the time of pathlib
    return os.path.splitext(stem)[1] + suffix if suffix == ".gz" else suffix  # noqa: PTH122


def check_regular(path: Path) -> None:
    """Raise DataError for an empty file or a path that is not a file (a pipe would block)."""
    if not path.is_file():
        raise DataError(
            f"{path}: " + ("not a regular file" if path.exists() else "no such file"),
            fix="add the file, or remove it from the table",
            code="image",
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty", fix="copy it again, or leave it out", code="image")


def detect_kind(path: Path) -> tuple[str, tuple[str, ...]] | None:
    """The kind of a file by its signature, with the suffixes of that kind; None if unknown."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(352)
    except OSError:
        return None
    return next(((name, suffixes) for at, mark, name, suffixes in FILE_KINDS if start[at:].startswith(mark)), None)


def is_binary(path: Path) -> bool:
    """Whether the first 352 bytes of a file contain a null byte, which text does not."""
    try:
        with open(path, "rb") as stream:
            return b"\0" in stream.read(352)
    except OSError:
        return False


def first_bytes(path: Path) -> str:
    """Describe the content of a file that is not an image by its first bytes."""
    with open(path, "rb") as stream:
        start = stream.read(64)
    if kind := detect_kind(path):
        return f"it is {kind[0]}"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, probably of a failed download"
    if start.startswith(b"\x80") and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "it is a Python pickle"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    return f"it begins with {start[:8]!r}"


def check_size(path: Path, width: int, height: int, channels: int = 1, bits: int = 8) -> None:
    """Raise DataError for an image that would not fit into memory, before it is decoded."""
    if width * height > MAX_PIXELS:
        raise too_large(path, f"{width} x {height} is more than")
    if width * height * channels * -(-bits // 8) > MAX_BYTES:
        raise DataError(
            f"{path}: {width} x {height} in {channels} channels of {bits} bits is more than {MAX_BYTES / 1e6:.0f} MB",
            fix="shrink it, or leave it out",
            code="image",
        )


def to_levels(values: Array, reading: Reading) -> Array:
    """Map values in a file's units to uint8 or uint16, clipped to `reading.levels` = (low, high).

    level = round((value - low) / (high - low) * max_level). Without `levels` the values are returned unchanged.
    """
    if reading.levels is None:
        return values
    low, high = reading.levels
    max_level = 2**reading.bits - 1
    levels = np.empty(values.shape, np.uint8 if reading.bits == 8 else np.uint16)
    for row in range(0, len(values), STRIP_ROWS):  # float64 takes eight times as much memory as 8 bits
        scaled = values[row : row + STRIP_ROWS].astype(np.float64)
        scaled -= low
        scaled *= max_level / (high - low)
        levels[row : row + STRIP_ROWS] = np.clip(np.rint(scaled, out=scaled), 0, max_level, out=scaled)
    return levels


def too_large(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what} {MAX_PIXELS / 1e6:.0f} megapixels", fix="shrink it, or leave it out", code="image"
    )


def open_tiff(path: Path) -> Any:
    """Open a `tifffile.TiffFile` without its log messages, because zoo reports the relevant errors itself."""
    import logging

    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile.TiffFile(path)


def has_wrong_suffix(path: Path, kind: tuple[str, tuple[str, ...]]) -> bool:
    """Whether the suffix makes zoo read a file as a different kind than its content."""
    name, suffixes = kind
    suffix = path.suffix.lower()
    if name in RASTER_KINDS and (suffix in RASTER_SUFFIXES or suffix == ".gif"):
        return False
    if name == "DICOM" and suffix not in NAMED_SUFFIXES:  # also read without a suffix, or with a UID as name
        return False
    return suffix not in suffixes


def damaged(path: Path, error: Exception) -> DataError:
    """Build the error for an undecodable file: wrong suffix, missing codec or damage."""
    cause = str(error) or type(error).__name__
    kind = detect_kind(path)
    if kind and has_wrong_suffix(path, kind):
        return DataError(
            f"{path}: the file is {kind[0]}, but its suffix is {path.suffix!r}: {cause}",
            fix=f"rename it with the suffix {kind[1][0]}, or leave it out",
            code="image",
        )
    fix = "copy it again, or leave it out"
    if MISSING_CODEC.search(cause) or isinstance(error, ImportError | NotImplementedError):
        fix = "install the codec that the message names, or save it as PNG or without compression"
    return DataError(f"{path}: cannot be decoded: {cause}", fix=fix, code="image")
