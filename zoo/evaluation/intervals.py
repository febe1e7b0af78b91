"""Confidence intervals of a metric by the method that suits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.thresholds import SCORE_TOLERANCE, DecidedTest
from zoo.evaluation.values import Score, compute, compute_or_nan, describe_error, mean_of_means, repeated
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext
from zoo.statistics.intervals import (
    NUM_RESAMPLES,
    add_seed_variance,
    bootstrap_weights,
    noise_free_interval,
    percentile_interval,
    wilson_interval,
)
from zoo.statistics.means import exact_mean
from zoo.statistics.roc import ClusteredArea, clustered_area, clustered_interval, delong_covariance, logit_interval

BOOTSTRAP_SEED = 20_250_101  # one for all models, so that they are resampled alike
RESAMPLES_AT_ONCE = 500_000  # weights that become floats at once; perf: 4 MB stay in the cache, 16 MB cost a third more
MIN_CHUNK_RESAMPLES = 64  # of large test splits: 47,000 images make 24 MB, some 150 MB with what a metric makes of them
# Below it logit-DeLong covers 88 to 93 %, Newcombe's interval 95 to 98 % (benchmarks/statistics/simulate.py)
MIN_MISPLACED = 2
CLUSTERED = "Newcombe's method 5 with a design effect by patient"
PATIENTS_AND_SEEDS = "patients + seeds"  # what an interval's method says where both vary


def draw_patients(tested: Sequence[Sequence[DecidedTest]]) -> list[Array]:
    """One draw of patients a fold, uint16 (B, N), for all seeds: they must have been tested on the same patients."""
    first = tested[0]
    for folds in tested[1:]:
        if len(folds) != len(first) or any(
            not np.array_equal(a.patients, b.patients) for a, b in zip(folds, first, strict=True)
        ):
            raise ValueError("the seeds were not tested on the same patients in the same order")
    return [bootstrap_weights(part.patients, seed=(BOOTSTRAP_SEED, fold)) for fold, part in enumerate(first)]


def add_interval(
    scored: Score,
    seed_scores: Array,
    metric: MetricSpec,
    tested: Sequence[Sequence[DecidedTest]],
    draws: Sequence[Array],
    card: ScoringContext,
) -> Score:
    """The score with its interval, or with the reason why it has none."""
    assert scored.value is not None
    try:
        found = wilson_of(metric, tested) or area_interval(metric, tested)
        found = found or bootstrap_interval(scored.value, metric, tested, draws, card)
    except Undefined as reason:
        return replace(scored, reason=f"no interval: {reason}")
    except (Exception, SystemExit) as error:
        return replace(scored, reason=f"no interval: {describe_error(error)}")
    low, high, method = found
    if len(seed_scores) > 1:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        low, high = add_seed_variance((low, high), scored.value, seed_scores, num_patients)
        least, most = metric.bounds
        low, high = low if least is None else max(low, least), high if most is None else min(high, most)
        method += f" ({PATIENTS_AND_SEEDS})"
    return replace(scored, low=low, high=high, method=method)


def bootstrap_interval(
    value: float,
    metric: MetricSpec,
    tested: Sequence[Sequence[DecidedTest]],
    draws: Sequence[Array],
    card: ScoringContext,
) -> tuple[float, float, str]:
    """Low, high and method, of patients drawn anew; Undefined where the resamples give none."""

    def average(function: Callable[[DecidedTest, Array], Array]) -> Array:
        return mean_of_means(
            [[function(part, weights) for part, weights in zip(folds, draws, strict=True)] for folds in tested]
        )

    resampled = average(partial(resample, metric))
    method = f"{'patient-cluster' if card.has_patients else 'image'} bootstrap, B={NUM_RESAMPLES}"
    if metric.noise is not None:
        noise = average(partial(in_chunks, metric.noise))
        interval, method = noise_free_interval(value, resampled, noise), f"{method}, less noise"
    else:
        interval = percentile_interval(resampled)
    if interval.low is None or interval.high is None:
        raise Undefined(str(interval.reason))
    if not interval.low - SCORE_TOLERANCE <= value <= interval.high + SCORE_TOLERANCE:
        raise Undefined("biased, the resampled values lie beside the value")
    if interval.num_undefined:
        method += f", undefined in {interval.num_undefined}"
    return interval.low, interval.high, method


def wilson_of(metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]]) -> tuple[float, float, str] | None:
    """Wilson's interval where the value is one proportion of independent units, of one fold, else None.

    Of several seeds it is that of their mean share, of their mean number of trials, as if all seeds were right and
    wrong on the same units: at most too wide, and there is one where a bootstrap has width 0.
    """
    if metric.counts is None or len(tested[0]) > 1:
        return None
    if len(np.unique(tested[0][0].patients)) < len(tested[0][0].patients):
        return None
    try:
        counts = np.array([metric.counts(folds[0].request) for folds in tested], dtype=np.float64)
    except Undefined:
        return None
    trials = float(counts[:, 1].mean())
    return (*wilson_interval(exact_mean(counts[:, 0] / counts[:, 1]) * trials, trials), "wilson")


def area_interval(metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]]) -> tuple[float, float, str] | None:
    """The interval of one area under the ROC curve; None where the value is none, or every unit is scored alike.

    Of independent units logit-DeLong, with the variance of the mean over seeds from DeLong's covariance between them,
    over independent folds. Of patients with several units, and where so few are misplaced that a variance seen is by
    chance too small, Newcombe's, with the design effect of the patients.
    """
    if metric.curve is None:
        return None
    clustered = any(len(np.unique(part.patients)) < len(part.patients) for part in tested[0])
    folds, variances = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        try:
            curves = [metric.curve(part.request) for part in parts]
        except Undefined:
            return None
        positives, scores, patients = curves[0][0], np.stack([scores for _, scores in curves]), parts[0].patients
        if len(positives) < len(patients):  # some targets are unknown
            if clustered:
                return None  # nobody tells whose the others are
            patients = np.arange(len(positives))
        folds.append(clustered_area(positives, scores, patients))
        variances.append(float(delong_covariance(positives, scores)[1].mean()))
    value, variance = exact_mean(fold.area for fold in folds), sum(variances) / len(folds) ** 2
    if any(fold.constant for fold in folds):
        return None
    if clustered:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        return (*clustered_interval(folds, num_patients), CLUSTERED)
    if (
        count_misplaced(folds, value) < MIN_MISPLACED or not variance > SCORE_TOLERANCE**2
    ):  # NaN: a fold has one positive
        return (*clustered_interval(folds, np.inf), "Newcombe's method 5")
    return (*logit_interval(value, variance), "logit-DeLong")


def count_misplaced(folds: Sequence[ClusteredArea], value: float) -> float:
    """Units of the rarer class times the share of the others that are placed wrongly against one of them."""
    rarer = min(sum(fold.num_positives for fold in folds), sum(fold.num_negatives for fold in folds))
    return rarer * min(value, 1 - value)


def resample(metric: MetricSpec, part: DecidedTest, weights: Array) -> Array:
    """The metric in every resample (B,), NaN where undefined."""
    if metric.resample is None:
        return np.array([compute_or_nan(metric, repeated(part.request, drawn)) for drawn in weights])
    whole = compute(metric, part.request)
    unit_weights = np.ones((1, weights.shape[1]))
    again = float(np.asarray(metric.resample(part.request, unit_weights)).item())
    if not np.isclose(again, whole, rtol=1e-6, atol=1e-6):
        raise ValueError(f"resample gives {again:.6g} for the test split itself, where compute gives {whole:.6g}")
    return in_chunks(metric.resample, part, weights)


def in_chunks(function: Callable[[MetricRequest, Array], Array], part: DecidedTest, weights: Array) -> Array:
    """What `function` gives for all resamples (B,), a part of them at a time."""
    rows = max(MIN_CHUNK_RESAMPLES, RESAMPLES_AT_ONCE // weights.shape[1])
    chunks = [
        np.asarray(function(part.request, weights[start : start + rows].astype(np.float64)), dtype=np.float64)
        for start in range(0, len(weights), rows)
    ]
    values = np.concatenate(chunks)
    if values.shape != (len(weights),):
        raise ValueError(f"resample gives the shape {values.shape}, expected ({len(weights)},)")
    return values
