"""Intervals, tests and weighted metrics against published values, scipy, statsmodels and scikit-learn."""

import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.stats
from factories import paired_delong
from pytest import approx
from scipy.stats import binom, binomtest, spearmanr
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
    roc_curve,
)
from statsmodels.stats import contingency_tables, multitest, power, proportion

from zoo import BINARY
from zoo.errors import Undefined
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.specs.metric import MetricRequest
from zoo.statistics.datasets import (
    DatasetSamples,
    datasets_needed,
    normalized_mean,
    order_models,
    resample_scores,
    wilcoxon_holm,
)
from zoo.statistics.intervals import add_seed_variance, bootstrap_weights, percentile_interval, wilson_interval
from zoo.statistics.pairs import (
    compare_pairs,
    detectable_difference,
    difference_intervals,
    find_better,
    holm,
    mcnemar,
    patients_needed,
    rank_with_ties,
    smallest_p,
)
from zoo.statistics.roc import (
    ClusteredArea,
    area_under_curve,
    auroc_influence,
    clustered_interval,
    clustered_variance,
    delong_covariance,
    logit_interval,
    midranks,
    placements,
)
from zoo.statistics.weighted import (
    jackknife_influence,
    ratio_influence,
    sum_by_patient,
    weighted_auroc,
    weighted_average_precision,
    weighted_spearman,
)

REFERENCE = Path(__file__).with_name("stat_reference.json")
ASAH = Path(
    os.environ.get("ZOO_ASAH", "aSAH.csv")
)  # the data frame of the R package pROC, GPL-3: not distributable with zoo


def reference() -> dict:
    return json.loads(REFERENCE.read_text())


def test_each_reference_value_is_used_by_a_test():
    source = Path(__file__).read_text()
    assert [name for name in reference() if f'["{name}"]' not in source] == []


# --- Wilson ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (1, 29), (81, 263), (15, 148), (1, 1)])
def test_wilson_equals_scipys(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == approx((expected.low, expected.high), abs=1e-12)


def test_wilson_equals_newcombes_table():
    for counts, expected in reference()["wilson_newcombe1998"].items():
        successes, trials = map(int, counts.split("/"))
        assert wilson_interval(successes, trials) == approx(expected, abs=1e-9)


def test_wilson_covers_as_often_as_computed_exactly():
    for trials, expected in reference()["exact_coverage_wilson_p095"].items():
        n = int(trials)
        covered = [low <= 0.95 <= high for low, high in (wilson_interval(k, n) for k in range(n + 1))]
        assert np.dot(covered, binom.pmf(np.arange(n + 1), n, 0.95)) == approx(expected, abs=1e-6)


def test_wilson_rejects_invalid_counts():
    for successes, trials in [(3, 2), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(successes, trials)


# --- bootstrap -------------------------------------------------------------------------------------------------------
def test_a_patient_is_drawn_with_all_its_images():
    patients = np.array(["b", "a", "b", "c", "b"])
    weights = bootstrap_weights(patients, num_resamples=500)
    assert weights.shape == (500, 5)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 4]).all()
    per_patient = weights[:, [1, 0, 3]]
    assert (per_patient.sum(axis=1) == 3).all()


def test_draws_are_multinomial():
    weights = bootstrap_weights(np.arange(40), num_resamples=5000).astype(float)
    assert weights.mean() == approx(1.0)
    assert weights.var(axis=0).mean() == approx(1 - 1 / 40, rel=0.05)
    correlation = np.corrcoef(weights.T)
    assert correlation[~np.eye(40, dtype=bool)].mean() == approx(-1 / 39, abs=0.01)


def test_draws_depend_on_the_patients_and_the_seed_not_on_the_order_of_images():
    patients = np.array(["a", "b", "b", "c", "d"])
    weights = bootstrap_weights(patients, seed=3)
    shuffle = np.array([4, 2, 0, 1, 3])
    assert (bootstrap_weights(patients[shuffle], seed=3) == weights[:, shuffle]).all()
    assert (bootstrap_weights(patients, seed=4) != weights).any()


def test_percentiles_equal_numpys_and_undefined_resamples_are_counted():
    values = np.random.default_rng(0).normal(size=2000)
    expected = np.percentile(values[100:], [2.5, 97.5])
    values[:100] = np.nan
    interval = percentile_interval(values)
    assert (interval.low, interval.high) == approx(tuple(expected))
    assert interval.num_undefined == 100 and interval.fault is None


