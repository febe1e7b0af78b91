"""Change the contrast of images."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError

LEVEL_BINS = 256
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601


def equalize_locally(pixels: Array, *, clip: float, tiles: float) -> Array:
    """Contrast-limited adaptive histogram equalization (Zuiderveld 1994) of an image (H, W) or (H, W, 3).

    Each of `tiles` x `tiles` parts has its own map of levels, and a pixel takes the bilinear mean of those of the four
    nearest parts. A bin of a histogram has at most `clip` times the mean count; what is above is spread evenly. The
    results are those of OpenCV's `createCLAHE(clip, (tiles, tiles))` for uint8 but for rounding. A color image changes
    in luminance only. Levels of uint16 are divided into 256 bins between the least and the greatest.
    """
    if not (clip > 0 and tiles >= 1 and tiles == int(tiles)):
        raise UsageError(
            f"clahe(clip={clip:g},tiles={tiles:g}): expected clip above 0 and a whole number of tiles",
            fix="correct --set transforms",
            code="bad-protocol",
        )
    if pixels.ndim == 2:
        return equalize_plane(pixels, clip, int(tiles))
    luminance = np.rint(pixels @ np.array(LUMINANCE)).astype(pixels.dtype)
    change = equalize_plane(luminance, clip, int(tiles)).astype(np.int64) - luminance
    colored: Array = (pixels + change[..., None]).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return colored


def equalize_plane(levels: Array, clip: float, tiles: int) -> Array:
    low, high = (0, 255) if levels.dtype == np.uint8 else (int(levels.min()), int(levels.max()))
    if low == high:
        return levels.copy()
    width = (high - low + 1) / LEVEL_BINS  # 1 for uint8
    bins = ((levels - np.float64(low)) / width).astype(np.int64)
    # As OpenCV does: if one side has to be padded, a side that is a multiple of `tiles` is padded by one more multiple.
    is_padded = any(length % tiles for length in levels.shape)
    added = [tiles - length % tiles if is_padded else 0 for length in levels.shape]
    padded = np.pad(bins, [(0, number) for number in added], mode="reflect")
    height, span = padded.shape
    blocks = padded.reshape(tiles, height // tiles, tiles, span // tiles).swapaxes(1, 2).reshape(tiles * tiles, -1)
    maps = np.stack([level_map(block, clip) for block in blocks]).reshape(tiles, tiles, LEVEL_BINS)
    if levels.dtype == np.uint8:
        maps = np.rint(maps * 255) / 255  # OpenCV's tables
    (top, bottom, down), (left, rightmost, across) = (
        neighbors(length, padded_length // tiles, tiles)
        for length, padded_length in zip(levels.shape, (height, span), strict=True)
    )
    down, across = down[:, None], across[None]
    upper = maps[top[:, None], left[None], bins] * (1 - across) + maps[top[:, None], rightmost[None], bins] * across
    lower = (
        maps[bottom[:, None], left[None], bins] * (1 - across) + maps[bottom[:, None], rightmost[None], bins] * across
    )
    equalized: Array = np.rint(low + (upper * (1 - down) + lower * down) * (high - low)).astype(levels.dtype)
    return equalized


def level_map(block: Array, clip: float) -> Array:
    """The map of bins to 0..1, (256,), from the pixels of one tile."""
    counts = np.bincount(block, minlength=LEVEL_BINS)
    limit = max(int(clip * block.size / LEVEL_BINS), 1)
    excess = int((counts - limit).clip(0).sum())
    counts = counts.clip(None, limit) + excess // LEVEL_BINS
    if rest := excess % LEVEL_BINS:  # one more in every step-th bin
        step = max(LEVEL_BINS // rest, 1)
        counts[: step * rest : step] += 1
    shares: Array = counts.cumsum() / block.size
    return shares.clip(None, 1)


def neighbors(length: int, tile: int, tiles: int) -> tuple[Array, Array, Array]:
    """Along one axis: the tile before and the one after each pixel, and the share of the latter."""
    position = np.arange(length) / tile - 0.5
    first = np.floor(position).astype(np.int64)
    return first.clip(0), (first + 1).clip(None, tiles - 1), position - first
