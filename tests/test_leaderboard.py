"""Boards from result files: grouping, order, and scores that equal scikit-learn's."""

import json
import statistics

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.tables import Failure
from zoo.report.statements import statements
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import KNN
from zoo.system.files import hash_file, write_sealed

BY_NAME = {spec.name: spec for spec in METRICS}


def boards_of(root):
    results, damaged = load_results(root)
    assert not damaged
    return build_leaderboard(results, BY_NAME)


def the_board(root):
    (board,) = boards_of(root)
    return board


def auroc(result):
    test = result.predictions()["test"]
    return roc_auc_score(test.targets, test.probabilities[:, 1])


def test_no_results_no_boards():
    assert build_leaderboard([], BY_NAME) == []


def test_a_row_is_the_mean_over_seeds_of_the_score_of_each(tmp_path, store):
    stored = [store(tmp_path, seed=seed) for seed in range(3)]
    (row,) = the_board(tmp_path).rows
    found = [auroc(result) for result in stored]
    assert row.scores["auroc"].value == pytest.approx(statistics.fmean(found), abs=1e-12)
    assert row.seed_sd["auroc"] == pytest.approx(statistics.stdev(found), abs=1e-12)
    assert (row.seeds, row.coverage) == ((0, 1, 2), (3, 3))


def flip_targets(result):
    """Flip the test targets of a stored result and update its checksums."""
    path, document = result.folder / "predictions.npz", json.loads((result.folder / "result.json").read_text())
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez_compressed(path, **{**arrays, "test_targets": 1 - arrays["test_targets"]})
    document.pop("seal")
    document["checksums"]["predictions.npz"] = hash_file(path)
    write_sealed(result.folder / "result.json", document)


@pytest.mark.integration
def test_a_row_whose_targets_are_not_those_of_most_models_is_not_ranked(tmp_path, store):
    for model, num_seeds in (("a", 2), ("b", 2), ("flipped", 5)):
        for seed in range(num_seeds):
            result = store(tmp_path, model=model, seed=seed)
            if model == "flipped":
                flip_targets(result)
    board = the_board(tmp_path)
    rows = {row.model: (row, board.rank(position)) for position, row in enumerate(board.rows)}
    assert rows["flipped"][1] is None and "targets are not those of most" in rows["flipped"][0].evidence
    assert all(rows[model][1] and not rows[model][0].failures for model in ("a", "b"))
    assert any(line.startswith("flipped: damaged: its targets are not") for line in statements(board))


def test_without_a_majority_of_targets_no_row_is_ranked(tmp_path, store):
    for model in ("a", "flipped"):
        for seed in range(2):
            result = store(tmp_path, model=model, seed=seed)
            if model == "flipped":
                flip_targets(result)
    board = the_board(tmp_path)
    assert [(board.rank(position), len(row.failures)) for position, row in enumerate(board.rows)] == [(None, 1)] * 2


def test_decisions_are_made_at_the_threshold_of_val_and_scored_on_test(tmp_path, store):
    stored = store(tmp_path)
    val, test = (stored.predictions()[name] for name in ("val", "test"))
    best = max(  # Youden's J, by trying every threshold between two scores
        np.convolve(np.sort(val.probabilities[:, 1]), [0.5, 0.5], "valid"),
        key=lambda t: (
            np.mean(val.probabilities[val.targets == 1, 1] >= t) - np.mean(val.probabilities[val.targets == 0, 1] >= t)
        ),
    )
    (row,) = the_board(tmp_path).rows
    expected = accuracy_score(test.targets, test.probabilities[:, 1] >= best)
    assert row.scores["accuracy"].value == pytest.approx(expected)


def test_folds_are_scored_separately_and_averaged(tmp_path, store):
    stored = [store(tmp_path, fold=fold, num_folds=2) for fold in range(2)]
    board = the_board(tmp_path)
    assert board.rows[0].scores["auroc"].value == pytest.approx(statistics.fmean(map(auroc, stored)), abs=1e-12)
    counted = {"images": 80, "patients": 80, "labels": {"clear": 40, "nodule": 40}, "folds": 2}
    assert board.facts["splits"]["test"] == counted


def test_a_seed_without_all_its_folds_does_not_count(tmp_path, store):
    whole = [store(tmp_path, seed=0, fold=fold, num_folds=2) for fold in range(2)]
    store(tmp_path, seed=1, fold=0, num_folds=2)
    (row,) = the_board(tmp_path).rows
    assert row.scores["auroc"].value == pytest.approx(statistics.fmean(map(auroc, whole)), abs=1e-12)
    assert (row.seeds, row.coverage, row.num_finished) == ((0,), (2, 4), 3)


