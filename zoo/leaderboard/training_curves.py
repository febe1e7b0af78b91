"""The training loss and the score on val of every run of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.leaderboard.tables import ScoredRow
from zoo.results.history import load_rounds


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCurve:
    """The rounds of one run, all (R,); NaN where a value is undefined."""

    row: str
    seed: int
    fold: int
    step: Array
    loss: Array
    val_score: Array


def read_training(row: ScoredRow) -> list[TrainingCurve]:
    """The curves of a row's runs that were trained in rounds. Raises ResultsError for a damaged history."""
    curves = []
    for seed, folders in zip(row.seeds, row.folders, strict=False):  # a row of a bundle without targets has none
        for fold, folder in enumerate(folders):
            if rounds := load_rounds(folder):
                curves.append(
                    TrainingCurve(
                        row=row.label,
                        seed=seed,
                        fold=fold,
                        step=np.array([each.step for each in rounds]),
                        loss=np.array([each.loss for each in rounds]),
                        val_score=np.array([each.val_score for each in rounds]),
                    )
                )
    return curves
