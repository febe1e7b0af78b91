"""The slices with the masks of their lesions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from zoo import SEGMENTATION, Samples, SamplesRequest
from zoo_phantom.datasets import CARD, DATASET_MULTILABEL, PARAMETERS, open_samples
from zoo_phantom.exact import Array
from zoo_phantom.scenes import Scenes, draw
from zoo_phantom.storage import keep_array
from zoo_phantom.truth import masks

SCENES = "phantom_multilabel"  # some of whose slices have no lesion
SHA256_OF_MASKS = "3e6a83382528366f52ea6eeda8d7cebe27ca6eaad2be86bd22e7c8307c83c828"  # by `storage.digest`


def open_masks(request: SamplesRequest) -> Samples:
    """The slices of `phantom_multilabel` with a mask of each, drawn the first time and verified every time."""
    samples = open_samples(request, SCENES)
    path = keep_array(
        request.folder / "masks.npy", SHA256_OF_MASKS, lambda: draw_masks(draw(PARAMETERS[SCENES]), request)
    )
    return replace(samples, targets=None, masks=partial(read_mask, path))


def read_mask(path: Path, image: int) -> Array:
    mask: Array = np.load(path, mmap_mode="r", allow_pickle=False)[image]
    return np.array(mask)


def draw_masks(scenes: Scenes, request: SamplesRequest) -> Array:
    """Label maps, uint8 (N, H, W): 1 inside a lesion of any kind."""
    drawn = []
    for image in range(len(scenes.patient)):
        drawn.append(masks(scenes, image).any(axis=0))
        if request.progress:
            request.progress(image + 1, len(scenes.patient))
    return np.stack(drawn).astype(np.uint8)


MASKED = replace(
    DATASET_MULTILABEL,
    name="phantom_seg",
    title="Phantom, segmentation: where the lesions of synthetic chest-CT-like slices are",
    description=CARD + "The lesions of a slice have one mask; some slices have none.",
    task=SEGMENTATION,
    labels=("lesion",),
    samples=open_masks,
    unit="auto",
)