def test_more_than_5_percent_undefined_is_no_interval():
    values = np.random.default_rng(0).normal(size=2000)
    values[:101] = np.nan
    interval = percentile_interval(values)
    assert interval.low is None and interval.high is None
    assert (interval.fault, interval.num_undefined, interval.num_resamples) == ("undefined", 101, 2000)


def test_a_width_of_zero_is_no_interval():
    interval = percentile_interval(np.ones(2000))
    assert interval.low is None
    assert interval.fault == "equal"


# --- weighted --------------------------------------------------------------------------------------------------------
def tied_scores(seed: int, num: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positives = random.random(num) < 0.4
    scores = np.round(random.normal(size=num) + positives, 1)  # one decimal: many ties
    return positives, scores, random.integers(0, 4, size=(25, num))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_auroc_equals_scikit_learns_with_ties(seed):
    positives, scores, weights = tied_scores(seed)
    expected = [roc_auc_score(positives, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(positives, scores, weights) == approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_average_precision_equals_scikit_learns_with_ties(seed):
    positives, scores, weights = tied_scores(seed)
    expected = [average_precision_score(positives, scores, sample_weight=row) for row in weights]
    assert weighted_average_precision(positives, scores, weights) == approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_spearman_equals_scipys_of_repeated_rows(seed):
    _, scores, weights = tied_scores(seed)
    other = np.round(scores + np.random.default_rng(seed + 9).normal(size=len(scores)))
    expected = [spearmanr(np.repeat(scores, row), np.repeat(other, row)).statistic for row in weights]
    assert weighted_spearman(scores, other, weights) == approx(expected, abs=1e-10)


def test_a_resample_without_positives_or_negatives_is_nan():
    positives, scores = np.array([True, False, True]), np.array([0.9, 0.5, 0.4])
    weights = np.array([[0, 1, 0], [1, 0, 1], [1, 1, 1]])
    assert weighted_auroc(positives, scores, weights) == approx([np.nan, np.nan, 0.5], nan_ok=True)
    assert weighted_average_precision(positives, scores, weights) == approx([np.nan, 1, 5 / 6], nan_ok=True)
    assert weighted_spearman(scores, scores, np.array([[0, 2, 0], [1, 1, 0]])) == approx([np.nan, 1], nan_ok=True)


# --- areas under the ROC curve ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_the_area_is_that_of_scikit_learns_curve_to_the_last_bit(decimals):
    random = np.random.default_rng(decimals)
    for size in range(2, 60):
        positives = np.arange(size) % 3 == 0
        scores = np.round(random.normal(size=size) + positives, decimals)
        assert area_under_curve(positives, scores) == auc(*roc_curve(positives, scores)[:2])


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_midranks_are_scipys(decimals):
    scores = np.round(np.random.default_rng(0).normal(size=(3, 50)), decimals)
    np.testing.assert_array_equal(midranks(scores), scipy.stats.rankdata(scores, axis=-1))


def small_delong():
    known = reference()["delong_small"]
    return known, np.array(known["y"]) == 1, np.array(known["score_a"]), np.array(known["score_b"])


def test_delong_equals_the_references():
    known, positives, a, b = small_delong()
    areas, covariance = delong_covariance(positives, np.stack([a, b]))
    assert areas == approx([known["auc_a"], known["auc_b"]], abs=1e-9)
    assert areas == approx(known["sklearn_auc"], abs=1e-12)
    assert np.diag(covariance) == approx([known["var_a"], known["var_b"]], abs=1e-9)
    assert logit_interval(areas[0], covariance[0, 0]) == approx(known["ci_a_logit"], abs=1e-9)
    test = paired_delong(positives, a, b)
    assert (test.statistic, test.p) == approx(known["z_p"], abs=1e-9)


def test_walds_interval_of_the_reference_follows_from_our_variance():
    known, positives, a, _ = small_delong()
    area, variance = (float(values.item()) for values in delong_covariance(positives, a[None]))
    half = 1.959963985 * variance**0.5
    assert (area - half, min(area + half, 1.0)) == approx(known["ci_a_wald_clipped"], abs=1e-6)


def test_delong_equals_procs():
    if not ASAH.exists():
        pytest.skip(
            "aSAH (R package pROC, GPL-3) is not distributable with zoo: set ZOO_ASAH to a csv of its data frame"
        )
    known, table = reference()["delong_aSAH_pROC"], pandas.read_csv(ASAH)
    positives, names = (table["outcome"] == "Poor").to_numpy(), ["wfns", "s100b", "ndka"]
    areas, covariance = delong_covariance(positives, table[names].to_numpy(dtype=float).T)
    for i, name in enumerate(names):
        half = 1.959963985 * covariance[i, i] ** 0.5
        assert [areas[i], covariance[i, i], areas[i] - half, areas[i] + half] == approx(known[name], abs=1e-6)
    for a, b in (("wfns", "s100b"), ("s100b", "ndka"), ("wfns", "ndka")):
        test = paired_delong(positives, table[a].to_numpy(dtype=float), table[b].to_numpy(dtype=float))
        assert (test.statistic, test.p) == approx(known[f"{a}_vs_{b}"], abs=1e-6)


def test_placements_are_shares_with_ties_counting_half():
    positives, scores, _ = tied_scores(0)
    wins = (scores[positives][:, None] > scores[~positives]) + 0.5 * (scores[positives][:, None] == scores[~positives])
    of_positives, of_negatives = placements(positives, scores)
    assert of_positives == approx(wins.mean(axis=1), abs=1e-12)
    assert of_negatives == approx(wins.mean(axis=0), abs=1e-12)


def test_an_area_of_one_class_is_an_error():
    with pytest.raises(ValueError, match="a positive and a negative"):
        placements(np.ones(3, dtype=bool), np.arange(3.0))


def newcombe(area, num_positives, num_negatives):
    independent = {"num_positives": num_positives, "num_negatives": num_negatives, "inflation": 1.0, "constant": False}
    return clustered_interval([ClusteredArea(area=area, **independent)], np.inf)


def test_newcombes_interval_exists_at_1_and_at_0():
    low, high = newcombe(1.0, 10, 90)
    assert (round(low, 3), high) == (0.890, 1.0)
    assert newcombe(0.0, 10, 90) == approx((0.0, 1 - low), abs=1e-9)
    inside = newcombe(0.8, 30, 50)
    assert 0.65 < inside[0] < 0.8 < inside[1] < 0.9


def test_areas_of_0_and_1_have_no_logit_interval():
    for value, variance in [(1.0, 0.1), (0.5, 0.0)]:
        with pytest.raises(ValueError, match="expected 0 < area < 1"):
            logit_interval(value, variance)


def test_the_clustered_variance_with_one_unit_per_patient_is_delongs():
    positives, scores, _ = tied_scores(1)
    _, covariance = delong_covariance(positives, scores[None])
    assert clustered_variance(positives, *placements(positives, scores), np.arange(60)) == approx(
        covariance.item(), rel=1e-12
    )


def clustered(seed: int, patients: int = 80, images: int = 4):
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), images)
    positives = random.random(patients * images) < np.repeat(random.beta(1, 1, patients), images)
    scores = positives + np.repeat(random.normal(size=patients), images) + random.normal(size=patients * images)
    return positives, scores, owner


@pytest.mark.parametrize("seed", range(3))
def test_the_clustered_variance_agrees_with_bootstrap_and_influence_values(seed):
    positives, scores, owner = clustered(seed)
    variance = clustered_variance(positives, *placements(positives, scores), owner)
    drawn = weighted_auroc(positives, scores, bootstrap_weights(owner, 4000).astype(float))
    _, influence = sum_by_patient(auroc_influence(positives, scores), owner)
    assert variance == approx(drawn.var(), rel=0.12)
    assert variance == approx(influence.var(ddof=1) / 80, rel=0.02)


# --- influence values ------------------------------------------------------------------------------------------------
def test_influence_values_of_the_area_are_its_derivative():
    positives, scores, _ = tied_scores(2)
    actual = jackknife_influence(lambda weights: weighted_auroc(positives, scores, weights), 60)
    assert auroc_influence(positives, scores) == approx(actual, abs=1e-5)
    _, covariance = delong_covariance(positives, scores[None])
    assert actual.var() / 60 == approx(covariance.item(), rel=0.05)


def test_influence_values_of_a_ratio_are_its_derivative():
    random = np.random.default_rng(0)
    truth, decided = random.random(80) < 0.4, random.random(80) < 0.5
    hits, sizes = 2.0 * (truth & decided)[:, None], (truth.astype(float) + decided)[:, None]
    actual = jackknife_influence(
        lambda weights: np.array([f1_score(truth, decided, sample_weight=row) for row in weights]), 80
    )
    assert ratio_influence(hits, sizes) == approx(actual, abs=1e-5)
    right = (truth == decided).astype(float)
    expected = right - accuracy_score(truth, decided)
    assert ratio_influence(right[:, None], np.ones((80, 1))) == approx(expected, abs=1e-12)


def test_the_influence_of_units_of_one_kind_is_computed_once():
    calls = []

    def mean_of(weights):
        calls.append(len(weights))
        return weights @ values / weights.sum(axis=1)

    kinds = np.arange(90) % 3
    values = kinds.astype(float)
    assert jackknife_influence(mean_of, 90, kinds) == approx(values - 1, abs=1e-6)
    assert calls == [3, 3]


def test_the_influence_of_a_patient_is_the_sum_over_its_units():
    patients, summed = sum_by_patient(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]]), np.array(["b", "a", "b"]))
    assert patients.tolist() == ["a", "b"]
    assert summed == approx(np.array([[2, 4], [1, 5]]) * 2 / 3)


