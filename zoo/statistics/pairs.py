"""Tests of models on the same patients: the rule for pairs, Holm, ranks, and the detectable difference.

A difference between two models has two sources of noise, the patients and the seeds, and both are counted. The rule and
its formula are `compare_pairs`.
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
    """All P pairs of k models: every array is (P,), the difference is `first` less `second`."""

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
        found: Array = self.patient_variance + self.seed_variance
        return found


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test: exact and mid-p from the binomial, and the statistic with continuity correction."""

    exact: float
    mid: float
    statistic: float


def compare_pairs(influence: Array, seed_scores: Sequence[Array]) -> PairwiseTests:
    """Test every pair of k models: `influence` (k, n) by patient, averaged over seeds; each model's scores by seed.

    D is the difference of the mean scores. Its variance is V_case + V_seed:
    V_case = s^2(influence_a - influence_b over the n patients)/n: clustered by patient (Obuchowski 1997);
    V_seed = v_a/S_a + v_b/S_b, v_m the variance between seeds of model m's score, but at least the mean of v over all
    models: a variance of three numbers is too often too small by chance.
    t = D/sqrt(V_case + V_seed) has Satterthwaite's degrees of freedom (1946),
    (V_case + V_seed)^2 / (V_seed^2/sum_m(S_m - 1) + V_case^2/(n - 1)); sum_m(S_m - 1) is k (S - 1) where all models
    have S seeds. Then Holm over all pairs. Needs two seeds a model, and two patients.

    Where all patients and seeds differ alike (variance 0, as a perfect model's from a constant one) p is 2^(1 - n), the
    smallest that a sign-flip test of n patients can give.
    """
    from scipy.special import stdtr

    num_models, num_patients = influence.shape
    first, second = np.triu_indices(num_models, k=1)
    seeds = np.array([len(scores) for scores in seed_scores])
    if num_patients < 2 or (seeds < 2).any():
        raise ValueError("a test needs two patients, and two seeds of every model")
    means = np.array([exact_mean(scores) for scores in seed_scores])
    floored = seed_variances(seed_scores)
    difference = without_rounding(means[first] - means[second])
    covariance = np.atleast_2d(np.cov(influence)) / num_patients
    variances = np.diag(covariance)
    case = np.maximum(variances[first] + variances[second] - 2 * covariance[first, second], 0.0)
    case[case <= 1e-12 * (variances[first] + variances[second])] = 0.0  # equal models leave rounding behind
    seed = floored[first] + floored[second]
    total = case + seed
    spread = seed**2 / (seeds - 1).sum() + case**2 / (num_patients - 1)
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
    """The differences of scores, 0 where they are no more than the rounding of two equal ones."""
    kept: Array = np.where(np.abs(differences) <= ROUNDING, 0.0, differences)
    return kept


def seed_variances(seed_scores: Sequence[Array], steady: Array | None = None) -> Array:
    """v_m/S_m of k models: the variance of their mean scores between draws of seeds, as `compare_pairs` takes it.

    The least is the mean over the `steady` models, bool (k,); all of them where nobody says.
    """
    seeds = np.array([len(scores) for scores in seed_scores])
    between = np.array([np.var(scores, ddof=1) for scores in seed_scores])
    usual = between if steady is None else between[steady]
    floored: Array = np.maximum(between, usual.mean() if len(usual) else 0.0) / seeds
    return floored


def holm(p: Array) -> Array:
    """Holm's adjusted p values (1979, Scandinavian Journal of Statistics 6:65): the chance of any false claim is alpha.

    Sorted ascending, p_(i) becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1; no assumption on how the
    tests depend.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def find_better(pairs: PairwiseTests, num_models: int, alpha: float = ALPHA) -> Array:
    """bool (k, k): whether model i scores higher than model j by more than chance explains."""
    better = np.zeros((num_models, num_models), dtype=bool)
    claimed = pairs.p_holm < alpha
    up = claimed & (pairs.difference > 0)
    down = claimed & (pairs.difference < 0)
    better[pairs.first[up], pairs.second[up]] = True
    better[pairs.second[down], pairs.first[down]] = True
    return better


def rank_with_ties(better: Array) -> Array:
    """Ranks (k,): 1 + the number of models that are better. Models between which nothing was found may share one."""
    ranks: Array = 1 + better.sum(axis=0)
    return ranks


def difference_intervals(pairs: PairwiseTests, confidence: float = 0.95) -> tuple[Array, Array]:
    """D -/+ t sqrt(V_case + V_seed), each pair by itself: not adjusted for how many pairs there are."""
    from scipy.special import stdtrit

    half = stdtrit(np.minimum(pairs.df, 1e9), 0.5 + confidence / 2) * np.sqrt(pairs.variance)
    return pairs.difference - half, pairs.difference + half


def detectable_difference(pairs: PairwiseTests, alpha: float = ALPHA, power: float = POWER) -> Array:
    """The true difference that a test of this variance finds with 80 % power, at Holm's first level alpha/P; (P,).

    (t_1-alpha/2P + t_power) sqrt(V_case + V_seed), both quantiles at the pair's degrees of freedom: the normal formula
    (Chow, Shao & Wang 2008, Sample Size Calculations in Clinical Research, section 3.2) with t in place of z. Later
    steps of Holm are easier: what it names is found at least that often.
    """
    found: Array = detection_quantile(pairs, alpha, power) * np.sqrt(pairs.variance)
    return found


def detection_quantile(pairs: PairwiseTests, alpha: float, power: float) -> Array:
    from scipy.special import stdtrit

    df = np.minimum(pairs.df, 1e9)
    quantile: Array = stdtrit(df, 1 - alpha / (2 * len(pairs))) + stdtrit(df, power)
    return quantile


def patients_needed(pairs: PairwiseTests, num_patients: int, alpha: float = ALPHA, power: float = POWER) -> Array:
    """Test patients with whom the difference seen would be found with 80 % power, seeds as they are; (P,).

    n V_case / ((D/q)^2 - V_seed), q as in `detectable_difference`. Infinite where the seeds alone hide it (V_seed >=
    (D/q)^2): then more seeds are needed first. It takes the difference seen for the true one: a plan.
    """
    room = (pairs.difference / detection_quantile(pairs, alpha, power)) ** 2 - pairs.seed_variance
    needed = np.full(len(pairs), np.inf)
    np.divide(num_patients * pairs.patient_variance, room, out=needed, where=room > 0)
    return np.asarray(np.ceil(needed))


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test (1947, Psychometrika 12:153) of two runs' decisions on the same, independent units.

    `only_first` and `only_second` are the units that only one of them got right. Exact: twice the smaller binomial
    tail at 1/2. Mid-p: half of the observed point is left out of it (Fagerland, Lydersen & Laake 2013, BMC Medical
    Research Methodology 13:91, who recommend it: exact is needlessly conservative). Statistic: (|b - c| - 1)^2/(b + c).
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
    """2^(1 - n): the smallest two-sided p of a sign-flip or Wilcoxon signed-rank test of n differences."""
    return float(2.0 ** (1 - num))
