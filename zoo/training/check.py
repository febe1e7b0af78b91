"""Compare a short training on a device with the same training on the CPU, for `zoo doctor --device`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import as_pixels
from zoo.errors import RunError
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import Protocol
from zoo.system.devices import open_device, resolve_precision
from zoo.system.replay import WARM_UP_STEPS
from zoo.tasks.kinds import default_task
from zoo.training.fitting import FitRequest, Fitted, fit

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = WARM_UP_STEPS + 3  # the last three are captured
CHECK_SIDE, COUNT = 16, 96
DEVICE_TOLERANCE = 1e-3  # of a parameter after these steps in fp32; rounding alone gives about 1e-6


def check_device(device: str) -> dict[str, Any]:
    """Train a tiny network on a device, with captured and with eager steps, and on the CPU.

    Returns plain data: how steps were executed, the largest difference of a parameter in fp32, seconds, and `advice`.
    """
    open_device(device).prepare()
    start = time.perf_counter()
    captured = train(device, "fp32")
    first_seconds = time.perf_counter() - start
    precision = resolve_precision("auto", device)
    differences = {
        "captured and eager steps": largest_difference(captured, train(device, "fp32", eager=True)),
        "this device and the CPU": largest_difference(captured, train("cpu", "fp32")),
    }
    problems = [
        f"{name} differ by {value:.2g}: do not trust results of this device"
        for name, value in differences.items()
        if not value < DEVICE_TOLERANCE
    ]
    if captured.details.get("step") == "eager":
        problems.append("steps are not captured: small networks will be slow")
    try:
        train(device, precision)
    except RunError as error:
        problems.append(f"{precision}: {error}")
    return {
        "device": device,
        **open_device(device).describe(),
        "step": captured.details.get("step", "eager"),
        **({"eager_reason": captured.details["eager_reason"]} if "eager_reason" in captured.details else {}),
        "precision": precision,
        "first_training_seconds": round(first_seconds, 2),
        "largest_difference_of_a_parameter": {name: float(f"{value:.2g}") for name, value in differences.items()},
        "advice": problems,
    }


def train(device: str, precision: str, *, eager: bool = False) -> Fitted:
    """Fit the tiny network for `STEPS` steps; with `eager`, a hook prevents capture."""
    import torch
    from torch import nn

    with open_device("cpu").own_random_numbers(0):
        module = nn.Sequential(
            # No bias before a batch norm: its gradient would be rounding noise, which AdamW scales to full steps.
            nn.Conv2d(1, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 2),
        )
    if eager:
        module.register_forward_hook(lambda *_: None)
    dataset = noise_dataset()
    levels = np.random.default_rng(0).integers(0, 256, (COUNT, CHECK_SIDE, CHECK_SIDE, 1), dtype=np.uint8)
    images = torch.from_numpy(levels // 2 + 64 * dataset.targets[:, None, None, None].astype(np.uint8))
    protocol = Protocol(name="check", steps=STEPS, rounds=1, batch_size=16)
    request = FitRequest(
        spec=ModelSpec(name="check", build=lambda _: module, channels=1),
        module=module,
        dataset=dataset,
        pixels=as_pixels(images.to(device), (0.0, 255.0), (0.5,), (0.25,), device),
        protocol=protocol,
        seed=0,
        precision=precision,
        val_score=lambda _: 0.0,
        notify=lambda _: None,
    )
    return fit(request)


def noise_dataset() -> DecodedFold:
    ids = np.array([f"image{number}" for number in range(COUNT)])
    return DecodedFold(
        name="check",
        task=default_task("class", 2),
        labels=("dark", "bright"),
        positive=1,
        unit="image",
        has_patients=False,
        symmetries=("hflip",),
        intensity=(0.0, 255.0),
        sample_ids=ids,
        patients=ids,
        targets=np.arange(COUNT) % 2,
        split_of=np.repeat(["train", "val"], [COUNT - 32, 32]),
        images=Path("none.npy"),
        content_hash="",
        split_hash="",
        fold=0,
        num_folds=1,
    )


def largest_difference(one: Fitted, other: Fitted) -> float:
    pairs = zip(parameters_of(one.module), parameters_of(other.module), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def parameters_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().cpu() for parameter in module.parameters()]
