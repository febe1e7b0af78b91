"""Labels of a multi-label test set with too few cases do not count, and take no rank from a board."""

import csv
import io
import json
import statistics

import numpy as np
import pytest
from factories import make_predictions
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from zoo.evaluation.label_cases import LabelCases, choose_labels
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.label_scores import score_labels
from zoo.leaderboard.pairwise import compare_models
from zoo.report.board_csv import to_csv
from zoo.report.board_json import to_json
from zoo.report.board_latex import to_latex
from zoo.report.board_markdown import to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.formats import Layout
from zoo.report.statements import label_statements
from zoo.report.summary import answer, warnings
from zoo.results.store import load_results

LABELS = ("mass", "fluid", "hernia", "air")
POSITIVES = {"rare": (30, 20, 3, 0), "enough": (30, 20, 12, 25), "few": (9, 5, 3, 0)}
COUNT = 60
SCORED = ("auroc", "average_precision", "brier")


def facts_of(positives):
    labels = dict(zip(LABELS, positives, strict=True))
    split = {"images": COUNT, "patients": COUNT, "labels": labels}
    return {
        "task": "multilabel",
        "labels": list(LABELS),
        "positive": None,
        "splits": dict.fromkeys(("train", "val", "test"), split),
    }


def draw(model, seed, positives):
    random = np.random.default_rng([seed, *model.encode()])
    order = np.random.default_rng(5)
    targets = np.stack([order.permutation(np.arange(COUNT) < count) for count in positives], axis=1).astype(float)
    noise = {"sharp": 0.5, "blunt": 2.0}[model]
    chances = 1 / (1 + np.exp(-(targets - 0.5 + noise * random.normal(size=targets.shape))))
    return {split: make_predictions(targets, chances, prefix=split) for split in ("val", "test")}


@pytest.fixture(scope="module")
def boards(tmp_path_factory, store):
    """One board per entry of POSITIVES, of two models and two seeds."""
    built = {}
    for name, positives in POSITIVES.items():
        root = tmp_path_factory.mktemp(name)
        for model in ("sharp", "blunt"):
            for seed in range(2):
                predictions = draw(model, seed, positives)
                store(root, model=model, seed=seed, facts=facts_of(positives), metrics=SCORED, predictions=predictions)
        (built[name],) = build_leaderboard(load_results(root)[0], {spec.name: spec for spec in METRICS})
    return built


def by_scikit_learn(model, seed, positives, labels):
    test = draw(model, seed, positives)["test"]
    scores = [
        (
            roc_auc_score(test.targets[:, i], test.probabilities[:, i]),
            average_precision_score(test.targets[:, i], test.probabilities[:, i]),
            brier_score_loss(test.targets[:, i], test.probabilities[:, i]),
        )
        for i in labels
    ]
    return dict(zip(SCORED, np.mean(scores, axis=0), strict=True))


def test_a_label_counts_with_ten_cases_of_each_kind():
    cases = [LabelCases(label=str(m), positives=m, negatives=n) for m, n in ((10, 10), (9, 50), (50, 9), (0, 60))]
    assert choose_labels(cases) == (0,)
    assert choose_labels(cases[:1]) == choose_labels(cases[1:]) == ()


@pytest.mark.parametrize("name", SCORED)
def test_a_score_is_the_mean_over_the_labels_that_count(boards, name):
    board = boards["rare"]
    assert board.labels == (0, 1)
    for row in board.rows:
        seeds = [by_scikit_learn(row.model, seed, POSITIVES["rare"], (0, 1))[name] for seed in range(2)]
        found = row.scores[name]
        assert found.value == pytest.approx(np.mean(seeds), abs=1e-9)
        assert found.low <= found.value <= found.high and found.note == "over 2 of 4 labels"
        assert row.seed_sd[name] == pytest.approx(statistics.stdev(seeds), abs=1e-9)


def test_a_rare_label_takes_no_rank_from_the_board(boards):
    board = boards["rare"]
    assert [(row.model, board.rank(place)) for place, row in enumerate(board.rows)] == [("sharp", 1), ("blunt", 2)]
    (contrast,) = compare_models([board], "sharp", "blunt")
    difference = board.rows[0].scores["auroc"].value - board.rows[1].scores["auroc"].value
    assert contrast.tested.difference == pytest.approx(difference)


def test_a_board_whose_labels_all_have_enough_cases_has_the_scores_of_all_labels(boards):
    board = boards["enough"]
    assert board.labels == () and not label_statements(board)
    for row in board.rows:
        chosen = {name: board.specs[name] for name in SCORED}
        assert dict(row.scores) == score(row.stored, chosen, board.card, threshold=board.threshold)


def test_without_a_label_that_counts_there_are_values_but_no_ranks(boards):
    board = boards["few"]
    assert {board.rank(place) for place in range(2)} == {None}
    assert all(row.scores["auroc"].value is not None and row.scores["auroc"].low is None for row in board.rows)
    (line,) = label_statements(board)
    reason = "no label has 10 test images with it and 10 without; mass comes closest, with 9 and 51"
    assert line == f"{reason}: no intervals and no ranks" and answer(board) == f"No winner: {reason}."


def test_a_board_says_which_labels_count_and_why_the_others_do_not(boards):
    counted, others = label_statements(boards["rare"])
    assert counted.endswith("are over 2 of 4 labels, by images that have it: mass (30), fluid (20)")
    assert others.endswith("hernia (3 with it, 57 without), air (0 with it, 60 without)")
    assert "2 of 4 labels do not count, for too few images: hernia, air" in warnings(boards["rare"])


@pytest.mark.parametrize("write", [to_terminal, to_markdown, to_latex, to_json, to_csv])
def test_every_format_says_that_some_labels_do_not_count(boards, write):
    assert "2 of 4 labels" in write([boards["rare"]], Layout(width=80))


def test_each_label_is_scored_by_itself_also_one_that_does_not_count(boards):
    board = boards["rare"]
    row = board.rows[0]
    scores = score_labels(board, row)
    for place, label in enumerate(LABELS[:3]):
        expected = np.mean(
            [by_scikit_learn(row.model, seed, POSITIVES["rare"], (place,))["auroc"] for seed in range(2)]
        )
        assert scores[label]["auroc"].value == pytest.approx(expected)
    assert scores["fluid"]["auroc"].low is not None
    assert (scores["hernia"]["auroc"].low, scores["hernia"]["auroc"].reason.code) == (None, "too-few")
    assert (scores["air"]["auroc"].value, scores["air"]["auroc"].reason.code) == (None, "undefined")


def test_csv_and_json_hold_the_same_scores_of_each_label(boards):
    board = boards["rare"]
    lines = [line for line in csv.DictReader(io.StringIO(to_csv([board]))) if line["label"]]
    item = json.loads(to_json([board]))["leaderboard"][0]
    assert len(lines) == 2 * len(LABELS) * len(SCORED)
    for line in lines:
        if line["row"] == item["label"]:
            own = item["label_scores"][line["label"]][line["metric"]]
            assert line["value"] == ("" if own["value"] is None else str(own["value"]))
    kinds = {line["label"]: (line["positives"], line["negatives"], line["label_counts"]) for line in lines}
    assert kinds["fluid"] == ("20", "40", "1") and kinds["hernia"] == ("3", "57", "0")
