"""Tests between models on the same patients: pairwise tests, Holm's adjustment, ranks, and the detectable difference.

The variance of a difference has two sources, the patients and the seeds; `compare_pairs` includes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.statistics.means import ROUNDING, exact_mean

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, kw_only=True, eq=False)
class PairwiseTests:
    """Tests of all P pairs of k models. Every array is (P,); the difference is `first` minus `second`."""

    first: Array  # index of the model
    second: Array
    difference: Array
    patient_variance: Array
    seed_variance: Array
    df: Array
    p: Array
    p_holm: Array

    def __len__(self) -> int:
        return len(self.difference)

    @property
    def variance(self) -> Array:
        total: Array = self.patient_variance + self.seed_variance
        return total


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """The result of McNemar's test."""

    exact: float  # p, from the binomial distribution
    mid: float  # mid-p, from the binomial distribution
    statistic: float  # with continuity correction


def compare_pairs(influence: Array, seed_scores: Sequence[Array]) -> PairwiseTests:
    """Test every pair of k models, and adjust the p values by Holm's method over all pairs.

    `influence` (k, n) is by patient, averaged over seeds; `seed_scores` are k arrays (S_m,), each model's score by
    seed. D is the difference of the mean scores. Its variance is V_case + V_seed:
    V_case = s^2(influence_a - influence_b over the n patients)/n, clustered by patient (Obuchowski 1997);
    V_seed = v_a/S_a + v_b/S_b, where v_m is the variance between seeds of model m's score, but at least the mean of v
    over all models, because the variance of three numbers is often too small by chance. A model with a single score is
    deterministic: its v is 0, and it does not count in that mean.
    t = D/sqrt(V_case + V_seed) has Satterthwaite's degrees of freedom (1946),
    (V_case + V_seed)^2 / (V_seed^2/sum_m(S_m - 1) + V_case^2/(n - 1)); sum_m(S_m - 1) is k (S - 1) if all models have
    S seeds. Raises ValueError with fewer than two patients, or without a score of a model.

    If the difference is the same for all patients and seeds (variance 0, as between a perfect and a constant model), p
    is 2^(1 - n), the smallest p value of a sign-flip test on n patients.
    """
    from scipy.special import stdtr

    num_models, num_patients = influence.shape
    first, second = np.triu_indices(num_models, k=1)
    seeds = np.array([len(scores) for scores in seed_scores])
    if num_patients < 2 or (seeds < 1).any():
        raise ValueError("a test needs two patients, and a score of every model")
    means = np.array([exact_mean(scores) for scores in seed_scores])
    floored = seed_variances(seed_scores)
    difference = without_rounding(means[first] - means[second])
    covariance = np.atleast_2d(np.cov(influence)) / num_patients
    variances = np.diag(covariance)
    case = np.maximum(variances[first] + variances[second] - 2 * covariance[first, second], 0.0)
    case[case <= 1e-12 * (variances[first] + variances[second])] = 0.0  # rounding errors of equal models
    seed = floored[first] + floored[second]
    total = case + seed
    spread = seed**2 / max((seeds - 1).sum(), 1) + case**2 / (num_patients - 1)
    df = np.divide(total**2, spread, out=np.full(len(total), np.inf), where=spread > 0)
    t = np.divide(difference, np.sqrt(total), out=np.zeros(len(total)), where=total > 0)
    certain = smallest_p(num_patients)
    p = np.where(total > 0, 2 * stdtr(df, -np.abs(t)), np.where(difference == 0, 1.0, certain))
    return PairwiseTests(
        first=first,
        second=second,
        difference=difference,
        patient_variance=case,
        seed_variance=seed,
        df=df,
        p=p,
        p_holm=holm(p),
    )


def without_rounding(differences: Array) -> Array:
    """Set differences of scores that are within `ROUNDING` to 0."""
    result: Array = np.where(np.abs(differences) <= ROUNDING, 0.0, differences)
    return result


def seed_variances(seed_scores: Sequence[Array], steady: Array | None = None) -> Array:
    """v_m/S_m of k models (k,): the variance of each mean score between draws of seeds, as used by `compare_pairs`.

    v_m is at least the mean over the `steady` models, bool (k,); by default over all models. It is 0 for a model with
    a single score, which is deterministic.
    """
    seeds = np.array([len(scores) for scores in seed_scores])
    varies = seeds > 1
    between = np.array([np.var(scores, ddof=1) if len(scores) > 1 else 0.0 for scores in seed_scores])
    usual = between[varies if steady is None else varies & steady]
    floored: Array = np.where(varies, np.maximum(between, usual.mean() if len(usual) else 0.0), 0.0) / seeds
    return floored


