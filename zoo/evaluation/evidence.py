"""Inputs of the tests between models: each patient's influence on a metric, and the score of each seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.reasons import Unavailable
from zoo.evaluation.thresholds import DecidedTest, ThresholdRule
from zoo.evaluation.values import DecidedRuns, Runs, compute, decide_all, find_too_few, repeat_units, score_seeds
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext
from zoo.statistics.weighted import jackknife_influence, sum_by_patient


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """One metric of one leaderboard row, as the tests between rows use it."""

    patients: Array  # (n,) str
    influence: Array  # (n,) of each patient on the score, averaged over seeds
    seed_scores: Array  # (S,)
    deterministic: bool = False  # the score does not depend on the seed: S is 1


def weigh_evidence(runs: Runs, metric: MetricSpec, card: ScoringContext, *, threshold: ThresholdRule) -> Evidence:
    """Compute what a test against other rows needs.

    Raises `Undefined` with too few cases, or if the metric has no influence values.
    """
    return weigh_decided(decide_all(runs, card, threshold), metric, card)


def weigh_decided(tested: DecidedRuns, metric: MetricSpec, card: ScoringContext) -> Evidence:
    """Compute the evidence of decided runs, as `weigh_evidence` does."""
    too_few = find_too_few(tested[0], card)
    if too_few:
        raise Unavailable(too_few)
    patients, influence = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        values = np.mean([unit_influence(metric, part) for part in parts], axis=0)
        owners, summed = sum_by_patient(values, parts[0].patients)
        patients.append(owners)
        influence.append(summed / len(owners))
    # The score is the mean over folds, so a patient's influence is that in its own fold, over the fold's patients.
    num_patients = sum(map(len, patients))
    return Evidence(
        patients=np.concatenate(patients),
        influence=np.concatenate(influence) * (num_patients / len(patients)),
        seed_scores=score_seeds(metric, tested),
    )


def unit_influence(metric: MetricSpec, part: DecidedTest) -> Array:
    """Influence values (N,) of the test units on a metric T.

    They come from the metric's `influence`, else from derivatives of its `resample`, else from leaving each unit out:
    (N - 1)(T - T without i), the jackknife (Efron 1982, chapter 3). For a metric of patients, both are by patient.
    Raises ValueError if they are not N finite numbers.
    """
    request, num = part.request_of(metric), len(part.patients)
    if metric.influence is not None:
        values = np.asarray(metric.influence(request), dtype=np.float64)
    elif metric.patients:
        values = patient_influence(metric, request, part.patient_numbers)
    elif metric.resample is not None:
        resampler = metric.resample
        values = jackknife_influence(lambda weights: np.asarray(resampler(request, weights), dtype=np.float64), num)
    else:
        whole = compute(metric, request)
        kept = ~np.eye(num, dtype=bool)
        values = (num - 1) * (whole - np.array([compute(metric, repeat_units(request, keep)) for keep in kept]))
    if values.shape != (num,) or not np.isfinite(values).all():
        raise ValueError(f"expected {num} finite influence values")
    return values


def patient_influence(metric: MetricSpec, request: MetricRequest, patients: Array) -> Array:
    """Influence values (N,) of a metric of patients: each unit has an equal part of its patient's.

    A patient's influence is the derivative by the weight that its units share, else from leaving all of them out.
    """
    sizes = np.bincount(patients)
    num_patients, resampler = len(sizes), metric.resample
    if resampler is not None:
        by_patient = jackknife_influence(
            lambda weights: np.asarray(resampler(request, weights[:, patients]), dtype=np.float64), num_patients
        )
    else:
        whole = compute(metric, request)
        kept = (np.flatnonzero(patients != patient) for patient in range(num_patients))
        left = np.array([compute(metric, request.take(rows)) for rows in kept])
        by_patient = (num_patients - 1) * (whole - left)
    values: Array = (by_patient * (len(patients) / num_patients) / sizes)[patients]
    return values
