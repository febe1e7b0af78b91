"""Fit the baselines of masks; the atlas and the empty mask answer every image with the same mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.errors import RunError
from zoo.models.baselines import ATLAS, EMPTY, TOP_HAT
from zoo.specs.model import ModelSpec
from zoo.training.top_hat import fit_top_hat

if TYPE_CHECKING:
    from torch import nn

ATLAS_SHARES = np.arange(1, 20) / 20  # of the masks of train


def fit_mask_baseline(
    spec: ModelSpec, module: nn.Module, dataset: DecodedFold, pixels: Pixels | VolumePixels
) -> dict[str, Any]:
    """Fit a baseline in place and return what was chosen. Raises RunError for any other model."""
    if spec.name == EMPTY.name:
        return {}
    if spec.name == ATLAS.name:
        return fit_atlas(module, dataset)
    if spec.name == TOP_HAT.name and isinstance(pixels, Pixels):
        return fit_top_hat(module, dataset, pixels)
    raise RunError(
        f"{spec.name}: a head on frozen features cannot draw masks", fix="choose a protocol that trains the network"
    )


def fit_atlas(module: nn.Module, dataset: DecodedFold) -> dict[str, Any]:
    """Fit the atlas: the shares of train, and the share of them that val selects."""
    import torch

    prior = label_shares(dataset)
    val = dataset.decoded.common_masks(dataset.index("val"))
    scores = [mean_dice(draw_atlas(prior, share), val, len(prior)) for share in ATLAS_SHARES]
    share = float(ATLAS_SHARES[int(np.argmax(scores))])
    logits = np.concatenate([np.full((1, *prior.shape[1:]), share, prior.dtype), prior])
    with torch.no_grad():
        buffer = module.get_buffer("logits")
        module.logits = torch.from_numpy(logits).to(buffer)
    return {"share_of_masks": share}


def label_shares(dataset: DecodedFold) -> Array:
    """The share of the masks of train that have each label at each pixel: float32 (L, size, size), or (L, A, B, C).

    They are counted mask by mask: for 100 labels of volumes, one copy per label and mask would not fit into memory.
    """
    rows = dataset.index("train")
    counts: Array | None = None
    for row in rows:
        (mask,) = dataset.decoded.common_masks(np.array([row]))
        if counts is None:
            counts = np.zeros((len(dataset.labels), *mask.shape), np.float32)
        for number in np.unique(mask[mask > 0]).tolist():
            counts[number - 1] += mask == number
    assert counts is not None
    counts /= len(rows)
    return counts


def draw_atlas(prior: Array, share: float) -> Array:
    """The label of each pixel, 0 where no label has this share of the masks."""
    decided: Array = np.where(prior.max(axis=0) > share, prior.argmax(axis=0) + 1, 0)
    return decided


def mean_dice(decided: Array, masks: Array, num_labels: int) -> float:
    """The Dice of one mask against all of val, pooled by label, mean over labels."""
    dices = []
    for number in range(1, num_labels + 1):
        drawn, own = masks == number, decided == number
        both = drawn.sum() + own.sum() * len(masks)
        dices.append(2 * (drawn & own).sum() / both if both else 0.0)
    return float(np.mean(dices))