def test_a_failed_seed_is_counted_and_its_error_shown(tmp_path, store):
    good = store(tmp_path, seed=0)
    store(tmp_path, seed=1, status="failed")
    (row,) = the_board(tmp_path).rows
    assert row.coverage == (1, 2)
    assert row.failures == (Failure("failed", "the loss is nan"),)
    assert row.scores["auroc"].value == pytest.approx(auroc(good))


def test_a_model_without_a_finished_run_is_last_and_has_no_score(tmp_path, store):
    store(tmp_path, model="good")
    store(tmp_path, model="bad", status="crashed")
    rows = the_board(tmp_path).rows
    assert [row.model for row in rows] == ["good", "bad"]
    assert not rows[1].scores


def test_without_a_finished_run_there_is_no_board(tmp_path, store):
    store(tmp_path, status="failed")
    assert boards_of(tmp_path) == []


@pytest.mark.integration
def test_rows_are_ordered_by_the_primary_metric_and_baselines_come_last(tmp_path, store):
    for model, noise in (("poor", 9.0), ("good", 0.3), ("fair", 1.0), ("thumbnails", 0.01), ("constant", 0.5)):
        store(tmp_path, model=model, noise=noise)
    rows = the_board(tmp_path).rows
    assert [row.model for row in rows] == ["good", "fair", "poor", "thumbnails", "constant"]
    assert [row.baseline for row in rows] == [False, False, False, True, True]


def test_for_an_error_metric_the_smallest_comes_first(tmp_path, store):
    for model, noise in (("poor", 9.0), ("good", 0.3)):
        store(tmp_path, model=model, noise=noise, metrics=("brier",))
    board = the_board(tmp_path)
    assert not board.higher_is_better
    assert [row.model for row in board.rows] == ["good", "poor"]


@pytest.mark.parametrize(
    "change",
    [
        {"content_hash": "d" * 64},
        {"split_hash": "6" * 64},
        {"dataset": "rings"},
        {"protocol": KNN},
        {"init": "pretrained", "weights_tag": "demo"},
    ],
)
def test_incomparable_runs_are_on_separate_boards(tmp_path, store, change):
    store(tmp_path)
    store(tmp_path, model="other", **change)
    assert [[row.model for row in board.rows] for board in boards_of(tmp_path)] in (
        [["net"], ["other"]],
        [["other"], ["net"]],
    )


@pytest.mark.parametrize("change", [{"threads": 2}, {"precision": "bf16"}, {"image_size": 32}, {"network": "0.2.0-f"}])
def test_settings_that_change_scores_separate_rows(tmp_path, store, change):
    store(tmp_path, seed=0)
    store(tmp_path, seed=0, **change)
    assert len(the_board(tmp_path).rows) == 2


def test_seeds_of_networks_of_different_size_are_not_pooled_at_equal_plugin_versions(tmp_path, store):
    for seed, count in ((0, 6_900_000), (1, 400_000), (2, 400_000)):
        store(tmp_path, seed=seed, network="0.1.0-f", cost={"num_parameters": count})
    rows = the_board(tmp_path).rows
    assert {row.variant: row.seeds for row in rows} == {"params=6900000": (0,), "params=400000": (1, 2)}


def test_results_without_a_recorded_network_are_a_separate_row(tmp_path, store):
    store(tmp_path, seed=0)
    store(tmp_path, seed=1, network="0.2.0-f")
    rows = the_board(tmp_path).rows
    assert {row.variant: row.seeds for row in rows} == {"network=unrecorded": (0,), "network=0.2.0-f": (1,)}


@pytest.mark.parametrize("field", ["estimator", "inputs", "choices"])
def test_versions_of_parts_of_a_recipe_are_separate_rows_whose_names_differ(tmp_path, store, field):
    texts = [f"loss=zoo-some-plugin:robust@{version}" for version in (1, 2)]
    for seed, text in enumerate(texts):
        store(tmp_path, seed=seed, **{field: (text,) if field == "choices" else text})
    rows = the_board(tmp_path).rows
    assert {row.variant: row.seeds for row in rows} == {f"{field}={text}": (n,) for n, text in enumerate(texts)}


def test_a_failed_seed_stays_in_the_row_of_its_network(tmp_path, store):
    store(tmp_path, seed=0, network="0.1.0-f")
    store(tmp_path, seed=1, network="0.1.0-f", status="failed", cost={"num_parameters": None})
    (row,) = the_board(tmp_path).rows
    assert (row.seeds, row.coverage) == ((0,), (1, 2))


