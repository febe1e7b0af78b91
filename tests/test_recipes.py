"""Boards of recipes: the rows of all protocols on one test set, ranked by the same tests, in every format."""

import csv
import io
import json

import numpy as np
import pytest
import scipy.stats
from pytest import approx
from sklearn.metrics import accuracy_score

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.multi_dataset import find_across
from zoo.leaderboard.pairwise import compare_models
from zoo.leaderboard.tables import ReportOptions
from zoo.report.board_html import to_html
from zoo.report.formats import FORMATS, Layout, write_boards
from zoo.report.statements import statements, title
from zoo.results.store import load_results
from zoo.specs.protocol import KNN, LINEAR_PROBE, SCRATCH, TUTORIAL, override

BY_NAME = {spec.name: spec for spec in METRICS}
PRETRAINED = {"init": "pretrained", "weights_tag": "demo", "weights_digest": "d"}


def boards_of(root, recipes=True):
    return build_leaderboard(load_results(root)[0], BY_NAME, ReportOptions(recipes=recipes), sections=())


def the_board(root):
    (board,) = boards_of(root)
    return board


def row_of(board, label):
    return next(position for position, row in enumerate(board.rows) if row.label == label)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store):
    """A network fine-tuned with three seeds and probed once, one from random init, and the baselines."""
    root = tmp_path_factory.mktemp("results")
    for seed in range(3):
        store(root, model="net", seed=seed, noise=0.5, protocol=TUTORIAL, **PRETRAINED)
        store(root, model="net", seed=seed, noise=9.0, protocol=SCRATCH)
    store(root, model="net", noise=1.0, protocol=LINEAR_PROBE, **PRETRAINED)
    store(root, model="constant", noise=None)
    return root


@pytest.fixture(scope="module")
def board(folder):
    return the_board(folder)


LABELS = ["net.demo · tutorial", "net.demo · linear-probe", "net · scratch", "constant"]


def test_without_the_option_each_recipe_has_its_own_board(folder):
    boards = boards_of(folder, recipes=False)
    assert [board.protocol for board in boards] == ["linear-probe@1", "scratch@1", "tutorial@1"]
    names = [[row.label for row in board.rows] for board in boards]
    assert names == [["net.demo", "constant"], ["net", "constant"], ["net.demo", "constant"]]


def test_one_board_has_the_rows_of_all_recipes_by_their_scores(board):
    assert [row.label for row in board.rows] == LABELS
    assert (board.protocols, board.init) == (("linear-probe@1", "scratch@1", "tutorial@1"), "mixed")
    assert "linear-probe@1, scratch@1, tutorial@1 · 3 seeds" in title(board)
    assert title(board).endswith("pretrained weights and random init")


def test_the_scores_of_a_row_are_those_of_the_board_of_its_protocol(folder, board):
    for alone in boards_of(folder, recipes=False):
        for row in alone.rows:
            of_model = [each for each in board.rows if each.run_ids == row.run_ids]
            assert [each.scores for each in of_model] == [row.scores]


def test_each_row_decides_by_the_threshold_of_its_protocol(folder, board):
    """0.5 for the tutorial, although the first protocol of the board chooses on val."""
    tests = [r.predictions()["test"] for r in load_results(folder)[0] if r.run["protocol"]["name"] == "tutorial"]
    expected = np.mean([accuracy_score(test.targets, test.probabilities[:, 1] >= 0.5) for test in tests])
    sections = build_leaderboard(load_results(folder)[0], BY_NAME, ReportOptions(recipes=True))[0].sections
    (operating,) = [section for section in sections if section.name == "operating"]
    thresholds = {row[0]: row[1] for row in operating.rows}
    assert board.rows[0].scores["accuracy"].value == approx(expected)
    assert thresholds["net.demo · tutorial"] == 0.5 != thresholds["net.demo · linear-probe"]
    assert "threshold .5, the protocol's; the threshold with" in operating.title


# --- deterministic rows ----------------------------------------------------------------------------------------------
def test_a_head_on_given_weights_is_ranked_with_one_run_and_complete(board):
    probe, other = (board.rows[row_of(board, LABELS[place])] for place in (1, 0))
    assert (probe.deterministic, probe.seeds, probe.coverage) == (True, (0,), (1, 1))
    assert not other.deterministic
    assert board.rank(1) is not None and board.num_seeds == 3


def test_a_deterministic_row_has_no_variance_between_seeds_in_a_test(board):
    """Against a row with several seeds: Satterthwaite's degrees of freedom with the seeds of the other models."""
    first, second = board.rows[0].evidence, board.rows[1].evidence
    pair = board.comparisons.find(0, 1)
    n = len(first.patients)
    case = np.var(first.influence - second.influence, ddof=1) / n
    variances = [np.var(board.rows[place].evidence.seed_scores, ddof=1) for place in (0, 2)]
    seed = max(variances[0], np.mean(variances)) / 3
    df = (case + seed) ** 2 / (seed**2 / 4 + case**2 / (n - 1))
    difference = first.seed_scores.mean() - second.seed_scores[0]
    assert (pair.difference, pair.seed_variance, pair.df) == approx((difference, seed, df))
    assert pair.p == approx(2 * scipy.stats.t.sf(abs(difference) / np.sqrt(case + seed), df))


