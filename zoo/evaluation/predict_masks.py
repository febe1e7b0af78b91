"""Predict masks with a trained module, at the size of their images, and compare them with the references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import KNOWN_UNIT, DecodedFold, Fold
from zoo.data.decoded import read_placements
from zoo.data.masks import join_maps, pack_map
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.evaluation.forward import Network, forward, refuse_infinite
from zoo.evaluation.mask_statistics import compare_masks, compare_pixels
from zoo.evaluation.predict_volumes import decide_volume
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.tiles import predict_by_tiles
from zoo.images.placement import Placement
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import Tensor, nn


def predict_masks(
    module: nn.Module,
    dataset: DecodedFold,
    pixels: Pixels | VolumePixels,
    rows: Array,
    *,
    precision: str,
    counts_only: bool = False,
) -> Predictions:
    """Predict the mask of each row: only the compressed masks are kept, not their logits."""
    decided_masks: Iterator[Array]
    if isinstance(pixels, VolumePixels):
        decided_masks = decide_volumes(module, dataset, pixels, rows, precision)
    else:
        decided_masks = decide_images(module, dataset, pixels, rows, precision)
    return collect_masks(dataset, rows, decided_masks, counts_only=counts_only)


def decide_volumes(
    module: nn.Module, dataset: DecodedFold, pixels: VolumePixels, rows: Array, precision: str
) -> Iterator[Array]:
    """Yield the label map of each row on its native grid. Raises RunError if an output is not finite."""
    for row in rows:
        decided = decide_volume(module, pixels, row, tuple(dataset.label_maps.shapes[row].tolist()), precision)
        refuse_infinite(np.array([decided is not None]), dataset.sample_ids[[row]])
        assert decided is not None
        yield decided


def collect_masks(
    dataset: Fold, rows: Array, decided_masks: Iterable[Array], *, counts_only: bool = False
) -> Predictions:
    """Compare the decided mask of each row with its reference, and compress it."""
    references, spacings = dataset.label_maps, dataset.spacings
    rule, num_labels = dataset.boundary_rule, len(dataset.labels)
    statistics, maps = [], []
    for row, decided in zip(rows, decided_masks, strict=True):
        reference = references[row]
        if counts_only:
            statistics.append(compare_pixels(reference, decided, num_labels))
        else:
            spacing = spacings[row] if rule.unit == KNOWN_UNIT else None
            statistics.append(compare_masks(reference, decided, num_labels, spacing, rule.tolerance))
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

    def decide_masks(batch: int, part: Array) -> list[Array]:
        """The masks of some rows, whose logits are resized in the same attempt: they may be larger than the input."""
        outputs: Iterator[Tensor]
        outputs = predict_logits(module, pixels, part, placements, batch, precision)
        masks = []
        for row, logits in zip(part, outputs, strict=True):
            refuse_infinite(np.array([bool(logits.isfinite().all())]), dataset.sample_ids[[row]])
            masks.append(decide_mask(logits, placements[row]))
        return masks

    fitting = open_device(pixels.device).dense_batch(pixels.input_bytes)
    size = 1 if pixels.patch else fitting
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        masks, fitting = within_memory(partial(decide_masks, part=part), fitting, pixels.device)
        yield from masks


def predict_logits(
    module: Network,
    pixels: Pixels,
    rows: Array,
    placements: Sequence[Placement],
    batch: int,
    precision: str,
) -> Iterator[Tensor]:
    """Yield the logits (O, height, width) of each image at the size of the input, without the padding."""
    if not pixels.patch:
        yield from predict_whole(module, pixels, rows, placements, batch, precision)
        return
    for row in rows:
        yield join_tiles(module, pixels, row, placements[row], batch, precision)


def predict_whole(
    module: Network, pixels: Pixels, rows: Array, placements: Sequence[Placement], batch: int, precision: str
) -> Iterator[Tensor]:
    """Yield the logits (O, height, width) of each image at the size of the input, without the padding."""
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        for row, logits in zip(part, forward(module, pixels, part, batch, precision=precision), strict=True):
            yield without_padding(logits, placements[row])


def without_padding(logits: Tensor, placement: Placement) -> Tensor:
    """The part of logits (O, size, size) that the image covers: (O, height, width)."""
    (top, left), (height, width) = placement.offset, placement.resized
    return logits[:, top : top + height, left : left + width]


def join_tiles(module: Network, pixels: Pixels, row: int, placement: Placement, batch: int, precision: str) -> Tensor:
    """The logits (O, height, width) of one image at the size of the input, without the padding, from tiles of it."""
    import torch
    from torch.nn.functional import pad

    device = open_device(pixels.device)
    (top, left), shape = placement.offset, placement.resized
    levels = pixels.images[row : row + 1, top : top + shape[0], left : left + shape[1]]
    missing = [max(0, part - length) for part, length in zip(pixels.patch, shape, strict=True)]
    image = pixels.scale_levels(device.send(pad(levels, (0, 0, 0, missing[1], 0, missing[0]))))

    def predict(corners: Array) -> Tensor:
        height, width = pixels.patch
        tiles = torch.cat([image[:, :, y : y + height, x : x + width] for y, x in corners.tolist()])
        with torch.inference_mode(), device.autocast(precision):
            logits: Tensor = module(pixels.normalize(tiles).contiguous(memory_format=torch.channels_last))
            return logits.float()

    return torch.cat([slab for _, slab in predict_by_tiles(predict, shape, pixels.patch, batch)], dim=1)


def decide_mask(logits: Tensor, placement: Placement) -> Array:
    """The label map (height, width) of an image from its logits (O, h, w) at the size of the input.

    The logits are resized to the image, bilinear; each pixel takes the label of the largest. One output is resized at
    a time: those of 100 labels of an image of 4,000 x 4,000 pixels would take 6 GB.
    """
    import torch
    from torch.nn.functional import interpolate

    shape = (placement.height, placement.width)

    def resize(output: Tensor) -> Tensor:
        if output.shape == shape:
            return output
        return interpolate(output[None, None], shape, mode="bilinear", align_corners=False)[0, 0]

    best = resize(logits[0])
    decided = torch.zeros(shape, dtype=torch.uint8, device=logits.device)
    for label, output in enumerate(logits[1:], start=1):
        own = resize(output)
        larger = own > best
        decided = torch.where(larger, label, decided)
        best = torch.maximum(best, own)
    return decided.to(torch.uint8).cpu().numpy()
