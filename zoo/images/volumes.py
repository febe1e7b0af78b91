"""One slice of a volume (NIfTI, NPY, the pages of a TIFF) to its values, shown upright.

A NIfTI is turned to the closest RAS+ axes, as its affine says, and then cut: axis 0 gives sagittal, 1 coronal, 2 axial
slices. They are shown as DICOM shows them: the patient's right (or front) on the left, the head (or front) on top.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.raster import TIFF_SUFFIXES, flatten, upright
from zoo.images.reading import (
    AS_STORED,
    Header,
    Reading,
    check_regular,
    check_size,
    damaged,
    first_bytes,
    open_tiff,
    to_levels,
)
from zoo.images.recent import Recent
from zoo.images.stacks import declared_planes

SUFFIXES = (".nii", ".nii.gz", ".npy")
HEADER_VERSION = 2  # of what `read_header` finds out; raised when it finds something else
MAX_VOLUME_BYTES = 768 << 20  # unpacked, in the file's own type: 1,500 slices of 512 x 512 at 16 bits
MAX_MAPPED_BYTES = 4 << 30  # of a file that is read where it lies
RECENT_VOLUME_BYTES = 1 << 29
MAX_DEFLATE_RATIO = 1032  # what deflate can reach
VOLUME_CHUNK_BYTES = 1 << 20
MAX_SLICES = 100_000
MAX_VOXELS = 1 << 20  # of a volume, for its quantiles
VOLUME_QUANTILES = 1001


@dataclass(frozen=True, eq=False)
class Volume:
    """The array of a file as stored, (A, B, C) or (A, B, C, 3), and how its numbers become values."""

    array: Array
    slope: float = 1.0
    intercept: float = 0.0
    axis: int = 2  # slices are cut across, unless the set says otherwise
    is_anatomical: bool = False  # the axes are RAS+

    def values(self, frame: int, axis: int | None) -> Array:
        """One slice, (H, W) or (H, W, 3), upright."""
        plane = self.cut(frame, axis)
        if self.is_anatomical:
            plane = plane.swapaxes(0, 1)[::-1, ::-1]
        if (self.slope, self.intercept) != (1.0, 0.0):
            plane = plane * self.slope + self.intercept
        return np.ascontiguousarray(plane)

    @cached_property
    def quantiles(self) -> Array:
        """Of the whole volume, in steps of a thousandth, from values evenly spread over it."""
        spread = np.arange(0, self.array.size, max(1, -(-self.array.size // MAX_VOXELS)))
        values = self.array[np.unravel_index(spread, self.array.shape)].astype(np.float64)
        found: Array = np.quantile(values * self.slope + self.intercept, np.linspace(0, 1, VOLUME_QUANTILES))
        return found

    def levels_between(self, percentiles: tuple[float, float]) -> tuple[float, float]:
        """The values that become black and white; of a volume of one value, that one is black."""
        low, high = np.interp(percentiles, np.linspace(0, 100, VOLUME_QUANTILES), self.quantiles)
        return float(low), float(high) if high > low else float(low) + 1.0

    def cut(self, frame: int, axis: int | None) -> Array:
        plane: Array = self.array[(slice(None),) * self.across(axis) + (frame,)]
        return plane

    def across(self, axis: int | None) -> int:
        return self.axis if axis is None else axis


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """The slices of a volume, the range of its values, and which slices hold one value only: all of it is read.

    NaN and infinite values are a DataError. `frames` is None for a `.npy` that is one image.
    """
    if is_plane(path, reading):
        array = open_npy(path)
        check_size(path, array.shape[1], array.shape[0], array[0, 0].size, array.dtype.itemsize * 8)
        planes, volume, frames = iter([array]), Volume(array), None
    else:
        volume = open_volume(path)
        frames = volume.array.shape[volume.across(reading.axis)]
        planes = (volume.cut(frame, reading.axis) for frame in range(frames))
    height, width = (volume.values(0, reading.axis) if frames else volume.array).shape[:2]
    found = study(path, planes)
    low, high = sorted(value * volume.slope + volume.intercept for value in (found.low, found.high))
    dtype = volume.array.dtype
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(
            f"{path}: its header scales values to {low:g} and {high:g}",
            fix="correct its header, or leave it out",
            code="image",
        )
    as_stored = dtype == np.uint8 and (volume.slope, volume.intercept) == (1.0, 0.0)
    return Header(
        width=width,
        height=height,
        channels=3 if volume.array.ndim == (4 if frames else 3) else 1,
        frames=frames,
        is_volume=frames is not None,
        bits=dtype.itemsize * 8,
        values=(0.0, 255.0) if as_stored else (low, high),
        step=abs(volume.slope) if found.whole else 0.0,
        blank=found.blank,
    )


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """One slice as uint8 or uint16, mapped as the set says."""
    values = read_values(path, frame, reading)
    if reading.percentiles and frame is not None:
        reading = replace(reading, levels=open_volume(path).levels_between(reading.percentiles))
    levels = to_levels(values, reading)
    if levels.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: {levels.dtype} values, and no range to map to levels",
            fix="say intensity = {levels = [low, high]} in dataset.toml",
            code="image",
        )
    return levels


def read_values(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """One slice in the file's own units, its scale applied."""
    if frame is None:
        return np.array(open_npy(path))
    volume = open_volume(path)
    num_slices = volume.array.shape[volume.across(reading.axis)]
    if frame >= num_slices:
        raise DataError(
            f"{path}: slice {frame} of {num_slices}", fix="name a slice that is there, counted from 0", code="image"
        )
    return volume.values(frame, reading.axis)


