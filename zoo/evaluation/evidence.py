"""What tests between rows need of one metric: each patient's influence, and the score of each seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.thresholds import DecidedTest, ThresholdRule, decide
from zoo.evaluation.values import Runs, compute, find_too_few, repeated, score_seeds
from zoo.specs.metric import MetricSpec, ScoringContext
from zoo.statistics.weighted import jackknife_influence, sum_by_patient


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """One metric of one row, as tests between rows see it."""

    patients: Array  # (n,) str
    influence: Array  # (n,) of each patient on the score, averaged over seeds
    seed_scores: Array  # (S,)


def weigh_evidence(runs: Runs, metric: MetricSpec, card: ScoringContext, *, threshold: ThresholdRule) -> Evidence:
    """What a test against other rows needs; Undefined where there are too few cases, or no influence values."""
    tested = [[decide(run, card, threshold) for run in folds] for folds in runs]
    too_few = find_too_few(tested[0], card)
    if too_few:
        raise Undefined(too_few)
    patients, influence = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        values = np.mean([unit_influence(metric, part) for part in parts], axis=0)
        owners, summed = sum_by_patient(values, parts[0].patients)
        patients.append(owners)
        influence.append(summed / len(owners))
    # The score is the mean over folds: a patient of n moves it by its own fold's influence, over that fold's patients.
    num_patients = sum(map(len, patients))
    return Evidence(
        patients=np.concatenate(patients),
        influence=np.concatenate(influence) * (num_patients / len(patients)),
        seed_scores=score_seeds(metric, tested),
    )


def unit_influence(metric: MetricSpec, part: DecidedTest) -> Array:
    """Influence values (N,) of the test units: the metric's own, or taken through `resample`, or leaving each out.

    Left out: (N - 1)(T - T without i), the jackknife's pseudo-influence (Efron 1982, chapter 3).
    """
    request, num = part.request, len(part.patients)
    if metric.influence is not None:
        values = np.asarray(metric.influence(request), dtype=np.float64)
    elif metric.resample is not None:
        resampler = metric.resample
        values = jackknife_influence(lambda weights: np.asarray(resampler(request, weights), dtype=np.float64), num)
    else:
        whole = compute(metric, request)
        kept = ~np.eye(num, dtype=bool)
        values = (num - 1) * (whole - np.array([compute(metric, repeated(request, keep)) for keep in kept]))
    if values.shape != (num,) or not np.isfinite(values).all():
        raise ValueError(f"expected {num} finite influence values")
    return values
