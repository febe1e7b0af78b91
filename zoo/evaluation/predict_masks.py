"""Predict masks with a trained module, at the size of their images, and compare them with the references."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import PIXELS, DecodedFold
from zoo.data.decoded import read_placements
from zoo.data.masks import join_maps, pack_map
from zoo.data.pixels import Pixels
from zoo.evaluation.forward import forward, refuse_infinite
from zoo.evaluation.mask_statistics import compare_masks
from zoo.evaluation.predictions import Predictions
from zoo.images.placement import Placement
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import Tensor, nn


def predict_masks(module: nn.Module, dataset: DecodedFold, pixels: Pixels, rows: Array, precision: str) -> Predictions:
    """Predict the mask of each row, batch by batch: only the compressed masks are kept, not their logits."""
    placements, references = read_placements(dataset.images), dataset.label_maps
    rule = dataset.boundary_rule
    size = open_device(pixels.device).prediction_batch(pixels.input_bytes)
    fitting, statistics, maps = size, [], []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        outputs, fitting = within_memory(
            lambda batch, part=part: forward(module, pixels, part, batch, precision=precision),  # type: ignore[misc]
            fitting,
            pixels.device,
        )
        refuse_infinite(outputs.flatten(1).isfinite().all(1).cpu().numpy(), dataset.sample_ids[part])
        for row, logits in zip(part, outputs, strict=True):
            decided = decide_mask(logits, placements[row])
            spacing = None if rule.unit == PIXELS else placements[row].spacing
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
