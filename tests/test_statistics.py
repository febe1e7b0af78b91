"""Intervals and weighted metrics against published values, scipy and scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from pytest import approx
from scipy.stats import binom, binomtest, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from zoo.statistics import (
    bootstrap_weights,
    percentile_interval,
    weighted_auroc,
    weighted_average_precision,
    weighted_spearman,
    wilson_interval,
)

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "stat_reference.json"


def reference() -> dict:
    if not REFERENCE.exists():
        pytest.skip("stat_reference.json is not beside this checkout")
    return json.loads(REFERENCE.read_text())


# --- Wilson ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (1, 29), (81, 263), (15, 148), (1, 1)])
def test_wilson_is_scipys(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == approx((expected.low, expected.high), abs=1e-12)


def test_wilson_is_newcombes_table():
    for counts, expected in reference()["wilson_newcombe1998"].items():
        successes, trials = map(int, counts.split("/"))
        assert wilson_interval(successes, trials) == approx(expected, abs=1e-9)


def test_wilson_covers_as_often_as_computed_exactly():
    for trials, expected in reference()["exact_coverage_wilson_p095"].items():
        n = int(trials)
        covered = [low <= 0.95 <= high for low, high in (wilson_interval(k, n) for k in range(n + 1))]
        assert np.dot(covered, binom.pmf(np.arange(n + 1), n, 0.95)) == approx(expected, abs=1e-5)


def test_wilson_refuses_what_is_no_proportion():
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


def test_percentiles_are_numpys_and_undefined_resamples_are_counted():
    values = np.random.default_rng(0).normal(size=2000)
    expected = np.percentile(values[100:], [2.5, 97.5])
    values[:100] = np.nan
    interval = percentile_interval(values)
    assert (interval.low, interval.high) == approx(tuple(expected))
    assert interval.num_undefined == 100 and interval.reason is None


def test_more_than_5_percent_undefined_is_no_interval():
    values = np.random.default_rng(0).normal(size=2000)
    values[:101] = np.nan
    interval = percentile_interval(values)
    assert interval.low is None and interval.high is None
    assert interval.reason == "undefined in 101 of 2000 resamples"


def test_a_width_of_zero_is_no_interval():
    interval = percentile_interval(np.ones(2000))
    assert interval.low is None
    assert interval.reason == "every resample gives the same value"


# --- weighted --------------------------------------------------------------------------------------------------------
def tied_scores(seed: int, num: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positives = random.random(num) < 0.4
    scores = np.round(random.normal(size=num) + positives, 1)  # one decimal: many ties
    return positives, scores, random.integers(0, 4, size=(25, num))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_auroc_is_sklearns_with_ties(seed):
    positives, scores, weights = tied_scores(seed)
    expected = [roc_auc_score(positives, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(positives, scores, weights) == approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_average_precision_is_sklearns_with_ties(seed):
    positives, scores, weights = tied_scores(seed)
    expected = [average_precision_score(positives, scores, sample_weight=row) for row in weights]
    assert weighted_average_precision(positives, scores, weights) == approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_spearman_is_scipys_of_repeated_rows(seed):
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
