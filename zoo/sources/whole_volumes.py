"""Read whole volumes of a folder, and the mask of each on the same grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.label_maps import Grid, describe_fact, is_near, read_grid
from zoo.images.placement import Spacing
from zoo.images.reading import Reading, check_regular, damaged, suffix_of
from zoo.images.recent import Recent
from zoo.images.text_headers import TEXT_SUFFIXES, stored_files
from zoo.images.volumes import (
    RECENT_VOLUME_BYTES,
    WITH_GRID,
    Volume,
    open_volume_file,
    read_nifti,
    read_text_volume,
)
from zoo.sources.mask_targets import MaskReader
from zoo.sources.targets import ReadTargets


def read_whole_volume(root: Path, image: str) -> Array:
    """The values of a volume (A, B, C) in the RAS+ order of axes, with the scaling of its file.

    A fourth axis of a NIfTI is that of channels, as in the Medical Segmentation Decathlon.
    """
    path = root / image
    volume = RECENT_WHOLE(path)
    values = volume.array
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path}: NaN or infinite values", fix="replace them, or leave it out", code="image")
    if (volume.slope, volume.intercept) == (1.0, 0.0):
        return values
    scaled: Array = values.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)
    return scaled


def open_whole(path: Path) -> tuple[Volume, int]:
    """The volume in a file and its size in memory, in bytes."""
    check_regular(path)
    if suffix_of(path.name) not in WITH_GRID:
        return open_volume_file(path)
    read = read_text_volume if path.suffix.lower() in TEXT_SUFFIXES else read_nifti
    try:
        volume = read(path, max_axes=4)
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error
    return volume, 0 if isinstance(volume.array, np.memmap) else volume.array.nbytes


RECENT_WHOLE: Recent[Volume] = Recent(open_whole, RECENT_VOLUME_BYTES, stored_files)


def read_channels(root: Path, channels: Mapping[str, tuple[str, ...]], image: str) -> Array:
    """The values of a volume of several files (A, B, C, channels), which must have one grid."""
    first, *others = channels[image]
    grid = read_grid(root / first)
    for name in others:
        check_file_grid(root / name, read_grid(root / name), root / first, grid)
    return np.stack([read_whole_volume(root, name) for name in channels[image]], axis=-1)


def check_file_grid(path: Path, found: Grid, reference: Path, expected: Grid) -> None:
    """Raise DataError unless the voxels of two files are the same places."""
    for fact in ("shape", "spacing", "affine"):
        if not is_near(getattr(expected, fact), getattr(found, fact)):
            raise DataError(
                f"{path}: its {fact} is {describe_fact(getattr(found, fact))}, that of {reference} is "
                f"{describe_fact(getattr(expected, fact))}",
                fix="give files on the same grid, with their headers",
                code="geometry",
            )


def read_voxel_size(root: Path, image: str) -> Spacing | None:
    """mm per voxel along the axes of `read_whole_volume`, from the header."""
    return read_grid(root / image).spacing


@dataclass(frozen=True, eq=False)
class VolumeMaskReader(MaskReader):
    """Read the mask of a volume, and refuse one on another grid. It can be pickled."""

    def paths(self, image: str) -> list[Path]:
        """The files that a mask depends on: its own, and the volume, whose grid it must have."""
        return [*super().paths(image), self.root / image]

    def __call__(self, image: str) -> Array:
        """The label map of a volume: uint8 (A, B, C)."""
        root = self.root
        grid = read_grid(root / image)
        for name in self.files.get(image, ()):
            check_file_grid(root / name, read_grid(root / name), root / image, grid)
        return super().__call__(image).reshape(grid.shape)  # a volume of one slice is read as an image


def volume_readers(
    root: Path, targets: ReadTargets, channels: Mapping[str, tuple[str, ...]], reading: Reading
) -> Mapping[str, Any]:
    """The fields of Samples that read volumes. `channels` are the files of each, if a volume has several.

    Of `reading` only the readers of plugins apply to whole volumes.
    """
    masks, second = (
        own and VolumeMaskReader(own.root, own.files, own.values) for own in (targets.masks, targets.second_masks)
    )
    return {
        "volumes": partial(read_channels, root, channels) if channels else partial(read_whole_volume, root),
        "more_files": {image: tuple(root / name for name in own[1:]) for image, own in channels.items()},
        "spacing": partial(read_voxel_size, root),
        "masks": masks,
        "second_masks": second,
        "reading": {"readers": list(reading.readers)} if reading.readers else {},
    }
