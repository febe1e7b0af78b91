"""Ensembles from stored predictions: over seeds, and over folds tested on the same images."""

import csv
import io

import numpy as np
import pytest
from factories import make_predictions
from sklearn.metrics import roc_auc_score

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.ensembles import average
from zoo.leaderboard.tables import ReportOptions
from zoo.report.board_csv import table_to_csv
from zoo.report.board_markdown import to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.formats import Layout
from zoo.results.store import load_results

DETAILS = Layout(width=200, details=True)

BY_NAME = {spec.name: spec for spec in METRICS}


def boards_of(root, **options):
    return build_leaderboard(load_results(root)[0], BY_NAME, ReportOptions(**{"ensembles": True, **options}))


def section_of(board):
    return next((section for section in board.sections if section.name == "ensembles"), None)


def auroc_of_mean(results):
    test = [result.predictions()["test"] for result in results]
    return roc_auc_score(test[0].targets, np.mean([part.probabilities[:, 1] for part in test], axis=0))


def test_an_ensemble_of_seeds_has_the_score_of_their_mean_probability(tmp_path, store):
    stored = [store(tmp_path, seed=seed, noise=3.0) for seed in range(3)]
    (board,) = boards_of(tmp_path)
    (row,) = section_of(board).rows
    cells = dict(zip(section_of(board).columns, row, strict=True))
    assert (cells["model"], cells["ensemble of"]) == ("net", "3 seeds")
    assert cells["auroc"].value == pytest.approx(auroc_of_mean(stored), abs=1e-12)
    assert cells["auroc"].value > cells["auroc of its members"].value
    assert cells["auroc of its members"].value == pytest.approx(board.rows[0].scores["auroc"].value)
    assert not cells["auroc"].method.with_seeds  # over patients alone


@pytest.mark.integration
def test_in_cross_validation_the_seeds_of_each_fold_are_averaged_and_folds_are_not_mixed(tmp_path, store):
    stored = {(s, f): store(tmp_path, seed=s, fold=f, num_folds=2, noise=3.0) for s in range(2) for f in range(2)}
    (board,) = boards_of(tmp_path)
    (row,) = section_of(board).rows
    expected = np.mean([auroc_of_mean([stored[s, fold] for s in range(2)]) for fold in range(2)])
    assert row[1] == "2 seeds" and row[2].value == pytest.approx(expected, abs=1e-12)


@pytest.mark.integration
def test_in_external_validation_all_folds_and_seeds_are_averaged(tmp_path, store):
    facts = {
        "num_folds": 1,
        "val_unit": "image",
        "external": {"folds": 2, "dataset": "b", "test_hash": "t", "labels": {}},
    }
    facts["external"] |= {"content_hash": "d" * 64, "left_out": {}}
    changes = {"purpose": "external", "tested_on": "b", "test_hash": "t", "num_folds": 2}
    for seed in range(2):
        for fold in range(2):
            store(tmp_path, seed=seed, fold=fold, noise=3.0, same_test=True, facts=facts, **changes)
    stored = load_results(tmp_path)[0]
    (board,) = boards_of(tmp_path)
    (row,) = section_of(board).rows
    assert row[1] == "2 seeds x 2 folds"
    assert row[2].value == pytest.approx(auroc_of_mean(stored), abs=1e-12)


@pytest.mark.integration
def test_ensembles_are_shown_only_if_requested_and_for_several_seeds(tmp_path, store):
    store(tmp_path, seed=0)
    store(tmp_path, model="constant")
    assert section_of(boards_of(tmp_path)[0]) is None
    store(tmp_path, seed=1)
    assert section_of(boards_of(tmp_path, ensembles=False)[0]) is None
    assert [row[0] for row in section_of(boards_of(tmp_path)[0]).rows] == ["net"]


def test_ensembles_are_unranked_and_below_the_models_in_every_format(tmp_path, store):
    for seed in range(2):
        store(tmp_path, seed=seed)
    boards = boards_of(tmp_path)
    assert [row.model for row in boards[0].rows] == ["net"]
    for text in (to_terminal(boards, DETAILS), to_markdown(boards)):
        assert (
            text.index("net") < text.index("Ensembles: the mean probability") < text.index("2 seeds", text.index("Ens"))
        )
        assert "not ranked among single models" in text
    (line,) = csv.DictReader(io.StringIO(table_to_csv(boards, "ensembles")))
    assert (line["model"], line["ensemble of"]) == ("net", "2 seeds") and float(line["auroc"]) > 0.5


def with_several_models(root, store):
    """Two models with two seeds and one with one; `last` has the best val score and the worst test score."""
    stored = {(m, s): store(root, model=m, seed=s, noise=3.0) for m in ("net", "other") for s in range(2)}
    return stored | {("last", 0): store(root, model="last", seed=0, noise=None, details={"val_score": 0.99})}