# --- seeds and patients ----------------------------------------------------------------------------------------------
def test_seeds_widen_an_interval_by_their_variance():
    value, seeds = 0.8, np.array([0.78, 0.80, 0.82])
    low, high = add_seed_variance((0.8 - 0.0196, 0.8 + 0.0196), value, seeds, 10_000)
    case, between = 0.0001, 0.0004 / 3
    df = (case + between) ** 2 / (between**2 / 2 + case**2 / 9999)
    expected = scipy.stats.t.ppf(0.975, df) * (case + between) ** 0.5
    assert (value - low, high - value) == approx((expected, expected), rel=1e-4)


def test_equal_seeds_do_not_widen_an_interval():
    interval = add_seed_variance((0.7, 0.85), 0.8, np.array([0.8, 0.8]), 1_000_000)
    assert interval == approx((0.7, 0.85), abs=1e-6)


# --- pairs of models -------------------------------------------------------------------------------------------------
def test_without_seed_variance_a_pair_is_the_paired_t_test():
    random = np.random.default_rng(0)
    values = random.normal([[0.2], [0.0]], 1.0, (2, 50))
    means = values.mean(axis=1)
    pairs = compare_pairs(values - means[:, None], [np.full(3, mean) for mean in means])
    expected = scipy.stats.ttest_rel(*values)
    assert (pairs.p.item(), pairs.df.item()) == approx((expected.pvalue, expected.df))
    interval = expected.confidence_interval()
    assert [bound.item() for bound in difference_intervals(pairs)] == approx([interval.low, interval.high])


