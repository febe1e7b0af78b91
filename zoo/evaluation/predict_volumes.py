"""Predict the masks of volumes by overlapping windows, on their native grids, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.volumes import VolumePixels
from zoo.evaluation.forward import Network
from zoo.evaluation.tiles import predict_by_tiles
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import Tensor

MAX_WHOLE_PATCHES = 2.5  # a volume of at most so many patches is predicted in one pass


def decide_volume(
    module: Network, pixels: VolumePixels, row: int, shape: tuple[int, ...], precision: str
) -> Array | None:
    """The label map of a row on its native grid of this shape; None if an output is not finite."""
    import torch

    def decide(_: int) -> Array | None:
        if getattr(module, "answers_alike", False):  # a baseline, which looks at no volume
            logits: Tensor = module.logits  # type: ignore[attr-defined]
            return decide_planes(logits.unbind(dim=1), tuple(logits.shape[1:]), shape)
        with torch.inference_mode(), open_device(pixels.device).autocast(precision):
            planes = predict_planes(module, pixels, row)
            return decide_planes(planes, tuple(pixels.shapes[row].tolist()), shape)

    # One window at a time cannot be halved, but a run that shares its GPU waits for the others.
    return within_memory(decide, 1, pixels.device)[0]


# --- windows ---------------------------------------------------------------------------------------------------------
def predict_planes(module: Network, pixels: VolumePixels, row: int) -> Iterator[Tensor]:
    """Yield the logits (O, B, C') of each plane of a volume, along its first axis."""
    stored = pixels.stored(row)
    shape = tuple(stored.shape[:3])
    padded = [pixels.sides.fit(side) for side in shape]

    def predict(corners: Array, size: Sequence[int]) -> Tensor:
        """The logits (1, O, *size) of one part."""
        (corner,) = corners.tolist()
        part = stored[tuple(slice(at, at + side) for at, side in zip(corner, size, strict=True))]
        logits: Tensor = module(pixels.to_input(pad_to(part, size), row)).float()
        return logits

    if math.prod(padded) <= MAX_WHOLE_PATCHES * math.prod(pixels.patch):
        logits = predict(np.zeros((1, 3), np.int64), padded)[0]
        yield from logits[:, : shape[0], : shape[1], : shape[2]].unbind(dim=1)
        return
    for _, slab in predict_by_tiles(partial(predict, size=pixels.patch), shape, pixels.patch, tiles_at_once=1):
        for at in range(slab.shape[1]):
            yield slab[:, at].clone()  # perf: a view would keep the slab in memory while the next one is predicted
        del slab


def pad_to(stored: Tensor, shape: Sequence[int]) -> Tensor:
    """Append zeros, the mean of the volume as in training, to stored voxels (A, B, C', channels)."""
    from torch.nn.functional import pad

    missing = [(0, new - old) for old, new in zip(stored.shape[:3], shape, strict=True)]
    return pad(stored, [0, 0, *(length for pair in reversed(missing) for length in pair)])


# --- the native grid -------------------------------------------------------------------------------------------------
def decide_planes(planes: Iterable[Tensor], old: tuple[int, ...], new: tuple[int, ...]) -> Array | None:
    """The label map (A, B, C') on the native grid from planes of logits on the grid `old`; None if one is not finite.

    The logits are interpolated trilinearly, plane by plane, and each voxel takes the label of the largest.
    """
    from torch.nn.functional import interpolate

    decided = np.empty(new, np.uint8)
    given = enumerate(planes)
    last, (at, current) = None, next(given)
    for number in range(new[0]):
        place = min(max((number + 0.5) * old[0] / new[0] - 0.5, 0.0), old[0] - 1.0)
        upper = math.ceil(place)
        while at < upper:
            last, (at, current) = current, next(given)
        share = upper - place  # of the plane below
        mixed = current if last is None or share == 0 else current.lerp(last, share)
        if tuple(mixed.shape[1:]) != new[1:]:
            mixed = interpolate(mixed[None], new[1:], mode="bilinear", align_corners=False)[0]
        if not bool(mixed.isfinite().all()):
            return None
        decided[number] = mixed.argmax(dim=0).to("cpu").numpy()
    return decided
