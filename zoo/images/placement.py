"""Map between an original image, the square input of a model, and millimeters.

Coordinates are (y, x) and continuous: pixel c spans c to c + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array

Spacing = tuple[float, ...]  # mm per pixel: of rows, of columns; mm per voxel along the three axes of a volume


@dataclass(frozen=True)
class Placement:
    """An image, as its reader returned it (after `crop`), in the input: input = scale * original + offset."""

    height: int  # of the original image
    width: int
    scale: tuple[float, float]  # the two differ by the rounding of the resized image to whole pixels
    offset: tuple[int, int]
    spacing: Spacing | None = None  # of the original image

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the image in the input, without the padding."""
        return round(self.height * self.scale[0]), round(self.width * self.scale[1])

    def to_original(self, points: Array) -> Array:
        """Map points (..., 2) of the input to pixels of the original image. Points in the padding lie outside it."""
        original: Array = (np.asarray(points, dtype=np.float64) - self.offset) / self.scale
        return original

    def to_millimeters(self, points: Array) -> Array:
        """Map points (..., 2) of the input to millimeters from the top left corner of the original image."""
        if self.spacing is None:
            raise ValueError("the size of a pixel in mm is unknown")
        return self.to_original(points) * self.spacing

    def mask_to_original(self, mask: Array) -> Array:
        """Map a mask (size, size, ...) of the input to the original image: (height, width, ...).

        Every original pixel takes the value of the input pixel at its center, so labels stay labels.
        """
        rows, columns = (
            np.minimum(((np.arange(length) + 0.5) * scale).astype(np.int64), resized - 1) + offset
            for length, scale, resized, offset in zip(
                (self.height, self.width), self.scale, self.resized, self.offset, strict=True
            )
        )
        original: Array = mask[rows[:, None], columns]
        return original

    def mask_to_input(self, mask: Array, size: int) -> Array:
        """Map a mask (height, width) of the original image to the input (size, size), 0 in the padding.

        Every input pixel takes the value of the original pixel at its center.
        """
        rows, columns = (
            np.minimum(((np.arange(resized) + 0.5) / scale).astype(np.int64), length - 1)
            for length, scale, resized in zip((self.height, self.width), self.scale, self.resized, strict=True)
        )
        (top, left), (height, width) = self.offset, self.resized
        placed: Array = np.zeros((size, size), mask.dtype)
        placed[top : top + height, left : left + width] = mask[rows[:, None], columns]
        return placed


def place_in_square(height: int, width: int, size: int, spacing: Spacing | None = None) -> Placement:
    """Place the whole image in a (size, size) square, centered, with its longer side of that size."""
    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return Placement(
        height,
        width,
        scale=(new_height / height, new_width / width),
        offset=((size - new_height) // 2, (size - new_width) // 2),
        spacing=spacing,
    )


def pack_placements(placements: list[Placement]) -> Array:
    """Placements as float64 (N, 8): height, width, scale, offset and spacing, the last NaN if unknown."""
    unknown = (np.nan, np.nan)
    return np.array(
        [[p.height, p.width, *p.scale, *p.offset, *(p.spacing or unknown)] for p in placements], dtype=np.float64
    ).reshape(-1, 8)


def unpack_placements(rows: Array) -> list[Placement]:
    """Reverse `pack_placements`."""
    return [
        Placement(int(h), int(w), (sy, sx), (int(oy), int(ox)), None if np.isnan(my) else (my, mx))
        for h, w, sy, sx, oy, ox, my, mx in np.asarray(rows).tolist()
    ]


def valid_spacing(numbers: list[float]) -> Spacing | None:
    """A spacing of two positive finite numbers, else None: it is unknown."""
    if len(numbers) != 2 or not all(np.isfinite(number) and number > 0 for number in numbers):
        return None
    return numbers[0], numbers[1]
