"""A toy segmentation: a task, a dataset, two networks and a metric, all registered by a plugin.

It shows that a kind of answer needs nothing from the core. Slices keep their size, and a mask is stored for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import (
    Answers,
    BuildRequest,
    Head,
    MetricRequest,
    MetricSpec,
    ModelSpec,
    Presentation,
    Samples,
    SamplesRequest,
    TargetFault,
    Targets,
    Task,
    written_whole,
)
from zoo_phantom.datasets import DATASET, PARAMETERS, open_samples
from zoo_phantom.exact import Array
from zoo_phantom.scenes import Scenes, draw
from zoo_phantom.truth import masks

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = "foreground pixels"


class MaskTargets(Targets):
    """The lesions of each slice: uint8 (N, H, W), 1 inside a lesion and 0 outside."""

    spatial = True
    max_labels = 1
    kinds = "u"
    generic: np.dtype[Any] = np.dtype(np.uint8)

    def fits(self, shape: tuple[int, ...], num_labels: int) -> bool:
        return len(shape) == 2

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        if targets.ndim != 3 or targets.dtype != np.uint8 or targets.max(initial=0) > 1:
            found = f"targets are {targets.dtype} of shape {targets.shape}, expected uint8 (N, H, W) of 0 and 1"
            return TargetFault(None, found, "")
        return None

    def find_stored_fault(self, targets: Array, num_labels: int) -> str:
        return f"mask value {targets.max()}, expected 0 or 1" if targets.max(initial=0) > 1 else ""

    def sizes(self, targets: Array) -> Array:
        return areas(targets)

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        return f"{int(target.sum())} pixels"

    def columns(self, labels: Sequence[str]) -> list[str]:
        return [f"target: {PIXELS}"]

    def cells(self, targets: Array, labels: Sequence[str]) -> list[list[Any]]:
        return [[int(area)] for area in areas(targets)]

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        squares = np.zeros((count, 8, 8), np.uint8)
        for mask, (x, y) in zip(squares, rng.integers(0, 5, (count, 2)), strict=True):
            mask[y : y + 3, x : x + 3] = 1
        return squares, squares.copy()


class MaskHead(Head):
    dense = True

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of the binary cross-entropy of logits (N, 1, H, W) and 1 - soft Dice over the batch."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        truth, logits = targets.to(logits.dtype), logits[:, 0]
        chance = logits.sigmoid()
        dice = (2 * (chance * truth).sum() + 1) / (chance.sum() + truth.sum() + 1)
        return (binary_cross_entropy_with_logits(logits, truth) + 1 - dice) / 2


class MaskAnswers(Answers):
    """Decided masks: uint8 (N, H, W)."""

    def find_fault(self, answers: Array, num_labels: int) -> str:
        if answers.ndim != 3 or answers.dtype != np.uint8 or answers.max(initial=0) > 1:
            return f"{answers.dtype} {answers.shape} masks, expected uint8 (N, H, W) of 0 and 1"
        return ""

    def columns(self, labels: Sequence[str]) -> list[str]:
        return [f"prediction: {PIXELS}"]

    def cells(self, answers: Array) -> list[list[Any]]:
        return [[int(area)] for area in areas(answers)]

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        decided: Array = (logits[:, 0] > 0).astype(np.uint8)
        return decided

    def of_target(self, answers: Array, targets: Array) -> Array:
        return dice_of(answers, targets)

    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        return 1 - float(np.nanmean(dice_of(answers, targets)))

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> Array:
        return (rng.random((count, 8, 8)) < 0.2).astype(np.uint8)


def areas(masks: Array) -> Array:
    total: Array = masks.sum(axis=(1, 2), dtype=np.int64)
    return total


def dice_of(answers: Array, targets: Array) -> Array:
    """Dice of each mask (N,): twice the shared pixels by the sum of both; NaN where both are empty (Dice 1945)."""
    shared, both = areas(answers & targets), areas(answers) + areas(targets)
    return np.divide(2 * shared, both, out=np.full(len(both), np.nan), where=both > 0)


def dice_per_unit(request: MetricRequest) -> Array:
    return dice_of(request.probabilities, request.targets)


def build_net(request: BuildRequest, width: int) -> nn.Module:
    """A fully convolutional network with a receptive field of 31 pixels: dilated 3 x 3 convolutions."""
    from torch import nn

    layers: list[nn.Module] = []
    channels = request.channels
    for dilation in (1, 2, 4, 4, 2, 1):
        layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(width, request.num_outputs, 1))


def open_masks(request: SamplesRequest) -> Samples:
    """The slices of `phantom` with the masks of their lesions, drawn the first time."""
    samples, path = open_samples(request, "phantom"), request.folder / "phantom_masks.npy"
    if not path.exists():
        with written_whole(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, draw_masks(draw(PARAMETERS["phantom"]), request), allow_pickle=False)
    return replace(samples, targets=np.load(path, allow_pickle=False), files=(*samples.files, path), masks=None)


def draw_masks(scenes: Scenes, request: SamplesRequest) -> Array:
    drawn = []
    for image in range(len(scenes.patient)):
        drawn.append(masks(scenes, image).any(axis=0))
        if request.progress:
            request.progress(image + 1, len(scenes.patient))
    return np.stack(drawn).astype(np.uint8)


SEGMENTATION = Task(
    name="toy_segmentation",
    primary_metric="dice",
    metrics=("dice",),
    targets=MaskTargets(),
    head=MaskHead(),
    answers=MaskAnswers(),
    decisions=None,
    presentation=Presentation(title="toy segmentation", answer="Dice"),
)
MASKED = replace(
    DATASET,
    name="phantom_masks",
    title="Phantom, toy segmentation: where the lesions of a slice are",
    task=SEGMENTATION,
    labels=("lesion",),
    positive="",
    samples=open_masks,
)
DICE = MetricSpec(name="dice", title="Dice", tasks=(SEGMENTATION.name,), per_unit=dice_per_unit)
NET = partial(ModelSpec, tasks=(SEGMENTATION.name,), channels=1, mean=(0.5,), std=(0.25,), image_size=64)
NETS = tuple(NET(name=f"toy_net_{width}", build=partial(build_net, width=width)) for width in (8, 16))
