"""Read a slice of a volume (NIfTI, NRRD, MetaImage, NPY, the pages of a TIFF, a plugin's format), upright.

A NIfTI, NRRD or MetaImage is reoriented to the closest RAS+ axes by its affine: axis 0 gives sagittal, 1 coronal, 2
axial slices. Slices are oriented as in DICOM viewers: the patient's right (or front) on the left, the head (or front)
on top.
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
from zoo.images.placement import Spacing, valid_spacing
from zoo.images.plugin_readers import find_reader, is_plugin_image
from zoo.images.raster import TIFF_SUFFIXES, flatten, turn_upright
from zoo.images.reading import (
    AS_STORED,
    Header,
    Reading,
    check_regular,
    check_size,
    damaged,
    first_bytes,
    open_tiff,
    suffix_of,
    to_levels,
)
from zoo.images.recent import Recent
from zoo.images.stacks import declared_planes
from zoo.images.text_headers import TEXT_SUFFIXES, TextHeader, read_text_header, stored_files

SUFFIXES = (".nii", ".nii.gz", ".npy", *TEXT_SUFFIXES)
WITH_GRID = (".nii", ".nii.gz", *TEXT_SUFFIXES)  # their headers place the voxels
HEADER_VERSION = 3  # raise it when `read_header` returns different facts about the same file
MAX_VOLUME_BYTES = 768 << 20  # unpacked, in the file's own dtype: 1,500 slices of 512 x 512 at 16 bits
MAX_MAPPED_BYTES = 4 << 30  # of a memory-mapped file
RECENT_VOLUME_BYTES = 1 << 29
MAX_DEFLATE_RATIO = 1032  # the maximum of the deflate format
VOLUME_CHUNK_BYTES = 1 << 20
MAX_SLICES = 100_000
MILLIMETERS = {"meter": 1e3, "micron": 1e-3}  # per unit of a NIfTI; "unknown" means mm
MAX_VOXELS = 1 << 20  # sampled from a volume for its quantiles
VOLUME_QUANTILES = 1001
SHOWN_PERCENTILES = (0.5, 99.5)  # of a slice that stands for its volume


@dataclass(frozen=True, eq=False)
class Volume:
    """The stored array of a file, (A, B, C) or (A, B, C, 3), and the scaling of its values."""

    array: Array
    slope: float = 1.0
    intercept: float = 0.0
    axis: int = 2  # the default axis along which slices are stacked
    is_anatomical: bool = False  # the axes are RAS+
    columns_first: bool = False  # the first axis runs along the rows of a slice, the second down
    voxel: tuple[float, ...] = ()  # size along the three axes in mm, if known
    affine: Array | None = None  # (4, 4) from indices to mm of the scanner, if the header orients the axes

    def values(self, frame: int, axis: int | None) -> Array:
        """One slice, (H, W) or (H, W, 3), upright."""
        plane = self.cut(frame, axis)
        if self.is_anatomical:
            plane = plane.swapaxes(0, 1)[::-1, ::-1]
        elif self.columns_first:
            plane = plane.swapaxes(0, 1)
        if (self.slope, self.intercept) != (1.0, 0.0):
            plane = plane * self.slope + self.intercept
        return np.ascontiguousarray(plane)

    @cached_property
    def quantiles(self) -> Array:
        """Quantiles of the volume in steps of 0.001, from evenly spaced voxels."""
        spread = np.arange(0, self.array.size, max(1, -(-self.array.size // MAX_VOXELS)))
        values = self.array[np.unravel_index(spread, self.array.shape)].astype(np.float64)
        quantiles: Array = np.quantile(values * self.slope + self.intercept, np.linspace(0, 1, VOLUME_QUANTILES))
        return quantiles

    def levels_between(self, percentiles: tuple[float, float]) -> tuple[float, float]:
        """The values that become black and white. The only value of a constant volume becomes black."""
        low, high = np.interp(percentiles, np.linspace(0, 100, VOLUME_QUANTILES), self.quantiles)
        return float(low), float(high) if high > low else float(low) + 1.0

    def cut(self, frame: int, axis: int | None) -> Array:
        plane: Array = self.array[(slice(None),) * self.across(axis) + (frame,)]
        return plane

    def spacing(self, axis: int | None) -> Spacing | None:
        """Millimeters per pixel of the slices that `values` returns."""
        sizes = [size for number, size in enumerate(self.voxel) if number != self.across(axis)]
        return valid_spacing(sizes[::-1] if self.is_anatomical else sizes)

    def across(self, axis: int | None) -> int:
        return self.axis if axis is None else axis


def is_volume_suffix(suffix: str) -> bool:
    return suffix in SUFFIXES or is_plugin_image(suffix, dims=3)


def central_slice(voxels: Array) -> Array:
    """The middle slice of a volume: see `slice_at`."""
    return slice_at(voxels, voxels.shape[2] // 2)


def slice_at(voxels: Array, place: int) -> Array:
    """A slice across the last of three axes in RAS+ order, upright; of channels after them, the first."""
    volume = voxels[..., 0] if voxels.ndim == 4 else voxels
    return np.ascontiguousarray(volume[:, :, place].T[::-1, ::-1])


def show_slice(voxels: Array) -> Array:
    """The middle slice of a volume as uint8, from its percentiles 0.5 and 99.5."""
    plane = central_slice(voxels).astype(np.float64)
    low, high = np.percentile(plane, SHOWN_PERCENTILES)
    shown: Array = np.rint(((plane - low) / max(high - low, 1e-9)).clip(0, 1) * 255).astype(np.uint8)
    return shown


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """Read a whole volume for its number of slices, range of values and blank slices.

    `frames` is None for a `.npy` with a single image. Raises DataError for NaN and infinite values.
    """
    if is_plane(path, reading):
        array = open_plane(path)
        check_size(path, array.shape[1], array.shape[0], array[0, 0].size, array.dtype.itemsize * 8)
        planes, volume, frames = iter([array]), Volume(array), None
    else:
        volume = open_volume(path)
        frames = volume.array.shape[volume.across(reading.axis)]
        planes = (volume.cut(frame, reading.axis) for frame in range(frames))
    height, width = (volume.values(0, reading.axis) if frames else volume.array).shape[:2]
    summary = summarize_values(path, planes)
    low, high = sorted(value * volume.slope + volume.intercept for value in (summary.low, summary.high))
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
        step=abs(volume.slope) if summary.whole else 0.0,
        is_rescaled=(volume.slope, volume.intercept) != (1.0, 0.0),
        blank=summary.blank,
    )


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """One slice as uint8 or uint16, mapped by `reading`."""
    values = read_values(path, frame, reading)
    if reading.percentiles and frame is not None:
        reading = replace(reading, levels=open_volume(path).levels_between(reading.percentiles))
    levels = to_levels(values, reading)
    if levels.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: {levels.dtype} values, but no range to map to levels",
            fix="set intensity = {levels = [low, high]} in dataset.toml",
            code="image",
        )
    return levels


def read_values(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """One slice in the file's own units, with its scaling applied."""
    if frame is None:
        return np.array(open_plane(path))
    volume = open_volume(path)
    num_slices = volume.array.shape[volume.across(reading.axis)]
    if frame >= num_slices:
        raise DataError(
            f"{path}: slice {frame} of {num_slices}", fix="use an existing slice, counted from 0", code="image"
        )
    return volume.values(frame, reading.axis)


