"""A number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.tasks.logits import find_array_fault
from zoo.tasks.task import Answers, Form, Head, Presentation, TargetFault, Targets, Task

if TYPE_CHECKING:
    from torch import Tensor

MAX_TARGET = 1e30  # the squares of larger targets overflow


class NumberTargets(Targets):
    """Finite numbers: float (N,)."""

    form: Form = "number"
    max_labels = 1

    def find_fault(self, targets: Array, labels: Sequence[str]) -> TargetFault | None:
        wrong = np.flatnonzero(~(np.abs(targets) <= MAX_TARGET)) if targets.ndim == 1 else np.arange(1)
        if not len(wrong):
            return None
        return TargetFault(
            int(wrong[0]),
            f"target {targets[wrong[0]]}, expected a finite number up to {MAX_TARGET:g}",
            "correct it, drop the row, or convert all targets to a larger unit",
        )

    def count(self, targets: Array, labels: Sequence[str]) -> dict[str, Any]:
        return {"mean": float(targets.mean()), "std": float(targets.std())}

    def sizes(self, targets: Array) -> Array:
        return targets

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> tuple[Array, Array]:
        targets = rng.normal(50, 10, count)
        return targets, targets[:, None]

    def describe(self, target: Any, labels: Sequence[str]) -> str:
        return f"{target:g}"

    def scale(self, train: Array) -> tuple[float, float]:
        return float(train.mean()), float(train.std()) or 1.0

    def standardize(self, targets: Array, scale: tuple[float, float]) -> Array:
        mean, std = scale
        standardized: Array = (targets - mean) / std
        return standardized


class NumberHead(Head):
    def num_outputs(self, num_labels: int) -> int:
        return 1

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of (N, 1) against (N,), both standardized by the training targets."""
        return (logits[:, 0] - targets.to(logits.dtype)).square().mean()

    def solve(self, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
        """Ridge regression."""
        from sklearn.linear_model import Ridge

        ridge = Ridge(alpha=penalty * len(features)).fit(features, targets)
        return ridge.coef_.reshape(1, -1), np.atleast_1d(ridge.intercept_)


class NumberAnswers(Answers):
    """Predicted values (N, 1)."""

    formula = "logits * target_scale[1] + target_scale[0], of card.json"

    def find_fault(self, answers: Array, num_labels: int) -> str:
        return find_array_fault(answers, 1)

    def from_logits(self, logits: Array, scale: tuple[float, float] = (0.0, 1.0)) -> Array:
        mean, std = scale
        values: Array = logits * std + mean
        return values

    def columns(self, labels: Sequence[str]) -> list[str]:
        return ["prediction"]

    def draw(self, rng: np.random.Generator, count: int, num_labels: int) -> Array:
        return rng.normal(50, 10, (count, 1))

    def of_target(self, answers: Array, targets: Array) -> Array:
        """The predicted value."""
        return answers[:, 0]

    def loss(self, answers: Array, targets: Array, spread: float) -> float:
        """Mean squared error of standardized values."""
        return float((((answers[:, 0] - targets) / spread) ** 2).mean())

    def unit(self, targets: Array) -> float:
        """The range of the targets."""
        return (float(np.ptp(targets)) if len(targets) else 0.0) or 1.0


REGRESSION = Task(
    name="regression",
    primary_metric="mae",
    metrics=("mae", "rmse", "r2", "spearman"),
    targets=NumberTargets(),
    head=NumberHead(),
    answers=NumberAnswers(),
    decisions=None,
    presentation=Presentation(
        title="regression",
        answer="predicted value",
        chance=("spearman", 0.0, "0"),
        figures=("agreement",),
        pictures=("smallest error", "largest error"),
    ),
)
