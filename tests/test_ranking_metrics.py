"""Boards ranked by a requested metric, and boards that show requested metrics."""

import pytest

from zoo import MetricSpec
from zoo.cli.report import check_metrics
from zoo.errors import UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.ranking_metrics import find_rank_fault, list_ranking_metrics
from zoo.leaderboard.tables import ReportOptions
from zoo.registry.lookup import Registry
from zoo.report.formats import FORMATS, Layout, write_boards
from zoo.report.statements import ranking_statements, statements, title
from zoo.report.summary import answer, warnings
from zoo.results.store import load_results

STORED = ("auroc", "accuracy", "f1_macro", "recall_macro", "balanced_accuracy", "sensitivity", "brier", "ece")


def mean_distance(request):
    """Mean distance of the probability from the truth."""
    return float(abs(request.probabilities[:, 1] - request.targets).mean())


DISTANCE = MetricSpec(name="distance", compute=mean_distance, tasks=("binary",), higher_is_better=False)
KNOWN = {spec.name: spec for spec in (*METRICS, DISTANCE)}


@pytest.fixture(scope="module")
def results(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("results")
    for model, noise in (("sharp", 0.2), ("blunt", 3.0)):
        for seed in range(2):
            store(root, model=model, seed=seed, noise=noise, metrics=STORED)
    store(root, model="constant", noise=None, metrics=STORED)
    return load_results(root)[0]


def board_of(results, **options):
    (board,) = build_leaderboard(results, KNOWN, ReportOptions(**options), sections=())
    return board


@pytest.fixture(scope="module")
def by_brier(results):
    return board_of(results, rank_by="brier")


def test_ranks_by_a_requested_metric_are_those_of_runs_that_have_it_as_their_own(by_brier, tmp_path, store):
    for model, noise in (("sharp", 0.2), ("blunt", 3.0)):
        for seed in range(2):
            store(tmp_path, model=model, seed=seed, noise=noise, metrics=("brier", "auroc"))
    own = board_of(load_results(tmp_path)[0])
    assert (
        by_brier.comparisons.pairs == own.comparisons.pairs and by_brier.comparisons.ranks[:2] == own.comparisons.ranks
    )
    assert by_brier.comparisons.detectable == own.comparisons.detectable
    assert [row.scores["brier"] for row in by_brier.rows[:2]] == [row.scores["brier"] for row in own.rows]


def test_an_error_ranks_the_lowest_first_and_the_sentences_say_lower(by_brier):
    values = [row.scores["brier"].value for row in by_brier.rows[:2]]
    assert values == sorted(values) and by_brier.rank(0) == 1
    assert answer(by_brier).endswith("every other ranked model scores detectably higher.")
    assert ranking_statements(by_brier)[0].startswith("rank: 1 + the models that score detectably lower")


def test_the_title_names_the_metric_that_ranks_if_it_is_not_the_runs_own(results, by_brier):
    assert title(by_brier).endswith("ranked by brier") and by_brier.metrics[:2] == ("brier", "auroc")
    assert "ranked by" not in title(board_of(results)) and "ranked by" not in title(board_of(results, rank_by="auroc"))


def test_a_row_is_degenerate_by_the_runs_own_metric_whatever_ranks(results, by_brier):
    flags = {row.model: row.degenerate for row in board_of(results).rows}
    assert {row.model: row.degenerate for row in by_brier.rows} == flags


def test_a_plugins_metric_that_is_not_stored_ranks(results):
    board = board_of(results, rank_by="distance")
    assert (board.rows[0].model, board.rank(0)) == ("sharp", 1)
    assert board.comparisons.pairs[0].difference < 0
    tests = [run["test"] for run in (result.predictions() for result in results if result.run["shown"] == "sharp")]
    expected = [abs(test.probabilities[:, 1] - test.targets).mean() for test in tests]
    assert board.rows[0].scores["distance"].value == pytest.approx(sum(expected) / 2)
    assert board.rows[0].seed_sd["distance"] == pytest.approx(abs(expected[0] - expected[1]) / 2**0.5)


@pytest.mark.parametrize(
    ("name", "reason"), [("ece", "not a smooth function"), ("mae", "not a metric of binary tasks")]
)
def test_a_metric_that_cannot_rank_leaves_the_runs_own_and_says_why(results, name, reason):
    board = board_of(results, rank_by=name)
    assert (board.primary_metric, board.rank_fault.metric) == ("auroc", name) and reason in board.rank_fault.reason
    assert any(line.startswith(f"ranked by auroc, not by {name}: ") for line in statements(board))
    assert any(f"not by {name}" in line for line in warnings(board))


def test_the_metrics_that_can_rank_are_listed(results):
    run, card = results[0].predictions(), results[0].card()
    assert not find_rank_fault(DISTANCE, run, card, "val")
    able = list_ranking_metrics(KNOWN, run, card, "val")
    assert {"auroc", "brier", "mcc", "distance"} <= set(able) and not {"ece", "mae"} & set(able)


def test_the_command_refuses_a_metric_that_can_rank_nothing_and_lists_those_that_can(results):
    registry = Registry(metrics=KNOWN)
    check_metrics(results, ReportOptions(rank_by="brier", metrics=("mcc",)), registry)
    with pytest.raises(UsageError) as refused:
        check_metrics(results, ReportOptions(rank_by="ece"), registry)
    assert "auroc" in refused.value.fix and "distance" in refused.value.fix and "ece" not in refused.value.fix
    with pytest.raises(UsageError, match="mae: not a metric of binary tasks"):
        check_metrics(results, ReportOptions(metrics=("mae",)), registry)


@pytest.mark.integration
@pytest.mark.parametrize("form", FORMATS)
def test_requested_metrics_are_in_every_format(results, form):
    board = board_of(results, metrics=("npv", "distance"))
    assert board.metrics[:3] == ("auroc", "npv", "distance")
    text = write_boards([board], form, Layout(width=140))
    assert "npv" in text and "distance" in text
    value = board.rows[0].scores["distance"].value
    assert f"{value:.3f}"[1:] in text or str(value) in text


def test_requested_metrics_are_dropped_last_of_all_metrics_on_a_narrow_terminal(results):
    text = write_boards([board_of(results, metrics=("npv",))], "terminal", Layout(width=72))
    heading = next(line for line in text.splitlines() if line.startswith("rank"))
    assert "npv" in heading and "recall" not in heading
    assert "recall" in next(line for line in text.splitlines() if line.startswith("not shown"))
