"""Compare maps with masks: the pointing game, and the share of a map inside the mask; both for the center too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, UsageError
from zoo.images.formats import split_frame
from zoo.images.placement import Placement

# The name of an image, the column that is explained, where the image lies -> bool (H, W) of the image; None: no mask.
FindMask = Callable[[str, int, Placement], Array | None]

CENTER_WIDTH = 0.25  # standard deviation of the center map, as a share of the image's sides


@dataclass(frozen=True, kw_only=True)
class Location:
    """How a map, and the map of the center, meet a mask."""

    pointing: float
    mass: float
    center_pointing: float
    center_mass: float


def compare_with_mask(values: Array, mask: Array, placement: Placement) -> Location:
    """Compare a map (size, size) with a mask, bool (size, size), that has a pixel."""
    center = center_map(len(values), placement)
    return Location(
        pointing=point(values, mask),
        mass=share_inside(values, mask),
        center_pointing=point(center, mask),
        center_mass=share_inside(center, mask),
    )


def point(values: Array, mask: Array) -> float:
    """The pointing game (Zhang et al. 2018, IJCV) without tolerance: 1 if the maximum lies in the mask, else 0.

    Of several equal maxima the share inside counts, so a map of zeros points anywhere.
    """
    return float(mask[values == values.max()].mean())


def share_inside(values: Array, mask: Array) -> float:
    """The share of a map's sum inside the mask; a map of zeros counts as even."""
    total = values.sum(dtype=np.float64)
    return float(values[mask].sum(dtype=np.float64) / total) if total > 0 else float(mask.mean())


def center_map(size: int, placement: Placement) -> Array:
    """A Gaussian in the center of the image, 0 in the padding: what a map must beat that knows nothing of the image."""
    height, width = placement.resized
    top, left = placement.offset
    rows, columns = (
        np.exp(-0.5 * (((np.arange(length) + 0.5) / length - 0.5) / CENTER_WIDTH) ** 2) for length in (height, width)
    )
    values = np.zeros((size, size), np.float32)
    values[top : top + height, left : left + width] = rows[:, None] * columns
    return values


class FolderMasks:
    """PNG masks in a folder, named by `mask_stem`: pixels above 0 are inside, or those with the number of the label."""

    def __init__(self, folder: Path, has_numbers: bool = False) -> None:
        self.has_numbers = has_numbers
        self.paths = {path.stem: path for path in sorted(folder.glob("*.[pP][nN][gG]"))}
        if not self.paths:
            raise UsageError(f"--masks {folder}: has no PNG files", fix="name the folder of the masks", code="masks")

    def check(self, names: list[str]) -> None:
        """Raise UsageError if no image has a mask, or two images have the same."""
        stems = Counter(map(mask_stem, dict.fromkeys(names)))
        if names and not stems.keys() & self.paths.keys():
            raise UsageError(
                f"--masks: no mask has the stem of an image; the first are {mask_stem(names[0])}, {min(self.paths)}",
                fix="name each mask like its image: scan7.png for scan7.dcm, clip3-12.png for frame 12 of clip3.dcm",
                code="masks",
            )
        if shared := sorted(stem for stem in self.paths if stems[stem] > 1):
            raise UsageError(
                f"--masks: {stems[shared[0]]} images have the mask {self.paths[shared[0]].name}",
                fix="explain the images of each folder by themselves",
                code="masks",
            )

    def __call__(self, name: str, column: int, placement: Placement) -> Array | None:
        from PIL import Image

        path = self.paths.get(mask_stem(name))
        if path is None:
            return None
        try:
            levels = np.asarray(Image.open(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}", fix="save it again as PNG", code="masks") from error
        colors = levels if levels.ndim == 3 else levels[..., None]
        values = (colors[..., :-1] if colors.shape[2] in (2, 4) else colors).max(axis=2)  # without alpha
        mask: Array = values == column + 1 if self.has_numbers else values > 0
        if mask.shape != (placement.height, placement.width):
            raise DataError(
                f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, but {name} has "
                f"{placement.width} x {placement.height}",
                fix="give the mask the size of its image",
                code="masks",
            )
        return mask


def mask_stem(name: str) -> str:
    """The stem of an image's mask: `scan7` for scan7.dcm, `clip3-12` for clip3.dcm#12."""
    path, frame = split_frame(name)
    return Path(path).stem if frame is None else f"{Path(path).stem}-{frame}"
