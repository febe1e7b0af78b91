"""Confidence intervals: Wilson's, percentiles of resampled patients, and the variance between seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from zoo.arrays import Array
from zoo.statistics.means import exact_mean

NUM_RESAMPLES = 2000
MAX_UNDEFINED = 0.05  # share of the resamples; above it the others no longer represent the test set


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval, or the fault of the resampled values that give none."""

    low: float | None = None
    high: float | None = None
    fault: Literal["undefined", "equal"] | None = None  # too many undefined values, or all values are equal
    num_undefined: int = 0
    num_resamples: int = 0


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion: the two p that solve |p_hat - p| = z sqrt(p (1 - p) / n).

    Center (p_hat + z^2/2n) / (1 + z^2/n), half width z sqrt(p_hat (1 - p_hat)/n + z^2/4n^2) / (1 + z^2/n).
    Wilson 1927, JASA 22:209; method 3 of Newcombe 1998, Statistics in Medicine 17:857. Raises ValueError unless
    0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # With 0 or n successes the bound is exactly 0 or 1; rounding would leave an error of 1e-17.
    low = 0.0 if successes == 0 else float(center - half)
    high = 1.0 if successes == trials else float(center + half)
    return low, high


def bootstrap_weights(patients: Array, num_resamples: int = NUM_RESAMPLES, seed: int | Sequence[int] = 0) -> Array:
    """Count how often each of N images is drawn in each of B bootstrap resamples of the patients: uint16 (B, N).

    Cluster bootstrap (Field & Welsh 2007, JRSS B 69:369): each resample draws as many patients as there are, with
    replacement, and includes all images of a patient each time it is drawn. The draw depends on the set of patients and
    on the seed, not on the order of the images, so runs tested on the same patients share their resamples.
    """
    unique, inverse = np.unique(patients, return_inverse=True)
    counts = count_draws(len(unique), num_resamples, seed if isinstance(seed, int) else tuple(seed))
    # perf: contiguous by image, because the weighted functions gather whole images
    weights: Array = counts.T[inverse].T
    return weights


@lru_cache(maxsize=1)  # perf: all rows of a board have the same draws
def count_draws(num_patients: int, num_resamples: int, seed: int | tuple[int, ...]) -> Array:
    """How often each patient is drawn in each resample: uint16 (B, G)."""
    random = np.random.default_rng(seed)
    counts = np.empty((num_resamples, num_patients), dtype=np.uint16)
    # perf: many resamples of a few patients at once, half a megabyte of draws
    step = max(1, 2**16 // num_patients)
    for start in range(0, num_resamples, step):
        part = counts[start : start + step]
        cells = random.integers(num_patients, size=part.shape) + num_patients * np.arange(len(part))[:, None]
        part[:] = np.bincount(cells.ravel(), minlength=part.size).reshape(part.shape)
    return counts


def percentile_interval(values: Array, confidence: float = 0.95) -> Interval:
    """Percentile interval of resampled values (B,) (Efron & Tibshirani 1993, section 13.3).

    NaN (undefined in that resample) is dropped and counted. There is no interval if more than 5 % are NaN, or if all
    values are equal: a width of 0 (AUROC = 1) would mean that the resamples contain no other case, not certainty.
    """
    defined = values[~np.isnan(values)]
    num_undefined = len(values) - len(defined)
    if num_undefined > MAX_UNDEFINED * len(values):
        return Interval(fault="undefined", num_undefined=num_undefined, num_resamples=len(values))
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2]).tolist()
    if high - low <= 1e-12:
        return Interval(fault="equal", num_undefined=num_undefined, num_resamples=len(values))
    return Interval(low=low, high=high, num_undefined=num_undefined, num_resamples=len(values))


