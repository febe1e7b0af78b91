"""A label for every pixel: background, or one of L labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.tasks.overlaps import FRACTIONS, STATISTICS, statistic
from zoo.tasks.task import Answers, Head, Presentation, TargetFault, Targets, Task

if TYPE_CHECKING:
    from torch import Tensor


class MaskTargets(Targets):
    """The pixels of each label in the reference mask of each image: float (N, L). The masks themselves are files."""

    spatial = True
    by_label = True
    kinds = "f"

    def fits(self, shape: tuple[int, ...], num_labels: int) -> bool:
        return shape == (num_labels,)

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        if targets.shape != (len(targets), len(labels)):
            return TargetFault(None, "the dataset has no masks", "return `masks` in its Samples")
        absent = [label for label, total in zip(labels, targets.sum(axis=0), strict=True) if total == 0]
        if absent:
            return TargetFault(None, f"no mask has the label {absent[0]!r}", "correct `labels`, or the masks")
        return None

    def to_flags(self, targets: Array, num_labels: int) -> Array | None:
        flags: Array = (targets > 0).astype(np.float64)
        return flags

    def sizes(self, targets: Array) -> Array:
        total: Array = targets.sum(axis=1)
        return total

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        return list_label_sizes(target, labels, "px")

    def describe_volume(self, target: Any, labels: Sequence[str]) -> str:
        return list_label_sizes(target, labels, "voxels")

    def columns(self, labels: Sequence[str]) -> list[str]:
        return [f"reference pixels: {label}" for label in labels]

    def cells(self, targets: Array, labels: Sequence[str]) -> list[list[Any]]:
        return [[int(size) for size in row] for row in targets.tolist()]

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        targets = rng.integers(1, 500, (count, num_labels)).astype(np.float64)
        perfect = np.zeros((count, num_labels, len(STATISTICS)))
        perfect[:, :, [STATISTICS.index(name) for name in FRACTIONS if name != "missed"]] = 1.0
        perfect[:, :, STATISTICS.index("true_positive")] = targets
        return targets, perfect.reshape(count, -1)


def list_label_sizes(target: Any, labels: Sequence[str], unit: str) -> str:
    """The size of each label that a mask has: "liver 1,234 px, tumor 12 px"."""
    parts = [f"{label} {size:,.0f} {unit}" for label, size in zip(labels, target, strict=True) if size]
    return ", ".join(parts) or "empty"


class MaskHead(Head):
    """Logits of background and each label for every pixel."""

    dense = True

    def num_outputs(self, num_labels: int) -> int:
        return num_labels + 1

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy plus 1 - soft Dice, of logits (N, L + 1, H, W) and label maps (N, H, W).

        The soft Dice of each label is over all pixels of the batch (Isensee et al. 2021, Nature Methods 18:203).
        """
        from torch.nn.functional import cross_entropy, one_hot

        truth = targets.long()
        shares = logits.float().softmax(dim=1)[:, 1:]
        drawn = one_hot(truth, logits.shape[1]).movedim(-1, 1)[:, 1:].to(shares.dtype)
        axes = (0, *range(2, logits.ndim))
        shared, both = (shares * drawn).sum(axes), shares.sum(axes) + drawn.sum(axes)
        return cross_entropy(logits, truth) + 1 - ((2 * shared + 1) / (both + 1)).mean()


class MaskAnswers(Answers):
    """The statistics of each predicted mask against its reference: float (N, L * len(STATISTICS))."""

    formula = "argmax over the outputs: 0 is background"

    def find_fault(self, answers: Array, num_labels: int) -> str:
        if answers.ndim != 2 or answers.shape[1] != num_labels * len(STATISTICS) or answers.dtype != np.float64:
            return f"{answers.dtype} statistics of shape {answers.shape}, expected {len(STATISTICS)} of each label"
        if (answers < 0).any() or np.isinf(answers).any():
            return "statistics of masks are negative or infinite"
        for name in FRACTIONS:
            if (statistic(answers, name) > 1).any():
                return f"{name} above 1"
        return ""

    def columns(self, labels: Sequence[str]) -> list[str]:
        return [f"{name}: {label}" for label in labels for name in STATISTICS]

    def keep_labels(self, answers: Array, labels: Sequence[int]) -> Array:
        by_label = answers.reshape(len(answers), -1, len(STATISTICS))
        kept: Array = by_label[:, list(labels)].reshape(len(answers), -1)
        return kept

    def cells(self, answers: Array) -> list[list[Any]]:
        return [[None if np.isnan(cell) else cell for cell in row] for row in answers.tolist()]

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        """Label maps, uint8 (N, H, W), which are compared with the references afterwards."""
        decided: Array = logits.argmax(axis=1).astype(np.uint8)
        return decided

    def region_evidence(self, logits: Tensor, decided: Tensor) -> Tensor:
        """The logits of each label, summed over its predicted region: Seg-Grad-CAM differentiates this sum.

        Vinogradova, Dibrov & Myers 2020, AAAI, arXiv:2002.11434.
        """
        from torch.nn.functional import one_hot

        regions = one_hot(decided.long(), logits.shape[1]).movedim(-1, 0)  # (O, H, W)
        return (logits * regions).sum(dim=(2, 3))[:, 1:]

    def of_target(self, answers: Array, targets: Array) -> Array:
        """The Dice of each image, mean over its labels."""
        return mean_where_known(statistic(answers, "dice"))

    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        """The mean of 1 - Dice; 0 where both masks are empty: nothing was to be found, and nothing was drawn."""
        return 1 - float(np.nan_to_num(statistic(answers, "dice"), nan=1.0).mean())

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> Array:
        return rng.random((count, num_labels * len(STATISTICS)))


def mean_where_known(values: Array) -> Array:
    """The mean of each row (N,) over its values that are not NaN."""
    known = ~np.isnan(values)
    count, none = known.sum(axis=1), np.full(len(values), np.nan)
    means: Array = np.divide(np.where(known, values, 0).sum(axis=1), count, out=none, where=count > 0)
    return means


SEGMENTATION = Task(
    name="segmentation",
    primary_metric="dice",
    metrics=("dice", "nsd", "hd95", "missed", "mask_sensitivity", "mask_precision", "volume_error"),
    targets=MaskTargets(),
    head=MaskHead(),
    answers=MaskAnswers(),
    decisions=None,
    presentation=Presentation(
        title="segmentation",
        answer="Dice",
        chance=("dice", 0.0, "0"),
        figures=("cases",),
        pictures=("lowest score", "median score"),
    ),
    recipes={"finetune": "segment", "scratch": "segment-scratch", "quick": "segment-quick"},
    volume_recipes={"finetune": "segment3d", "scratch": "segment3d", "quick": "segment3d-quick"},
)
