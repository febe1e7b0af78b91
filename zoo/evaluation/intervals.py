"""Confidence intervals of a metric, by the method that suits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.methods import IntervalMethod, MethodCode
from zoo.evaluation.reasons import Reason, Unavailable, reason_for, reason_for_interval
from zoo.evaluation.thresholds import SCORE_TOLERANCE, DecidedTest
from zoo.evaluation.values import Score, compute, compute_or_nan, mean_of_means, repeat_units
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext
from zoo.statistics.intervals import (
    add_seed_variance,
    bootstrap_weights,
    noise_free_interval,
    percentile_interval,
    wilson_interval,
)
from zoo.statistics.means import exact_mean
from zoo.statistics.roc import ClusteredArea, clustered_area, clustered_interval, delong_covariance, logit_interval

BOOTSTRAP_SEED = 20_250_101  # one for all models, so that they share their resamples
RESAMPLES_AT_ONCE = 500_000  # weights converted to floats at once; perf: 4 MB fit the cache, 16 MB take a third longer
MIN_CHUNK_RESAMPLES = 64  # for large test splits: 47,000 images take 24 MB, about 150 MB with a metric's intermediates
# Below this, logit-DeLong covers 88 to 93 %, Newcombe's interval 95 to 98 % (benchmarks/statistics/simulate.py)
MIN_MISPLACED = 2

WILSON_FORMULA = (
    "The p that solve |p_hat - p| = z sqrt(p (1 - p) / n): center (p_hat + z^2/2n) / (1 + z^2/n), half width z "
    "sqrt(p_hat (1 - p_hat)/n + z^2/4n^2) / (1 + z^2/n). Wilson 1927, JASA 22:209; method 3 of Newcombe 1998, "
    "Statistics in Medicine 17:857."
)
LOGIT_DELONG_FORMULA = (
    "expit(logit A -/+ z sqrt(V)/(A (1 - A))), V from DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837; Pepe "
    "2003, The Statistical Evaluation of Medical Tests, section 5.2.3."
)
NEWCOMBE_FORMULA = (
    "The areas T that solve |A - T| = t sqrt(V(T)), A the mean over F folds, V(T) = sum of inflation V_HM(T) / F^2, "
    "V_HM from Hanley & McNeil 1982, Radiology 143:29: method 5 of Newcombe 2006, Statistics in Medicine 25:559, with "
    "a design effect (Rao & Scott 1992, Biometrics 48:577). The inflation is the design effect, Obuchowski's variance "
    "(1997, Biometrics 53:567) over DeLong's, times the ratio of DeLong's variance of the seeds' mean to that of one "
    "seed. The design effect is at least 1, and at most the larger of the mean cluster sizes of a positive and of a "
    "negative, sum n_i^2 / sum n_i for patients with n_i units (Kish 1965, Survey Sampling); if every unit is ranked "
    "correctly, it is that maximum. t has Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110) over "
    "the effective numbers of patients of the two classes, units over cluster size, and at most those of all patients "
    "(z for independent units)."
)
DRAW_FORMULA = (
    "Each resample draws as many patients as there are, with replacement, and includes all images of a patient each "
    "time it is drawn (cluster bootstrap: Field & Welsh 2007, JRSS B 69:369)."
)
PERCENTILE_FORMULA = (
    "The 2.5th and 97.5th percentiles of the resampled values (Efron & Tibshirani 1993, section 13.3). Resamples in "
    "which the metric is undefined are left out and counted; no interval if they are more than 5 %, or if all values "
    "are equal."
)
NOISE_FREE_FORMULA = (
    "Low: the value minus the 97.5th percentile of the noise, the sum that chance alone gives, and at least 0. High: "
    "the 97.5th percentile of the resampled values minus their bias, which is their mean minus the value (Efron & "
    "Tibshirani 1993, section 10.2), and at least the value."
)
# The formula and the source of each method of `add_interval`.
INTERVAL_FORMULAS: Mapping[MethodCode, str] = {
    "wilson": WILSON_FORMULA,
    "logit-delong": LOGIT_DELONG_FORMULA,
    "newcombe": NEWCOMBE_FORMULA,
    "clustered-newcombe": NEWCOMBE_FORMULA,
    "noise-free-bootstrap": f"{DRAW_FORMULA} {NOISE_FREE_FORMULA}",
    "bootstrap": f"{DRAW_FORMULA} {PERCENTILE_FORMULA}",
}
MetricInterval = tuple[float, float, IntervalMethod]


def draw_patients(tested: Sequence[Sequence[DecidedTest]]) -> list[Array]:
    """Draw the resamples of each fold, counts (B, N), for all seeds; float64 if they fit the cache, else uint16.

    Raises ValueError if the seeds were not tested on the same patients in the same order.
    """
    first = tested[0]
    for folds in tested[1:]:
        if len(folds) != len(first) or any(
            not np.array_equal(a.patients, b.patients) for a, b in zip(folds, first, strict=True)
        ):
            raise ValueError("the seeds were not tested on the same patients in the same order")
    drawn = [bootstrap_weights(part.patients, seed=(BOOTSTRAP_SEED, fold)) for fold, part in enumerate(first)]
    # perf: one conversion for all metrics and seeds
    return [counts.astype(np.float64) if counts.size <= RESAMPLES_AT_ONCE else counts for counts in drawn]


def add_interval(
    score: Score,
    seed_scores: Array,
    metric: MetricSpec,
    tested: Sequence[Sequence[DecidedTest]],
    draws: Sequence[Array],
    card: ScoringContext,
) -> Score:
    """Add the interval to a score, or the reason why there is none."""
    assert score.value is not None
    try:
        interval = proportion_interval(metric, tested) or area_interval(metric, tested)
        low, high, method = interval or bootstrap_interval(score.value, metric, tested, draws, card)
    except (Exception, SystemExit) as error:
        return replace(score, reason=reason_for(error, "no-interval"))
    if len(seed_scores) > 1:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        low, high = add_seed_variance((low, high), score.value, seed_scores, num_patients)
        least, most = metric.bounds
        low, high = low if least is None else max(low, least), high if most is None else min(high, most)
        method = replace(method, with_seeds=True)
    return replace(score, low=low, high=high, method=method)


def bootstrap_interval(
    value: float,
    metric: MetricSpec,
    tested: Sequence[Sequence[DecidedTest]],
    draws: Sequence[Array],
    card: ScoringContext,
) -> MetricInterval:
    """Interval over resampled patients: low, high and method. Raises `Undefined` if the resamples give none."""

    def average(function: Callable[[DecidedTest, Array], Array]) -> Array:
        return mean_of_means(
            [[function(part, weights) for part, weights in zip(folds, draws, strict=True)] for folds in tested]
        )

    resampled = average(partial(resample, metric))
    if metric.noise is not None:
        noise = average(partial(in_chunks, metric, metric.noise))
        interval = noise_free_interval(value, resampled, noise)
    else:
        interval = percentile_interval(resampled)
    if interval.low is None or interval.high is None:
        raise Unavailable(reason_for_interval(interval))
    if not interval.low - SCORE_TOLERANCE <= value <= interval.high + SCORE_TOLERANCE:
        raise Unavailable(Reason("biased-resamples"))
    method = IntervalMethod(
        code="bootstrap" if metric.noise is None else "noise-free-bootstrap",
        unit="patient" if card.has_patients else "image",
        count=interval.num_undefined,
    )
    return interval.low, interval.high, method


def proportion_interval(metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]]) -> MetricInterval | None:
    """Wilson's interval if the value is a proportion of independent units in one fold, else None.

    For several seeds, use their mean proportion and mean number of trials, as if all seeds were right and wrong on the
    same units. This interval is never too narrow, and it exists where a bootstrap interval has width 0.
    """
    if metric.counts is None or len(tested[0]) > 1:
        return None
    if not metric.patients and len(np.unique(tested[0][0].patients)) < len(tested[0][0].patients):
        return None
    try:
        counts = np.array([metric.counts(folds[0].request_of(metric)) for folds in tested], dtype=np.float64)
    except Undefined:
        return None
    trials = float(counts[:, 1].mean())
    return (*wilson_interval(exact_mean(counts[:, 0] / counts[:, 1]) * trials, trials), IntervalMethod(code="wilson"))


def area_interval(metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]]) -> MetricInterval | None:
    """The interval of an area under the ROC curve; None if the metric is not such an area, or all scores are equal.

    For independent units use logit-DeLong; the variance of the mean over seeds comes from DeLong's covariance between
    them, and folds are independent. Use Newcombe's method with the patients' design effect if patients have several
    units, or if so few units are misplaced that an estimated variance is often too small by chance.
    """
    if metric.curve is None or metric.patients:
        return None
    clustered = any(len(np.unique(part.patients)) < len(part.patients) for part in tested[0])
    folds, variances = [], []
    for parts in zip(*tested, strict=True):  # the seeds of one fold
        try:
            curves = [metric.curve(part.request_of(metric)) for part in parts]
        except Undefined:
            return None
        positives, scores, patients = curves[0][0], np.stack([scores for _, scores in curves]), parts[0].patients
        if len(positives) < len(patients):  # some targets are unknown
            if clustered:
                return None  # the metric does not report which units these are, so not their patients either
            patients = np.arange(len(positives))
        folds.append(clustered_area(positives, scores, patients))
        variances.append(float(delong_covariance(positives, scores)[1].mean()))
    value, variance = exact_mean(fold.area for fold in folds), sum(variances) / len(folds) ** 2
    if any(fold.constant for fold in folds):
        return None
    if clustered:
        num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
        return (*clustered_interval(folds, num_patients), IntervalMethod(code="clustered-newcombe"))
    # The variance is NaN if a fold has one positive only.
    if count_misplaced(folds, value) < MIN_MISPLACED or not variance > SCORE_TOLERANCE**2:
        return (*clustered_interval(folds, np.inf), IntervalMethod(code="newcombe"))
    return (*logit_interval(value, variance), IntervalMethod(code="logit-delong"))


def count_misplaced(folds: Sequence[ClusteredArea], value: float) -> float:
    """The number of units of the rarer class times the mean share of the other class that is ranked wrongly."""
    rarer = min(sum(fold.num_positives for fold in folds), sum(fold.num_negatives for fold in folds))
    return rarer * min(value, 1 - value)


def resample(metric: MetricSpec, part: DecidedTest, weights: Array) -> Array:
    """Compute the metric in each resample (B,), NaN where undefined.

    Raises ValueError if the metric's `resample` disagrees with its `compute` on the test split itself.
    """
    request = part.request_of(metric)
    if metric.resample is None:
        return np.array([compute_or_nan(metric, repeat_units(request, drawn)) for drawn in weights])
    whole = compute(metric, request)
    unit_weights = np.ones((1, weights.shape[1]))
    again = float(np.asarray(metric.resample(request, unit_weights)).item())
    if not np.isclose(again, whole, rtol=1e-6, atol=1e-6):
        raise ValueError(f"resample gives {again:.6g} for the test split itself, where compute gives {whole:.6g}")
    return in_chunks(metric, metric.resample, part, weights)


def in_chunks(
    metric: MetricSpec, function: Callable[[MetricRequest, Array], Array], part: DecidedTest, weights: Array
) -> Array:
    """Apply a function of a metric to all resamples (B,), in chunks that fit the cache.

    A chunk is a copy: the metric may write into it.
    """
    request = part.request_of(metric)
    rows = max(MIN_CHUNK_RESAMPLES, RESAMPLES_AT_ONCE // weights.shape[1])
    chunks = (weights[start : start + rows].astype(np.float64) for start in range(0, len(weights), rows))
    values = np.concatenate([np.asarray(function(request, chunk), dtype=np.float64) for chunk in chunks])
    if values.shape != (len(weights),):
        raise ValueError(f"resample gives the shape {values.shape}, expected ({len(weights)},)")
    return values
