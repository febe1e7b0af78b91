"""From arrays to honest intervals: Wilson's, the patient-cluster bootstrap, and what it resamples, weighted.

The weighted functions take `weights` (B, N): one row a resample, how often each of the N rows was drawn. They equal
scikit-learn's value with that `sample_weight`, ties included, for all B rows in one pass, and are NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NUM_RESAMPLES = 2000
MAX_UNDEFINED = 0.05  # share of the resamples; above it the rest no longer stands for the test set


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval, or none with the reason why."""

    low: float | None = None
    high: float | None = None
    reason: str | None = None
    num_undefined: int = 0


# --- intervals -------------------------------------------------------------------------------------------------------
def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: the p that solve |p_hat - p| = z sqrt(p (1 - p) / n).

    centre (p_hat + z^2/2n) / (1 + z^2/n), half width z sqrt(p_hat (1 - p_hat)/n + z^2/4n^2) / (1 + z^2/n).
    Wilson 1927, JASA 22:209; method 3 of Newcombe 1998, Statistics in Medicine 17:857.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # At 0 and n successes the bound is exactly 0 or 1; rounding would leave it 1e-17 beside.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return low, high


def bootstrap_weights(patients: Array, num_resamples: int = NUM_RESAMPLES, seed: int | Sequence[int] = 0) -> Array:
    """How often each of the N images is drawn in each of B resamples of the patients: uint16 (B, N).

    As many patients as there are, drawn with replacement; all images of a patient come along each time it is drawn
    (the cluster bootstrap: Field & Welsh 2007, JRSS B 69:369). The draw depends on the set of patients and the seed,
    not on the order of the images, so that runs tested on the same patients are resampled alike.
    """
    unique, inverse = np.unique(patients, return_inverse=True)
    random = np.random.default_rng(seed)
    counts = np.empty((num_resamples, len(unique)), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(random.integers(len(unique), size=len(unique)), minlength=len(unique))
    # Stored by image, seen by resample: the weighted functions gather whole images.
    weights: Array = counts.T[inverse].T
    return weights


def percentile_interval(values: Array, confidence: float = 0.95) -> Interval:
    """The middle `confidence` of resampled values (B,): percentiles as of Efron & Tibshirani 1993, section 13.3.

    NaN (undefined in that resample) is dropped and counted; no interval where that is more than 5 %, or where all
    values are one: a width of 0 (AUROC = 1) says that the resamples hold no other case, not that it is certain.
    """
    defined = values[~np.isnan(values)]
    num_undefined = len(values) - len(defined)
    if num_undefined > MAX_UNDEFINED * len(values):
        return Interval(reason=f"undefined in {num_undefined} of {len(values)} resamples", num_undefined=num_undefined)
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2]).tolist()
    if high - low <= 1e-12:
        return Interval(reason="every resample gives the same value", num_undefined=num_undefined)
    return Interval(low=low, high=high, num_undefined=num_undefined)


# --- weighted, for B resamples at once -------------------------------------------------------------------------------
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
