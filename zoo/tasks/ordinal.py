"""Ordered grades."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.tasks.classes import (
    METRICS_OF_CLASSES,
    PICTURES_OF_DECISIONS,
    TOP_LABEL,
    ClassAnswers,
    ClassTargets,
    weigh_classes,
)
from zoo.tasks.linear import solve_binaries
from zoo.tasks.logits import SMALLEST, cumulative_to_classes, grades_to_log_odds, rescale_grades
from zoo.tasks.task import POSITIVE_AND_NEGATIVE, Head, Presentation, Task

if TYPE_CHECKING:
    from torch import Tensor


class GradeTargets(ClassTargets):
    ordered = True


class GradeHead(Head):
    """One output per threshold: the logit of P(y > k)."""

    likelihood = True

    def num_outputs(self, num_labels: int) -> int:
        return num_labels - 1

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits (N, L - 1) for the events y > 0, ..., y > L - 2.

        Frank & Hall, "A simple approach to ordinal classification", ECML 2001, trained jointly.
        """
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        thresholds = torch.arange(logits.shape[1], device=logits.device)
        return binary_cross_entropy_with_logits(logits, (targets[:, None] > thresholds).to(logits.dtype))

    def target_losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Of each event (N, L - 1)."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        thresholds = torch.arange(logits.shape[1], device=logits.device)
        events = (targets[:, None] > thresholds).to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return binary_cross_entropy_with_logits(logits, events, reduction="none")

    def target_weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        return weigh_classes(targets, class_weights)[:, None]

    def solve(self, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
        """One logistic regression per threshold."""
        return solve_binaries(features, targets[:, None] > np.arange(num_labels - 1), penalty)


class GradeAnswers(ClassAnswers):
    formula = "P(grade > k) = sigmoid(logits); the probability of a grade is the difference of neighbors"

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        return cumulative_to_classes(logits)

    def to_log_odds(self, logits: Array) -> Array | None:
        return grades_to_log_odds(logits)

    def evidence(self, logits: Tensor) -> Tensor:
        """Log odds of the grades."""
        import torch

        above = logits.double().cummin(dim=1).values.sigmoid()
        certain = torch.ones_like(above[:, :1])
        shares = torch.cat([certain, above], dim=1) - torch.cat([above, 0 * certain], dim=1)
        return shares.logit(eps=SMALLEST)

    def recover_log_odds(self, answers: Array) -> Array | None:
        return None

    def to_logits(self, answers: Array, floor: float = 1e-4) -> Array:
        above = (1 - answers.cumsum(axis=1)[:, :-1]).clip(floor, 1 - floor)
        logits: Array = np.log(above / (1 - above))
        return logits

    def rescale(self, answers: Array, temperature: float) -> Array:
        return rescale_grades(answers, temperature)


ORDINAL = Task(
    name="ordinal",
    primary_metric="cohen_kappa",
    metrics=("cohen_kappa", *METRICS_OF_CLASSES, "mae"),
    targets=GradeTargets(),
    head=GradeHead(),
    answers=GradeAnswers(),
    presentation=Presentation(
        title="ordinal",
        cases=POSITIVE_AND_NEGATIVE,
        calibrated=TOP_LABEL,
        figures=("confusion", "roc", "precision-recall", "reliability"),
        pictures=PICTURES_OF_DECISIONS,
        hub_task="image-classification",
    ),
)
