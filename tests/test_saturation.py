"""Logits whose probabilities round to 0 or 1 are ranked and thresholded by their log odds."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions
from pytest import approx
from scipy.special import expit, log_softmax, logsumexp
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import load_predictions, save_predictions
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import ThresholdTarget
from zoo.evaluation.values import decide_all
from zoo.leaderboard.ensembles import average
from zoo.leaderboard.sanity_checks import count_outputs, find_degenerate
from zoo.report.statements import saturation_statement
from zoo.results.provenance import trace_thresholds
from zoo.specs.metric import ScoringContext
from zoo.tasks.logits import recover_log_odds

BY_NAME = {spec.name: spec for spec in METRICS}
PAIR = ScoringContext(task=BINARY, labels=("a", "b"), positive=1)


def of_logits(task, logits, targets, patients=None):
    ids = np.array([f"i{i:05}" for i in range(len(logits))])
    patients = None if patients is None else np.asarray(patients).astype(str)
    probabilities, log_odds = task.answers.from_logits(logits), task.answers.to_log_odds(logits)
    return make_predictions(targets, probabilities, ids=ids, patients=patients, log_odds=log_odds)


def binary(scale, seed=0, num=400, patients=None):
    random = np.random.default_rng(seed)
    targets = np.arange(num) % 2
    gap = ((random.normal(size=num) + targets + 1.5) * scale).astype(np.float32).astype(float)
    return of_logits(BINARY, np.stack([0 * gap, gap], axis=1), targets, patients), gap


def value(name, parts, card, rule="val", **fields):
    run = {"val": parts, "test": parts}
    return score([[run]], {name: BY_NAME[name]}, card, threshold=rule, intervals=False, **fields)[name].value


# --- ranking ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1, 20, 40, 400])
@pytest.mark.parametrize(
    ("name", "reference"), [("auroc", roc_auc_score), ("average_precision", average_precision_score)]
)
def test_binary_areas_equal_those_of_the_logits_at_any_scale(scale, name, reference):
    part, gap = binary(scale)
    assert value(name, part, PAIR) == approx(reference(part.targets, gap), abs=1e-12)


@pytest.mark.parametrize("scale", [1, 20, 40])
def test_older_results_are_ranked_by_the_other_classs_probability(scale):
    part, gap = binary(scale)
    assert value("auroc", replace(part, log_odds=None), PAIR) == approx(roc_auc_score(part.targets, gap), abs=1e-12)


@pytest.mark.integration
def test_the_traced_threshold_of_older_results_is_the_one_used():
    part, gap = binary(40)
    older = replace(part, log_odds=None)
    (threshold,) = trace_thresholds({"val": older, "test": older}, PAIR, "val")["values"].values()
    best = max(np.unique(gap), key=lambda cut: balanced_accuracy_score(part.targets, gap >= cut))
    below, above = gap[gap < best].max(), best
    assert expit(below) <= threshold <= expit(above)


def test_recovered_log_odds_of_several_classes_equal_those_of_the_logits():
    logits = np.random.default_rng(6).normal(size=(60, 4)) * 40
    expected = MULTICLASS.answers.to_log_odds(logits)
    assert recover_log_odds(MULTICLASS.answers.from_logits(logits)) == approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_multilabel_areas_equal_those_of_the_logits_on_both_sides(sign):
    random = np.random.default_rng(1)
    targets = (random.random((300, 3)) < 0.4).astype(float)
    logits = 60 * (random.normal(size=(300, 3)) + targets + 2 * sign)
    card = ScoringContext(task=MULTILABEL, labels=("a", "b", "c"))
    actual = value("auroc", of_logits(MULTILABEL, logits, targets), card)
    assert actual == approx(roc_auc_score(targets, logits), abs=1e-12)


def test_multiclass_log_odds_are_those_of_each_class_against_the_others():
    logits = np.random.default_rng(2).normal(size=(50, 4)) * 60
    rest = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(4)]
    assert MULTICLASS.answers.to_log_odds(logits) == approx(logits - np.stack(rest, axis=1), abs=1e-9)


@pytest.mark.parametrize("scale", [1, 5, 60])
def test_ordinal_log_odds_equal_those_of_representable_probabilities(scale):
    logits = np.random.default_rng(3).normal(size=(200, 4)) * scale
    odds, probabilities = ORDINAL.answers.to_log_odds(logits), ORDINAL.answers.from_logits(logits)
    assert expit(odds) == approx(probabilities, abs=1e-12)
    assert probabilities.sum(axis=1) == approx(1)
    assert np.isfinite(odds).all()


def test_small_probabilities_keep_their_digits():
    assert MULTILABEL.answers.from_logits(np.array([[-40.0], [-700.0]]))[:, 0] == approx(
        np.exp([-40.0, -700.0]), rel=1e-9
    )
    above = np.array([[45.0, -45.0]])
    assert ORDINAL.answers.from_logits(above)[0, [0, 2]] == approx(np.exp(-45.0), rel=1e-9)


def test_equal_probabilities_of_a_class_are_tied():
    votes = np.array([[0.5, 0.3, 0.2], [0.5, 0.25, 0.25], [0.5, 0.1, 0.4]])
    assert len(np.unique(MULTICLASS.answers.to_log_odds(np.log(votes))[:, 0])) == 1


# --- means -----------------------------------------------------------------------------------------------------------
def test_patients_are_ranked_by_mean_probability_near_1():
    logits = np.array([50.0, 60.0, 55.0, 45.0, 48.0, 52.0, 41.0, 43.0])
    part = of_logits(BINARY, np.stack([0 * logits, logits], axis=1), [0, 0, 1, 1, 1, 1, 0, 0], np.arange(8) // 2)
    below_one = np.exp(-logits).reshape(4, 2).mean(axis=1)  # 1 - p with a relative error of 1e-18
    assert part.by_unit("patient").log_odds[:, 1] == approx(-np.log(below_one), rel=1e-12)
    assert part.by_unit("patient").probabilities[:, 1].tolist() == [1.0] * 4


def test_constant_log_odds_are_tied_by_patient():
    odds = np.full((20, 1), 41.3)
    part = of_logits(MULTILABEL, odds, np.zeros((20, 1)), np.repeat(np.arange(4), [1, 3, 7, 9]))
    assert np.ptp(part.by_unit("patient").log_odds) == 0


def test_ensembles_average_probabilities_and_keep_their_order_near_1():
    parts = [binary(40, seed)[0] for seed in range(3)]
    logs = np.stack([log_softmax(np.stack([0 * g, g], axis=1), axis=1) for g in (binary(40, s)[1] for s in range(3))])
    mean = logsumexp(logs, axis=0) - np.log(3)
    actual = average([{"val": part, "test": part} for part in parts])["test"]
    assert actual.log_odds[:, 1] == approx(mean[:, 1] - mean[:, 0], rel=1e-9)


# --- thresholds ------------------------------------------------------------------------------------------------------
def test_the_threshold_of_val_separates_probabilities_that_are_all_one():
    targets = np.array([0, 1] * 20)
    gap = np.where(targets == 1, 60.0, 45.0) + np.linspace(0, 1, 40)
    part = of_logits(BINARY, np.stack([0 * gap, gap], axis=1), targets)
    assert value("balanced_accuracy", part, PAIR) == 1.0
    assert value("sensitivity", part, PAIR, ThresholdTarget(metric="sensitivity", least=0.9)) >= 0.9


@pytest.mark.integration
def test_thresholds_of_ordinary_outputs_are_midway_between_probabilities():
    part, gap = binary(1)
    plain = replace(part, log_odds=None)
    names = ("balanced_accuracy", "f1_macro", "mcc", "accuracy")
    assert [value(n, part, PAIR) for n in names] == [value(n, plain, PAIR) for n in names]
    best = max(balanced_accuracy_score(part.targets, gap >= cut) for cut in gap)
    assert value("balanced_accuracy", part, PAIR) == approx(best)


# --- stored files and boards -----------------------------------------------------------------------------------------
def test_log_odds_are_stored_and_missing_in_older_files(tmp_path):
    part, _ = binary(40)
    save_predictions(tmp_path / "new.npz", {"test": part})
    save_predictions(tmp_path / "old.npz", {"test": replace(part, log_odds=None)})
    assert load_predictions(tmp_path / "new.npz")["test"].log_odds.tolist() == part.log_odds.tolist()
    assert load_predictions(tmp_path / "old.npz")["test"].log_odds is None


def test_outputs_that_differ_only_in_log_odds_are_not_equal():
    part, _ = binary(1)
    gap = np.linspace(40, 80, 400)
    test = of_logits(BINARY, np.stack([0 * gap, gap], axis=1), part.targets)
    runs = [[{"val": part, "test": test}]]
    outputs = count_outputs(runs, PAIR, decide_all(runs, PAIR, "half"))
    reasons = find_degenerate(None, None, higher_is_better=True, outputs=outputs, unit=PAIR.unit)
    assert not any("same output" in reason for reason in reasons)


@pytest.mark.parametrize(("scale", "is_stated"), [(1, False), (40, True)])
def test_a_board_states_the_number_of_saturated_outputs(scale, is_stated):
    part, _ = binary(scale)
    runs = [[{"test": part}]]

    class Row:
        name, outputs = "m", count_outputs(runs, PAIR, decide_all(runs, PAIR, "half"))

    lines = saturation_statement(Row)
    assert bool(lines) == is_stated
    if is_stated:
        assert f"{(part.probabilities == 1).any(axis=1).sum()} of 400" in lines[0]
