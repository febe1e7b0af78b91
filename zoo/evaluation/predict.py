"""Predict a dataset with a trained module, and time its forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.evaluation.forward import forward, refuse_infinite
from zoo.evaluation.predict_masks import predict_masks
from zoo.evaluation.predictions import Predictions, predictions_from_logits
from zoo.models.features import Features
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import nn

WARM_UP_PASSES, MIN_TIMED, MAX_TIMED, ENOUGH_SECONDS = 2, 3, 30, 0.25


def predict(
    module: nn.Module,
    dataset: DecodedFold,
    pixels: Pixels | VolumePixels | Features,
    split: str,
    *,
    precision: str,
    counts_only: bool = False,
) -> Predictions:
    """Predict each image of a split once, in the dataset's order, and leave the module in evaluation mode.

    `counts_only` leaves out the statistics of masks that are not in `COUNTED`: NaN.

    Raises RunError if an output is not finite, because a score computed from it could look normal.
    """
    rows = dataset.index(split)
    module.eval()
    if dataset.task.targets.spatial:
        assert not isinstance(pixels, Features)
        return predict_masks(module, dataset, pixels, rows, precision=precision, counts_only=counts_only)
    assert not isinstance(pixels, VolumePixels)
    outputs, _ = within_memory(
        lambda size: forward(module, pixels, rows, size, precision=precision),
        open_device(pixels.device).prediction_batch(pixels.input_bytes),
        pixels.device,
    )
    logits = outputs.cpu().numpy().astype(np.float64)
    finite = np.isfinite(logits.reshape(len(logits), -1)).all(axis=1)
    refuse_infinite(np.asarray(finite), dataset.sample_ids[rows])
    return predictions_from_logits(dataset, rows, logits)


def measure_forward(module: nn.Module, pixels: Pixels, batch_size: int, *, precision: str) -> float:
    """Measure the seconds per batch from decoded pixels to logits on the host: the median of 3 to 30 timed passes."""
    rows = np.arange(batch_size)
    module.eval()
    return time_passes(lambda: forward(module, pixels, rows, batch_size, precision=precision).cpu())


def measure_patch(module: nn.Module, shape: tuple[int, ...], device: str, *, precision: str) -> float:
    """Measure the seconds of one patch (channels, A, B, C) from voxels on the host to logits on the host."""
    import torch

    voxels, module = torch.randn(1, *shape), module.eval()

    def predict_patch() -> None:
        with torch.inference_mode(), open_device(device).autocast(precision):
            module(voxels.to(device)).float().cpu()

    return time_passes(predict_patch)


def time_passes(compute: Callable[[], object]) -> float:
    """The median seconds of 3 to 30 timed calls, after some that are not."""
    seconds: list[float] = []
    for _ in range(WARM_UP_PASSES):
        compute()
    while len(seconds) < MIN_TIMED or (len(seconds) < MAX_TIMED and sum(seconds) < ENOUGH_SECONDS):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
