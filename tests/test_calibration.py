"""Temperatures, ECE, Brier score and log loss, and reliability curves, compared with other libraries."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions
from pytest import approx
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss
from statsmodels.stats.proportion import proportion_confint

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.calibration import build_section, find_temperature, rescale
from zoo.leaderboard.tables import ScoredRow, SectionRequest
from zoo.report.reasons import reason_text
from zoo.specs.metric import ScoringContext

CARDS = {
    "binary": ScoringContext(task=BINARY, labels=("benign", "malignant"), positive=1),
    "multiclass": ScoringContext(task=MULTICLASS, labels=("a", "b", "c")),
    "ordinal": ScoringContext(task=ORDINAL, labels=("g0", "g1", "g2", "g3")),
    "multilabel": ScoringContext(task=MULTILABEL, labels=("mass", "fluid")),
}


def draw_logits(task: str, targets: np.ndarray, sureness: float, random: np.random.Generator) -> np.ndarray:
    """Logits that follow the targets; `sureness` 1 is about calibrated, 3 three times overconfident."""
    if task == "multilabel":
        return sureness * (2 * np.nan_to_num(targets) - 1 + random.normal(size=targets.shape) * 1.4)
    num_labels = len(CARDS[task].labels)
    if task == "ordinal":
        grades = targets + random.normal(size=len(targets))
        return sureness * 1.7 * (grades[:, None] - np.arange(num_labels - 1) - 0.5)
    return sureness * (np.eye(num_labels)[targets] * 2 + random.normal(size=(len(targets), num_labels)) * 1.4)


def draw_run(task: str, seed: int = 0, num: int = 300, sureness: float = 3.0, patients=None):
    """Predictions of val and test, and the logits they come from."""
    random, card = np.random.default_rng(seed), CARDS[task]
    run, logits = {}, {}
    for split in ("val", "test"):
        of_split = np.random.default_rng(99 if split == "val" else 98)  # the same images for every seed
        targets = of_split.integers(len(card.labels), size=num)
        if task == "multilabel":
            targets = of_split.integers(2, size=(num, 2)).astype(float)
            targets[of_split.random((num, 2)) < 0.1] = np.nan
        logits[split] = draw_logits(task, targets, sureness, random)
        probabilities = card.task.answers.from_logits(logits[split])
        run[split] = make_predictions(targets, probabilities, patients=patients, prefix=split)
    return run, logits


def section_of(*runs, card=CARDS["binary"]):
    """The section of one model with one run a seed."""
    row = ScoredRow(label="net", baseline=False, stored=[[run] for run in runs], seeds=tuple(range(len(runs))))
    return build_section(SectionRequest(rows=[row], card=card, facts={}, primary=METRICS[0], threshold="val"))


def cells_of(section):
    return dict(zip(section.columns, section.rows[0], strict=True))


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier whose logits are its input: what scikit-learn fits a temperature to."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return x if x.shape[1] > 2 else x[:, 1] - x[:, 0]

    def predict(self, x):
        return self.classes_[x.argmax(axis=1)]


# --- temperatures ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", list(CARDS))
def test_a_rescaled_probability_is_that_of_the_logits_divided(task):
    run, logits = draw_run(task)
    for temperature in (0.5, 1.0, 3.0):
        expected = CARDS[task].task.answers.from_logits(logits["test"] / temperature)
        assert rescale(run["test"], temperature, CARDS[task]).probabilities == approx(expected, abs=1e-9)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("sureness", [0.5, 1.0, 3.0])
def test_the_temperature_equals_scikit_learns(task, sureness):
    run, logits = draw_run(task, sureness=sureness)
    fitted = Logits().fit(logits["val"], run["val"].targets)
    reference = CalibratedClassifierCV(FrozenEstimator(fitted), method="temperature", ensemble=False)
    reference.fit(logits["val"], run["val"].targets)
    found = find_temperature(run, CARDS[task])
    assert rescale(run["test"], found, CARDS[task]).probabilities == approx(
        reference.predict_proba(logits["test"]), abs=1e-4
    )


@pytest.mark.parametrize("task", ["ordinal", "multilabel"])
def test_no_temperature_nearby_has_a_smaller_log_loss_on_val(task):
    run, logits = draw_run(task)
    found = find_temperature(run, CARDS[task])

    def loss(temperature):
        val, probabilities = run["val"], CARDS[task].task.answers.from_logits(logits["val"] / temperature)
        if task == "ordinal":
            return log_loss(val.targets, probabilities)
        known = ~np.isnan(val.targets)
        return np.mean([log_loss(val.targets[k, i], probabilities[k, i]) for i, k in enumerate(known.T)])

    assert loss(found) <= min(loss(found * 0.99), loss(found * 1.01), loss(1.0))


def test_a_three_times_overconfident_model_has_a_temperature_near_three():
    high, low = (find_temperature(draw_run("binary", sureness=s)[0], CARDS["binary"]) for s in (3.0, 1.0))
    assert high == approx(3 * low, rel=1e-4)


def test_the_test_split_does_not_change_the_temperature():
    run, other = draw_run("binary", seed=0)[0], draw_run("binary", seed=1)[0]
    swapped = {"val": run["val"], "test": other["test"]}
    assert find_temperature(run, CARDS["binary"]) == find_temperature(swapped, CARDS["binary"])


def test_a_probability_of_0_leaves_the_temperature_finite():
    run, _ = draw_run("binary")
    probabilities = run["val"].probabilities.copy()
    probabilities[:3] = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    run["val"] = replace(run["val"], probabilities=probabilities)
    assert 0.01 < find_temperature(run, CARDS["binary"]) < 100


def with_val(run, **change):
    return {**run, "val": replace(run["val"], **change)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: {"test": run["test"]}, "no predictions of val"),
        (lambda run: with_val(run, targets=np.ones(300, dtype=int)), "val holds one class only"),
        (lambda run: with_val(run, probabilities=0.2 + 0.6 * np.eye(2)[run["val"].targets]), "every answer on val is"),
        (
            lambda run: with_val(run, probabilities=0.8 - 0.6 * np.eye(2)[run["val"].targets]),
            "no better than chance",
        ),
        (lambda run: with_val(run, probabilities=np.full((300, 2), 0.5)), "its probabilities are all equal"),
    ],
    ids=["no val", "one class", "all right", "all wrong", "all equal"],
)
def test_without_a_temperature_there_is_a_reason_and_no_rescaled_score(change, reason):
    run = change(draw_run("binary")[0])
    section = section_of(run)
    cells = cells_of(section)
    assert cells["temperature"] is None
    assert cells["ECE"].value is not None
    for name in ("ECE after", "Brier after", "log loss after"):
        assert cells[name].value is None and reason in reason_text(cells[name].reason)
    assert any(reason in note for note in section.notes)
    assert {curve["kind"] for curve in section.details["reliability"]} == {"raw"}


# --- the table -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_brier_and_log_loss_before_and_after_equal_scikit_learns(task):
    run, logits = draw_run(task)
    section, card = section_of(run, card=CARDS[task]), CARDS[task]
    cells, targets = cells_of(section), run["test"].targets
    for suffix, temperature in (("", 1.0), (" after", cells["temperature"])):
        p = card.task.answers.from_logits(logits["test"] / temperature)
        brier = brier_score_loss(targets, p[:, 1]) if task == "binary" else brier_score_loss(targets, p)
        assert cells["Brier" + suffix].value == approx(brier)
        assert cells["log loss" + suffix].value == approx(log_loss(targets, p))


@pytest.mark.parametrize("task", list(CARDS))
def test_an_overconfident_model_is_better_calibrated_after(task):
    section = section_of(draw_run(task, num=600)[0], card=CARDS[task])
    cells = cells_of(section)
    for name in ("ECE", "Brier", "log loss"):
        raw, after = cells[name], cells[f"{name} after"]
        assert after.value < raw.value
        assert raw.low <= raw.value <= raw.high and after.low <= after.value <= after.high
    assert cells["ECE after"].low == 0.0 < cells["ECE"].low  # as low as chance alone; not so before


def test_values_are_means_over_seeds_and_each_temperature_is_kept():
    runs = [draw_run("binary", seed=seed, sureness=1 + seed)[0] for seed in range(3)]
    together, alone = section_of(*runs), [cells_of(section_of(run)) for run in runs]
    for name in ("ECE", "Brier after", "log loss"):
        assert cells_of(together)[name].value == approx(np.mean([cells[name].value for cells in alone]))
    kept = together.details["temperatures"]
    assert [entry["temperature"] for entry in kept] == [cells["temperature"] for cells in alone]
    assert [(entry["seed"], entry["fold"]) for entry in kept] == [(0, 0), (1, 0), (2, 0)]
    assert cells_of(together)["temperature"] == approx(np.mean([entry["temperature"] for entry in kept]))


def test_one_seed_without_a_temperature_leaves_the_mean_undefined_and_is_counted():
    good, bad = draw_run("binary", seed=0)[0], draw_run("binary", seed=1)[0]
    section = section_of(good, with_val(bad, targets=np.ones(300, dtype=int)))
    assert "net: no temperature: val holds one class only (1 of 2 runs)" in section.notes
    assert cells_of(section)["temperature"] is None and cells_of(section)["Brier after"].value is None


def test_every_reason_for_a_missing_temperature_has_its_number_of_runs():
    right, wrong = (0.2 + 0.6 * np.eye(2), 0.8 - 0.6 * np.eye(2))
    runs = [draw_run("binary", seed=seed)[0] for seed in range(6)]
    for i, answers in enumerate((right, wrong, wrong, right, wrong)):
        runs[i] = with_val(runs[i], probabilities=answers[runs[i]["val"].targets])
    section = section_of(*runs)
    kept = Counter(entry["reason"] for entry in section.details["temperatures"])
    (told,) = [note for note in section.notes if note.startswith("net: no temperature: ")]
    all_right, by_chance, none = kept
    assert (kept[all_right], kept[by_chance], none) == (2, 3, None)
    assert told == f"net: no temperature: {all_right} (2 of 6 runs); {by_chance} (3 of 6 runs)"


def test_if_patients_are_scored_their_mean_probability_is_calibrated():
    run, _ = draw_run("binary")
    patients = np.array([f"p{t}{i % 40}" for i, t in enumerate(run["test"].targets)])
    of_val = np.array([f"p{t}{i % 40}" for i, t in enumerate(run["val"].targets)])
    run = {"val": replace(run["val"], patients=of_val), "test": replace(run["test"], patients=patients)}
    card = replace(CARDS["binary"], unit="patient", has_patients=True)
    test = run["test"].by_unit("patient")
    cells = cells_of(section_of(run, card=card))
    assert cells["Brier"].value == approx(brier_score_loss(test.targets, test.probabilities[:, 1]))
    averaged = {split: part.by_unit("patient") for split, part in run.items()}
    assert cells["temperature"] == find_temperature(averaged, CARDS["binary"])


def test_a_regression_has_no_such_section():
    part = make_predictions([1.0], [[1.0]])
    assert section_of({"val": part, "test": part}, card=ScoringContext(task=REGRESSION, labels=("age",))) is None


# --- reliability -----------------------------------------------------------------------------------------------------
def test_the_points_equal_scikit_learns_calibration_curve_with_wilson_intervals():
    run, _ = draw_run("binary", sureness=1.0)
    (raw, after) = section_of(run).details["reliability"]
    share, claimed = calibration_curve(
        run["test"].targets, run["test"].probabilities[:, 1], n_bins=15, strategy="quantile"
    )
    assert (raw["label"], raw["kind"], after["kind"]) == ("malignant", "raw", "after")
    assert raw["share"] == approx(share) and raw["claimed"] == approx(claimed)
    hits = np.round(np.array(raw["share"]) * raw["count"])
    low, high = proportion_confint(hits, np.array(raw["count"]), method="wilson")
    assert raw["low"] == approx(low, abs=1e-9) and raw["high"] == approx(high, abs=1e-9)


@pytest.mark.parametrize("task", list(CARDS))
def test_the_gaps_of_a_curve_sum_to_the_ece(task):
    section = section_of(draw_run(task)[0], card=CARDS[task])
    for kind, column in (("raw", "ECE"), ("after", "ECE after")):
        curves = [curve for curve in section.details["reliability"] if curve["kind"] == kind]
        assert [curve["label"] for curve in curves] == (
            {"multilabel": ["mass", "fluid"], "binary": ["malignant"]}.get(task, [None])
        )
        errors = [np.average(np.abs(np.subtract(c["claimed"], c["share"])), weights=c["count"]) for c in curves]
        assert np.mean(errors) == approx(cells_of(section)[column].value)


def test_several_images_per_patient_widen_the_intervals_of_the_points():
    run, _ = draw_run("binary", num=600, sureness=1.0)
    copies = {split: replace(part, targets=np.repeat(part.targets[:150], 4)) for split, part in run.items()}
    copies = {
        split: replace(
            part,
            probabilities=np.repeat(part.probabilities[:150], 4, axis=0),
            patients=np.repeat(part.patients[:150], 4),
        )
        for split, part in copies.items()
    }
    card = replace(CARDS["binary"], has_patients=True)
    alone = {s: replace(p, patients=p.sample_ids) for s, p in copies.items()}
    widths = []
    for case in (copies, alone):
        curve = section_of(case, card=card).details["reliability"][0]
        widths.append(
            [None if low is None else high - low for low, high in zip(curve["low"], curve["high"], strict=True)]
        )
    known = [i for i, width in enumerate(widths[0]) if width is not None]
    assert len(known) > 8
    assert np.mean([widths[0][i] for i in known]) > 1.4 * np.mean([widths[1][i] for i in known])
