"""Rank models over several datasets: mean rank, win probability, and Wilcoxon's test."""

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
    """The scores of k models on one dataset; higher is better.

    A model is not `steady` if it failed for some seeds; then the variance of its scores says nothing about other
    models.
    """

    influence: Array  # (k, n), by patient
    seed_scores: Sequence[Array]  # k arrays (S_m,)
    steady: Array | None = None  # bool (k,); None: all models are steady


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Ranking of k models over several datasets: arrays (k,), intervals (k, 2)."""

    mean_rank: Array
    mean_rank_interval: Array
    win_probability: Array
    win_probability_interval: Array
    first_probability: Array  # of having the best mean rank


def resample_scores(
    samples: DatasetSamples,
    seed: Sequence[int],
    num_resamples: int = NUM_RESAMPLES,
    *,
    patients: bool = True,
    seeds: bool = True,
) -> Array:
    """Resample the scores of k models over patients, over seeds, or both: (B, k).

    All models share the drawn patients. To first order, a resampled score is the score + the mean influence of the
    drawn patients + a normal deviate of variance v_m/S (`seed_variances`), since two or three seeds are too few values
    to draw from. A model with a single score is deterministic.
    """
    scores = np.tile([exact_mean(values) for values in samples.seed_scores], (num_resamples, 1))
    if patients:
        num_patients = samples.influence.shape[1]
        weights = bootstrap_weights(np.arange(num_patients), num_resamples, seed)
        # All weights as floats would take 750 MB for 47,000 patients.
        for start in range(0, num_resamples, DATASETS_CHUNK):
            rows = slice(start, start + DATASETS_CHUNK)
            scores[rows] += weights[rows] @ samples.influence.T / num_patients
    if seeds:
        random = np.random.default_rng([*seed, 1])
        scores += random.normal(size=scores.shape) * np.sqrt(seed_variances(samples.seed_scores, samples.steady))
    return scores


def descending_ranks(scores: Array) -> Array:
    """Rank scores along the last axis, 1 for the highest; scores equal up to rounding share their mean rank."""
    from scipy.stats import rankdata

    ranks: Array = rankdata(-rounded(scores), axis=-1)
    return ranks


def order_models(
    datasets: Sequence[DatasetSamples], num_resamples: int = NUM_RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> Order:
    """Mean rank and win probability of each model over the datasets, with bootstrap intervals.

    Patients are resampled within each dataset and seeds within each model; the datasets are fixed. The intervals hold
    for these datasets with other patients and seeds, not for other datasets (for those, see `wilcoxon_holm`). The win
    probability of a model is the share of (dataset, other model) pairs in which it scores higher, ties counting one
    half: (k - rank)/(k - 1) averaged over datasets (the A of Vargha & Delaney 2000).

    Resampled ranks are noisier than the observed ones and so lie closer to the middle rank. With 10 models and 10
    datasets, percentile intervals cover the first model's expected mean rank in 38 % of cases, and percentiles shifted
    by that bias cover the other models' in 87 %. The interval is therefore the union of both, clipped to 1..k.
    """
    num_models = len(datasets[0].seed_scores)
    observed = np.stack(
        [descending_ranks(np.array([exact_mean(values) for values in samples.seed_scores])) for samples in datasets]
    )
    ranks = [
        descending_ranks(resample_scores(samples, (seed, number), num_resamples))
        for number, samples in enumerate(datasets)
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
    """The smallest number of datasets N at which Wilcoxon's test can pass Holm's first level: 2^(1 - N) < alpha/P.

    6 for one pair, 9 for 10 pairs (5 models), 11 for 45 pairs (10 models). With fewer, no result can be significant.
    """
    num = 2
    while smallest_p(num) >= alpha / num_pairs:
        num += 1
    return num


def wilcoxon_holm(scores: Array) -> Array | None:
    """Holm-adjusted p values of all pairs of k models, in the order of `numpy.triu_indices`, from scores (N, k).

    Wilcoxon's signed-rank test over N datasets (1945, Biometrics Bulletin 1:80; recommended by Demsar 2006, JMLR 7:1,
    and by Benavoli, Corani & Mangili 2016, JMLR 17:5, because the test of a pair must not depend on the other models).
    Exact if no difference is zero and no two are tied. Returns None if there are too few datasets.
    """
    from scipy.stats import wilcoxon

    num_datasets, num_models = scores.shape
    first, second = np.triu_indices(num_models, k=1)
    if num_datasets < datasets_needed(len(first)):
        return None
    # Rounded as in `descending_ranks`: differences that are equal up to the last bits are ties, or 0.
    differences = [rounded(scores[:, a] - scores[:, b]) for a, b in zip(first, second, strict=True)]
    return holm(np.array([float(wilcoxon(d).pvalue) if np.any(d) else 1.0 for d in differences]))


def normalized_mean(scores: Array, chance: Array) -> float:
    """Mean over datasets of (score - chance)/(1 - chance): 0 at chance, 1 at the maximum; both arguments (N,)."""
    return exact_mean((np.asarray(scores) - chance) / (1 - np.asarray(chance)))