def test_older_results_of_several_equal_seeds_give_the_same_ranks_and_tests(tmp_path, store):
    boards = {}
    for times in (1, 3):
        root = tmp_path / str(times)
        for model, noise in (("net", 0.5), ("other", 2.0)):
            for seed in range(times):
                result = store(root, model=model, noise=noise, protocol=KNN, **PRETRAINED)
                if seed:
                    repeat_with_seed(root, result, seed)
        boards[times] = the_board(root)
    once, thrice = boards[1], boards[3]
    assert [row.seeds for row in thrice.rows] == [(0, 1, 2)] * 2
    assert all(row.deterministic and row.coverage[0] == row.coverage[1] for row in (*once.rows, *thrice.rows))
    assert once.comparisons == thrice.comparisons and once.comparisons.ranks[0] == 1
    assert "· deterministic ·" in title(once)


def repeat_with_seed(root, result, seed):
    """Store the same predictions under another seed."""
    from dataclasses import replace

    from zoo.results.runs import read_run
    from zoo.results.store import Artifacts, save_result

    run = replace(read_run(result.run), seed=seed)
    again = replace(result, id=run.id, run=run.describe(), identity=run.identity, folder=None, checksums={})
    save_result(
        root, run, Artifacts(result=again, predictions=result.predictions(), scores={"scores": result.scores()})
    )


def test_a_model_without_runs_of_one_seed_is_incomplete_only_in_its_recipe(tmp_path, store):
    for seed in range(5):
        store(tmp_path, model="net", seed=seed, protocol=TUTORIAL)
    for seed in range(2):
        store(tmp_path, model="net", seed=seed, protocol=SCRATCH)
    assert {row.recipe: row.coverage for row in the_board(tmp_path).rows} == {"tutorial": (5, 5), "scratch": (2, 2)}


# --- names -----------------------------------------------------------------------------------------------------------
def test_protocols_of_one_name_are_named_in_full(tmp_path, store):
    for protocol in (TUTORIAL, override(TUTORIAL, {"epochs": "3"}), SCRATCH):
        store(tmp_path, protocol=protocol)
    labels = {row.label for row in the_board(tmp_path).rows}
    assert labels == {"net · tutorial@1", "net · tutorial@1+epochs=3", "net · scratch"}


def test_sentences_name_the_recipe_of_their_row(tmp_path, store):
    store(tmp_path, protocol=SCRATCH)
    store(tmp_path, protocol=TUTORIAL, status="failed")
    assert "net · tutorial: failed: the loss is nan" in statements(the_board(tmp_path))


def test_two_recipes_of_one_model_can_be_compared(folder):
    (found,) = compare_models(boards_of(folder), "net.demo · tutorial", "net.demo · linear-probe")
    assert found.tested is not None
    assert compare_models(boards_of(folder), "net · tutorial", "net · linear-probe")[0].tested == found.tested


def test_the_verdict_on_shuffled_labels_of_each_recipe_stands_on_the_board(tmp_path, store):
    for protocol in (SCRATCH, TUTORIAL):
        for seed in range(2):
            store(tmp_path, protocol=protocol, seed=seed)
            shuffled = {"protocol": override_shuffled(protocol), "purpose": "shuffle"}
            store(tmp_path, seed=seed, noise=50.0, **shuffled)
    board, control = boards_of(tmp_path)
    assert control.is_control and not board.is_control
    assert {verdict.model for verdict in board.controls} == {"net · scratch", "net · tutorial"}


def override_shuffled(protocol):
    from dataclasses import replace

    from zoo.results.runs import SHUFFLED

    return replace(protocol, overrides=(SHUFFLED,))


def test_recipes_are_ordered_across_datasets(tmp_path, store):
    for dataset in ("dots", "rings"):
        store(tmp_path, dataset=dataset, model="constant", noise=None)
        for protocol, noise in ((SCRATCH, 0.5), (TUTORIAL, 3.0)):
            for seed in range(2):
                store(tmp_path, dataset=dataset, protocol=protocol, seed=seed, noise=noise)
    (across,) = find_across(boards_of(tmp_path))
    assert set(across.models) == {"net · scratch", "net · tutorial"}
    assert across.protocol == "scratch@1, tutorial@1"


# --- formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", sorted({*FORMATS} - {"latex"}))
def test_every_format_names_the_recipe_and_the_deterministic_row(board, form):
    text = write_boards([board], form, Layout(width=200))
    assert all(label in text for label in LABELS)
    assert "deterministic" in text


def test_latex_names_the_recipe(board):
    assert "net.demo · linear-probe" in write_boards([board], "latex")


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_none_ends_between_model_and_recipe(board, width):
    lines = write_boards([board], "terminal", Layout(width=width)).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("rank")) :]
    assert all(len(line) <= width for line in lines if not line.startswith("All statements"))
    assert not any(line.rstrip().endswith("·") for line in table)


def test_machines_read_the_protocol_and_initial_weights_of_each_row(board):
    rows = {row["label"]: row for row in json.loads(write_boards([board], "json"))["leaderboard"]}
    lines = {
        line["row"]: line for line in csv.DictReader(io.StringIO(write_boards([board], "csv"))) if line["ranks"] == "1"
    }
    for found in (rows, lines):
        each = [(found[label]["protocol"], found[label]["init"]) for label in LABELS]
        assert each == [
            ("tutorial@1", "pretrained"),
            ("linear-probe@1", "pretrained"),
            ("scratch@1", "random"),
            ("baseline@1", "random"),
        ]
    tied = {label: rows[label]["tied_with"] for label in LABELS}
    assert {label: lines[label]["tied_with"].split("; ") if tied[label] else [] for label in LABELS} == tied
    assert [rows[label]["deterministic"] for label in LABELS] == [False, True, False, False]


def test_the_page_repeats_each_row_under_its_own_protocol(board):
    page = to_html([board])
    assert all(f"--protocol {name} " in page for name in ("tutorial", "linear-probe", "scratch"))
