"""Arithmetic that gives the same bits on every machine: random numbers, shapes and smoothing.

Only +, -, *, /, sqrt, comparisons and integers, one array operation at a time. IEEE 754 fixes the result of each of
these to the last bit, whatever the processor's vector width. Avoided, with the reason:
- exp, sin, cos, power: libraries differ in the last bit (directions come from rational points of the circle);
- sums and matrix products of floats: their order differs (sums are taken over integers);
- `Generator.normal` and friends: numpy may change their streams. The words of a bit generator are guaranteed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Point = tuple[Array | float, Array | float]


class Stream:
    """Random numbers from Philox 4x64, keyed by the seed and the first eight letters of a name."""

    def __init__(self, seed: int, name: str) -> None:
        key = np.array([seed, int.from_bytes(name.encode()[:8].ljust(8), "little")], dtype=np.uint64)
        self.generator = np.random.Philox(key=key)

    def words(self, *shape: int) -> Array:
        return self.generator.random_raw(int(np.prod(shape))).reshape(shape)

    def uniform(self, bounds: tuple[float, float], *shape: int) -> Array:
        """Float64 in [low, high): 53 random bits."""
        low, high = bounds
        return low + (high - low) * ((self.words(*shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def integers(self, bounds: tuple[int, int], *shape: int) -> Array:
        """Int64 in [low, high], both included."""
        low, high = bounds
        return np.floor(self.uniform((low, high + 1), *shape)).astype(np.int64)

    def bell(self, *shape: int) -> Array:
        """Nearly normal numbers, mean 0, variance 1: the sum of four 16-bit uniforms (Irwin-Hall), kurtosis 2.7."""
        words = self.words(*shape)
        total = np.zeros(shape, dtype=np.int64)
        for shift in (0, 16, 32, 48):
            total += ((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        # variance of one term: (2^32 - 1) / 12; 37837.23 = sqrt of four of them
        return (total - 2 * 65535) * (1.0 / 37837.226994)

    def shuffled(self, values: Array) -> Array:
        return values[np.argsort(self.words(len(values)), kind="stable")]


def direction(parameter: Array) -> tuple[Array, Array]:
    """Point of the unit circle: ((1 - t^2) / (1 + t^2), 2t / (1 + t^2)); t in [-1, 1] is the right half."""
    square = parameter * parameter
    return (1.0 - square) / (1.0 + square), 2.0 * parameter / (1.0 + square)


def pixel_centers(size: int) -> tuple[Array, Array]:
    """Coordinates x (1, 1, W) and y (1, H, 1) of pixel centers, in units, from the middle; y points to the back."""
    line = ((np.arange(size) + 0.5) * (64.0 / size) - 32.0).astype(np.float32)
    return line[None, None, :], line[None, :, None]


def ellipse_depth(x: Array, y: Array, center: Point, radii: Point, squareness: float = 0.0) -> Array:
    """Approximate depth of a point inside an ellipse; negative outside. `squareness` fills its corners."""
    a, b = radii
    u, v = (x - center[0]) / a, (y - center[1]) / b
    u, v = u * u, v * v
    # of two plain floats take a plain float: np.minimum would return a float64, and turn the image into float64
    shorter = min(a, b) if isinstance(a, float) and isinstance(b, float) else np.minimum(a, b)
    return (1.0 - np.sqrt(np.maximum(u + v - squareness * (u * v), 0.0))) * shorter


def segment_depth(x: Array, y: Array, start: Point, end: Point, radii: Point) -> Array:
    """Depth of a point inside a tapering line; `radii` at its start and end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0.0, 1.0)
    px, py = px - along * dx, py - along * dy
    return radii[0] + (radii[1] - radii[0]) * along - np.sqrt(px * px + py * py)


def coverage(depth: Array, size: int) -> Array:
    """Share of a pixel that a shape covers, from the depth of its center: a ramp one pixel wide."""
    return np.clip(depth * (size / 64.0) + 0.5, 0.0, 1.0)


def blend(image: Array, value: Array | float, share: Array) -> None:
    """Replace `share` of each pixel by `value`, in place."""
    image += (value - image) * share


def smooth(images: Array, amount: Array | float) -> Array:
    """Mix each pixel with its neighbors, weights (amount, 1, amount) / (1 + 2 amount) along both axes."""
    for axis in (1, 2):
        padding = [(0, 0)] * images.ndim
        padding[axis] = (1, 1)
        padded = np.pad(images, padding, mode="edge")
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(0, -2), slice(2, None)
        images = (images + amount * (padded[tuple(before)] + padded[tuple(after)])) / (1.0 + 2.0 * amount)
    return images


def slow_field(grid: Array, size: int) -> Array:
    """Interpolate the values of a coarse grid (N, G, G) linearly to (N, size, size)."""
    cells = grid.shape[1] - 1
    position = (np.arange(size) + 0.5) * (cells / size)
    left = np.floor(position).astype(np.int64)
    share = position - left
    rows = grid[:, left] * (1.0 - share)[:, None] + grid[:, left + 1] * share[:, None]
    fields: Array = rows[:, :, left] * (1.0 - share) + rows[:, :, left + 1] * share
    return fields
