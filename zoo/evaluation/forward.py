"""The forward pass of a module over decoded images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.models.features import Features
from zoo.system.devices import open_device

if TYPE_CHECKING:
    from torch import Tensor

Network = Callable[["Tensor"], "Tensor"]  # normalized images (B, C, ...) -> logits


def refuse_infinite(finite: Array, sample_ids: Array) -> None:
    """Raise RunError for the first image whose output is not finite; `finite` is bool (N,)."""
    if not finite.all():
        raise RunError(
            f"the model's output for {sample_ids[np.argmin(finite)]} is not finite",
            fix="use a lower --set learning_rate, or --set precision=fp32",
            code="diverged",
        )


def forward(module: Network, pixels: Pixels | Features, rows: Array, batch_size: int, *, precision: str) -> Tensor:
    """Compute the logits of the given rows: float32 (N, outputs), on the device."""
    import torch

    with torch.inference_mode(), open_device(pixels.device).autocast(precision):
        parts = torch.from_numpy(rows).split(batch_size)  # type: ignore[no-untyped-call]
        return torch.cat([module(pixels.inputs(part)).float() for part in parts])
