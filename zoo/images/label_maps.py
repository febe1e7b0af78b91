"""Read a label map: an image or a volume whose values are the numbers of labels, 0 for the background.

A map that holds 0 and 255 only, and a 1-bit or black and white image, are read as 0 and 1. A palette is read by index.
Volumes are reoriented as in `volumes`, so that maps stored along other axes can be compared; an axis of length 1 is
dropped. Values that are no label numbers are refused, with the values in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images import raster, volumes
from zoo.images.plugin_readers import PLUGIN_READERS, is_plugin_image
from zoo.images.reading import check_regular, damaged, suffix_of

if TYPE_CHECKING:
    from PIL.Image import Image

LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM")
HIGHEST_LABEL = 65_535
MAX_LABEL_VALUES = 10_000
WHITE = 255
GRID_TOLERANCE = 1e-3  # mm, or of a direction: headers store 32-bit numbers
SLAB_VOXELS = 1 << 20  # checked at once: as int64 or float64 they take 8 MB
NUM_NAMED = 6  # values in a message


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The label numbers of a file and the grid they lie on."""

    path: Path
    labels: Array  # uint8 or uint16, (H, W) or (A, B, C)
    values: tuple[int, ...]  # in the file, without 0
    is_white: bool = False  # its only value was 255, read as 1
    spacing: tuple[float, ...] | None = None  # mm along the axes of `labels`; None: unknown
    affine: Array | None = None  # (4, 4) from indices along the three axes of the file to mm


def is_label_map_name(name: str) -> bool:
    """Whether a file name has the suffix of an image; whether it holds labels is known when it is read."""
    return suffix_of(name) in (*raster.SUFFIXES, *volumes.SUFFIXES, *PLUGIN_READERS, ".gif")


def read_label_map(path: Path) -> LabelMap:
    """Read a file as labels. Raises DataError with the name of the file for anything else."""
    check_regular(path)
    suffix = suffix_of(path.name)
    if suffix not in volumes.SUFFIXES and suffix not in PLUGIN_READERS:
        return to_label_map(path, read_raster_labels(path))
    if suffix == ".npy" or is_plugin_image(suffix, dims=2):
        volume = volumes.Volume(volumes.open_plane(path), voxel=volumes.read_spacing(path) or ())
    else:
        volume, _ = volumes.open_volume_file(path)
    if volume.array.ndim not in (2, 3):
        raise DataError(
            f"{path}: an array of shape {volume.array.shape}, expected 2 or 3 axes",
            fix="save each label map as its own file, with one number per voxel",
            code="mask",
        )
    label_map = to_label_map(path, volume.array, (volume.slope, volume.intercept))
    return drop_single_axis(replace(label_map, spacing=known_spacing(volume.voxel), affine=volume.affine))


def read_declared_spacing(path: Path) -> tuple[float, ...] | None:
    """The spacing of a label map from its header alone: mm along three axes in RAS+ order, None if unknown."""
    if suffix_of(path.name) not in volumes.WITH_GRID:
        return None
    check_regular(path)
    try:
        _, image = volumes.read_placed(path)
        return None if image is None else known_spacing(volumes.voxel_size(image))
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a file: their number along each axis, their size in mm, and their places; None if unknown."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    affine: Array | None  # (4, 4) from indices along the axes to mm


def read_grid(path: Path) -> Grid:
    """Read the grid of a volume in the RAS+ order of axes, from its header alone if that places the voxels."""
    if suffix_of(path.name) not in volumes.WITH_GRID:
        volume = volumes.open_volume(path)
        return Grid(volume.array.shape[:3], known_spacing(volume.voxel), None)
    import nibabel

    check_regular(path)
    try:
        shape, image = volumes.read_placed(path)
        if image is None:
            return Grid(shape, None, None)
        orientation = nibabel.io_orientation(image.affine)
        if np.isfinite(orientation).all():
            shape = tuple(shape[axis] for axis in np.argsort(orientation[:, 0])) + shape[3:]
        return Grid(shape[:3], known_spacing(volumes.voxel_size(image)), volumes.upright_affine(image, image.shape[:3]))
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error


def known_spacing(sizes: Sequence[float]) -> tuple[float, ...] | None:
    return tuple(sizes) if sizes and all(np.isfinite(size) and size > 0 for size in sizes) else None


def drop_single_axis(label_map: LabelMap) -> LabelMap:
    """A volume of one slice as an image: in a volume, all its voxels would be on the boundary."""
    shape = label_map.labels.shape
    if len(shape) != 3 or 1 not in shape:
        return label_map
    axis, spacing = shape.index(1), label_map.spacing
    kept = None if spacing is None else tuple(size for number, size in enumerate(spacing) if number != axis)
    return replace(label_map, labels=label_map.labels.take(0, axis=axis), spacing=kept)


# --- images ----------------------------------------------------------------------------------------------------------
def read_raster_labels(path: Path) -> Array:
    """The values of an image (H, W), upright."""
    with raster.open_image(path) as image:
        kind = image.format
        if image.mode == "P" and not is_black_and_white(image):
            indices = np.asarray(image)
            return raster.turn_upright(indices, image.getexif().get(0x0112, 1))
    pixels = raster.read_raster_pixels(path)
    if kind not in LOSSLESS:
        raise DataError(
            f"{path}: {kind} changes the values of a mask: it holds {name_values(np.unique(pixels))}",
            fix="export the masks again as PNG, NIfTI or NPY",
            code="mask",
        )
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            colors = np.unique(pixels.reshape(-1, 3), axis=0)
            named = ", ".join(str(tuple(color)) for color in colors[:NUM_NAMED].tolist())
            raise DataError(
                f"{path}: {len(colors)} colors ({named}{', ...' * (len(colors) > NUM_NAMED)}), expected label numbers",
                fix="save the number of each label, as gray levels or with a palette",
                code="mask",
            )
        pixels = pixels[..., 0]
    values = np.unique(pixels)
    if pixels.dtype == np.uint8 and values[-1] == WHITE and not is_white(values):
        raise DataError(
            f"{path}: values between black and white: {name_values(values)}: smoothed edges, or 255 beside label "
            "numbers",
            fix="save masks of 0 and 255 without smoothing, or label numbers below 255",
            code="mask",
        )
    return pixels