# --- what is in it ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Study:
    low: float
    high: float
    whole: bool  # whole numbers only, as stored
    blank: tuple[int, ...]


def study(path: Path, planes: Iterator[Array]) -> Study:
    lows, highs, whole, blank = [], [], True, []
    for number, plane in enumerate(planes):
        low, high = float(plane.min()), float(plane.max())
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN is both the least and the greatest
            bad = int((~np.isfinite(plane)).sum())
            raise DataError(
                f"{path}: {bad} of {plane.size} values in slice {number} are NaN or infinite",
                fix="replace them and save it again, or leave it out",
                code="image",
            )
        if low == high:
            blank.append(number)
        lows.append(low)
        highs.append(high)
        whole = whole and (plane.dtype.kind != "f" or bool((plane == np.rint(plane)).all()))
    return Study(min(lows), max(highs), whole, tuple(blank))


# --- opening ---------------------------------------------------------------------------------------------------------
def open_volume(path: Path) -> Volume:
    """The volume in a file; the ones opened last are kept, since their slices are read one after the other."""
    check_regular(path)
    return RECENT_VOLUMES(path)


def open_volume_file(path: Path) -> tuple[Volume, int]:
    """A volume and the bytes of memory that it takes."""
    suffix = path.suffix.lower()
    try:
        if suffix in TIFF_SUFFIXES:
            volume = Volume(read_pages(path), axis=0)
        elif suffix == ".npy":
            volume = Volume(check_shape(path, open_npy(path)))
        else:
            volume = read_nifti(path)
    except DataError:
        raise
    except Exception as error:  # what a damaged file makes a decoder raise cannot be listed
        raise damaged(path, error) from error
    return volume, 0 if isinstance(volume.array, np.memmap) else volume.array.nbytes


RECENT_VOLUMES: Recent[Volume] = Recent(open_volume_file, RECENT_VOLUME_BYTES)


def check_shape(path: Path, array: Array) -> Array:
    """An array of three axes, or of four where the last is RGB in 8 or 16 bits."""
    rgb = array.ndim == 4 and array.shape[3] == 3 and array.dtype in (np.uint8, np.uint16)
    if array.ndim != 3 and not rgb:
        raise DataError(
            f"{path}: an array of shape {array.shape}, expected a volume of 3 axes",
            fix="save each volume as a file",
            code="image",
        )
    if min(array.shape) < 1 or max(array.shape) > MAX_SLICES:
        raise DataError(
            f"{path}: an array of shape {array.shape} is no volume",
            fix="save it as (H, W, slices), or leave it out",
            code="image",
        )
    require_numbers(path, array, "uif")
    for axis in range(3):
        height, width = (size for other, size in enumerate(array.shape[:3]) if other != axis)
        check_size(path, width, height, 3 if rgb else 1, array.dtype.itemsize * 8)
    return array


def check_bytes(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], most: int = MAX_VOLUME_BYTES) -> None:
    """Refuse an array that would not fit into memory, before it is unpacked."""
    if math.prod(shape) * dtype.itemsize > most:
        raise DataError(
            f"{path}: its header says {' x '.join(map(str, shape))} of {dtype}, more than {most >> 20} MB",
            fix="crop it, or save it in fewer bits",
            code="image",
        )


def read_nifti(path: Path) -> Volume:
    """A NIfTI as stored, in the RAS+ order of axes; only its header is read by nibabel, which would not check a CRC."""
    import logging

    import nibabel
    from nibabel.filebasedimages import ImageFileError

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it logs on stderr names no file
    try:
        image: Any = nibabel.load(path)
    except ImageFileError as error:
        raise DataError(
            f"{path}: not a NIfTI file: {first_bytes(path)}", fix="copy it again, or leave it out", code="image"
        ) from error
    proxy = image.dataobj
    shape, dtype = tuple(proxy.shape), proxy.dtype
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) != 3:
        raise DataError(
            f"{path}: an array of shape {shape}, expected a volume of 3 axes",
            fix="save each volume as a file",
            code="image",
        )
    array = read_array(path, int(proxy.offset), shape, dtype)
    if dtype.names == ("R", "G", "B"):
        array = array.ravel(order="K").view(np.uint8).reshape(3, *shape, order="F").transpose(1, 2, 3, 0)
    turns = nibabel.io_orientation(image.affine)
    if np.isfinite(turns).all():
        array = nibabel.orientations.apply_orientation(array, turns)
    if not (math.isfinite(proxy.slope) and math.isfinite(proxy.inter)) or proxy.slope == 0:
        raise DataError(
            f"{path}: its header scales values by {proxy.slope:g} and adds {proxy.inter:g}",
            fix="correct its header, or leave it out",
            code="image",
        )
    return Volume(check_shape(path, array), float(proxy.slope), float(proxy.inter), is_anatomical=True)


