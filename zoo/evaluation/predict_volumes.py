"""Predict the masks of volumes by overlapping windows, on their native grids, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.volumes import VolumePixels
from zoo.evaluation.forward import refuse_infinite
from zoo.evaluation.tiles import predict_by_tiles
from zoo.system.devices import open_device

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_WHOLE_PATCHES = 2.5  # a volume of at most so many patches is predicted in one pass


def decide_volume(module: nn.Module, dataset: DecodedFold, pixels: VolumePixels, row: int, precision: str) -> Array:
    """The label map of a row on its native grid. Raises RunError if an output is not finite."""
    import torch

    shape = tuple(dataset.decoded.label_maps.shapes[row].tolist())
    with torch.inference_mode(), open_device(pixels.device).autocast(precision):
        planes = predict_planes(module, pixels, row)
        decided = decide_planes(planes, tuple(pixels.shapes[row].tolist()), shape)
    refuse_infinite(np.array([decided is not None]), dataset.sample_ids[[row]])
    assert decided is not None
    return decided


# --- windows ---------------------------------------------------------------------------------------------------------
def predict_planes(module: nn.Module, pixels: VolumePixels, row: int) -> Iterator[Tensor]:
    """Yield the logits (O, B, C') of each plane of a volume, along its first axis."""
    volume = pixels.read_whole(row)
    padded = [pixels.multiple * math.ceil(side / pixels.multiple) for side in volume.shape[1:]]
    if pixels.whole or math.prod(padded) <= MAX_WHOLE_PATCHES * math.prod(pixels.patch):
        return predict_at_once(module, volume, padded)
    return predict_windows(module, volume, pixels.patch)


def predict_at_once(module: nn.Module, volume: Tensor, padded: Sequence[int]) -> Iterator[Tensor]:
    logits = module(pad_to(volume, padded)[None])[0].float()
    yield from logits[:, : volume.shape[1], : volume.shape[2], : volume.shape[3]].unbind(dim=1)


def pad_to(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Append zeros to a volume (C, A, B, C')."""
    from torch.nn.functional import pad

    missing = [(0, max(0, new - old)) for old, new in zip(volume.shape[1:], shape, strict=True)]
    return pad(volume, [length for pair in reversed(missing) for length in pair])


def predict_windows(module: nn.Module, volume: Tensor, patch: tuple[int, ...]) -> Iterator[Tensor]:
    padded = pad_to(volume, patch)

    def predict(corners: Array) -> Tensor:
        windows = [
            slice(None),
            *(slice(at, at + length) for at, length in zip(corners[0].tolist(), patch, strict=True)),
        ]
        logits: Tensor = module(padded[tuple(windows)][None]).float()
        return logits

    for _, slab in predict_by_tiles(predict, volume.shape[1:], patch, tiles_at_once=1):
        yield from slab.unbind(dim=1)


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
