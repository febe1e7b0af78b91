"""Ranks from evidence: which rows are tested, what is claimed, and the direction of a metric."""

import numpy as np
import pytest
import scipy.stats
from costs import cost_ratio
from factories import make_predictions
from pytest import approx
from sklearn.metrics import roc_auc_score

from zoo import MULTICLASS, ORDINAL
from zoo.evaluation.evidence import Evidence, weigh_evidence
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.thresholds import decide
from zoo.leaderboard.significance import compare_rows
from zoo.specs.metric import ScoringContext
from zoo.statistics.intervals import bootstrap_weights
from zoo.tasks.logits import softmax

METRIC = {spec.name: spec for spec in METRICS}


def evidence(mean, *, seed=0, num=100, seeds=3, sd=0.3, prefix="p"):
    random = np.random.default_rng(seed)
    influence = random.normal(0, sd, num)
    return Evidence(
        patients=np.array([f"{prefix}{i}" for i in range(num)]),
        influence=influence - influence.mean(),
        seed_scores=mean + 0.001 * np.arange(seeds),
    )


def test_a_model_far_below_ranks_below_all_that_are_better():
    found = compare_rows([evidence(0.90, seed=1), evidence(0.89, seed=2), evidence(0.50, seed=3)], True)
    assert found.ranks == (1, 1, 3)
    assert found.tied_with(0) == (1,) and found.tied_with(2) == ()
    assert found.winner == 0
    assert [pair.winner for pair in found.pairs] == [None, 0, 1]


def test_for_an_error_metric_the_smaller_is_better():
    rows = [evidence(0.10, seed=1), evidence(0.12, seed=2), evidence(0.60, seed=3)]
    found = compare_rows(rows, higher_is_better=False)
    assert found.ranks == (1, 1, 3)
    pair = found.find(0, 2)
    assert pair.difference == approx(-0.5) and pair.low < -0.5 < pair.high < 0 and pair.winner == 0


def test_a_pair_can_be_requested_in_either_order():
    found = compare_rows([evidence(0.9, seed=1), evidence(0.5, seed=2)], True)
    there, back = found.find(0, 1), found.find(1, 0)
    assert (back.difference, back.low, back.high) == approx((-there.difference, -there.high, -there.low))
    assert (back.p, back.winner) == (there.p, 0)
    assert found.find(0, 5) is None


def test_baselines_and_single_seeds_have_no_rank_and_a_reason():
    rows = [evidence(0.9), "a baseline is not ranked", evidence(0.8, seeds=1), evidence(0.7, seed=4)]
    found = compare_rows(rows, True)
    assert found.ranks == (1, None, None, 2)
    assert found.unranked == (None, "a baseline is not ranked", "one seed is never ranked", None)
    assert len(found.pairs) == 1


def test_rows_tested_on_other_patients_are_not_compared():
    found = compare_rows([evidence(0.9), evidence(0.8, prefix="q"), evidence(0.7, seed=1)], True)
    assert found.ranks[1] is None and found.unranked[1].startswith("not tested on the patients")


def test_one_row_alone_has_no_rank():
    found = compare_rows([evidence(0.9), evidence(0.8, seeds=1)], True)
    assert found.ranks == (None, None)
    assert found.unranked[0] == "no other row to rank it against"


def test_no_rows_no_ranks():
    assert compare_rows([], True).ranks == ()


@pytest.mark.parametrize(("bounds", "there"), [((0.0, 1.0), False), ((-1.0, 1.0), True), ((0.0, None), True)])
def test_no_detectable_difference_is_larger_than_the_metric_can_differ(bounds, there):
    rows = [evidence(0.9, seed=1, num=20, sd=3.0), evidence(0.5, seed=2, num=20, sd=3.0)]
    found = compare_rows(rows, True, bounds)
    wanted = compare_rows(rows, True).detectable
    assert 1 < wanted < 2
    assert found.detectable == found.pairs[0].detectable == (wanted if there else None)


