"""Read an image file, or one frame of a file, as pixels: uint8 or uint16, gray or RGB.

Each kind of file has a module with `SUFFIXES`, `read_header(path, reading)` and `read_frame(path, frame, reading)`. If
its values may exceed 16 bits, it also has `read_values(path, frame, reading)`; if its headers define more than a size,
a `HEADER_VERSION`. If its files may declare the size of a pixel, it has `read_spacing(path, frame, reading)`.
"""

from __future__ import annotations

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
from zoo.images.elements import has_dicom_prefix
from zoo.images.elements import read_dicom_tag as read_element
from zoo.images.placement import Spacing
from zoo.images.plugin_readers import PLUGIN_READERS, SuffixReader, is_plugin_image
from zoo.images.reading import AS_STORED, Header, Reading, is_binary, suffix_of

READERS: tuple[ModuleType, ...] = (raster, animation, volumes, video, dicom)
OWN_SUFFIXES = frozenset(suffix for kind in READERS for suffix in kind.SUFFIXES)  # those that zoo itself reads
BY_SUFFIX = {suffix: kind for kind in READERS for suffix in kind.SUFFIXES}  # and those of plugins: see `use_readers`
IGNORED_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "dicomdir"})
# Images and videos that zoo does not read: from phones, cameras, slide scanners, microscopes, scanners and drawings
UNREAD_SUFFIXES = frozenset(
    ".heic .heif .hif .avif .jxl .jxr .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .svs .ndpi .mrxs .scn .bif .vms .vmu "  # noqa: SIM905
    ".svslide .czi .lif .lsm .nd2 .oib .oif .oir .vsi .zvi .ims .stk .mgh .mgz .mnc .img .hdr "
    ".par .rec .isq .aim .acr .dc3 .dic .raw .fda .fds .e2e .svg .eps .wmf .emf .psd .xcf .exr .pcx .tga .wmv .mkv "
    ".flv .webm .mpg .mpeg".split()
)
FRAME = re.compile(r"(.+)#(\d+)", re.DOTALL)


def use_readers(readers: Iterable[SuffixReader]) -> None:
    """Read files by these readers of plugins in this process, instead of those before."""
    by_suffix: dict[str, tuple[SuffixReader, ...]] = {}
    for reader in readers:
        for suffix in reader.suffixes:
            by_suffix[suffix] = (*by_suffix.get(suffix, ()), reader)
    PLUGIN_READERS.update(by_suffix)  # first: at no time does a thread miss a reader
    BY_SUFFIX.update(dict.fromkeys(by_suffix, volumes))
    for suffix in PLUGIN_READERS.keys() - by_suffix.keys():
        del BY_SUFFIX[suffix], PLUGIN_READERS[suffix]


def readers_of(names: Iterable[str]) -> tuple[str, ...]:
    """The identities of the plugins' readers of some files, sorted."""
    suffixes = {suffix_of(posixpath.basename(name)) for name in names}
    return tuple(sorted(reader.identity for suffix in suffixes for reader in PLUGIN_READERS.get(suffix, ())))