def is_black_and_white(image: Image) -> bool:
    """Whether the colors that a palette image uses are black, white, or both."""
    palette = np.zeros(256 * 3, np.uint8)
    colors = image.getpalette("RGB") or []
    palette[: len(colors)] = colors
    used = palette.reshape(256, 3)[np.unique(np.asarray(image))]
    return bool(np.isin(used, (0, WHITE)).all() and (used == used[:, :1]).all())


# --- values ----------------------------------------------------------------------------------------------------------
def to_label_map(path: Path, array: Array, scaling: tuple[float, float] = (1.0, 0.0)) -> LabelMap:
    """Check that the scaled values of an array are label numbers, and store them in as few bytes as they need."""
    values = np.unique(np.concatenate([label_values(path, slab) for slab in scaled_slabs(array, scaling)]))
    if len(values) > MAX_LABEL_VALUES:
        raise DataError(
            f"{path}: {len(values)} values ({name_values(values)}), expected at most {MAX_LABEL_VALUES} labels",
            fix="check that it is a label map and not an image",
            code="mask",
        )
    # perf: in C order, whatever the file's: a comparison in the order of a NIfTI took a third longer
    labels = np.empty(array.shape, np.uint8 if values[-1] <= WHITE else np.uint16)
    for target, slab in zip(slabs(labels, slowest_axis(array)), scaled_slabs(array, scaling), strict=True):
        target[...] = slab
    if is_white(values):
        labels[labels == WHITE] = 1
        return LabelMap(path, labels, values=(1,), is_white=True)
    return LabelMap(path, labels, values=tuple(int(value) for value in values if value))


def slowest_axis(array: Array) -> int:
    """The axis along which an array is stored slowest."""
    return int(np.argmax(np.abs(array.strides)))


def slabs(array: Array, axis: int = 0) -> Iterator[Array]:
    """Parts of an array, cut across an axis; their first axis is that one."""
    planes = np.moveaxis(array, axis, 0)
    step = max(1, SLAB_VOXELS // planes[0].size)
    yield from (planes[start : start + step] for start in range(0, len(planes), step))


def scaled_slabs(array: Array, scaling: tuple[float, float]) -> Iterator[Array]:
    slope, intercept = scaling
    for slab in slabs(array, slowest_axis(array)):
        yield slab if scaling == (1.0, 0.0) else slab * slope + intercept


def label_values(path: Path, slab: Array) -> Array:
    """The different values of a slab, int64. Raises DataError if they are no label numbers."""
    values = np.unique(slab)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: NaN or infinite values in a label map", fix="write 0 for the background", code="mask")
    values = values.astype(np.float64) if values.dtype == np.float16 else values  # whose maximum is below 65,535
    wrong = values[(values != np.rint(values)) | (values < 0) | (values > HIGHEST_LABEL)]
    if len(wrong):
        raise DataError(
            f"{path}: values {name_values(wrong)} in a label map, expected whole numbers from 0 to {HIGHEST_LABEL}",
            fix="save the number of each label; decide probabilities first",
            code="mask",
        )
    return values.astype(np.int64)


def is_white(values: Array) -> bool:
    """Whether the values are 255 alone, or 0 and 255."""
    return bool(values[-1] == WHITE and (values[:-1] == 0).all())


def name_values(values: Array) -> str:
    """The first of several values, the number of the others and the last."""
    named = [f"{value:g}" for value in values.tolist()]
    if len(named) <= NUM_NAMED + 1:
        return ", ".join(named)
    return f"{', '.join(named[:NUM_NAMED])} and {len(named) - NUM_NAMED} more up to {named[-1]}"


# --- two maps --------------------------------------------------------------------------------------------------------
def check_same_grid(reference: LabelMap, prediction: LabelMap) -> None:
    """Raise DataError unless the voxels of two maps are the same places, to 1e-3."""
    for name, of in GRID_FACTS.items():
        expected, found = of(reference), of(prediction)
        if is_near(expected, found):
            continue
        raise DataError(
            f"{prediction.path}: its {name} is {describe_fact(found)}, that of {reference.path} is "
            f"{describe_fact(expected)}",
            fix="write the prediction on the grid of the reference, with its header",
            code="geometry",
        )


GRID_FACTS: Mapping[str, Callable[[LabelMap], Sequence[float] | Array | None]] = {
    "shape": lambda label_map: label_map.labels.shape,
    "spacing": lambda label_map: label_map.spacing,
    "affine": lambda label_map: label_map.affine,
}


def is_near(first: Sequence[float] | Array | None, second: Sequence[float] | Array | None) -> bool:
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=0, atol=GRID_TOLERANCE))


def describe_fact(fact: Sequence[float] | Array | None) -> str:
    """A shape, a spacing, or the first three rows of an affine."""
    if fact is None:
        return "missing"
    rows = np.atleast_2d(np.asarray(fact, dtype=np.float64))[:3]
    return "[" + "; ".join(" ".join(f"{value:.8g}" for value in row) for row in rows.tolist()) + "]"
