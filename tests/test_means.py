"""Means are correctly rounded, so that equal inputs give equal means."""

from fractions import Fraction

import numpy as np
import pytest
from factories import make_predictions
from sklearn.metrics import roc_auc_score

from zoo.evaluation.evidence import Evidence
from zoo.leaderboard.ensembles import mean_of
from zoo.leaderboard.significance import compare_rows
from zoo.statistics.datasets import wilcoxon_holm
from zoo.statistics.means import exact_mean, mean_by_group, mean_of_arrays
from zoo.statistics.roc import z_test


def of_patients(counts, targets, rows):
    owners = np.repeat(np.arange(len(counts)).astype(str), counts)
    targets = np.repeat(targets, counts)
    return make_predictions(targets, rows, ids=owners)


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 1e-300, 0.95, 5e-324, 1e29])
def test_the_mean_of_equal_numbers_is_that_number(value):
    assert {exact_mean([value] * count) for count in (1, 2, 3, 6, 7, 10, 49, 100, 199)} == {value}


def test_the_mean_is_correctly_rounded():
    random = np.random.default_rng(0)
    for size in (2, 3, 7, 31, 500):
        values = random.random(size) * 10.0 ** random.integers(-12, 3, size)
        assert exact_mean(values) == float(sum(map(Fraction, values.tolist())) / size)


def test_the_mean_does_not_depend_on_order_or_repetition():
    values = [0.1, 0.2, 0.3, 0.7, 1e-17]
    assert len({exact_mean(np.tile(np.roll(values, k), times)) for k in range(5) for times in (1, 2, 3, 7)}) == 1


def test_groups_have_their_own_means():
    random = np.random.default_rng(1)
    values, owner = random.random((200, 3)), np.concatenate([np.arange(20), random.integers(0, 20, 180)])
    expected = [[exact_mean(values[owner == group, k]) for k in range(3)] for group in range(20)]
    assert mean_by_group(values, owner, 20).tolist() == expected


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.7, 0.9])
def test_constant_predictor_scored_by_patient_has_an_auroc_of_one_half(probability):
    counts, targets = [1, 2, 4, 9] * 5 + [3, 5, 6, 7] * 5, [0] * 20 + [1] * 20
    units = of_patients(counts, targets, np.tile([1 - probability, probability], (sum(counts), 1))).by_unit("patient")
    assert roc_auc_score(units.targets, units.probabilities[:, 1]) == 0.5


def test_patients_with_the_same_probabilities_in_another_order_are_tied():
    rows = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.3, 0.1, 0.2])
    units = of_patients([3, 3, 3], [0, 1, 0], np.column_stack([1 - rows, rows])).by_unit("patient")
    assert len(np.unique(units.probabilities, axis=0)) == 1


def test_ensemble_ties_images_with_permuted_member_probabilities():
    members = [
        of_patients([1, 1, 1], [0, 1, 0], np.column_stack([1 - p, p]))
        for p in (np.array([0.1, 0.3, 0.2]), np.array([0.2, 0.1, 0.3]), np.array([0.3, 0.2, 0.1]))
    ]
    assert len(np.unique(mean_of(members).probabilities[:, 1])) == 1
    assert mean_of_arrays([np.full((2, 2), 0.7)] * 3).tolist() == [[0.7, 0.7], [0.7, 0.7]]


def test_rows_with_permuted_seed_scores_do_not_differ():
    scores = [0.7, 0.1, 0.6]
    random = np.random.default_rng(0)
    rows = [
        Evidence(patients=np.arange(20).astype(str), influence=random.normal(size=20), seed_scores=np.array(s))
        for s in (scores, scores[::-1])
    ]
    (pair,) = compare_rows(rows, higher_is_better=True, bounds=(0.0, 1.0)).pairs
    assert (pair.difference, pair.p) == (0.0, 1.0)


def test_differences_within_rounding_are_zero():
    assert z_test(0.1 + 0.2 - 0.3, 0.0).p == 1.0
    scores = np.column_stack([np.full(8, 0.1) + 0.2, np.full(8, 0.3)])
    assert wilcoxon_holm(scores).tolist() == [1.0]