def holm(p: Array) -> Array:
    """Adjust p values (m,) by Holm's method (1979, Scandinavian Journal of Statistics 6:65).

    In ascending order, p_(i) becomes the maximum of (m - j + 1) p_(j) over j <= i, at most 1. Controls the probability
    of any false claim at alpha, whatever the dependence between the tests.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def find_better(pairs: PairwiseTests, num_models: int, alpha: float = ALPHA) -> Array:
    """Whether model i scores significantly higher than model j: bool (k, k)."""
    better = np.zeros((num_models, num_models), dtype=bool)
    claimed = pairs.p_holm < alpha
    up = claimed & (pairs.difference > 0)
    down = claimed & (pairs.difference < 0)
    better[pairs.first[up], pairs.second[up]] = True
    better[pairs.second[down], pairs.first[down]] = True
    return better


def rank_with_ties(better: Array) -> Array:
    """Ranks (k,): 1 + the number of significantly better models. Models without a significant difference may tie."""
    ranks: Array = 1 + better.sum(axis=0)
    return ranks


def difference_intervals(pairs: PairwiseTests, confidence: float = 0.95) -> tuple[Array, Array]:
    """Interval D -/+ t sqrt(V_case + V_seed) of each pair: two arrays (P,), not adjusted for the number of pairs."""
    from scipy.special import stdtrit

    half = stdtrit(np.minimum(pairs.df, 1e9), 0.5 + confidence / 2) * np.sqrt(pairs.variance)
    return pairs.difference - half, pairs.difference + half


def detectable_difference(pairs: PairwiseTests, alpha: float = ALPHA, power: float = POWER) -> Array:
    """The smallest true difference that a test of this variance detects with 80 % power at Holm's level alpha/P: (P,).

    (t_1-alpha/2P + t_power) sqrt(V_case + V_seed), both quantiles at the pair's degrees of freedom: the normal formula
    (Chow, Shao & Wang 2008, Sample Size Calculations in Clinical Research, section 3.2) with t in place of z. The
    levels of Holm's later steps are larger, so the power is at least as stated.
    """
    detectable: Array = detection_quantile(pairs, alpha, power) * np.sqrt(pairs.variance)
    return detectable


def detection_quantile(pairs: PairwiseTests, alpha: float, power: float) -> Array:
    from scipy.special import stdtrit

    df = np.minimum(pairs.df, 1e9)
    quantile: Array = stdtrit(df, 1 - alpha / (2 * len(pairs))) + stdtrit(df, power)
    return quantile


def patients_needed(pairs: PairwiseTests, num_patients: int, alpha: float = ALPHA, power: float = POWER) -> Array:
    """The number of test patients at which the observed difference would be detected with 80 % power: (P,).

    n V_case / ((D/q)^2 - V_seed), q as in `detectable_difference`, with the present seeds. Infinite if the variance
    between seeds alone hides the difference (V_seed >= (D/q)^2); then more seeds are needed first. For planning only:
    it takes the observed difference for the true one.
    """
    allowed_variance = (pairs.difference / detection_quantile(pairs, alpha, power)) ** 2 - pairs.seed_variance
    needed = np.full(len(pairs), np.inf)
    np.divide(num_patients * pairs.patient_variance, allowed_variance, out=needed, where=allowed_variance > 0)
    return np.asarray(np.ceil(needed))


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test (1947, Psychometrika 12:153) of two runs' decisions on the same, independent units.

    `only_first` and `only_second` count the units that only one of the runs classified correctly. Exact p: twice the
    smaller binomial tail at 1/2. Mid-p: the tail counts half of the observed point (recommended by Fagerland, Lydersen
    & Laake 2013, BMC Medical Research Methodology 13:91, because the exact test is conservative). Statistic:
    (|b - c| - 1)^2/(b + c).
    """
    from scipy.stats import binom

    total, least = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return McNemar(exact=1.0, mid=1.0, statistic=0.0)
    tail, point = 2 * float(binom.cdf(least, total, 0.5)), float(binom.pmf(least, total, 0.5))
    mid = 1 - point if only_first == only_second else tail - point
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / total
    return McNemar(exact=min(tail, 1.0), mid=mid, statistic=statistic)


def smallest_p(num: int) -> float:
    """The smallest two-sided p value of a sign-flip or Wilcoxon signed-rank test on n differences: 2^(1 - n)."""
    return float(2.0 ** (1 - num))