def test_without_patient_variance_a_pair_is_the_t_test_of_the_seeds():
    seeds = [np.array([0.80, 0.82, 0.84]), np.array([0.76, 0.78, 0.80])]
    pairs = compare_pairs(np.zeros((2, 40)), seeds)
    expected = scipy.stats.ttest_ind(*seeds)
    assert (pairs.p.item(), pairs.df.item()) == approx((expected.pvalue, 4.0))


def test_a_small_seed_variance_is_raised_to_the_mean_of_all_models():
    seeds = [np.array([0.80, 0.80]), np.array([0.70, 0.76]), np.array([0.60, 0.60])]
    between = np.array([0.0, 0.0018, 0.0])
    pairs = compare_pairs(np.zeros((3, 40)), seeds)
    floored = np.maximum(between, between.mean())
    assert pairs.seed_variance == approx([(floored[a] + floored[b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))])


def test_a_pair_follows_the_documented_formula():
    random = np.random.default_rng(4)
    k, n, s = 4, 70, 5
    influence = random.normal(size=(k, n))
    seeds = [random.normal(0.8, 0.02, s) for _ in range(k)]
    pairs = compare_pairs(influence, seeds)
    between = [np.var(values, ddof=1) for values in seeds]
    for number, (a, b) in enumerate(zip(*np.triu_indices(k, 1), strict=True)):
        case = np.var(influence[a] - influence[b], ddof=1) / n
        seed = (max(between[a], np.mean(between)) + max(between[b], np.mean(between))) / s
        t = (seeds[a].mean() - seeds[b].mean()) / (case + seed) ** 0.5
        df = (case + seed) ** 2 / (seed**2 / (k * (s - 1)) + case**2 / (n - 1))
        assert pairs.df[number] == approx(df)
        assert pairs.p[number] == approx(2 * scipy.stats.t.sf(abs(t), df))


