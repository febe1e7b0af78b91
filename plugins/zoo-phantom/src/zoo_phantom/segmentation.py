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
from zoo_phantom.truth import find_lesions, masks

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
    """Label maps, uint8 (N, H, W): 0, or 1 + the label of the last lesion that covers the pixel."""
    number, size = len(scenes.patient), scenes.parameters.size
    drawn = np.zeros((number, size, size), np.uint8)
    for image in range(number):
        for lesion, shape in zip(find_lesions(scenes, image), masks(scenes, image), strict=True):
            drawn[image][shape] = lesion.label + 1
        if request.progress:
            request.progress(image + 1, number)
    return drawn


MASKED = replace(
    DATASET_MULTILABEL,
    name="phantom_seg",
    title="Phantom, segmentation: where the lesions of synthetic chest-CT-like slices are",
    description=CARD + "Nodules, ground glass, cavities and effusion, each with its mask; some slices have none.",
    task=SEGMENTATION,
    samples=open_masks,
    unit="auto",
)
