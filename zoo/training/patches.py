"""Patches of images of two or three axes: where they lie, and how they are cut from the stored images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array

if TYPE_CHECKING:
    from torch import Generator, Tensor

FOREGROUND_SHARE = 1 / 3  # of the patches, centered on a pixel of a label (nnU-Net: Isensee et al. 2021)
MAX_PLACES = 1000  # stored pixels of each label of an image


@dataclass(frozen=True, eq=False)
class Foreground:
    """Pixels of each label of N images: those of label k + 1 of image n are `places[starts[n, k] : ends[n, k]]`."""

    places: Tensor  # int64 (K, D)
    starts: Tensor  # int64 (N, L)
    ends: Tensor


def find_foreground(label_maps: Iterable[Array], num_labels: int) -> Foreground:
    """List pixels of each label of each label map, at most `MAX_PLACES`, evenly spread over the label's pixels."""
    import torch

    places, counts = [], []
    for label_map in label_maps:
        for label in range(1, num_labels + 1):
            own = np.flatnonzero(label_map == label)
            own = own[:: max(1, math.ceil(len(own) / MAX_PLACES))]
            places.append(np.stack(np.unravel_index(own, label_map.shape), axis=1))
            counts.append(len(own))
    ends = torch.tensor(counts).cumsum(0).reshape(-1, num_labels)
    return Foreground(
        torch.from_numpy(np.concatenate(places)), ends - torch.tensor(counts).reshape(-1, num_labels), ends
    )


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """The places of patches in N images, which are drawn on the host. Tensors are int64 on the host.

    `low` and `high` (N, D) bound the part of each stored image that patches are drawn from, without padding. A patch
    that is larger than it is centered on it.
    """

    patch: tuple[int, ...]  # D lengths
    low: Tensor
    high: Tensor
    foreground: Foreground

    def draw(self, rows: Tensor, generator: Generator) -> Tensor:
        """Draw the first corner of a patch in each image of a batch: int64 (B, D) for rows (B,)."""
        import torch

        axes = len(self.patch)
        chance = torch.rand((len(rows), axes + 3), generator=generator, dtype=torch.float64)
        lengths = torch.tensor(self.patch)
        low, room = self.low[rows], (self.high[rows] - self.low[rows] - lengths)
        anywhere = low + (chance[:, :axes] * (room + 1)).long()
        # A label of the image, each with the same chance, and one of its pixels.
        counts = (self.foreground.ends - self.foreground.starts)[rows]
        present = (counts > 0).cumsum(1)
        wanted = (chance[:, axes] * present[:, -1]).long()[:, None] + 1
        label = (present < wanted).sum(1, keepdim=True).clamp(max=counts.shape[1] - 1)
        number = (chance[:, axes + 1] * counts.gather(1, label)[:, 0]).long()
        place = (self.foreground.starts[rows].gather(1, label)[:, 0] + number).clamp(
            max=len(self.foreground.places) - 1
        )
        around = self.foreground.places[place] - lengths // 2 if len(self.foreground.places) else anywhere
        centered = (chance[:, axes + 2] < FOREGROUND_SHARE) & (present[:, -1] > 0)
        corners = torch.where(centered[:, None], around, anywhere)
        corners = torch.maximum(torch.minimum(corners, low + room), low)
        return torch.where(room < 0, low + torch.div(room, 2, rounding_mode="floor"), corners)


def locate_patches(corners: Tensor, patch: Sequence[int], starts: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each pixel of patches (B, *patch) in the flat array of all images, and whether the image has it.

    `corners` and `shapes` are (B, D); `starts` (B,) is where each image begins in the flat array. Pixels outside the
    image have the index of its nearest pixel.
    """
    import torch

    indices, inside = starts.reshape(-1, *[1] * len(patch)), torch.ones((), dtype=torch.bool, device=corners.device)
    for axis, length in enumerate(patch):
        along = corners[:, axis, None] + torch.arange(length, device=corners.device)
        limit, stride = shapes[:, axis, None], shapes[:, axis + 1 :].prod(dim=1)[:, None]
        shape = [-1, *(length if number == axis else 1 for number in range(len(patch)))]
        inside = inside & ((along >= 0) & (along < limit)).reshape(shape)
        indices = indices + (torch.minimum(along.clamp(min=0), limit - 1) * stride).reshape(shape)
    return indices, inside


def take_patches(stored: Tensor, indices: Tensor, inside: Tensor) -> Tensor:
    """Patches (B, *patch, ...) of a flat array (K, ...) of all images; 0 outside them."""
    taken = stored.index_select(0, indices.flatten()).reshape(*indices.shape, *stored.shape[1:])
    return taken * inside.reshape(*indices.shape, *[1] * (stored.ndim - 1))