def reader_key(names: Iterable[str]) -> str:
    """The part of a cache's key that changes with the plugins' readers of some files; "" if zoo itself reads them."""
    return "".join(f":{identity}" for identity in readers_of(names))


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden or created by an operating system, by its name."""
    return name.startswith(".") or name.lower() in IGNORED_NAMES


def is_image_name(name: str) -> bool:
    """Whether a file name, without folders, is that of an image that zoo reads."""
    return suffix_of(name) in BY_SUFFIX and not is_ignored(name)


def without_suffix(name: str) -> str:
    """A path or file name without its suffix, which may be `.nii.gz`."""
    return name[: len(name) - len(suffix_of(posixpath.basename(name)))]


def kind_by_name(name: str) -> str:
    """The suffix of a name in lower case, or "without suffix"."""
    return suffix_of(posixpath.basename(name)) or "without suffix"


def how_to_read(name: str) -> str:
    """The fix for a file whose suffix has no reader."""
    suffix = suffix_of(posixpath.basename(name))
    if not suffix:
        return "convert it to PNG"
    return f"install a plugin that reads {suffix}, write one (`zoo plugin new reader NAME`), or convert it to PNG"


def is_volume_name(name: str) -> bool:
    return volumes.is_volume_suffix(suffix_of(posixpath.basename(name)))


def is_single_name(name: str) -> bool:
    """Whether the name is that of a file with a single image."""
    suffix = suffix_of(posixpath.basename(name))
    return BY_SUFFIX.get(suffix) is raster or is_plugin_image(suffix, dims=2)


def is_tiff_name(name: str) -> bool:
    return suffix_of(posixpath.basename(name)) in raster.TIFF_SUFFIXES


def default_axis(name: str) -> int:
    """The axis of a volume along which slices are stacked, unless the dataset declares another one."""
    suffix = suffix_of(posixpath.basename(name))
    return 0 if suffix in raster.TIFF_SUFFIXES or is_plugin_image(suffix, dims=3) else 2


def all_have_pages(tiffs: Iterable[Path]) -> bool:
    """Whether each of these TIFF files has several pages."""
    return all(volumes.has_pages(path) for path in tiffs)


def kind_of(path: Path, reading: Reading = AS_STORED) -> ModuleType:
    if reading.pages and suffix_of(path.name) in raster.TIFF_SUFFIXES:
        return volumes
    kind = BY_SUFFIX.get(suffix_of(path.name))
    if kind is None:
        return dicom if path.is_file() and is_unnamed_image(path) else raster
    return kind


def is_unnamed_image(path: Path) -> bool:
    """Whether a file without an image suffix (`IM000012`, `1.2.840.113619.5`, `scan.dc3`) is DICOM by its content."""
    return suffix_of(path.name) not in BY_SUFFIX and not is_ignored(path.name) and has_dicom_prefix(path)


def is_unread_image(path: Path) -> bool:
    """Whether a file is an image that zoo does not read.

    It has such a suffix, is a compressed image (.png.gz), or is binary and has no suffix.
    """
    suffix = suffix_of(path.name)
    if suffix.removesuffix(".gz") in BY_SUFFIX and suffix not in BY_SUFFIX:
        return True
    return suffix in UNREAD_SUFFIXES - BY_SUFFIX.keys() or (not suffix and is_binary(path))


def has_tags(path: Path) -> bool:
    """Whether a file is DICOM, so that its header has tags. It may not be an image."""
    return kind_of(path) is dicom


def header_version(path: Path, reading: Reading = AS_STORED) -> str:
    """The reader of a file and its version, if its headers define more than a size (frames, values, tags), else "".

    Such headers are read for all files of a dataset, and cached until the version changes.
    """
    kind = kind_of(path, reading)
    version = getattr(kind, "HEADER_VERSION", None)
    return f"{kind.__name__.rpartition('.')[2]}:{version}{reader_key([path.name])}" if version else ""


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """The header of a file, which describes the result of `read_image` except for its orientation."""
    header: Header = kind_of(path, reading).read_header(path, reading)
    return header


def read_image(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Pixels uint8 or uint16, (H, W) or (H, W, 3), of a file or of one of its frames, counted from 0.

    Raises DataError with the name of the file.
    """
    pixels: Array = kind_of(path, reading).read_frame(path, frame, reading)
    return pixels


def read_tag(path: Path, keyword: str) -> str:
    """The text of a DICOM element, or "" if it is missing. Raises DataError for a file that is not DICOM."""
    if not has_tags(path):
        raise DataError(
            f"{path}: not DICOM, so it has no tag {keyword!r}",
            fix="remove `tags` from dataset.toml, or use DICOM files",
        )
    return read_element(path, keyword)


def read_values(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """The values that `read_image` maps to levels: in the file's own units (Hounsfield units, ...), unclipped."""
    kind = kind_of(path, reading)
    values: Array = getattr(kind, "read_values", kind.read_frame)(path, frame, replace(reading, levels=None))
    return values


def read_spacing(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Spacing | None:
    """Millimeters per pixel (rows, columns) of what `read_image` returns, or None if the file does not declare them."""
    read = getattr(kind_of(path, reading), "read_spacing", None)
    spacing: Spacing | None = read(path, frame, reading) if read else None
    return spacing


# --- frames in names -------------------------------------------------------------------------------------------------
def frame_name(image: str, frame: int | None) -> str:
    """The name of a frame in tables and messages: `scan.dcm#12`."""
    return image if frame is None else f"{image}#{frame}"


def split_frame(name: str) -> tuple[str, int | None]:
    """Split a name made by `frame_name` into file and frame."""
    match = FRAME.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def clips_of(names: Array) -> Array:
    """The file of each name made by `frame_name`; a name without a frame is its own clip."""
    return np.array([split_frame(str(name))[0] for name in names])
