"""Predict an image of two or three axes by tiles that overlap, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 0.5  # of neighboring tiles
TILE_SIGMA = 1 / 8  # of a tile's length: the spread of the weights around its center (nnU-Net: Isensee et al. 2021)

PredictTiles = Callable[[Array], "Tensor"]  # first corners (T, D) -> logits (T, O, *tile)


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along an axis: evenly spaced, at most half a tile apart; [0] if one covers the axis."""
    room = max(0, length - tile)
    steps = math.ceil(room / (tile * (1 - OVERLAP)))
    return [round(room * step / max(1, steps)) for step in range(steps + 1)]


def axis_weights(tile: int) -> Array:
    """Gaussian weights (tile,) along an axis; those of a tile are the product over its axes."""
    offsets = np.arange(tile) - (tile - 1) / 2
    weights: Array = np.exp(-0.5 * (offsets / (TILE_SIGMA * tile)) ** 2).astype(np.float32)
    return weights


def predict_by_tiles(
    predict: PredictTiles, shape: Sequence[int], tile: Sequence[int], tiles_at_once: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield where each slab begins along the first axis, and its logits (O, length, ...): weighted means of its tiles.

    The slabs follow each other and cover the image of this shape. Tiles extend beyond an image that is smaller. Only
    the logits of one layer of tiles, and those of a slab, are in memory.
    """
    import torch

    starts = [tile_starts(length, part) for length, part in zip(shape, tile, strict=True)]
    covered = [max(length, part) for length, part in zip(shape, tile, strict=True)]
    weights = [axis_weights(part) for part in tile]
    totals = []
    for length, begins, own in zip(covered, starts, weights, strict=True):
        total = np.zeros(length, np.float32)
        for begin in begins:
            total[begin : begin + len(own)] += own
        totals.append(total)
    buffer: Tensor | None = None
    for number, first in enumerate(starts[0]):
        corners = np.array(list(itertools.product([first], *starts[1:])))
        for part in np.split(corners, range(tiles_at_once, len(corners), tiles_at_once)):
            logits = predict(part)
            if buffer is None:
                window = torch.from_numpy(outer(weights)).to(logits.device)
                buffer = logits.new_zeros((logits.shape[1], tile[0], *covered[1:]))
            for corner, own_logits in zip(part.tolist(), logits, strict=True):
                place = [slice(None), slice(None), *map(slice, corner[1:], np.add(corner[1:], tile[1:]).tolist())]
                buffer[tuple(place)] += own_logits * window
        assert buffer is not None
        is_last = number == len(starts[0]) - 1
        done = (shape[0] if is_last else starts[0][number + 1]) - first
        weight = torch.from_numpy(outer([totals[0][first : first + done], *totals[1:]])).to(buffer.device)
        slab = buffer[:, :done] / weight
        for axis, length in enumerate(shape[1:], start=2):
            slab = slab.narrow(axis, 0, length)
        yield first, slab
        del slab, weight
        # perf: in place: `torch.cat` would hold two layers, 840 MB for 4 labels of 512 x 400 voxels
        for at in range(0, tile[0], done):
            following = buffer[:, at + done : at + 2 * done]
            count = following.shape[1]
            buffer[:, at : at + count] = following
            buffer[:, at + count : at + done] = 0


def outer(vectors: Sequence[Array]) -> Array:
    """The product of one element of each vector: an array with one axis per vector."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = product[..., None] * vector
    return product
