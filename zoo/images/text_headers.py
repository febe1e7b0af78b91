"""Read the headers of NRRD and MetaImage volumes: text, then the array in the same file (`.nrrd`, `.mha`).

A detached header (`.nhdr`, `.mhd`) may name a file beside it that has the array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.reading import check_regular

NRRD_SUFFIXES = (".nrrd", ".nhdr")
DETACHED_SUFFIXES = (".nhdr", ".mhd")
TEXT_SUFFIXES = (*NRRD_SUFFIXES, ".mha", ".mhd")
MAX_HEADER_BYTES = 1 << 20
NRRD_TYPES = {
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i1": ("signed char", "int8", "int8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "f4": ("float",),
    "f8": ("double",),
}
META_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# The signs that turn the three axes of a space to right, anterior, superior
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
SPATIAL_KINDS = ("domain", "space", "none", "???")
NRRD_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
UNIT_MM = {"mm": 1.0, "um": 1e-3, "cm": 10.0, "m": 1e3}
FIX_HEADER = "save it as NIfTI, or leave it out"


@dataclass(frozen=True)
class StoredArray:
    """Where the array of a header begins."""

    path: Path
    offset: int


@dataclass(frozen=True, eq=False)
class TextHeader:
    """The array of a file: how it is stored, and where its voxels are."""

    shape: tuple[int, ...]  # as stored, the first axis the fastest
    dtype: np.dtype[np.generic]
    array: StoredArray
    is_packed: bool  # by gzip or zlib
    channel_axis: int | None  # of `shape`; the others are the three of space
    affine: Array | None  # (4, 4) from indices along these three to mm, RAS+; None: unknown

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        return tuple(size for axis, size in enumerate(self.shape) if axis != self.channel_axis)


def read_text_header(path: Path) -> TextHeader:
    """Read the header of a NRRD or MetaImage. Raises DataError for what zoo does not read."""
    try:
        return (read_nrrd if path.suffix.lower() in NRRD_SUFFIXES else read_metaimage)(path)
    except (ValueError, KeyError, IndexError) as error:
        raise wrong_header(path, f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error


def wrong_header(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: its header {problem}", fix=FIX_HEADER, code="image")


def stored_files(path: Path) -> tuple[Path, ...]:
    """The files that a volume is stored in: its own, and the file of its array if the header is detached."""
    if path.suffix.lower() not in DETACHED_SUFFIXES:
        return (path,)
    try:
        array = read_text_header(path).array.path
    except (OSError, DataError):  # it is reported when the volume is read
        return (path,)
    return (path,) if array == path else (path, array)


def find_detached(path: Path, name: str, skip: int, num_bytes: int) -> StoredArray:
    """The array in a file beside a detached header, after `skip` bytes; -1: the last `num_bytes` of the file.

    Raises DataError for a missing file, one in another folder, and several.
    """
    if path.suffix.lower() not in DETACHED_SUFFIXES:
        raise wrong_header(path, f"names a data file, {name!r}, and only an array after the header is read")
    with suppress(UnicodeDecodeError):  # headers are read as Latin-1, which keeps every byte
        name = name.encode("latin-1").decode("utf-8")
    if not re.fullmatch(r"(?:[^/\\%\s]| )+", name) or re.fullmatch(r"\.\.?|LIST( \d+)?", name):
        raise wrong_header(path, f"names the data file {name!r}; expected one file in the folder of the header")
    array = path.with_name(name)
    check_regular(array)
    if skip < -1:
        raise wrong_header(path, f"declares an array after {skip} bytes")
    return StoredArray(array, max(0, array.stat().st_size - num_bytes) if skip == -1 else skip)


def read_nrrd(path: Path) -> TextHeader:
    """The header of a NRRD: lines of "field: value" up to an empty one (teem.sourceforge.net/nrrd/format.html)."""
    with open(path, "rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", start)
    if not start.startswith(b"NRRD") or (end is None and path.suffix.lower() not in DETACHED_SUFFIXES):
        raise wrong_header(path, "is not that of a NRRD file with its data")
    fields = {}
    for line in start[: end.start() if end else None].decode("latin-1").splitlines()[1:]:
        name, separator, value = line.partition(": ")
        if separator and not line.startswith("#"):
            fields[NRRD_SYNONYMS.get(name.strip().lower(), name.strip().lower())] = value.strip()
    shape = tuple(map(int, fields["sizes"].split()))
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise wrong_header(path, f"declares the encoding {encoding!r}, expected raw or gzip")
    code = next((code for code, names in NRRD_TYPES.items() if fields["type"].lower() in names), "")
    if not code:
        raise wrong_header(path, f"declares values of type {fields['type']!r}")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    dtype, skip = np.dtype(order + code), int(fields.get("byte skip", 0))
    if int(fields.get("line skip", 0)) or (skip and (encoding != "raw" or "data file" not in fields)):
        raise wrong_header(path, "skips lines or bytes before its array; only bytes of a raw data file are skipped")
    if "data file" in fields:
        array = find_detached(path, fields["data file"], skip, math.prod(shape) * dtype.itemsize)
    elif end is None:
        raise wrong_header(path, "has no array after it and names no data file")
    else:
        array = StoredArray(path, end.end())
    return TextHeader(
        shape=shape if len(shape) != 2 else (*shape, 1),
        dtype=dtype,
        array=array,
        is_packed=encoding != "raw",
        channel_axis=find_channel_axis(path, fields, shape),
        affine=locate_nrrd(fields) if len(shape) > 2 else None,
    )


def find_channel_axis(path: Path, fields: Mapping[str, str], shape: tuple[int, ...]) -> int | None:
    """The axis of a NRRD that is not one of space, by its directions, else by its kinds; of four axes only."""
    if len(shape) in (2, 3) and "none" not in fields.get("space directions", ""):
        return None
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kinds = fields.get("kinds", "").lower().split()
    others = [axis for axis, text in enumerate(directions) if text == "none"]
    others = others or [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL_KINDS]
    if len(shape) != 4 or len(others) != 1:
        raise wrong_header(path, f"declares an array of shape {shape}, expected three axes of space, one of channels")
    return others[0]


def locate_nrrd(fields: Mapping[str, str]) -> Array | None:
    """The affine of the three axes of space; None if the space is not that of a patient."""
    signs = SPACES.get(fields.get("space", "").lower())
    directions = [to_vector(text) for text in re.findall(r"\([^)]*\)", fields.get("space directions", ""))]
    if signs is None or len(directions) != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(directions)
    affine[:3, 3] = to_vector(fields.get("space origin", "(0,0,0)"))
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    affine[:3] *= UNIT_MM.get(units[0] if units else "mm", 1.0)
    return orient(affine, signs)


def to_vector(text: str) -> list[float]:
    return [float(number) for number in text.strip("() ").split(",")]


def orient(affine: Array, signs: tuple[int, int, int]) -> Array:
    """An affine with the axes of its space turned to RAS+."""
    turned: Array = np.array([[sign] for sign in (*signs, 1)]) * affine
    return turned


def read_metaimage(path: Path) -> TextHeader:
    """The header of a MetaImage: lines of "Field = value" up to `ElementDataFile` (itk.org/Wiki/MetaIO/Documentation).

    Its space is LPS. The rows of `TransformMatrix` are the directions of the axes.
    """
    with open(path, "rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    end = re.search(rb"(^|\n)ElementDataFile *= *([^\r\n]*)(\r?\n|\Z)", start)
    if end is None:
        raise wrong_header(path, "is not that of a MetaImage")
    text, name = start[: end.start() + 1].decode("latin-1"), end[2].strip().decode("latin-1")
    fields = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in text.splitlines())}
    if fields.get("BinaryData", "True") != "True":
        raise wrong_header(path, "does not describe a binary array")
    sizes = tuple(map(int, fields["DimSize"].split()))
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if not 2 <= len(sizes) <= 4 or (len(sizes) == 4 and channels > 1):
        raise wrong_header(path, f"declares {len(sizes)} axes and {channels} channels")
    if fields["ElementType"] not in META_TYPES:
        raise wrong_header(path, f"declares values of type {fields['ElementType']!r}")
    big = "True" in (fields.get("BinaryDataByteOrderMSB"), fields.get("ElementByteOrderMSB"))
    volume = (*sizes, 1) if len(sizes) == 2 else sizes
    dtype = np.dtype((">" if big else "<") + META_TYPES[fields["ElementType"]])
    is_packed, skip = fields.get("CompressedData") == "True", int(fields.get("HeaderSize", 0))
    if name == "LOCAL":
        array = StoredArray(path, end.end())
    elif skip and is_packed:
        raise wrong_header(path, "skips bytes of a compressed array")
    else:
        array = find_detached(path, name, skip, math.prod(sizes) * channels * dtype.itemsize)
    return TextHeader(
        shape=(channels, *volume) if channels > 1 else volume,
        dtype=dtype,
        array=array,
        is_packed=is_packed,
        channel_axis=0 if channels > 1 else 3 if len(sizes) == 4 else None,
        affine=locate_metaimage(fields, len(sizes)) if len(sizes) > 2 else None,
    )


def locate_metaimage(fields: Mapping[str, str], num_axes: int) -> Array | None:
    """The affine of the first three axes; None without the size of a voxel."""
    spacing = fields.get("ElementSpacing") or fields.get("ElementSize")
    if spacing is None:
        return None
    sizes = np.array(spacing.split(), np.float64)[:3]
    origin = fields.get("Offset") or fields.get("Position") or fields.get("Origin") or "0 " * num_axes
    matrix = fields.get("TransformMatrix") or fields.get("Rotation") or fields.get("Orientation")
    rows = np.eye(num_axes) if matrix is None else np.array(matrix.split(), np.float64).reshape(num_axes, num_axes)
    affine = np.eye(4)
    affine[:3, :3] = rows[:3, :3].T * sizes
    affine[:3, 3] = np.array(origin.split(), np.float64)[:3]
    return orient(affine, SPACES["lps"])