def mean_interval(values: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval for the mean of at least two independent values (B,): mean -/+ t s / sqrt(B)."""
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return exact_mean(values) - half, exact_mean(values) + half


def noise_free_interval(value: float, values: Array, noise: Array, confidence: float = 0.95) -> Interval:
    """Interval for a sum of errors over bins (ECE), which is biased upwards by chance.

    The lower bound is `value` minus the upper percentile of `noise` (B,), the sum that chance alone gives, because the
    value is at most the true one plus that noise; it is at least 0. The upper bound is the upper percentile of the
    resampled values (B,) minus their bias, which is their mean minus the value (Efron & Tibshirani 1993, section 10.2);
    it is at least the value.
    Coverage is 94 to 100 %. Percentile intervals cover 0 to 95 %, and never the error of a calibrated model (15 bins,
    100 to 1,000 images, true error 0 to .16: tests/test_statistics_simulations.py).
    """
    tails = [0.5 - confidence / 2, 0.5 + confidence / 2]
    defined = ~(np.isnan(values) | np.isnan(noise))
    num_undefined = len(values) - int(defined.sum())
    if num_undefined > MAX_UNDEFINED * len(values):
        return Interval(fault="undefined", num_undefined=num_undefined, num_resamples=len(values))
    highest, floor = np.quantile(values[defined], tails[1]), np.quantile(noise[defined], tails[1])
    if floor <= 1e-12:
        return Interval(fault="equal", num_undefined=num_undefined, num_resamples=len(values))
    bias = float(values[defined].mean()) - value
    low, high = max(value - float(floor), 0.0), max(float(highest) - bias, value)
    return Interval(low=low, high=high, num_undefined=num_undefined, num_resamples=len(values))


def add_seed_variance(
    interval: tuple[float, float], value: float, seed_values: Array, num_patients: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Widen an interval that covers the variance between patients by the variance between S seeds.

    The variances add: each half width h becomes t sqrt((h/z)^2 + s^2/S), where s^2 is the variance of `seed_values`
    (S,). Each side is squared and added by itself, so a skewed interval stays skewed (Zou & Donner 2008, Statistics in
    Medicine 27:1693). t has Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110),
    (V_case + s^2/S)^2 / ((s^2/S)^2/(S - 1) + V_case^2/(n - 1)), with V_case = ((high - low)/2z)^2. With z in place of
    t, the interval over three seeds that disagree covers 81 %, not 95 %.
    """
    from scipy.special import ndtri, stdtrit

    z = float(ndtri(0.5 + confidence / 2))
    low, high = interval
    seeds = float(np.var(seed_values, ddof=1)) / len(seed_values)
    case = ((high - low) / (2 * z)) ** 2
    if seeds + case == 0:
        return interval
    df = (case + seeds) ** 2 / (seeds**2 / (len(seed_values) - 1) + case**2 / max(num_patients - 1, 1))
    t = float(stdtrit(df, 0.5 + confidence / 2))
    return (
        value - t * float(np.sqrt(((value - low) / z) ** 2 + seeds)),
        value + t * float(np.sqrt(((high - value) / z) ** 2 + seeds)),
    )


def independent_difference(
    first: float,
    second: float,
    of_first: tuple[float, float],
    of_second: tuple[float, float],
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """MOVER interval and two-sided p for the difference of two independent estimates: (low, high, p).

    low = D - sqrt((first - low_1)^2 + (high_2 - second)^2), high likewise from the other bounds (Zou & Donner 2008,
    Statistics in Medicine 27:1693). It keeps the coverage of the two intervals, also with few cases and near 1. p
    treats the half width towards 0 as z standard errors, so p < .05 exactly where the interval excludes 0.
    """
    from scipy.special import ndtr, ndtri

    difference = first - second
    below = float(np.hypot(first - of_first[0], of_second[1] - second))
    above = float(np.hypot(of_first[1] - first, second - of_second[0]))
    half = below if difference > 0 else above
    z = float(ndtri(0.5 + confidence / 2))
    p = 1.0 if difference == 0 else 0.0 if half == 0 else float(2 * ndtr(-abs(difference) / half * z))
    return difference - below, difference + above, p