@pytest.mark.integration
def test_baselines_stand_on_every_board_of_their_data(tmp_path, store):
    store(tmp_path, model="constant")
    store(tmp_path)
    store(tmp_path, protocol=KNN)
    store(tmp_path, content_hash="d" * 64)
    with_baseline = [board.facts["content_hash"][0] for board in boards_of(tmp_path) if board.rows[-1].baseline]
    assert with_baseline == ["c", "c"]


def test_of_baselines_at_several_image_sizes_the_board_shows_its_own(tmp_path, store):
    for size, threads in ((64, 1), (28, 1), (28, 2)):
        store(tmp_path, model="thumbnails", image_size=size, threads=threads)
    own = store(tmp_path, image_size=28)
    rows = the_board(tmp_path).rows
    assert [row.model for row in rows] == ["net", "thumbnails"]
    stored = {result.id: result.run["image_size"] for result in load_results(tmp_path)[0]}
    assert stored[rows[1].run_ids[0]] == own.run["image_size"]


def test_baselines_alone_make_a_board(tmp_path, store):
    store(tmp_path, model="constant")
    assert [row.model for row in the_board(tmp_path).rows] == ["constant"]


def test_tuning_runs_are_on_no_board(tmp_path, store):
    store(tmp_path)
    store(tmp_path, model="trial", purpose="tune", seed=10_007)
    assert [row.model for row in the_board(tmp_path).rows] == ["net"]


def test_costs_are_means_over_runs(tmp_path, store):
    store(tmp_path, seed=0, cost={"train_seconds": 2.0})
    store(tmp_path, seed=1, cost={"train_seconds": 5.0})
    assert the_board(tmp_path).rows[0].cost["train_seconds"] == 3.5


def test_deviations_of_any_seed_belong_to_the_row(tmp_path, store):
    store(tmp_path, seed=0)
    store(tmp_path, seed=1, deviations=(Deviation("no-weights"),))
    assert the_board(tmp_path).rows[0].deviations == (Deviation("no-weights"),)


@pytest.mark.integration
def test_the_same_files_give_the_same_boards_whatever_their_order(tmp_path, store):
    for model in ("b", "a", "constant"):
        for seed in range(2):
            store(tmp_path, model=model, seed=seed)
    results = load_results(tmp_path)[0]
    assert build_leaderboard(results, BY_NAME) == build_leaderboard(results[::-1], BY_NAME)


def test_a_metric_without_its_plugin_is_omitted(tmp_path, store):
    store(tmp_path)
    results = load_results(tmp_path)[0]
    (board,) = build_leaderboard(results, {"auroc": BY_NAME["auroc"]})
    assert board.metrics == ("auroc",)


def test_scores_by_patient_are_those_of_mean_probabilities(tmp_path, store):
    # forty images, each a patient of its own: by patient and by image are then the same number
    facts = {"unit": "patient", "has_patients": True, "patient": "patient"}
    stored = store(tmp_path, facts=facts)
    (row,) = the_board(tmp_path).rows
    assert row.scores["auroc"].value == pytest.approx(auroc(stored), abs=1e-12)
    assert row.scores["auroc"].method.text == "logit-DeLong"


def test_brier_is_the_mean_squared_error_of_the_positive_class(tmp_path, store):
    test = store(tmp_path, metrics=("brier",)).predictions()["test"]
    expected = brier_score_loss(test.targets, test.probabilities[:, 1])
    assert the_board(tmp_path).rows[0].scores["brier"].value == pytest.approx(expected, abs=1e-12)


def test_rows_of_one_name_show_their_differences(tmp_path, store):
    store(tmp_path)
    store(tmp_path, image_size=32, threads=2)
    store(tmp_path, model="other")
    labels = {row.label for row in the_board(tmp_path).rows}
    assert labels == {"net[image_size=28, threads=1]", "net[image_size=32, threads=2]", "other"}


@pytest.mark.parametrize(
    ("code", "faults"), [("diverged", (1,)), ("oom", (1,)), ("wrong-output", (1,)), ("killed", ()), ("run-error", ())]
)
def test_a_seed_failed_by_the_model_differs_from_one_never_run(tmp_path, store, code, faults):
    store(tmp_path, seed=0)
    store(tmp_path, seed=1, status="failed", code=code)
    assert the_board(tmp_path).rows[0].faults == faults
