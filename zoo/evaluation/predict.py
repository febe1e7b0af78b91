"""Predict a dataset with a trained module, and time its forward pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.evaluation.predict_masks import predict_masks
from zoo.evaluation.predictions import Predictions, predictions_from_logits
from zoo.models.features import Features
from zoo.system.devices import open_device
from zoo.system.replay import within_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

WARM_UP_PASSES, MIN_TIMED, MAX_TIMED, ENOUGH_SECONDS = 2, 3, 30, 0.25


def predict(
    module: nn.Module, dataset: DecodedFold, pixels: Pixels | Features, split: str, *, precision: str
) -> Predictions:
    """Predict each image of a split once, in the dataset's order, and leave the module in evaluation mode.

    Raises RunError if an output is not finite, because a score computed from it could look normal.
    """
    rows = dataset.index(split)
    module.eval()
    if dataset.task.targets.spatial:
        assert isinstance(pixels, Pixels)
        return predict_masks(module, dataset, pixels, rows, precision)
    outputs, _ = within_memory(
        lambda size: forward(module, pixels, rows, size, precision=precision),
        open_device(pixels.device).prediction_batch(pixels.input_bytes),
        pixels.device,
    )
    logits = outputs.cpu().numpy().astype(np.float64)
    refuse_infinite(np.isfinite(logits.reshape(len(logits), -1)).all(axis=1), dataset.sample_ids[rows])
    return predictions_from_logits(dataset, rows, logits)


def refuse_infinite(finite: Array, sample_ids: Array) -> None:
    """Raise RunError for the first image whose output is not finite; `finite` is bool (N,)."""
    if not finite.all():
        raise RunError(
            f"the model's output for {sample_ids[np.argmin(finite)]} is not finite",
            fix="use a lower --set learning_rate, or --set precision=fp32",
            code="diverged",
        )


def forward(module: nn.Module, pixels: Pixels | Features, rows: Array, batch_size: int, *, precision: str) -> Tensor:
    """Compute the logits of the given rows: float32 (N, outputs), on the device."""
    import torch

    with torch.inference_mode(), open_device(pixels.device).autocast(precision):
        parts = torch.from_numpy(rows).split(batch_size)  # type: ignore[no-untyped-call]
        return torch.cat([module(pixels.normalize(pixels.batch(part))).float() for part in parts])


def measure_forward(module: nn.Module, pixels: Pixels, batch_size: int, *, precision: str) -> float:
    """Measure the seconds per batch from decoded pixels to logits on the host: the median of 3 to 30 timed passes."""
    rows = np.arange(batch_size)
    module.eval()
    seconds: list[float] = []
    for _ in range(WARM_UP_PASSES):
        forward(module, pixels, rows, batch_size, precision=precision).cpu()
    while len(seconds) < MIN_TIMED or (len(seconds) < MAX_TIMED and sum(seconds) < ENOUGH_SECONDS):
        start = time.perf_counter()
        forward(module, pixels, rows, batch_size, precision=precision).cpu()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
