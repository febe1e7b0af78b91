"""The slices with the masks of their lesions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from zoo import SEGMENTATION, Samples, SamplesRequest, written_whole
from zoo_phantom.datasets import CARD, DATASET_MULTILABEL, PARAMETERS, open_samples
from zoo_phantom.exact import Array
from zoo_phantom.scenes import Scenes, draw
from zoo_phantom.truth import masks

SCENES = "phantom_multilabel"  # some of whose slices have no lesion


def open_masks(request: SamplesRequest) -> Samples:
    """The slices of `phantom_multilabel` with a mask of each, drawn the first time."""
    samples, path = open_samples(request, SCENES), request.folder / "masks.npy"
    if not path.exists():
        with written_whole(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, draw_masks(draw(PARAMETERS[SCENES]), request), allow_pickle=False)
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
