"""Several labels, each present, absent or unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.tasks.classes import FIGURES_OF_LABELS, PICTURES_OF_DECISIONS
from zoo.tasks.linear import solve_binaries
from zoo.tasks.logits import find_fault_of_probabilities, rescale_events, round_log_odds, sigmoid
from zoo.tasks.task import (
    POSITIVE_AND_NEGATIVE,
    Answers,
    Decisions,
    Form,
    Head,
    Presentation,
    TargetFault,
    Targets,
    Task,
)

if TYPE_CHECKING:
    from torch import Tensor


class FlagTargets(Targets):
    """0, 1 or NaN for unknown: float (N, L)."""

    form: Form = "flags"
    by_label = True

    def fits(self, shape: tuple[int, ...], num_labels: int) -> bool:
        return shape == (num_labels,)

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        expected = (len(targets), len(labels))
        if targets.shape != expected:
            return TargetFault(None, f"targets of shape {targets.shape}, expected {expected}", "")
        if not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
            return TargetFault(None, "multi-label targets must be 0, 1 or NaN for unknown", "correct them")
        return None

    def find_stored_fault(self, targets: Array, num_labels: int) -> str:
        wrong = targets[~np.isnan(targets) & ~np.isin(targets, (0, 1))]
        return f"target {wrong[0]:g}, expected 0, 1 or NaN for unknown" if len(wrong) else ""

    def to_flags(self, targets: Array, num_labels: int) -> Array | None:
        return targets

    def strata(self, targets: Array) -> Array:
        """The rarest label of each sample, 0 for none."""
        rarity = np.argsort(np.nansum(targets, axis=0))
        strata = np.zeros(len(targets), int)
        for label in reversed(rarity):
            strata[np.nan_to_num(targets[:, label]) > 0] = label + 1
        return strata

    def inverse_frequencies(self, targets: Array, num_labels: int) -> Array | None:
        """A label that is never present has the weight 1."""
        present, absent = np.nansum(targets, axis=0), np.nansum(1 - targets, axis=0)
        weights: Array = np.where((present > 0) & (absent > 0), absent / present.clip(1), 1.0)
        return weights

    def num_cases(self, targets: Array, num_labels: int) -> int:
        """The number of positives or negatives, whichever is smaller; of the label for which it is largest."""
        return int(np.minimum(np.nansum(targets, axis=0), np.nansum(1 - targets, axis=0)).max())

    def columns(self, labels: Sequence[str]) -> list[str]:
        return [f"target: {label}" for label in labels]

    def cells(self, targets: Array, labels: Sequence[str]) -> list[list[Any]]:
        return [[None if np.isnan(cell) else int(cell) for cell in row] for row in targets.tolist()]

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        """A tenth of the targets is unknown."""
        answers = (rng.random((count, num_labels)) < 0.3).astype(np.float64)
        return np.where(rng.random(answers.shape) < 0.1, np.nan, answers), answers

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        return " | ".join(label for label, value in zip(labels, target, strict=True) if value == 1) or "none"


class FlagHead(Head):
    likelihood = True

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy over the cells of targets (N, L) that are not NaN."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        # No boolean indexing: its data-dependent size would make the host wait for the GPU.
        known = ~targets.isnan()
        losses = binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0).to(logits.dtype), reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)

    def target_losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        smooth = targets.nan_to_num(0.0).to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return binary_cross_entropy_with_logits(logits, smooth, reduction="none") * ~targets.isnan()

    def target_weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        known = (~targets.isnan()).float()
        return known if class_weights is None else known * (1 + (targets.nan_to_num(0.0) * (class_weights - 1)))

    def solve(self, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
        """One logistic regression per label, over its known targets."""
        return solve_binaries(features, targets, penalty)


class FlagAnswers(Answers):
    """Independent probabilities (N, L)."""

    formula = "sigmoid(logits)"

    def find_fault(self, answers: Array, num_labels: int) -> str:
        return find_fault_of_probabilities(answers, num_labels)

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        return sigmoid(logits)

    def to_log_odds(self, logits: Array) -> Array | None:
        return round_log_odds(logits)

    def to_logits(self, answers: Array, floor: float = 1e-4) -> Array:
        inside = answers.clip(floor, 1 - floor)
        logits: Array = np.log(inside / (1 - inside))
        return logits

    def rescale(self, answers: Array, temperature: float) -> Array:
        return rescale_events(answers, temperature)

    def of_target(self, answers: Array, targets: Array) -> Array:
        """The probability of the target, mean over the known labels."""
        right = np.where(np.isnan(targets), np.nan, np.where(targets == 1, answers, 1 - answers))
        known = (~np.isnan(right)).sum(axis=1)
        means: Array = np.divide(np.nansum(right, axis=1), known, out=np.full(len(right), np.nan), where=known > 0)
        return means

    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        """Mean of -log P(target) over known labels."""
        of_target = np.where(targets > 0, answers.clip(1e-9, None), 1 - answers.clip(None, 1 - 1e-9))
        return float(-np.nanmean(np.where(np.isnan(targets), np.nan, np.log(of_target))))

    def is_saturated(self, answers: Array) -> Array:
        saturated: Array = (answers == 1) | (answers == 0)
        return saturated


class FlagDecisions(Decisions):
    """Each label is present at or above its threshold: bool (N, L)."""

    def cut_labels(self, num_labels: int, positive: int) -> Sequence[int]:
        return range(num_labels)

    def decide(self, ranked: Array, cuts: Array, positive: int) -> Array:
        return ranked >= cuts


MULTILABEL = Task(
    name="multilabel",
    primary_metric="auroc",
    metrics=(
        "auroc",
        "average_precision",
        "f1_macro",
        "recall_macro",
        "balanced_accuracy",
        "specificity",
        "accuracy",
        "mcc",
        "brier",
        "ece",
    ),
    targets=FlagTargets(),
    head=FlagHead(),
    answers=FlagAnswers(),
    decisions=FlagDecisions(),
    presentation=Presentation(
        title="multi-label",
        cases=POSITIVE_AND_NEGATIVE,
        calibrated="of each label's probability by itself, averaged over labels",
        figures=FIGURES_OF_LABELS,
        pictures=PICTURES_OF_DECISIONS,
        hub_task="image-classification",
    ),
)