def test_equal_models_do_not_differ():
    influence = np.random.default_rng(0).normal(size=30)
    pairs = compare_pairs(np.stack([influence, influence]), [np.full(2, 0.9)] * 2)
    assert (pairs.p.item(), pairs.patient_variance.item()) == (1.0, 0.0)


def test_a_difference_without_variance_has_the_smallest_sign_flip_p():
    pairs = compare_pairs(np.zeros((2, 12)), [np.full(2, 1.0), np.full(2, 0.5)])
    assert pairs.p.item() == 2.0**-11


def test_a_deterministic_model_is_a_constant_of_the_t_test_of_the_seeds():
    seeds = np.array([0.80, 0.82, 0.84])
    pairs = compare_pairs(np.zeros((2, 40)), [seeds, np.array([0.79])])
    expected = scipy.stats.ttest_1samp(seeds, 0.79)
    assert (pairs.p.item(), pairs.df.item()) == approx((expected.pvalue, 2.0))


def test_a_deterministic_model_does_not_lower_the_seed_variance_of_others():
    seeds = [np.array([0.80, 0.80]), np.array([0.70, 0.76])]
    pairs = compare_pairs(np.zeros((3, 40)), [*seeds, np.array([0.9])])
    assert pairs.seed_variance[0] == compare_pairs(np.zeros((2, 40)), seeds).seed_variance[0]


def test_equal_seeds_and_a_single_score_give_the_same_test():
    influence = np.random.default_rng(0).normal(size=(2, 60))
    once = compare_pairs(influence, [np.array([0.9]), np.array([0.8])])
    thrice = compare_pairs(influence, [np.full(3, 0.9), np.full(3, 0.8)])
    assert (once.p, once.df, once.variance) == (thrice.p, thrice.df, thrice.variance)


@pytest.mark.parametrize(("patients", "seeds"), [(1, 2), (5, 0)])
def test_one_patient_or_no_score_is_an_error(patients, seeds):
    with pytest.raises(ValueError, match="two patients, and a score"):
        compare_pairs(np.zeros((2, patients)), [np.zeros(seeds)] * 2)


def test_holm_equals_statsmodels_and_the_references():
    known = reference()["holm"]
    assert holm(known["p"]) == approx(known["adj"], abs=1e-9)
    p = np.random.default_rng(0).random(45) ** 4
    assert holm(p) == approx(multitest.multipletests(p, method="holm")[1], abs=1e-12)
    assert holm([]).shape == (0,)


def test_ranks_count_the_models_that_are_better():
    seeds = [np.array([m, m + 0.001]) for m in (0.90, 0.60, 0.89)]
    pairs = compare_pairs(np.random.default_rng(0).normal(0, 0.1, (3, 50)), seeds)
    assert rank_with_ties(find_better(pairs, 3)).tolist() == [1, 3, 1]


def one_pair(difference: float, n: int = 200):
    values = np.random.default_rng(1).normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1)
    return compare_pairs(np.stack([values, np.zeros(n)]), [np.full(3, difference), np.zeros(3)])


def test_the_detectable_difference_has_80_percent_power():
    actual = detectable_difference(one_pair(0.1)).item()
    assert power.TTestPower().power(actual, nobs=200, alpha=0.05) == approx(0.8, abs=0.002)


def test_the_patients_needed_equal_statsmodels():
    expected = power.TTestPower().solve_power(0.15, power=0.8, alpha=0.05)
    assert patients_needed(one_pair(0.15), 200).item() == approx(expected, rel=0.01)


def test_patients_needed_is_infinite_if_seed_variance_hides_the_difference():
    pairs = compare_pairs(np.random.default_rng(0).normal(size=(2, 50)), [np.array([0.5, 0.9]), np.array([0.5, 0.8])])
    assert np.isinf(patients_needed(pairs, 50)).all()


