"""Weighted metrics for B resamples of N units at once, and influence values.

The weighted functions take `weights` (B, N): how often each of the N units was drawn in each resample. They compute all
B values in one pass, equal to scikit-learn's with that `sample_weight`, ties included, and NaN where undefined.

The influence value of a unit is N times the derivative of a metric with respect to that unit's weight. To first order,
the metric on other patients is its value plus their mean influence, and its variance is that of the influence values
over N (the infinitesimal jackknife: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.arrays import Array

STEP = 1e-3  # of a weight; the error of a central difference is its square, 1e-6, times the third derivative
WEIGHTS_CHUNK = 2_000_000  # weights in memory at once: 16 MB


def ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, NaN where the denominator is 0."""
    if np.all(denominator):  # perf: a third of the time of a masked division
        quotient: Array = np.divide(numerator, denominator)
        return quotient
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def total_weights(weights: Array) -> Array:
    """The sum of each resample's weights (B, N): (B, 1). perf: half the time of `sum`, and equally exact for counts."""
    totals: Array = weights @ np.ones((weights.shape[1], 1))
    return totals


def weight_below(scores: Array, by_row: Array, rows: Array, points: Array) -> tuple[Array, Array, Array]:
    """Sum the weights of `rows` with score < point (P, B), with score <= point (P, B), and of all rows (B,).

    `by_row` (N, B) is `weights` transposed. The scores are sorted once for all resamples.
    """
    rows = rows[np.argsort(scores[rows], kind="stable")]
    cumulative = np.zeros((len(rows) + 1, by_row.shape[1]))
    np.cumsum(by_row[rows], axis=0, out=cumulative[1:])
    ordered = scores[rows]
    below = cumulative[np.searchsorted(ordered, points, side="left")]
    up_to = cumulative[np.searchsorted(ordered, points, side="right")]
    return below, up_to, cumulative[-1]


def weighted_auroc(positives: Array, scores: Array, weights: Array) -> Array:
    """AUROC of each resample (B,): P(score of a positive > of a negative) + P(equal)/2, by rank sums.

    Mann & Whitney 1947. `positives` is bool (N,), `scores` (N,), `weights` (B, N).
    """
    by_row = weights.T
    below, up_to, negative = weight_below(scores, by_row, np.flatnonzero(~positives), scores[positives])
    drawn = by_row[positives]
    won = np.einsum("pb,pb->b", drawn, below + up_to) / 2
    return ratio(won, drawn.sum(axis=0) * negative)


def weighted_average_precision(positives: Array, scores: Array, weights: Array) -> Array:
    """Average precision of each resample (B,): the mean over positives of the precision at their score.

    Equals scikit-learn's sum (R_k - R_k-1) P_k. `positives` is bool (N,), `scores` (N,), `weights` (B, N).
    """
    by_row = weights.T
    drawn = by_row[positives]
    points = scores[positives]
    hits_below, _, hits = weight_below(scores, by_row, np.flatnonzero(positives), points)
    alarms_below, _, alarms = weight_below(scores, by_row, np.flatnonzero(~positives), points)
    hits_above, alarms_above = hits - hits_below, alarms - alarms_below
    # Positives that were not drawn count 0, where the precision may be 0/0.
    precision = np.divide(hits_above, hits_above + alarms_above, out=np.zeros_like(hits_above), where=drawn != 0)
    return ratio(np.einsum("pb,pb->b", drawn, precision), hits)


def weighted_spearman(first: Array, second: Array, weights: Array) -> Array:
    """Spearman's rank correlation (1904) of each resample (B,): Pearson's correlation of its midranks.

    With integer weights it equals Spearman's correlation of the rows repeated by their weights.
    """
    by_row = weights.T
    total = by_row.sum(axis=0)

    def centered_ranks(values: Array) -> Array:
        below, up_to, _ = weight_below(values, by_row, np.arange(len(values)), values)
        ranks = (below + up_to) / 2
        centered: Array = ranks - (by_row * ranks).sum(axis=0) / total
        return centered

    a, b = centered_ranks(first), centered_ranks(second)
    covariance = (by_row * a * b).sum(axis=0)
    variances = (by_row * a * a).sum(axis=0) * (by_row * b * b).sum(axis=0)
    # If all ranks are equal, centering leaves rounding errors; set such variances to 0 instead of dividing by them.
    return ratio(covariance, np.sqrt(np.where(variances > 1e-12 * total**6, variances, 0.0)))


# --- influence values ------------------------------------------------------------------------------------------------
def ratio_influence(numerators: Array, denominators: Array) -> Array:
    """Exact influence values (N,) of the mean over columns k of sum_i x_ik / sum_i d_ik, from x and d (N, K).

    N (x_ik - T_k d_ik) / sum_i d_ik, averaged over the columns with a positive denominator: the linearization of a
    ratio (Cochran 1977, Sampling Techniques, section 6.3). For accuracy d = 1; for a recall d = 1 on the images of its
    label; F1 is 2 hits over 2 hits + misses + alarms.
    """
    total = denominators.sum(axis=0)
    kept = total > 0
    x, d, total = numerators[:, kept], denominators[:, kept], total[kept]
    values: Array = (len(x) * (x - (x.sum(axis=0) / total) * d) / total).mean(axis=1)
    return values


def jackknife_influence(
    resample: Callable[[Array], Array], num_units: int, kinds: Array | None = None, step: float = STEP
) -> Array:
    """Influence values (N,) of a metric T by central differences: N dT/dw_i at weights of 1.

    `resample` maps weights (B, N) to T (B,). The derivative is (T(1 + h e_i) - T(1 - h e_i)) / 2h, computed once for
    the units of each kind (`kinds`, int (N,)), which share their influence. Valid for metrics that are smooth in the
    weights; ECE is not.
    """
    kinds = np.arange(num_units) if kinds is None else kinds
    _, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
    slopes = np.empty(len(first))
    rows = max(1, WEIGHTS_CHUNK // num_units)
    for start in range(0, len(first), rows):
        units = first[start : start + rows]
        weights = np.ones((len(units), num_units))
        diagonal = (np.arange(len(units)), units)
        weights[diagonal] = 1 + step
        above = resample(weights.copy())  # a plugin's metric may write into the weights, or keep them
        weights[diagonal] = 1 - step
        slopes[start : start + rows] = (above - resample(weights)) / (2 * step)
    values: Array = num_units * slopes[inverse]
    return values


def sum_by_patient(influence: Array, patients: Array) -> tuple[Array, Array]:
    """Sum the influence values (..., N) of N units by patient: the G sorted patients, and their values (..., G).

    A patient is drawn with all its units, so its influence is the sum of theirs. The factor G/N makes the variance of
    the metric again that of the values over their number (Obuchowski 1997, Biometrics 53:567).
    """
    unique, inverse = np.unique(patients, return_inverse=True)
    if len(unique) == len(patients):
        return unique, influence[..., np.argsort(inverse)]
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(unique)))
    summed = np.add.reduceat(influence[..., order], starts, axis=-1)
    return unique, summed * (len(unique) / len(patients))
