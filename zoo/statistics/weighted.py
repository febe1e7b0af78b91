"""From weights to metrics and influence values: B resamples of N units at once.

The weighted functions take `weights` (B, N): one row a resample, how often each of the N rows was drawn. They equal
scikit-learn's value with that `sample_weight`, ties included, for all B rows in one pass, and are NaN where undefined.

The influence value of a unit is how fast a metric moves, times N, when that unit is given more weight: the metric of
other patients is about its value plus their mean influence, and its variance that of the influence values over N
(Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6: the infinitesimal jackknife).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.arrays import Array

STEP = 1e-3  # of a weight: central differences err by its square, 1e-6 of the third derivative
WEIGHTS_CHUNK = 2_000_000  # weights made at once: 16 MB


def ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def weight_below(scores: Array, by_row: Array, rows: Array, points: Array) -> tuple[Array, Array, Array]:
    """Of the `rows`: their weight with score < point, with score <= point, both (P, B), and in all (B,).

    `by_row` (N, B) is `weights` the other way round. The scores are sorted once for all resamples.
    """
    rows = rows[np.argsort(scores[rows], kind="stable")]
    cumulative = np.zeros((len(rows) + 1, by_row.shape[1]))
    np.cumsum(by_row[rows], axis=0, out=cumulative[1:])
    ordered = scores[rows]
    below = cumulative[np.searchsorted(ordered, points, side="left")]
    up_to = cumulative[np.searchsorted(ordered, points, side="right")]
    return below, up_to, cumulative[-1]


def weighted_auroc(positives: Array, scores: Array, weights: Array) -> Array:
    """P(score of a positive > of a negative) + P(equal)/2, by rank sums (Mann & Whitney 1947); (B,)."""
    by_row = weights.T
    below, up_to, negative = weight_below(scores, by_row, np.flatnonzero(~positives), scores[positives])
    drawn = by_row[positives]
    won = np.einsum("pb,pb->b", drawn, below + up_to) / 2
    return ratio(won, drawn.sum(axis=0) * negative)


def weighted_average_precision(positives: Array, scores: Array, weights: Array) -> Array:
    """Mean over positives of the precision at their score, which is sklearn's sum (R_k - R_k-1) P_k; (B,)."""
    by_row = weights.T
    drawn = by_row[positives]
    points = scores[positives]
    hits_below, _, hits = weight_below(scores, by_row, np.flatnonzero(positives), points)
    alarms_below, _, alarms_in_all = weight_below(scores, by_row, np.flatnonzero(~positives), points)
    found, alarms = hits - hits_below, alarms_in_all - alarms_below
    # A positive that was not drawn may stand where nothing was: 0/0 there counts nothing.
    precision = np.divide(found, found + alarms, out=np.zeros_like(found), where=drawn != 0)
    return ratio(np.einsum("pb,pb->b", drawn, precision), hits)


def weighted_spearman(first: Array, second: Array, weights: Array) -> Array:
    """Pearson's correlation of the mid-ranks (Spearman 1904), each resample ranked anew; (B,).

    With whole-number weights it equals Spearman's correlation of the rows repeated that often.
    """
    by_row = weights.T
    total = by_row.sum(axis=0)

    def centred_ranks(values: Array) -> Array:
        below, up_to, _ = weight_below(values, by_row, np.arange(len(values)), values)
        ranks = (below + up_to) / 2
        centred: Array = ranks - (by_row * ranks).sum(axis=0) / total
        return centred

    a, b = centred_ranks(first), centred_ranks(second)
    covariance = (by_row * a * b).sum(axis=0)
    variances = (by_row * a * a).sum(axis=0) * (by_row * b * b).sum(axis=0)
    # Centring leaves rounding behind where all ranks are one: that is 0, not a tiny number to divide by.
    return ratio(covariance, np.sqrt(np.where(variances > 1e-12 * total**6, variances, 0.0)))


# --- influence values ------------------------------------------------------------------------------------------------
def ratio_influence(numerators: Array, denominators: Array) -> Array:
    """Influence values (N,) of the mean over columns k of sum_i x_ik / sum_i d_ik: exact, no derivative is taken.

    N (x_ik - T_k d_ik) / sum_i d_ik, averaged over the columns that exist: the linearisation of a ratio (Cochran 1977,
    Sampling Techniques, section 6.3). Accuracy has d = 1; a recall has d = 1 for the images of its label; F1 is
    2 hits over 2 hits + misses + alarms.
    """
    total = denominators.sum(axis=0)
    kept = total > 0
    x, d, total = numerators[:, kept], denominators[:, kept], total[kept]
    values: Array = (len(x) * (x - (x.sum(axis=0) / total) * d) / total).mean(axis=1)
    return values


def jackknife_influence(
    resample: Callable[[Array], Array], num_units: int, kinds: Array | None = None, step: float = STEP
) -> Array:
    """Influence values (N,) of a metric that `resample` gives for weights (B, N): N dT/dw_i where all weights are 1.

    The derivative is (T(1 + h e_i) - T(1 - h e_i)) / 2h. Units of the same kind (`kinds`, int (N,)) have the same
    influence, and one of each is moved. It holds for metrics that are smooth in the weights; ECE is not.
    """
    kinds = np.arange(num_units) if kinds is None else kinds
    _, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
    slopes = np.empty(len(first))
    rows = max(1, WEIGHTS_CHUNK // num_units)
    for start in range(0, len(first), rows):
        moved = first[start : start + rows]
        weights = np.ones((len(moved), num_units))
        at = (np.arange(len(moved)), moved)
        weights[at] = 1 + step
        more = resample(weights)
        weights[at] = 1 - step
        slopes[start : start + rows] = (more - resample(weights)) / (2 * step)
    values: Array = num_units * slopes[inverse]
    return values


def sum_by_patient(influence: Array, patients: Array) -> tuple[Array, Array]:
    """The patients in order, and their influence values: (G/N) times the sum of those of their N units (..., N).

    A patient is drawn with all its units, so it moves the metric by all of them; G patients stand in for N units, so
    that the variance is again that of the values over their number (Obuchowski 1997, Biometrics 53:567).
    """
    unique, inverse = np.unique(patients, return_inverse=True)
    if len(unique) == len(patients):
        return unique, influence[..., np.argsort(inverse)]
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(unique)))
    summed = np.add.reduceat(influence[..., order], starts, axis=-1)
    return unique, summed * (len(unique) / len(patients))
