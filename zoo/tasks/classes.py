"""One class of two (binary) or of several (multiclass)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.tasks.linear import solve_softmax
from zoo.tasks.logits import (
    PROBABILITY_TOLERANCE,
    classes_to_log_odds,
    find_fault_of_probabilities,
    recover_log_odds,
    rescale_classes,
    softmax,
)
from zoo.tasks.task import (
    POSITIVE_AND_NEGATIVE,
    Answers,
    Decisions,
    FigureKind,
    Form,
    Head,
    PictureRule,
    Presentation,
    TargetFault,
    Targets,
    Task,
)

if TYPE_CHECKING:
    from torch import Tensor


class ClassTargets(Targets):
    """Indices of classes, int64 (N,)."""

    form: Form = "class"
    min_labels = 2
    kinds = "iu"
    generic: np.dtype[Any] = np.dtype(np.int64)

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            found = f"targets are {targets.dtype} of shape {targets.shape}, expected integers ({len(targets)},)"
            return TargetFault(None, found, "")
        wrong = np.flatnonzero((targets < 0) | (targets >= len(labels)))
        if len(wrong):
            found = f"label {targets[wrong[0]]}, expected 0 to {len(labels) - 1}"
            return TargetFault(int(wrong[0]), found, "correct it, or drop the row")
        if len(np.unique(targets)) < 2:
            found = f"every image is labeled {labels[int(targets[0])]!r}, so there is nothing to learn"
            return TargetFault(None, found, "add images of another class, or set where the label is")
        return None

    def find_stored_fault(self, targets: Array, num_labels: int) -> str:
        wrong = targets[(targets < 0) | (targets >= num_labels)]
        return f"target {wrong[0]}, expected 0 to {num_labels - 1}" if len(wrong) else ""

    def to_flags(self, targets: Array, num_labels: int) -> Array | None:
        flags: Array = (targets[:, None] == np.arange(num_labels)).astype(np.float64)
        return flags

    def count(self, targets: Array, labels: Sequence[str]) -> dict[str, Any]:
        per_label = np.bincount(targets, minlength=len(labels))
        return {"labels": {label: int(n) for label, n in zip(labels, per_label, strict=True)}}

    def strata(self, targets: Array) -> Array:
        return targets

    def num_cases(self, targets: Array, num_labels: int) -> int:
        """The images of the rarest class, or those outside the most frequent one."""
        counts = np.bincount(targets, minlength=num_labels)
        return int(min(counts[counts > 0].min(), len(targets) - counts.max()))

    def inverse_frequencies(self, targets: Array, num_labels: int) -> Array | None:
        """A class without images has the weight 0."""
        counts = np.bincount(targets, minlength=num_labels)
        weights: Array = np.where(counts > 0, len(targets) / (num_labels * counts.clip(1)), 0.0)
        return weights

    def cells(self, targets: Array, labels: Sequence[str]) -> list[list[Any]]:
        return [[labels[target]] for target in targets.tolist()]

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        shares = np.arange(num_labels, 0, -1) / np.arange(num_labels + 1).sum()
        targets = rng.choice(num_labels, count, p=shares)
        return targets, np.eye(num_labels)[targets]

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        return labels[int(target)]


class BinaryTargets(ClassTargets):
    has_positive = True
    max_labels = 2

    def scored_labels(self, num_labels: int, positive: int | None) -> Sequence[int]:
        return [1 if positive is None else positive]


def weigh_classes(targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weight of the class of each target (N,); 1 without weights."""
    import torch

    weights = torch.ones(1, device=targets.device) if class_weights is None else class_weights[targets]
    return weights.expand(targets.shape)