def test_mcnemar_equals_statsmodels_and_the_references():
    known = reference()["mcnemar"]
    actual = mcnemar(known["b"], known["c"])
    assert (actual.exact, actual.statistic) == approx((known["exact_p"], known["chi2_cc"]), abs=1e-9)
    for b, c in [(10, 25), (25, 10), (7, 7), (0, 5), (1, 0)]:
        expected = contingency_tables.mcnemar([[50, b], [c, 40]], exact=True).pvalue
        assert mcnemar(b, c).exact == approx(expected)


def test_mcnemars_mid_p_equals_fagerlands():
    actual = mcnemar(1, 7)  # airway hyper-responsiveness before and after transplantation (Fagerland 2013, table 1)
    assert (round(actual.exact, 3), round(actual.mid, 3)) == (0.070, 0.039)
    assert mcnemar(0, 0) == mcnemar(0, 0).__class__(exact=1.0, mid=1.0, statistic=0.0)


# --- across datasets -------------------------------------------------------------------------------------------------
def simulated_datasets(means, num_datasets=4, sd=0.3):
    random = np.random.default_rng(0)
    return [
        DatasetSamples(
            influence=random.normal(0, sd, (len(means), 150)),
            seed_scores=[mean + random.normal(0, 0.002, 3) for mean in means],
        )
        for _ in range(num_datasets)
    ]


def test_a_model_that_is_clearly_best_everywhere_is_first():
    order = order_models(simulated_datasets([0.9, 0.5, 0.51]))
    assert order.mean_rank[0] == 1 and order.first_probability[0] > 0.999
    assert order.win_probability[0] == 1
    assert order.mean_rank.sum() == approx(6) and order.first_probability.sum() == approx(1)
    low, high = order.mean_rank_interval[1]
    assert low <= order.mean_rank[1] <= high and low < high


def test_equal_models_are_first_equally_often_and_win_half():
    order = order_models([DatasetSamples(influence=np.zeros((4, 20)), seed_scores=[np.full(2, 0.5)] * 4)] * 3)
    assert order.first_probability == approx(np.full(4, 0.25))
    assert order.win_probability == approx(np.full(4, 0.5))


def test_resampled_scores_spread_as_the_exact_bootstrap_of_a_mean():
    random = np.random.default_rng(5)
    values = (random.random((2, 200)) < [[0.75], [0.70]]).astype(float)
    means = values.mean(axis=1)
    tested = DatasetSamples(influence=values - means[:, None], seed_scores=[np.full(2, m) for m in means])
    drawn = bootstrap_weights(np.arange(200), 4000, 9) @ values.T
    ahead = (drawn[:, 0] > drawn[:, 1]).mean() + 0.5 * (drawn[:, 0] == drawn[:, 1]).mean()
    assert order_models([tested]).first_probability[0] == approx(ahead, abs=0.03)


def test_resampled_seeds_have_the_variance_of_the_pairwise_test():
    seeds = np.array([0.6, 0.7, 0.8])
    tested = DatasetSamples(influence=np.zeros((2, 10)), seed_scores=[seeds, np.full(3, 0.7)])
    order = order_models([tested], num_resamples=4000)
    assert order.first_probability[0] == approx(0.5, abs=0.03)
    assert order.mean_rank_interval.tolist() == [[1, 2], [1, 2]]
    drawn = resample_scores(tested, (0,), 4000, patients=False)
    assert drawn.var(axis=0) == approx([0.01 / 3, 0.005 / 3], rel=0.08)
    assert np.ptp(resample_scores(tested, (0,), seeds=False)) == 0


def test_a_model_with_failed_seeds_does_not_widen_the_others_intervals():
    seed_scores = [np.array([0.9, 0.5]), np.array([0.80, 0.82]), np.array([0.7, 0.7])]
    steady = DatasetSamples(influence=np.zeros((3, 10)), seed_scores=seed_scores, steady=np.array([False, True, True]))
    drawn = resample_scores(steady, (0,), 4000, patients=False)
    assert drawn.var(axis=0) == approx([0.08 / 2, 0.0002 / 2, 0.0001 / 2], rel=0.08)


