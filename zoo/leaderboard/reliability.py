"""Reliability diagrams: observed shares by predicted probability, over all seeds and folds of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.intervals import BOOTSTRAP_SEED
from zoo.evaluation.metrics.probabilities import confidences
from zoo.evaluation.thresholds import decide
from zoo.leaderboard.calibration import curve_labels, merge_units
from zoo.leaderboard.tables import ScoredRow, SectionRequest
from zoo.statistics.calibration import equal_mass_bins
from zoo.statistics.intervals import bootstrap_weights, percentile_interval, wilson_interval
from zoo.statistics.weighted import ratio

NUM_DIAGRAM_BINS = 10  # deciles of the predicted probability; fewer where probabilities are equal
NUM_STRIPES = 20  # of the distribution of the predicted probability, of equal width


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """The diagram of one row: K bins of equal mass, and the distribution of the predicted probability.

    Counts are of scored units, means over seeds.
    """

    row: str
    label: str | None  # None: the label with the largest probability
    lowest: Array  # (K,) of the predicted probabilities in each bin
    highest: Array  # (K,)
    count: Array  # (K,)
    claimed: Array  # (K,) mean predicted probability
    share: Array  # (K,) observed share
    low: Array  # (K,) of its 95 % interval; NaN where undefined
    high: Array  # (K,)
    stripes: Array  # (2, NUM_STRIPES) counts without and with the event


def measure_reliability(row: ScoredRow, request: SectionRequest) -> list[Reliability]:
    """The diagrams of a row: one, or one per label of a multi-label task; none without probabilities."""
    if not request.card.task.presentation.calibrated or not row.stored:
        return []
    card = replace(request.card, unit="image", val_unit=None)  # units are rows from here on
    claims: list[list[tuple[Array, Array, Array]]] = [[] for _ in curve_labels(card)]
    for folds in row.stored:
        for run in folds:
            test = merge_units(run, request.card)["test"]
            for part, (known, claimed, occurred) in zip(
                claims, confidences(decide({"test": test}, card, "half").request), strict=True
            ):
                part.append((claimed, occurred, test.patients[known]))
    return [
        bin_claims(row, label, [np.concatenate(arrays) for arrays in zip(*part, strict=True)])
        for label, part in zip(curve_labels(card), claims, strict=True)
        if sum(len(claimed) for claimed, _, _ in part)
    ]


def bin_claims(row: ScoredRow, label: str | None, claims: Sequence[Array]) -> Reliability:
    """Bin predicted probabilities (n,), whether each event occurred (n,), and the patients (n,)."""
    claimed, occurred, patients = claims
    bins = equal_mass_bins(claimed, NUM_DIAGRAM_BINS)
    inside = bins[:, None] == np.unique(bins)  # (n, K)
    count, hits = inside.sum(axis=0), (inside & occurred[:, None]).sum(axis=0)
    owners, owner = np.unique(patients, return_inverse=True)
    if len(owners) == len(patients):
        bounds = np.array([wilson_interval(int(h), int(n)) for h, n in zip(hits, count, strict=True)], float)
    else:  # several units or seeds of a patient: resample patients
        weights = bootstrap_weights(owners, seed=BOOTSTRAP_SEED).astype(np.float64)
        by_owner = np.zeros((2, len(owners), inside.shape[1]))
        np.add.at(by_owner[0], owner, inside & occurred[:, None])
        np.add.at(by_owner[1], owner, inside)
        drawn = ratio(weights @ by_owner[0], weights @ by_owner[1])
        intervals = [percentile_interval(column) for column in drawn.T]
        bounds = np.array([(interval.low, interval.high) for interval in intervals], float)
    sides = (claimed[~occurred], claimed[occurred])
    seeds = len(row.stored)
    return Reliability(
        row=row.label,
        label=label,
        lowest=np.array([claimed[column].min() for column in inside.T]),
        highest=np.array([claimed[column].max() for column in inside.T]),
        count=count / seeds,
        claimed=claimed @ inside / count,
        share=hits / count,
        low=bounds[:, 0],
        high=bounds[:, 1],
        stripes=np.array([np.histogram(side, NUM_STRIPES, (0, 1))[0] for side in sides]) / seeds,
    )
