"""One order of models over several datasets: mean rank and win probability, or too few datasets to test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.statistics.intervals import NUM_RESAMPLES, bootstrap_weights
from zoo.statistics.means import exact_mean, rounded
from zoo.statistics.pairs import ALPHA, holm, seed_variances, smallest_p

DATASETS_CHUNK = 64  # resamples


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSamples:
    """k models on one dataset, higher being better: influence by patient (k, n), and each model's scores by seed.

    A model that is not `steady` failed in some seeds: how far its scores spread says nothing of the others'.
    """

    influence: Array
    seed_scores: Sequence[Array]
    steady: Array | None = None  # bool (k,); None: all are


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """k models over several datasets: all (k,), the intervals (k, 2)."""

    mean_rank: Array
    mean_rank_interval: Array
    win_probability: Array
    win_probability_interval: Array
    first_probability: Array  # of the best mean rank


def resample_scores(
    measured: DatasetSamples,
    seed: Sequence[int],
    num_resamples: int = NUM_RESAMPLES,
    *,
    patients: bool = True,
    seeds: bool = True,
) -> Array:
    """Scores (B, k) of other patients, the same for all models, and of other seeds, or of one of the two.

    To first order: score + mean influence of the drawn patients + a normal deviation of variance v_m/S, which is the
    pair rule's (`seed_variances`): two or three seeds are too few values to draw from. Needs two seeds a model.
    """
    scores = np.tile([exact_mean(values) for values in measured.seed_scores], (num_resamples, 1))
    if patients:
        num_patients = measured.influence.shape[1]
        weights = bootstrap_weights(np.arange(num_patients), num_resamples, seed)
        for start in range(
            0, num_resamples, DATASETS_CHUNK
        ):  # as floats all at once they take 750 MB for 47,000 patients
            rows = slice(start, start + DATASETS_CHUNK)
            scores[rows] += weights[rows] @ measured.influence.T / num_patients
    if seeds:
        random = np.random.default_rng([*seed, 1])
        scores += random.normal(size=scores.shape) * np.sqrt(seed_variances(measured.seed_scores, measured.steady))
    return scores


def descending_ranks(scores: Array) -> Array:
    """1 for the highest score along the last axis; equal scores, up to rounding, share their mean rank."""
    from scipy.stats import rankdata

    ranks: Array = rankdata(-rounded(scores), axis=-1)
    return ranks


def order_models(
    datasets: Sequence[DatasetSamples], num_resamples: int = NUM_RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> Order:
    """Mean rank over the datasets, and the chance to beat another model on one of them, with bootstrap intervals.

    Patients are drawn anew within every dataset, seeds within every model; the datasets stay. So the intervals speak of
    these datasets with other patients and seeds, not of other datasets: of those a test across datasets would speak
    (`wilcoxon_holm`). Win probability of a model: the share of (dataset, other model) that it beats, ties a half, which
    is (k - rank)/(k - 1) averaged over datasets (the area that Vargha & Delaney 2000 call A).

    Ranks drawn anew are noisier than those seen, so they lie nearer to the middle: percentiles of them hold the first
    model's expected mean rank in 38 % (10 models, 10 datasets), and percentiles moved by that bias are too short for
    the others (87 %). So the interval reaches from the lower to the upper bound of both, within 1 and k.
    """
    num_models = len(datasets[0].seed_scores)
    observed = np.stack(
        [descending_ranks(np.array([exact_mean(values) for values in tested.seed_scores])) for tested in datasets]
    )
    ranks = [
        descending_ranks(resample_scores(tested, (seed, number), num_resamples))
        for number, tested in enumerate(datasets)
    ]
    drawn = np.mean(ranks, axis=0)
    tails = [0.5 - confidence / 2, 0.5 + confidence / 2]
    mean_rank = observed.mean(axis=0)
    low, high = np.quantile(drawn, tails, axis=0)
    bias = drawn.mean(axis=0) - mean_rank
    interval = np.clip([low - np.maximum(bias, 0), high - np.minimum(bias, 0)], 1, num_models).T
    leading = drawn == drawn.min(axis=1, keepdims=True)

    def to_wins(ranks: Array) -> Array:
        wins: Array = (num_models - ranks) / max(num_models - 1, 1)
        return wins

    return Order(
        mean_rank=mean_rank,
        mean_rank_interval=interval,
        win_probability=to_wins(mean_rank),
        win_probability_interval=to_wins(interval[:, ::-1]),
        first_probability=(leading / leading.sum(axis=1, keepdims=True)).mean(axis=0),
    )


def datasets_needed(num_pairs: int, alpha: float = ALPHA) -> int:
    """The fewest datasets with which Wilcoxon's test could ever pass Holm's first level: 2^(1 - N) < alpha/P.

    6 for one pair, 9 for 10 (5 models), 11 for 45 (10 models): with fewer, no result whatever could be significant.
    """
    num = 2
    while smallest_p(num) >= alpha / num_pairs:
        num += 1
    return num


def wilcoxon_holm(scores: Array) -> Array | None:
    """Holm-adjusted p of every pair of k models over N datasets, scores (N, k), in the order of `numpy.triu_indices`.

    Wilcoxon's signed-rank test (1945, Biometrics Bulletin 1:80; recommended by Demsar 2006, JMLR 7:1, and Benavoli,
    Corani & Mangili 2016, JMLR 17:5, since the test of one pair must not hang on the other models). Exact where no
    difference is zero and none are tied. None: too few datasets.
    """
    from scipy.stats import wilcoxon

    num_datasets, num_models = scores.shape
    first, second = np.triu_indices(num_models, k=1)
    if num_datasets < datasets_needed(len(first)):
        return None
    # Rounded as ranks are: differences that are one but for their last bits are tied, and none is none.
    differences = [rounded(scores[:, a] - scores[:, b]) for a, b in zip(first, second, strict=True)]
    return holm(np.array([float(wilcoxon(d).pvalue) if np.any(d) else 1.0 for d in differences]))


def normalised_mean(scores: Array, chance: Array) -> float:
    """Mean over datasets of (score - chance)/(1 - chance): 0 is chance, 1 is perfect, whatever the metric's chance."""
    return exact_mean((np.asarray(scores) - chance) / (1 - np.asarray(chance)))