@pytest.mark.parametrize(("pairs", "needed"), [(1, 6), (10, 9), (45, 11)])
def test_datasets_needed_equal_the_documented_numbers(pairs, needed):
    assert datasets_needed(pairs) == needed


def test_smallest_p_values_equal_the_references():
    for num, expected in reference()["min_two_sided_p_signflip"].items():
        assert smallest_p(int(num)) == expected
        differences = np.arange(1.0, int(num) + 1)
        assert scipy.stats.wilcoxon(differences).pvalue == approx(expected)


@pytest.mark.integration
def test_wilcoxon_and_holm_across_datasets_equal_scikit_posthocs():
    import scikit_posthocs  # perf: it imports matplotlib and seaborn, 0.5 s for every process that collects this file

    scores = np.random.default_rng(0).normal([0.5, 0.52, 0.8], 0.05, (12, 3))
    table = pandas.DataFrame(scores).melt(var_name="model", value_name="score")
    expected = scikit_posthocs.posthoc_wilcoxon(table, "score", "model", p_adjust="holm").to_numpy()
    assert wilcoxon_holm(scores) == approx(expected[np.triu_indices(3, 1)])
    assert wilcoxon_holm(scores[:6]) is None


def test_the_normalized_mean_is_0_at_chance_and_1_at_the_top():
    assert normalized_mean(np.array([0.5, 0.1]), np.array([0.5, 0.1])) == 0
    assert normalized_mean(np.array([1.0, 1.0]), np.array([0.5, 0.1])) == 1
    assert normalized_mean(np.array([0.75, 0.55]), np.array([0.5, 0.1])) == approx(0.5)


# --- reference values that zoo does not compute ----------------------------------------------------------------------
def test_the_other_reference_values_equal_those_of_their_libraries():
    known = reference()
    for counts, expected in known["clopper_pearson"].items():
        assert proportion.proportion_confint(*map(int, counts.split("/")), method="beta") == approx(expected, abs=1e-6)
    for models, expected in known["nemenyi_q05"].items():
        q = scipy.stats.studentized_range.ppf(0.95, int(models), 1e6) / 2**0.5
        assert q == approx(expected, abs=6e-4)  # as printed by Demsar 2006, table 5
    friedman = known["friedman_demsar2006"]
    k, n = friedman["k"], friedman["N"]
    chi2 = 12 * n / (k * (k + 1)) * (np.square(friedman["mean_ranks"]).sum() - k * (k + 1) ** 2 / 4)
    assert chi2 == approx(friedman["chi2"], abs=0.01)
    assert (n - 1) * chi2 / (n * (k - 1) - chi2) == approx(friedman["F"], abs=0.01)
    assert friedman["nemenyi_q05"] * (k * (k + 1) / (6 * n)) ** 0.5 == approx(friedman["CD"], abs=0.01)
    bengio = known["nadeau_bengio"]
    d = np.array(bengio["d"])
    for t, p, inflation in (("t", "p", bengio["test_train_ratio"]), ("naive_t", "naive_p", 0.0)):
        actual = d.mean() / (d.var(ddof=1) * (1 / len(d) + inflation)) ** 0.5
        assert (actual, 2 * scipy.stats.t.sf(actual, len(d) - 1)) == approx((bengio[t], bengio[p]), abs=1e-6)


def test_zoo_gives_a_reason_where_scikit_learn_returns_a_number_or_nan():
    expected = reference()["sklearn_1_9"]
    one_class, scores = np.zeros(4, dtype=int), np.linspace(0.1, 0.7, 4)
    request = MetricRequest(
        task=BINARY,
        labels=("a", "b"),
        targets=one_class,
        probabilities=np.stack([1 - scores, scores], axis=1),
        decisions=np.ones(4, dtype=int),
    )
    with pytest.warns(UserWarning):
        assert np.isnan(roc_auc_score(one_class, scores)) and expected["roc_auc_single_class"].startswith("nan")
        assert average_precision_score(one_class, scores) == float(expected["average_precision_no_positive"].split()[0])
    assert matthews_corrcoef(one_class, request.decisions) == float(expected["mcc_constant_pred"])
    assert reference()["single_class_auc"].startswith("null")
    for name in ("auroc", "average_precision", "mcc"):
        with pytest.raises(Undefined):
            next(spec for spec in METRICS if spec.name == name).compute(request)