class ClassHead(Head):
    likelihood = True

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits (N, L) against classes int64 (N,)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets)

    def target_losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

    def target_weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        return weigh_classes(targets, class_weights)

    def solve(self, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
        """Softmax regression. Absent classes get a bias of -30, so they are never predicted."""
        return solve_softmax(features, targets, penalty, num_labels)


class ClassAnswers(Answers):
    """Probabilities (N, L) that sum to 1."""

    formula = "softmax(logits)"

    def find_fault(self, answers: Array, num_labels: int) -> str:
        fault = find_fault_of_probabilities(answers, num_labels)
        if not fault and len(answers) and np.abs(answers.sum(axis=1) - 1).max() > PROBABILITY_TOLERANCE:
            return "class probabilities do not sum to 1"
        return fault

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        return softmax(logits)

    def is_saturated(self, answers: Array) -> Array:
        saturated: Array = answers == 1
        return saturated

    def to_log_odds(self, logits: Array) -> Array | None:
        return classes_to_log_odds(logits)

    def evidence(self, logits: Tensor) -> Tensor:
        """Log odds: of two classes only the difference of the logits determines the answer."""
        import torch

        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        return logits - logits[:, None].masked_fill(own, -torch.inf).logsumexp(dim=2)

    def recover_log_odds(self, answers: Array) -> Array | None:
        return recover_log_odds(answers)

    def to_logits(self, answers: Array, floor: float = 1e-4) -> Array:
        logits: Array = np.log(answers.clip(floor, None))
        return logits

    def rescale(self, answers: Array, temperature: float) -> Array:
        return rescale_classes(answers, temperature)

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> Array:
        return rng.dirichlet(np.ones(num_labels), count)

    def of_target(self, answers: Array, targets: Array) -> Array:
        true: Array = answers[np.arange(len(targets)), targets]
        return true

    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        """Mean of -log P(target)."""
        return float(-np.log(self.of_target(answers.clip(1e-9, None), targets)).mean())


class BinaryDecisions(Decisions):
    """The positive class, at or above a threshold."""

    def cut_labels(self, num_labels: int, positive: int) -> Sequence[int]:
        return (positive,)

    def decide(self, ranked: Array, cuts: Array, positive: int) -> Array:
        return np.where(ranked[:, positive] >= cuts[0], positive, 1 - positive)


METRICS_OF_CLASSES = (
    "auroc",
    "balanced_accuracy",
    "f1_macro",
    "recall_macro",
    "accuracy",
    "average_precision",
    "mcc",
    "brier",
    "ece",
)
TOP_LABEL = "of the largest probability (top label)"
PICTURES_OF_DECISIONS: tuple[PictureRule, ...] = ("most confident, right", "most confident, wrong", "least confident")
FIGURES_OF_LABELS: tuple[FigureKind, ...] = ("roc", "precision-recall", "decision-curve", "reliability")

BINARY = Task(
    name="binary",
    primary_metric="auroc",
    # Sensitivity and specificity come before the macro recall, which equals the balanced accuracy for two classes.
    metrics=(
        "auroc",
        "balanced_accuracy",
        "f1_macro",
        "sensitivity",
        "specificity",
        "accuracy",
        "recall_macro",
        "average_precision",
        "mcc",
        "brier",
        "ece",
    ),
    targets=BinaryTargets(),
    head=ClassHead(),
    answers=ClassAnswers(),
    decisions=BinaryDecisions(),
    presentation=Presentation(
        title="binary",
        cases=POSITIVE_AND_NEGATIVE,
        calibrated="of the positive class's probability",
        figures=(*FIGURES_OF_LABELS, "confusion"),
        pictures=PICTURES_OF_DECISIONS,
        hub_task="image-classification",
    ),
)
MULTICLASS = Task(
    name="multiclass",
    primary_metric="auroc",
    metrics=METRICS_OF_CLASSES,
    targets=ClassTargets(),
    head=ClassHead(),
    answers=ClassAnswers(),
    presentation=Presentation(
        title="multi-class",
        cases=POSITIVE_AND_NEGATIVE,
        calibrated=TOP_LABEL,
        figures=("confusion", *FIGURES_OF_LABELS),
        pictures=PICTURES_OF_DECISIONS,
        hub_task="image-classification",
    ),
)
