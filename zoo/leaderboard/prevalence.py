"""Compare the prevalence of each label in val and test: thresholds and calibration are chosen on val."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.predictions import Predictions
from zoo.leaderboard.boards import Board

SHIFT_P = 0.001  # over all labels together
SHIFT_ODDS_RATIO = 1.5  # moves the log odds of a calibrated model by .4
MIN_EXPECTED = 5  # cases in each cell, for the chi-square test


@dataclass(frozen=True, kw_only=True)
class PrevalenceShift:
    """A label that is more or less common in test than in val."""

    label: str
    val: float  # share of the patients (images without a patient key) that have the label
    test: float
    p: float


def find_prevalence_shift(board: Board) -> PrevalenceShift | None:
    """The label whose prevalence differs most surely between val and test; None if no difference is sure and large.

    Pearson's chi-square test of each label, by patient, with Bonferroni's correction for the number of labels. Folds
    are not compared: every image is in val of one and in test of another.
    """
    from scipy.special import chdtrc

    stored = next((row.stored for row in board.rows if row.stored), ())
    if not stored or not board.card.task.labeled or board.facts["num_folds"] > 1:
        return None
    labels = board.card.labels
    scored = list(board.card.task.targets.scored_labels(len(labels), board.card.positive))
    counts = np.stack([count_with_label(stored[0][0][split], board)[:, scored] for split in ("val", "test")])
    table = np.stack([counts[:, 0], counts[:, 1] - counts[:, 0]]).astype(float)  # (with or without, split, label)
    total = table.sum(axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = table.sum(axis=1)[:, None] * table.sum(axis=0) / total
        p = chdtrc(1, ((table - expected) ** 2 / expected).sum(axis=(0, 1)))
        odds_ratio = table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0])
        large = np.maximum(odds_ratio, 1 / odds_ratio) > SHIFT_ODDS_RATIO
    sure = (expected.min(axis=(0, 1)) >= MIN_EXPECTED) & (p < SHIFT_P / len(scored))
    if not (sure & large).any():
        return None
    i = int(np.argmin(np.where(sure & large, p, np.inf)))
    val, test = (float(share) for share in table[0, :, i] / table[:, :, i].sum(axis=0))
    return PrevalenceShift(label=labels[scored[i]], val=val, test=test, p=float(p[i]))


def count_with_label(part: Predictions, board: Board) -> Array:
    """Count the patients of a split that have each label, and those whose label is known: int64 (2, L)."""
    flags = board.card.task.targets.to_flags(part.targets, len(board.card.labels))
    assert flags is not None
    sides = (flags == 1, ~np.isnan(flags))
    return np.array([[len(np.unique(part.patients[column])) for column in side.T] for side in sides])