def test_the_winner_changes_with_the_patients_as_often_as_the_normal_law_says():
    rows = [evidence(0.80, seed=1, num=400), evidence(0.79, seed=2, num=400)]
    found = compare_rows(rows, True)
    spread = np.std(rows[0].influence - rows[1].influence) / 20
    assert found.patients_change_winner == approx(scipy.stats.norm.sf(0.01 / spread), abs=0.03)
    assert found.seeds_change_winner < 0.001  # a standard error of .0008 between seeds, ten times below the lead


def test_equal_models_swap_ranks_in_half_of_the_resamples():
    found = compare_rows([evidence(0.8, seed=1), evidence(0.8, seed=1)], True)
    assert found.patients_change_winner == 0.5
    assert found.seeds_change_winner == approx(0.5, abs=0.04)
    assert found.pairs[0].p_holm == 1.0 and found.pairs[0].patients_needed is None


def predictions(targets, probabilities, patients):
    return make_predictions(targets, probabilities, patients=patients, prefix="")


def test_folds_weigh_a_patient_by_the_size_of_its_fold():
    random = np.random.default_rng(0)
    folds = []
    for fold, num in enumerate((60, 240)):
        targets = np.arange(num) % 2
        scores = softmax(random.normal(size=(num, 2)) + np.eye(2)[targets])
        part = predictions(targets, scores, np.array([f"{fold}-{i}" for i in range(num)]))
        folds.append({"val": part, "test": part})
    card = ScoringContext(task=MULTICLASS, labels=("a", "b"))
    found = weigh_evidence([folds], METRIC["accuracy"], card, threshold="half")
    each = [weigh_evidence([[fold]], METRIC["accuracy"], card, threshold="half") for fold in folds]
    variances = [part.influence.var() / len(part.influence) for part in each]
    assert len(found.patients) == 300
    assert found.influence.var() / 300 == approx(sum(variances) / 4)
    assert found.seed_scores == approx(np.mean([part.seed_scores for part in each]))


@pytest.mark.slow
@pytest.mark.integration
def test_a_board_of_ten_models_five_seeds_and_2000_images_costs_few_times_what_its_scores_cost_scikit_learn():
    random = np.random.default_rng(0)
    targets, patients = np.arange(2000) % 10, np.array([f"p{i // 2}" for i in range(2000)])
    card = ScoringContext(task=MULTICLASS, labels=tuple("abcdefghij"), has_patients=True)

    def run():
        part = predictions(targets, softmax(random.normal(size=(2000, 10)) + np.eye(10)[targets]), patients)
        return {"val": part, "test": part}

    models = [[[run()] for _ in range(5)] for _ in range(10)]

    def compare():
        compared = compare_rows([weigh_evidence(runs, METRIC["auroc"], card, threshold="val") for runs in models], True)
        assert compared.num_patients == 1000 and len(compared.pairs) == 45

    def score_with_sklearn():
        for seeds in models:
            for (one,) in seeds:
                roc_auc_score(targets, one["test"].probabilities, multi_class="ovr")

    assert cost_ratio(compare, score_with_sklearn, rounds=1) < 10


@pytest.mark.parametrize("metric", ["cohen_kappa", "accuracy"])
def test_a_pair_of_runs_is_tested_as_the_bootstrap_would(metric):
    random = np.random.default_rng(3)
    targets, patients = random.integers(3, size=300), np.repeat(np.arange(100), 3).astype(str)
    card = ScoringContext(task=ORDINAL, labels=("a", "b", "c"), has_patients=True)
    runs = []
    for _ in range(2):
        noise = np.repeat(random.normal(size=(100, 3)), 3, axis=0) + random.normal(size=(300, 3))
        part = predictions(targets, softmax(noise + 2 * np.eye(3)[targets]), patients)
        runs.append([[{"val": part, "test": part}]] * 2)
    found = [weigh_evidence(run, METRIC[metric], card, threshold="val") for run in runs]
    variance = compare_rows(found, True).pairs[0].patient_variance
    weights = bootstrap_weights(patients, 3000).astype(float)
    a, b = (METRIC[metric].resample(decide(run[0][0], card, "val").request, weights) for run in runs)
    assert variance == approx((a - b).var(), rel=0.12)
