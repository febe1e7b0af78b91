"""Agreement of predicted with true numbers (Bland & Altman 1986, Lancet 327:307)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.leaderboard.tables import ScoredRow, SectionRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """True and predicted numbers of the test units of one seed, and their difference, predicted minus true."""

    row: str
    seed: int
    true: Array  # (N,)
    predicted: Array  # (N,)
    bias: float  # mean difference
    limits: tuple[float, float] | None  # 95 % limits of agreement, bias -+ 1.96 SD; None for one unit

    @property
    def difference(self) -> Array:
        difference: Array = self.predicted - self.true
        return difference


def measure_agreement(row: ScoredRow, request: SectionRequest) -> Agreement | None:
    """The agreement of a row's first seed; None for a task without numbers."""
    if request.card.task.targets.form != "number" or not row.stored:
        return None
    tests = [run["test"].by_unit(request.card.unit) for run in row.stored[0]]
    true = np.concatenate([test.targets for test in tests])
    predicted = np.concatenate([test.probabilities[:, 0] for test in tests])
    difference = predicted - true
    spread = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else None
    bias = float(difference.mean())
    return Agreement(
        row=row.label,
        seed=row.seeds[0],
        true=true,
        predicted=predicted,
        bias=bias,
        limits=None if spread is None else (bias - spread, bias + spread),
    )
