"""Predict masks with a trained module, at the size of their images, and compare them with the references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import PIXELS, DecodedFold
from zoo.data.decoded import read_placements
from zoo.data.masks import join_maps, pack_map
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.evaluation.forward import forward, refuse_infinite
from zoo.evaluation.mask_statistics import compare_masks
from zoo.evaluation.predict_volumes import decide_volumes
from zoo.evaluation.predictions import Predictions
from zoo.images.placement import Placement
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import Tensor, nn


def predict_masks(
    module: nn.Module, dataset: DecodedFold, pixels: Pixels | VolumePixels, rows: Array, precision: str
) -> Predictions:
    """Predict the mask of each row: only the compressed masks are kept, not their logits."""
    references, spacings, rule = dataset.decoded.label_maps, dataset.decoded.spacings, dataset.boundary_rule
    decide = decide_volumes if isinstance(pixels, VolumePixels) else decide_images
    statistics, maps = [], []
    for row, decided in zip(rows, decide(module, dataset, pixels, rows, precision), strict=True):  # type: ignore[arg-type]
        spacing = None if rule.unit == PIXELS else spacings[row]
        statistics.append(compare_masks(references[row], decided, len(dataset.labels), spacing, rule.tolerance))
        maps.append(pack_map(decided))
    return Predictions(
        sample_ids=dataset.sample_ids[rows],
        patients=dataset.patients[rows],
        targets=dataset.targets[rows],
        probabilities=np.stack(statistics),
        metadata={name: values[rows] for name, values in dataset.metadata.items()},
        label_maps=join_maps(maps),
    )


def decide_images(
    module: nn.Module, dataset: DecodedFold, pixels: Pixels, rows: Array, precision: str
) -> Iterator[Array]:
    """Yield the label map of each row, predicted batch by batch."""
    placements = read_placements(dataset.images)
    fitting = size = open_device(pixels.device).prediction_batch(pixels.input_bytes)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        outputs, fitting = within_memory(
            lambda batch, part=part: forward(module, pixels, part, batch, precision=precision),  # type: ignore[misc]
            fitting,
            pixels.device,
        )
        refuse_infinite(outputs.flatten(1).isfinite().all(1).cpu().numpy(), dataset.sample_ids[part])
        yield from (decide_mask(logits, placements[row]) for row, logits in zip(part, outputs, strict=True))


def decide_mask(logits: Tensor, placement: Placement) -> Array:
    """The label map (height, width) of an image from its logits (O, size, size).

    The logits without the padding are resized to the image, bilinear; each pixel takes the label of the largest.
    """
    from torch.nn.functional import interpolate

    (top, left), (height, width) = placement.offset, placement.resized
    inside = logits[None, :, top : top + height, left : left + width]
    if (height, width) != (placement.height, placement.width):
        inside = interpolate(inside, (placement.height, placement.width), mode="bilinear", align_corners=False)
    decided: Array = inside[0].argmax(dim=0).cpu().numpy().astype(np.uint8)
    return decided