def row_of(root, *names, **options):
    (board,) = boards_of(root, ensembles=False, members=(names,), **options)
    section = section_of(board)
    return [dict(zip(section.columns, row, strict=True)) for row in section.rows], section


def test_an_ensemble_of_models_weighs_each_model_alike_however_many_seeds_it_has(tmp_path, store):
    stored = with_several_models(tmp_path, store)
    ((row,), _) = row_of(tmp_path, "net", "last")
    tests = {key: result.predictions()["test"] for key, result in stored.items()}
    net = np.mean([tests["net", seed].probabilities[:, 1] for seed in range(2)], axis=0)
    mean = (net + tests["last", 0].probabilities[:, 1]) / 2
    assert row["auroc"].value == pytest.approx(roc_auc_score(tests["net", 0].targets, mean), abs=1e-12)
    assert row["model"] == "net + last" and row["ensemble of"] == "2 models, 3 runs"
    assert row["train seconds"] == 3.0  # of all runs


def test_the_member_to_compare_with_is_chosen_on_val(tmp_path, store):
    with_several_models(tmp_path, store)
    ((row,), _) = row_of(tmp_path, "net", "last")
    scores = {each.model: each.scores["auroc"].value for each in boards_of(tmp_path)[0].rows}
    assert scores["last"] < scores["net"]
    assert row["minus best on val"].value == pytest.approx(row["auroc"].value - scores["last"], abs=1e-12)
    assert row["minus best on val"].low < row["minus best on val"].value < row["minus best on val"].high


def test_all_means_every_model_of_the_board(tmp_path, store):
    with_several_models(tmp_path, store)
    store(tmp_path, model="constant")
    ((row,), _) = row_of(tmp_path, "all")
    assert sorted(row["model"].split(" + ")) == ["last", "net", "other"]


@pytest.mark.parametrize(("names", "reason"), [(("net", "nte"), "'nte' is no row"), (("net",), "2 or more models")])
def test_an_ensemble_that_cannot_be_made_is_a_note(tmp_path, store, names, reason):
    with_several_models(tmp_path, store)
    rows, section = row_of(tmp_path, *names)
    assert rows == [] and reason in section.notes[-1]


@pytest.mark.integration
def test_in_cross_validation_models_are_averaged_within_each_fold(tmp_path, store):
    stored = {
        (m, f): store(tmp_path, model=m, fold=f, num_folds=2, noise=3.0, cost={"latency_seconds": 0.25})
        for m in ("net", "other")
        for f in range(2)
    }
    ((row,), _) = row_of(tmp_path, "net", "other")
    expected = np.mean([auroc_of_mean([stored[m, fold] for m in ("net", "other")]) for fold in range(2)])
    assert row["auroc"].value == pytest.approx(expected, abs=1e-12)
    assert (row["train seconds"], row["seconds per image"]) == (4.0, 0.5)  # of all runs; of the two of a fold


def test_the_command_warns_of_an_ensemble_that_no_board_has(zoo, tmp_path, store):
    with_several_models(tmp_path / "results", store)
    done = zoo("report", "--ensemble", "net,other", "--ensemble", "net,nte", cwd=tmp_path)
    assert "net + other" in done.stdout and "--ensemble net,nte: 'nte' is no row" in done.stderr


def part(names, values):
    return make_predictions(np.arange(len(names)) % 2, values, ids=names)


def test_val_images_are_averaged_within_a_fold_and_concatenated_over_folds():
    test = part(["t"], [0.5])
    runs = [{"val": part(["a", "b"], [0.2, 0.4]), "test": test}, {"val": part(["a", "b"], [0.4, 0.6]), "test": test}]
    one = average(runs)["val"]
    assert one.sample_ids.tolist() == ["a", "b"] and one.probabilities[:, 1] == pytest.approx([0.3, 0.5])
    several = average([*runs, {"val": part(["b", "c"], [0.9, 0.1]), "test": test}])["val"]
    assert several.sample_ids.tolist() == ["0/a", "0/b", "1/b", "1/c"]
    assert several.probabilities[:, 1] == pytest.approx([0.3, 0.5, 0.9, 0.1])


def test_members_tested_on_different_images_are_refused():
    runs = [{"test": part(["a", "b"], [0.2, 0.4])}, {"test": part(["b", "a"], [0.2, 0.4])}]
    with pytest.raises(ValueError, match="not tested on the same images"):
        average(runs)


def test_the_command_shows_ensembles_with_the_flag(zoo, tmp_path, store):
    for seed in range(2):
        store(tmp_path / "results", seed=seed)
    assert "Ensembles" not in zoo("report", cwd=tmp_path).stdout
    assert "Ensembles: the mean probability" in zoo("report", "--ensembles", cwd=tmp_path).stdout
