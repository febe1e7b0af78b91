"""Resize images to the square input of a model."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.images.placement import Placement, Spacing, place_in_square


def fit_square(pixels: Array, size: int) -> Array:
    """Fit the whole image into a (size, size) square of the same dtype: resized, centered and padded with zeros."""
    return fit_with_placement(pixels, size)[0]


def fit_with_placement(pixels: Array, size: int, spacing: Spacing | None = None) -> tuple[Array, Placement]:
    """Fit an image as `fit_square` does, and return where it lies in the square. `spacing` is that of its pixels.

    Bilinear with antialiasing (Pillow widens the filter when it shrinks) cannot overshoot. A bicubic filter would
    produce levels beyond the brightest and darkest, and clip them.
    """
    height, width = pixels.shape[:2]
    placement = place_in_square(height, width, size, spacing)
    if height == width == size:
        return pixels, placement
    new_height, new_width = placement.resized
    if (new_height, new_width) != (height, width):
        pixels = resize(pixels, new_height, new_width)
    square = np.zeros((size, size, *pixels.shape[2:]), pixels.dtype)
    top, left = placement.offset
    square[top : top + new_height, left : left + new_width] = pixels
    return square, placement


def resize(pixels: Array, height: int, width: int) -> Array:
    """Resize with an antialiased bilinear filter. 16-bit images are resized as float32, which holds every level."""
    from PIL import Image

    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    resized = [
        np.asarray(
            Image.fromarray(planes[..., plane].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        )
        for plane in range(planes.shape[2])
    ]
    stacked: Array = np.rint(np.stack(resized, axis=2)).astype(pixels.dtype)
    return np.squeeze(stacked, axis=2) if pixels.ndim == 2 else stacked
