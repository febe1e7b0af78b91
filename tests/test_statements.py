"""The sentences beside a board's table."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions

from zoo import BINARY
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import build_leaderboard, count_units
from zoo.report.statements import NOT_SHOWN, note_statements, prevalence_of, statements
from zoo.results.store import load_results
from zoo.specs.metric import ScoringContext

PRETRAINED = {"init": "pretrained", "weights_tag": "t1", "weights_digest": "d" * 64}
PATIENTS = {"has_patients": True, "patient": "patient"}


def board_of(root):
    (board,) = build_leaderboard(load_results(root)[0], {spec.name: spec for spec in METRICS})
    return board


def test_patients_of_each_label_are_counted_from_what_was_predicted(tmp_path, store):
    store(tmp_path, facts=PATIENTS)
    first = statements(board_of(tmp_path))[0]
    assert "40 test images of 40 patients" in first
    assert "images: clear 20, nodule 20; patients: clear 20, nodule 20; positive: nodule, prevalence .50" in first


def test_prevalence_is_a_share_of_patients_if_patients_are_scored():
    owners = np.repeat(np.arange(60), np.where(np.arange(60) < 30, 2, 5)).astype(str)  # the ill have more images
    targets = (owners.astype(int) >= 30).astype(int)
    halves = np.full((len(owners), 2), 0.5)
    test = make_predictions(targets, halves, ids=owners)
    card = ScoringContext(task=BINARY, labels=("healthy", "ill"), positive=1, unit="patient", has_patients=True)
    counts = {"images": 210, "labels": {"healthy": 60, "ill": 150}, **count_units([{"test": test}], card)}
    assert counts["label_units"] == {"healthy": 30, "ill": 30}
    assert prevalence_of("ill", "patient", counts) == "positive: ill, prevalence .50"


def test_prevalence_is_labeled_as_of_images_if_units_were_not_counted():
    counts = {"images": 230, "labels": {"healthy": 70, "ill": 160}}
    assert prevalence_of("ill", "patient", counts) == "positive: ill, prevalence .70 of images"


UNEVEN = [f"p{number if number < 20 else number % 2:02}" for number in range(40)]  # two of 20 have 11 images each
EVEN = [f"p{number % 20:02}" for number in range(40)]


@pytest.mark.parametrize(("patients", "stated"), [(UNEVEN, True), (EVEN, False)])
def test_a_board_states_that_intervals_are_optimistic_if_few_patients_have_most_images(
    tmp_path, store, patients, stated
):
    store(tmp_path, facts=PATIENTS, patients=np.array(patients))
    lines = [line for line in statements(board_of(tmp_path)) if line.startswith("intervals are optimistic")]
    assert len(lines) == stated
    assert all("20 patients count as 6," in line for line in lines)


def test_a_board_warns_if_no_model_scores_higher_than_a_baseline(tmp_path, store):
    store(tmp_path, noise=30.0)
    store(tmp_path, model="thumbnails", noise=0.5)
    (line,) = [line for line in statements(board_of(tmp_path)) if line.startswith("NO MODEL SCORES HIGHER")]
    assert "thumbnails (" in line


def test_a_board_does_not_warn_if_a_model_beats_the_baselines(tmp_path, store):
    store(tmp_path, noise=0.5)
    store(tmp_path, model="thumbnails", noise=3.0)
    assert not any(line.startswith("NO MODEL SCORES HIGHER") for line in statements(board_of(tmp_path)))


def test_only_images_are_counted_without_a_patient_key(tmp_path, store):
    store(tmp_path)
    assert "patients:" not in statements(board_of(tmp_path))[0]


def test_a_board_shows_dates_device_and_versions(tmp_path, store):
    store(tmp_path)
    board = replace(board_of(tmp_path), dates=("2026-01-02", "2026-01-05"))
    assert any(line.endswith("; 2026-01-02 to 2026-01-05") for line in statements(board))


@pytest.mark.parametrize(
    ("pretraining", "told"),
    [
        (["imagenet-21k", "imagenet-1k"], "imagenet-21k, imagenet-1k: no overlap with this set is known"),
        (["laion-2b", "imagenet-1k"], "collected from the web in part; whether this set is among them is unknown"),
        (["HAM10000"], "THIS SET'S IMAGES ARE AMONG THEM (HAM10000)"),
        (None, "data that their plugin does not name: whether this set is among them is unknown"),
    ],
)
def test_pretraining_data_are_compared_with_the_dataset(tmp_path, store, pretraining, told):
    store(tmp_path, details={"pretraining": pretraining}, facts={"derived_from": ["ham10000"]}, **PRETRAINED)
    (line,) = [line for line in statements(board_of(tmp_path)) if line.startswith("models: ")]
    assert line.startswith("models: zoo-tiny:net.t1: pretrained on ") and line.endswith(told)


def test_random_init_has_no_pretraining_data(tmp_path, store):
    store(tmp_path)
    assert "models: zoo-tiny:net" in statements(board_of(tmp_path))


def test_the_tuning_budget_is_shown_even_if_it_is_zero(tmp_path, store):
    store(tmp_path)
    assert "tuning: none, the protocol's values are unchanged" in statements(board_of(tmp_path))
    store(tmp_path, seed=1, tuned="tuned learning_rate: 0.001 of 0.001, 0.01", num_tuning_runs=2)
    assert "tuning: 2 runs per model with a separate seed, the best on val chosen" in statements(board_of(tmp_path))


def test_the_last_line_names_the_limits_of_a_board(tmp_path, store):
    store(tmp_path)
    assert statements(board_of(tmp_path))[-1] == NOT_SHOWN.format("other hospitals", "this one")


def test_a_unit_other_than_the_patient_keeps_its_name(tmp_path, store):
    store(tmp_path, facts={"has_patients": True, "patient": "lesion", "unit": "patient"})
    assert statements(board_of(tmp_path))[0].startswith("unit: lesion; 40 test images of 40 lesions")


def test_equal_predictions_of_all_seeds_are_reported(tmp_path, store):
    told = "all seeds gave the same predictions: this protocol has no randomness"
    for seed in range(2):
        store(tmp_path / "probe", seed=seed, noise=0.0)
        store(tmp_path / "trained", seed=seed)
    assert told in statements(board_of(tmp_path / "probe"))
    assert told not in statements(board_of(tmp_path / "trained"))


def test_equal_scores_of_different_predictions_are_not_reported_as_equal(tmp_path, store):
    for seed in range(2):
        store(tmp_path, seed=seed, noise=0.01)  # both AUROC 1, of different probabilities
    board = board_of(tmp_path)
    assert board.rows[0].seed_sd["auroc"] == 0
    assert not any("same predictions" in line for line in statements(board))


def test_a_note_of_all_rows_appears_once_and_others_name_their_rows(tmp_path, store):
    for model in ("a", "b", "c"):
        store(tmp_path, model=model)
    rows = board_of(tmp_path).rows
    few, none = (
        Score(value=0.5, note="macro over 1 of 2 labels"),
        Score(value=None, reason=Reason("undefined", ("one class",))),
    )
    noted = [replace(row, scores={"f1_macro": few, "recall_macro": few, "auroc": none}) for row in rows]
    assert note_statements(noted, ["auroc", "f1_macro", "recall_macro"]) == [
        "f1_macro, recall_macro: macro over 1 of 2 labels"
    ]
    noted[1] = replace(rows[1], scores={"f1_macro": none, "recall_macro": Score(value=0.5)})
    assert note_statements(noted, ["auroc", "f1_macro", "recall_macro"]) == [
        "f1_macro: macro over 1 of 2 labels",
        f"{rows[0].label}, {rows[2].label}: recall_macro: macro over 1 of 2 labels",
    ]


def test_a_shared_reason_for_missing_intervals_appears_once(tmp_path, store):
    for model in ("a", "b"):
        store(tmp_path, model=model, facts={"has_patients": True, "patient": "patient"}, images_each=10)
    lines = statements(board_of(tmp_path))
    (told,) = [line for line in lines if line.startswith("intervals: ")]
    assert told.startswith("intervals: none: too few: ") and told.endswith("10 are needed")
    assert not any(line.startswith(("a: auroc", "b: auroc")) for line in lines)