def read_array(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The array behind a header, which is not believed: mapped where it lies, else unpacked and its CRC checked."""
    if min(shape) < 1 or offset < 0:
        raise DataError(
            f"{path}: its header says an array of shape {shape}, which is no volume",
            fix="save it as (H, W, slices), or leave it out",
            code="image",
        )
    size, stored = math.prod(shape) * dtype.itemsize, path.stat().st_size
    is_packed = path.suffix.lower() == ".gz"
    most = stored * MAX_DEFLATE_RATIO if is_packed else stored
    if offset + size > most:
        raise DataError(
            f"{path}: its header says {' x '.join(map(str, shape))} of {dtype}, {size} bytes; the file ends early",
            fix="copy it again, or leave it out",
            code="image",
        )
    check_bytes(path, shape, dtype, MAX_VOLUME_BYTES if is_packed else MAX_MAPPED_BYTES)
    if not is_packed:
        mapped: Array = np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order="F")
        return mapped
    data = bytearray(size)  # perf: `read(size)` holds all of it twice for a moment
    with gzip.open(path) as stream, memoryview(data) as free:
        stream.read(offset)
        done = 0
        while done < size and (count := stream.readinto(free[done : done + VOLUME_CHUNK_BYTES])):
            done += count
        stream.read(1)  # at the end of the file the CRC is compared
    if done != size:
        raise DataError(f"{path}: {done} of {size} bytes", fix="copy it again, or leave it out", code="image")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def open_npy(path: Path) -> Array:
    """The array of a `.npy`, mapped; nothing is unpickled."""
    check_regular(path)
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        start = first_bytes(path)
        cause = f"not a NumPy array: {start}" if "NUMPY" not in start else f"cannot be read: {error}"
        if "Python objects" in str(error):
            cause = "holds Python objects, which could run code when read"
        raise DataError(
            f"{path}: {' '.join(cause.split())}", fix="save it as an array of numbers", code="image"
        ) from error
    check_bytes(path, array.shape, array.dtype, MAX_MAPPED_BYTES)
    require_numbers(path, array, "buif")
    return array.view(np.uint8) if array.dtype == bool else array


def is_plane(path: Path, reading: Reading) -> bool:
    """Whether a `.npy` is one image: (H, W), or (H, W, 3) where the set does not speak of slices.

    Three axes are a volume, and nothing tells which of them slices are cut across: the set must say so.
    """
    if path.suffix.lower() != ".npy":
        return False
    array = open_npy(path)
    if array.ndim == 2:
        return True
    if array.ndim in (3, 4) and reading.axis is None:
        if array.ndim == 3 and array.shape[2] == 3 and array.dtype in (np.uint8, np.uint16):
            return True
        raise DataError(
            f"{path}: an array of shape {array.shape}, and nothing says across which axis slices are cut",
            fix="say slices = {axis = 0} (or 1, or 2) in dataset.toml",
            code="image",
        )
    return False


def read_pages(path: Path) -> Array:
    """The pages of a TIFF as one array (pages, H, W) or (pages, H, W, 3); all must be of one size and kind."""
    with open_tiff(path) as tiff:
        first = tiff.pages[0]
        shape, dtype = tuple(first.shape), first.dtype
        if dtype is None:
            raise DataError(
                f"{path}: holds {first.bitspersample}-bit samples, which no array can hold",
                fix="save it with 8 or 16 bits",
                code="image",
            )
        check_size(path, first.imagewidth, first.imagelength, first.samplesperpixel, dtype.itemsize * 8)
        num_pages = count_pages(path, tiff)
        check_chain(path, tiff, num_pages)
        if num_pages == 1 and (planes := declared_planes(tiff)) > 1:
            return check_shape(path, read_planes(path, tiff, planes))
        check_bytes(path, (num_pages, *shape), dtype)
        page = read_page(path, first, 0, shape, dtype)
        pages = np.empty((num_pages, *page.shape), dtype)
        for number in range(num_pages):
            pages[number] = page if number == 0 else read_page(path, tiff.pages[number], number, shape, dtype)
    return check_shape(path, pages)


def count_pages(path: Path, tiff: Any) -> int:
    try:
        tiff.pages[MAX_SLICES]
    except IndexError:
        return len(tiff.pages)
    raise DataError(f"{path}: more than {MAX_SLICES} pages", fix="check that it is whole", code="image")


def check_chain(path: Path, tiff: Any, num_pages: int) -> None:
    """Refuse a stack whose last page names one behind the end of the file: it has been cut."""
    last = tiff.pages[num_pages - 1]
    if (offset := next_page_offset(tiff, last)) >= tiff.filehandle.size:
        raise DataError(
            f"{path}: page {num_pages - 1} names the next at byte {offset}, the file ends at {tiff.filehandle.size}",
            fix="copy it again, or leave it out",
            code="image",
        )


def read_page(path: Path, page: Any, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if (tuple(page.shape), page.dtype) != (shape, dtype):
        raise DataError(
            f"{path}: page {number} is {page.dtype} {tuple(page.shape)}, page 0 is {dtype} {shape}",
            fix="save the pages as files of their own",
            code="image",
        )
    check_photometric(path, page, number)
    return to_upright(page, page.asarray())


def read_planes(path: Path, tiff: Any, planes: int) -> Array:
    """The images behind a single page, as `read_pages` returns those of several pages."""
    page = tiff.pages[0]
    check_photometric(path, page, 0)
    shape = tuple(page.shape)[1:] if page.imagedepth > 1 else tuple(page.shape)
    check_bytes(path, (planes, *shape), page.dtype)
    if page.imagedepth > 1 or planes * math.prod(shape) == page.size:
        stored = page.asarray()
    else:
        stored = read_behind(path, tiff, (planes, *shape))
    return np.stack([to_upright(page, plane) for plane in stored.reshape(planes, *shape)])


def read_behind(path: Path, tiff: Any, shape: tuple[int, ...]) -> Array:
    """Uncompressed images that follow the one that the page describes; a DataError where the file ends before."""
    page = tiff.pages[0]
    dtype = page.dtype.newbyteorder(tiff.byteorder)
    needed = math.prod(shape) * dtype.itemsize
    there = tiff.filehandle.size - page.dataoffsets[0]
    if page.compression != 1 or not page.is_contiguous or there < needed:
        held = "its page is not stored as one block" if there >= needed else f"{there} of {needed} bytes are there"
        raise DataError(
            f"{path}: declares {shape[0]} images in one page, and {held}",
            fix="copy it again, or save each image as a file; if it holds one image, remove its ImageDescription",
            code="image",
        )
    tiff.filehandle.seek(page.dataoffsets[0])
    return np.frombuffer(tiff.filehandle.read(needed), dtype).astype(page.dtype, copy=False).reshape(shape)


def check_photometric(path: Path, page: Any, number: int) -> None:
    if int(page.photometric) not in (0, 1, 2):  # white is zero, black is zero, RGB
        raise DataError(f"{path}: page {number} is neither gray nor RGB", fix="save it as one of these", code="image")


def to_upright(page: Any, pixels: Array) -> Array:
    """One image of a page as (H, W) or (H, W, 3), black is zero."""
    tag = page.tags.get("Orientation")
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if int(page.photometric) == 0 and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return upright(flatten(pixels), int(tag.value) if tag else 1)


def has_pages(path: Path) -> bool:
    """Whether a TIFF holds more than one page, or a stack behind one.

    A damaged one may: it is named when it is read like those beside it.
    """
    try:
        with open_tiff(path) as tiff:
            first = tiff.pages[0]
            if next_page_offset(tiff, first) not in (0, first.offset):  # a page may name itself as the next
                return True
            return declared_planes(tiff) > 1
    except Exception:
        return True


def next_page_offset(tiff: Any, page: Any) -> int:
    """Where a page says that the next one is; 0 for none. tifffile leaves out a page that lies beyond the end."""
    layout = tiff.tiff
    stream = tiff.filehandle
    stream.seek(page.offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, stream.read(layout.tagnosize))
    stream.seek(page.offset + layout.tagnosize + num_tags * layout.tagsize)
    (offset,) = struct.unpack(layout.offsetformat, stream.read(layout.offsetsize))
    return int(offset)


def require_numbers(path: Path, array: Array, kinds: str) -> None:
    """Raise where an array holds something else than numbers of these kinds (`numpy.dtype.kind`), or nothing."""
    if array.dtype.kind not in kinds or array.dtype.itemsize > 8:
        raise DataError(
            f"{path}: holds {array.dtype}, expected whole or floating-point numbers",
            fix="save it as an array of such numbers",
            code="image",
        )
    if not array.size:
        raise DataError(
            f"{path}: an array of shape {array.shape}, which holds nothing",
            fix="save it again, or leave it out",
            code="image",
        )