def read_spacing(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Spacing | None:
    """Size of the pixels of a slice in mm, if the header has it."""
    if frame is not None:
        return open_volume(path).spacing(reading.axis)
    reader = find_reader(path)
    return reader.read_size(path) if reader else None


# --- values ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Summary:
    """Facts about the stored values of a volume."""

    low: float
    high: float
    whole: bool  # whether all values are whole numbers
    blank: tuple[int, ...]  # slices with a single value


def summarize_values(path: Path, planes: Iterator[Array]) -> Summary:
    lows, highs, whole, blank = [], [], True, []
    for number, plane in enumerate(planes):
        low, high = float(plane.min()), float(plane.max())
        if not (math.isfinite(low) and math.isfinite(high)):  # min and max of NaN are NaN
            invalid = int((~np.isfinite(plane)).sum())
            raise DataError(
                f"{path}: {invalid} of {plane.size} values in slice {number} are NaN or infinite",
                fix="replace them and save it again, or leave it out",
                code="image",
            )
        if low == high:
            blank.append(number)
        lows.append(low)
        highs.append(high)
        whole = whole and (plane.dtype.kind != "f" or bool((plane == np.rint(plane)).all()))
    return Summary(min(lows), max(highs), whole, tuple(blank))


# --- opening ---------------------------------------------------------------------------------------------------------
def open_volume(path: Path) -> Volume:
    """The volume in a file. Recent ones are cached, because their slices are read one by one."""
    check_regular(path)
    return RECENT_VOLUMES(path)


def open_volume_file(path: Path) -> tuple[Volume, int]:
    """The volume in a file and its size in memory, in bytes."""
    suffix = path.suffix.lower()
    try:
        if reader := find_reader(path):
            volume = Volume(check_shape(path, reader.read_array(path)), axis=0, voxel=reader.read_size(path) or ())
        elif suffix in TIFF_SUFFIXES:
            volume = Volume(read_pages(path), axis=0)
        elif suffix == ".npy":
            volume = Volume(check_shape(path, open_npy(path)))
        elif suffix in TEXT_SUFFIXES:
            volume = read_text_volume(path)
        else:
            volume = read_nifti(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error
    return volume, 0 if isinstance(volume.array, np.memmap) else volume.array.nbytes


RECENT_VOLUMES: Recent[Volume] = Recent(open_volume_file, RECENT_VOLUME_BYTES, stored_files)


def check_shape(path: Path, array: Array) -> Array:
    """Return an array of three axes, or of four if the last one is RGB in 8 or 16 bits. Raises DataError."""
    rgb = array.ndim == 4 and array.shape[3] == 3 and array.dtype in (np.uint8, np.uint16)
    if array.ndim != 3 and not rgb:
        raise DataError(
            f"{path}: an array of shape {array.shape}, expected a volume with 3 axes",
            fix="save each volume as its own file",
            code="image",
        )
    if min(array.shape) < 1 or max(array.shape) > MAX_SLICES:
        raise DataError(
            f"{path}: an array of shape {array.shape} is not a volume",
            fix="save it as (H, W, slices), or leave it out",
            code="image",
        )
    require_numbers(path, array, "uif")
    for axis in range(3):
        height, width = (size for other, size in enumerate(array.shape[:3]) if other != axis)
        check_size(path, width, height, 3 if rgb else 1, array.dtype.itemsize * 8)
    return array


def check_bytes(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int = MAX_VOLUME_BYTES) -> None:
    """Raise DataError for an array that would not fit into memory, before it is unpacked."""
    if math.prod(shape) * dtype.itemsize > limit:
        raise DataError(
            f"{path}: its header declares {' x '.join(map(str, shape))} of {dtype}, more than {limit >> 20} MB",
            fix="crop it, or save it in fewer bits",
            code="image",
        )


def read_nifti(path: Path, max_axes: int = 3) -> Volume:
    """Read a NIfTI in the RAS+ order of axes. nibabel reads only the header, because it would not check the CRC.

    With `max_axes` 4, a fourth axis is returned as it is stored.
    """
    import logging

    import nibabel
    from nibabel.filebasedimages import ImageFileError

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # its messages on stderr do not name the file
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
    if not 3 <= len(shape) <= max_axes:
        raise DataError(
            f"{path}: an array of shape {shape}, expected a volume with 3 axes",
            fix="save each volume as its own file",
            code="image",
        )
    array = read_array(path, int(proxy.offset), shape, dtype)
    if dtype.names == ("R", "G", "B"):
        array = array.ravel(order="K").view(np.uint8).reshape(3, *shape, order="F").transpose(1, 2, 3, 0)
    orientation = nibabel.io_orientation(image.affine)
    if np.isfinite(orientation).all():
        array = nibabel.orientations.apply_orientation(array, orientation)
    if not (math.isfinite(proxy.slope) and math.isfinite(proxy.inter)) or proxy.slope == 0:
        raise DataError(
            f"{path}: its header scales values by {proxy.slope:g} and adds {proxy.inter:g}",
            fix="correct its header, or leave it out",
            code="image",
        )
    check_shape(path, array[..., 0] if len(shape) == 4 else array)
    return Volume(
        array,
        float(proxy.slope),
        float(proxy.inter),
        is_anatomical=True,
        voxel=voxel_size(image),
        affine=upright_affine(image, shape),
    )


def read_text_volume(path: Path, max_axes: int = 3) -> Volume:
    """Read a NRRD or MetaImage in the RAS+ order of axes; with `max_axes` 4, its channels are the last axis."""
    import nibabel

    header = read_text_header(path)
    shape, channel_axis = header.spatial_shape, header.channel_axis
    array = unpack_array(path, header)
    if channel_axis is not None:
        array = np.moveaxis(array, channel_axis, -1)
        if max_axes < 4 and not (array.shape[3] == 3 and array.dtype.kind == "u"):
            raise DataError(
                f"{path}: an array of shape {array.shape}, expected a volume with 3 axes",
                fix="save each volume as its own file",
                code="image",
            )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    check_shape(path, array[..., 0] if channel_axis is not None and max_axes == 4 else array)
    if header.affine is None:
        return Volume(array, columns_first=True)
    image = place_voxels(header)
    orientation = nibabel.io_orientation(image.affine)
    if np.isfinite(orientation).all():
        array = nibabel.orientations.apply_orientation(array, orientation)
    return Volume(array, is_anatomical=True, voxel=voxel_size(image), affine=upright_affine(image, shape))


def place_voxels(header: TextHeader) -> Any:
    """A NIfTI image without voxels that has the grid of a header."""
    import nibabel

    return nibabel.Nifti1Image(np.broadcast_to(np.uint8(0), header.spatial_shape), header.affine)


def unpack_array(path: Path, header: TextHeader) -> Array:
    """The array after a text header: mapped, or unpacked after its size was checked. Raises DataError."""
    import zlib

    if not header.is_packed:
        return read_array(header.array.path, header.array.offset, header.shape, header.dtype)
    check_bytes(path, header.shape, header.dtype)
    size = math.prod(header.shape) * header.dtype.itemsize
    with open(header.array.path, "rb") as stream:
        stream.seek(header.array.offset)
        stored = stream.read()
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # a header of gzip or of zlib
    data = unpacker.decompress(stored, size + 1)
    if len(data) != size or not unpacker.eof:
        raise DataError(
            f"{path}: its array has {'more' if len(data) > size else 'less'} than the {size} bytes of its header",
            fix="copy it again, or leave it out",
            code="image",
        )
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F")


def read_placed(path: Path) -> tuple[tuple[int, ...], Any]:
    """The shape of a NIfTI, NRRD or MetaImage and its header as an image of nibabel, without reading its voxels.

    The image is None if the header does not place the voxels.
    """
    import nibabel

    if path.suffix.lower() not in TEXT_SUFFIXES:
        image = nibabel.load(path)
        return tuple(image.shape), image
    header = read_text_header(path)
    return header.spatial_shape, None if header.affine is None else place_voxels(header)


def count_stored_channels(path: Path) -> int:
    """The channels of a whole volume, from its header: the axis that is not one of space, or RGB; 1 without one."""
    check_regular(path)
    suffix = path.suffix.lower()
    if not is_volume_suffix(suffix_of(path.name)) and suffix not in TIFF_SUFFIXES:
        return 1  # no volume: an error when it is decoded
    try:
        if suffix in TIFF_SUFFIXES:
            with open_tiff(path) as tiff:
                return 3 if int(tiff.pages[0].photometric) == 2 else 1
        if suffix in TEXT_SUFFIXES:
            header = read_text_header(path)
            return 1 if header.channel_axis is None else header.shape[header.channel_axis]
        if find_reader(path):
            shape = open_volume(path).array.shape
        elif suffix == ".npy":
            shape = open_npy(path).shape
        else:
            shape, image = read_placed(path)
            if image.get_data_dtype().names == ("R", "G", "B"):
                return 3
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error
    return math.prod(shape[3:])


def upright_affine(image: Any, shape: tuple[int, ...]) -> Array | None:
    """The affine of the axes in RAS+ order, in mm; None if the header does not orient the axes."""
    import nibabel

    orientation = nibabel.io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        return None
    affine: Array = image.affine @ nibabel.orientations.inv_ornt_aff(orientation, shape)
    affine[:3] *= MILLIMETERS.get(image.header.get_xyzt_units()[0], 1.0)
    return affine


def voxel_size(image: Any) -> tuple[float, ...]:
    """Size of a voxel in mm along the axes in RAS+ order; () if the header does not orient the axes."""
    import nibabel
    from nibabel.affines import voxel_sizes

    orientation = nibabel.io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        return ()
    sizes = np.zeros(3)
    sizes[orientation[:, 0].astype(int)] = voxel_sizes(image.affine)
    return tuple((sizes * MILLIMETERS.get(image.header.get_xyzt_units()[0], 1.0)).tolist())


def read_array(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Read the array after a header that may be wrong: map it, or unpack it and check its CRC."""
    if min(shape) < 1 or offset < 0:
        raise DataError(
            f"{path}: its header declares an array of shape {shape}, which is not a volume",
            fix="save it as (H, W, slices), or leave it out",
            code="image",
        )
    size, stored = math.prod(shape) * dtype.itemsize, path.stat().st_size
    is_packed = path.suffix.lower() == ".gz"
    max_size = stored * MAX_DEFLATE_RATIO if is_packed else stored
    if offset + size > max_size:
        raise DataError(
            f"{path}: its header declares {' x '.join(map(str, shape))} of {dtype}, {size} bytes, "
            "but the file ends early",
            fix="copy it again, or leave it out",
            code="image",
        )
    check_bytes(path, shape, dtype, MAX_VOLUME_BYTES if is_packed else MAX_MAPPED_BYTES)
    if not is_packed:
        mapped: Array = np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order="F")
        return mapped
    data = bytearray(size)  # perf: `read(size)` would temporarily hold two copies
    with gzip.open(path) as stream, memoryview(data) as buffer:
        stream.read(offset)
        done = 0
        while done < size and (count := stream.readinto(buffer[done : done + VOLUME_CHUNK_BYTES])):
            done += count
        stream.read(1)  # reading the end of the file checks the CRC
    if done != size:
        raise DataError(f"{path}: {done} of {size} bytes", fix="copy it again, or leave it out", code="image")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def open_plane(path: Path) -> Array:
    """The array of a file with a single image: a `.npy`, or one that a plugin reads."""
    reader = find_reader(path)
    return reader.read_array(path) if reader else open_npy(path)


def open_npy(path: Path) -> Array:
    """Map the array of a `.npy` file, without unpickling."""
    check_regular(path)
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        start = first_bytes(path)
        cause = f"not a NumPy array: {start}" if "NUMPY" not in start else f"cannot be read: {error}"
        if "Python objects" in str(error):
            cause = "contains Python objects, which could run code when read"
        raise DataError(
            f"{path}: {' '.join(cause.split())}", fix="save it as an array of numbers", code="image"
        ) from error
    check_bytes(path, array.shape, array.dtype, MAX_MAPPED_BYTES)
    require_numbers(path, array, "buif")
    return array.view(np.uint8) if array.dtype == bool else array


def is_plane(path: Path, reading: Reading) -> bool:
    """Whether a file is a single image: a `.npy` of (H, W), or (H, W, 3) if the dataset does not declare slices.

    Other arrays of three axes are volumes. Raises DataError if the dataset does not declare the axis of their slices.
    """
    if reader := find_reader(path):
        return reader.dims == 2
    if path.suffix.lower() != ".npy":
        return False
    array = open_npy(path)
    if array.ndim == 2:
        return True
    if array.ndim in (3, 4) and reading.axis is None:
        if array.ndim == 3 and array.shape[2] == 3 and array.dtype in (np.uint8, np.uint16):
            return True
        raise DataError(
            f"{path}: an array of shape {array.shape}, but the axis of its slices is not declared",
            fix="set slices = {axis = 0} (or 1, or 2) in dataset.toml",
            code="image",
        )
    return False


def read_pages(path: Path) -> Array:
    """The pages of a TIFF as one array (pages, H, W) or (pages, H, W, 3). All must have the same shape and dtype."""
    with open_tiff(path) as tiff:
        first = tiff.pages[0]
        shape, dtype = tuple(first.shape), first.dtype
        if dtype is None:
            raise DataError(
                f"{path}: {first.bitspersample}-bit samples are not supported",
                fix="save it with 8 or 16 bits",
                code="image",
            )
        check_size(path, first.imagewidth, first.imagelength, first.samplesperpixel, dtype.itemsize * 8)
        num_pages = count_pages(path, tiff)
        check_chain(path, tiff, num_pages)
        planes = declared_planes(tiff)
        if num_pages == 1 and planes > 1:
            return check_shape(path, read_planes(path, tiff, planes))
        if 1 < num_pages < planes:
            raise DataError(
                f"{path}: declares {planes} images, but has {num_pages} pages",
                fix="copy it again; if it is complete, remove its ImageDescription",
                code="image",
            )
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
    raise DataError(f"{path}: more than {MAX_SLICES} pages", fix="check that it is not damaged", code="image")


def check_chain(path: Path, tiff: Any, num_pages: int) -> None:
    """Raise DataError for a truncated stack, whose last page points to a page beyond the end of the file."""
    last = tiff.pages[num_pages - 1]
    if (offset := next_page_offset(tiff, last)) >= tiff.filehandle.size:
        raise DataError(
            f"{path}: the page after page {num_pages - 1} is at byte {offset}, but the file has {tiff.filehandle.size}",
            fix="copy it again, or leave it out",
            code="image",
        )


def read_page(path: Path, page: Any, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if (tuple(page.shape), page.dtype) != (shape, dtype):
        raise DataError(
            f"{path}: page {number} is {page.dtype} {tuple(page.shape)}, page 0 is {dtype} {shape}",
            fix="save each page as its own file",
            code="image",
        )
    check_photometric(path, page, number)
    return to_upright(page, page.asarray())


def read_planes(path: Path, tiff: Any, planes: int) -> Array:
    """The images of a single page, in the form of `read_pages`."""
    page = tiff.pages[0]
    check_photometric(path, page, 0)
    shape = tuple(page.shape)[1:] if page.imagedepth > 1 else tuple(page.shape)
    check_bytes(path, (planes, *shape), page.dtype)
    if page.imagedepth > 1 or planes * math.prod(shape) == page.size:
        stored = page.asarray()
    else:
        stored = read_following(path, tiff, (planes, *shape))
    return np.stack([to_upright(page, plane) for plane in stored.reshape(planes, *shape)])


def read_following(path: Path, tiff: Any, shape: tuple[int, ...]) -> Array:
    """Read the uncompressed images stored after the first one of a page. Raises DataError if the file ends early."""
    page = tiff.pages[0]
    dtype = page.dtype.newbyteorder(tiff.byteorder)
    needed = math.prod(shape) * dtype.itemsize
    stored_size = tiff.filehandle.size - page.dataoffsets[0]
    if page.compression != 1 or not page.is_contiguous or stored_size < needed:
        is_complete = stored_size >= needed
        reason = "the page is not stored as one block" if is_complete else f"has {stored_size} of {needed} bytes"
        raise DataError(
            f"{path}: declares {shape[0]} images in one page, but {reason}",
            fix="copy it again, or save each image as its own file; if there is only one image, remove its "
            "ImageDescription",
            code="image",
        )
    tiff.filehandle.seek(page.dataoffsets[0])
    return np.frombuffer(tiff.filehandle.read(needed), dtype).astype(page.dtype, copy=False).reshape(shape)


def check_photometric(path: Path, page: Any, number: int) -> None:
    if int(page.photometric) not in (0, 1, 2):  # white is zero, black is zero, RGB
        raise DataError(f"{path}: page {number} is neither gray nor RGB", fix="convert it to gray or RGB", code="image")


def to_upright(page: Any, pixels: Array) -> Array:
    """An image of a page as (H, W) or (H, W, 3), upright and with black as zero."""
    tag = page.tags.get("Orientation")
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if int(page.photometric) == 0 and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return turn_upright(flatten(pixels), int(tag.value) if tag else 1)


def has_pages(path: Path) -> bool:
    """Whether a TIFF has more than one page, or a stack in one page.

    Return True for a damaged file, which is reported when it is read like the files beside it.
    """
    try:
        with open_tiff(path) as tiff:
            first = tiff.pages[0]
            if next_page_offset(tiff, first) not in (0, first.offset):  # the next page may be the page itself
                return True
            return declared_planes(tiff) > 1
    except Exception:
        return True


def next_page_offset(tiff: Any, page: Any) -> int:
    """The declared offset of the next page; 0 for none. tifffile ignores a page beyond the end of the file."""
    layout = tiff.tiff
    stream = tiff.filehandle
    stream.seek(page.offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, stream.read(layout.tagnosize))
    stream.seek(page.offset + layout.tagnosize + num_tags * layout.tagsize)
    (offset,) = struct.unpack(layout.offsetformat, stream.read(layout.offsetsize))
    return int(offset)


def require_numbers(path: Path, array: Array, kinds: str) -> None:
    """Raise DataError for an empty array, or one whose `dtype.kind` is not among `kinds`."""
    if array.dtype.kind not in kinds or array.dtype.itemsize > 8:
        raise DataError(
            f"{path}: an array of {array.dtype}, expected integers or floating-point numbers",
            fix="save it as an array of numbers",
            code="image",
        )
    if not array.size:
        raise DataError(
            f"{path}: an array of shape {array.shape} is empty",
            fix="save it again, or leave it out",
            code="image",
        )
