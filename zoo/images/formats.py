"""One image file, or one frame of a file, to its pixels: uint8 or uint16, gray or RGB.

Each kind of file has a module with `SUFFIXES`, `read_header(path, reading)` and `read_frame(path, frame, reading)`; one
whose values go beyond 8 or 16 bits has `read_values(path, frame, reading)` too, one whose headers decide more than a
size a `HEADER_VERSION`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images import animation, dicom, raster, video, volumes
from zoo.images.elements import carries_mark
from zoo.images.elements import read_dicom_tag as read_element
from zoo.images.reading import AS_STORED, Header, Reading, is_binary

READERS: tuple[ModuleType, ...] = (raster, animation, volumes, video, dicom)
BY_SUFFIX = {suffix: kind for kind in READERS for suffix in kind.SUFFIXES}
IGNORED_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "dicomdir"})
# Images and videos that are not read: of phones, cameras, slides and microscopes, scanners, drawings
UNREAD_SUFFIXES = frozenset(
    ".heic .heif .hif .avif .jxl .jxr .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .svs .ndpi .mrxs .scn .bif .vms .vmu "  # noqa: SIM905
    ".svslide .czi .lif .lsm .nd2 .oib .oif .oir .vsi .zvi .ims .stk .mha .mhd .nrrd .nhdr .mgh .mgz .mnc .img .hdr "
    ".par .rec .isq .aim .acr .dc3 .dic .raw .fda .fds .e2e .svg .eps .wmf .emf .psd .xcf .exr .pcx .tga .wmv .mkv "
    ".flv .webm .mpg .mpeg".split()
)
FRAME = re.compile(r"(.+)#(\d+)", re.DOTALL)


def is_ignored(name: str) -> bool:
    """Whether a file or folder name is left behind by an operating system, or hidden."""
    return name.startswith(".") or name.lower() in IGNORED_NAMES


def is_image_name(name: str) -> bool:
    """Whether a file name, without folders, is that of an image this room reads."""
    return suffix_of(name) in BY_SUFFIX and not is_ignored(name)


def suffix_of(name: str) -> str:
    """The suffix, lower case, of a file name; `.nii.gz` is one."""
    stem, suffix = os.path.splitext(name.lower())  # noqa: PTH122  half of pathlib's time
    return os.path.splitext(stem)[1] + suffix if suffix == ".gz" else suffix  # noqa: PTH122


def without_suffix(name: str) -> str:
    """A path or file name without its suffix, which may be `.nii.gz`."""
    return name[: len(name) - len(suffix_of(posixpath.basename(name)))]


def kind_by_name(name: str) -> str:
    """What kind of file a name says: its suffix, lower case, or "without suffix"."""
    return suffix_of(posixpath.basename(name)) or "without suffix"


def is_volume_name(name: str) -> bool:
    return suffix_of(posixpath.basename(name)) in volumes.SUFFIXES


def is_single_name(name: str) -> bool:
    """Whether the name is that of a file that holds one image."""
    return BY_SUFFIX.get(suffix_of(posixpath.basename(name))) is raster


def is_tiff_name(name: str) -> bool:
    return suffix_of(posixpath.basename(name)) in raster.TIFF_SUFFIXES


def all_have_pages(tiffs: Iterable[Path]) -> bool:
    """Whether each of these TIFFs holds several pages."""
    return all(volumes.has_pages(path) for path in tiffs)


def is_image(path: Path) -> bool:
    """Whether the path is that of an image this room reads; the file is not opened."""
    return is_image_name(path.name) and "__MACOSX" not in path.parts


def kind_of(path: Path, reading: Reading = AS_STORED) -> ModuleType:
    if reading.pages and suffix_of(path.name) in raster.TIFF_SUFFIXES:
        return volumes
    kind = BY_SUFFIX.get(suffix_of(path.name))
    if kind is None:
        return dicom if path.is_file() and is_unnamed_image(path) else raster
    return kind


def is_unnamed_image(path: Path) -> bool:
    """Whether a file whose name is none of an image (`IM000012`, `1.2.840.113619.5`, `scan.dc3`) begins as DICOM."""
    return suffix_of(path.name) not in BY_SUFFIX and not is_ignored(path.name) and carries_mark(path)


def is_unread_image(path: Path) -> bool:
    """Whether a file is an image of a kind that is not read: by its suffix, or binary where it has none."""
    suffix = suffix_of(path.name)
    return suffix in UNREAD_SUFFIXES - BY_SUFFIX.keys() or (not suffix and is_binary(path))


def has_tags(path: Path) -> bool:
    """Whether the file is DICOM: its header has tags, and may say that it is no image at all."""
    return kind_of(path) is dicom


def header_version(path: Path, reading: Reading = AS_STORED) -> str:
    """Of a file whose header decides more than a size (frames, values, tags): who reads it, in which version. Else "".

    Such headers are read of all files of a set, and remembered as long as the version stays the same.
    """
    kind = kind_of(path, reading)
    version = getattr(kind, "HEADER_VERSION", None)
    return f"{kind.__name__.rpartition('.')[2]}:{version}" if version else ""


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """What a file says of itself, as `read_image` will return it but for orientation."""
    header: Header = kind_of(path, reading).read_header(path, reading)
    return header


def read_image(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Pixels uint8 or uint16, (H, W) or (H, W, 3), of a file or of one of its frames, counted from 0.

    Anything that cannot be read is a DataError that names the file.
    """
    pixels: Array = kind_of(path, reading).read_frame(path, frame, reading)
    return pixels


def read_tag(path: Path, keyword: str) -> str:
    """The text of a DICOM element, "" where the file has none; DataError for what is not DICOM."""
    if not has_tags(path):
        raise DataError(
            f"{path}: not DICOM, it has no tag {keyword!r}", fix="leave `tags` out of dataset.toml, or give DICOM files"
        )
    return read_element(path, keyword)


def read_values(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """What `read_image` makes levels of: the values in the file's own units (Hounsfield units, ...), none clipped."""
    kind = kind_of(path, reading)
    values: Array = getattr(kind, "read_values", kind.read_frame)(path, frame, replace(reading, levels=None))
    return values


# --- frames in names -------------------------------------------------------------------------------------------------
def frame_name(image: str, frame: int | None) -> str:
    """How one frame of a file is called, in tables and messages: `scan.dcm#12`."""
    return image if frame is None else f"{image}#{frame}"


def split_frame(name: str) -> tuple[str, int | None]:
    """The file and the frame in a name made by `frame_name`, of a file that has frames."""
    found = FRAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def clips_of(names: Array) -> Array:
    """The file of every name made by `frame_name`; a name without a frame is a clip of its own."""
    return np.array([split_frame(str(name))[0] for name in names])
