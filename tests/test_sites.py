"""Each model's score on its own test split beside that on another dataset, and the drop."""

import csv
import io
import json

import numpy as np
import pytest
from pytest import approx
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.values import Reason, Score
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.external import find_drop
from zoo.leaderboard.tables import ReportOptions
from zoo.report.board_csv import table_to_csv
from zoo.report.formats import FORMATS, Layout, write_boards
from zoo.results.store import load_results
from zoo.specs.protocol import LINEAR_PROBE, SCRATCH, TUTORIAL

BY_NAME = {spec.name: spec for spec in METRICS}
THERE = {"purpose": "external", "tested_on": "there", "test_hash": "h" * 64, "prefix": "there-"}
EXTERNAL = {
    "dataset": "there",
    "content_hash": "d" * 64,
    "test_hash": "h" * 64,
    "labels": {},
    "left_out": {},
    "folds": 1,
}


@pytest.fixture
def fill(tmp_path, store):
    """Store a model at home and, with more noise, there."""

    def run(model, noise, noise_there, *, seeds=(0, 1, 2), seeds_there=(0, 1, 2), **changes):
        for seed in seeds:
            store(tmp_path, model=model, seed=seed, noise=noise, **changes)
        for seed in seeds_there:
            store(tmp_path, model=model, seed=seed, noise=noise_there, facts={"external": EXTERNAL}, **THERE, **changes)
        return tmp_path

    return run


def boards_of(root, **options):
    return build_leaderboard(load_results(root)[0], BY_NAME, ReportOptions(**options), sections=())


def section_of(boards):
    (section,) = [part for board in boards for part in board.sections if part.name == "external"]
    return section


def test_a_line_has_the_scores_of_both_boards_and_their_difference(fill):
    fill("net", 0.5, 3.0)
    boards = boards_of(fill("constant", None, None, seeds=(0,), seeds_there=(0,)))
    home, there = ({row.label: row.scores["auroc"] for row in board.rows} for board in boards)
    lines = {line[0]: line[1:] for line in section_of(boards).rows}
    assert list(lines) == ["net", "constant"]
    for label, (at_home, elsewhere, drop) in lines.items():
        assert (at_home, elsewhere) == (home[label], there[label])
        assert drop.value == approx(at_home.value - elsewhere.value)
    assert lines["net"][2].low < lines["net"][2].value < lines["net"][2].high


def test_the_interval_of_the_drop_is_that_of_bootstrapping_both_test_sets():
    """Areas of resampled patients, drawn independently at both sites; one seed, so patients alone.

    The areas follow from scipy's ranks (Mann-Whitney): scikit-learn's 4,000 calls take 8 s.
    """
    from factories import make_predictions

    from zoo.evaluation.scoring import score
    from zoo.specs.metric import ScoringContext
    from zoo.tasks.classes import BINARY

    random = np.random.default_rng(0)
    scores, drawn = [], []
    for size, noise in ((400, 1.0), (300, 2.0)):
        targets = np.arange(size) % 2
        chance = 1 / (1 + np.exp(-(targets - 0.5 + noise * random.normal(size=size))))
        part = make_predictions(targets, chance)
        card = ScoringContext(task=BINARY, labels=("a", "b"), positive=1)
        scores.append(
            score([[{"val": part, "test": part}]], {"auroc": BY_NAME["auroc"]}, card, threshold="val")["auroc"]
        )
        samples = random.integers(0, size, (2000, size))
        positive, ranks = targets[samples], rankdata(chance[samples], axis=1)
        num = positive.sum(axis=1)
        drawn.append(((ranks * positive).sum(axis=1) - num * (num + 1) / 2) / (num * (size - num)))
        assert drawn[-1][:20] == approx([roc_auc_score(targets[rows], chance[rows]) for rows in samples[:20]])
    drop = find_drop(*scores, True)
    assert (drop.low, drop.high) == approx(tuple(np.quantile(drawn[0] - drawn[1], [0.025, 0.975])), abs=0.006)
    assert drop.method == IntervalMethod(code="mover")


def test_for_an_error_a_drop_is_a_larger_value():
    home, there = Score(value=0.1, low=0.08, high=0.12), Score(value=0.3, low=0.25, high=0.35)
    drop = find_drop(home, there, higher=False)
    assert drop.value == approx(0.2) and 0 < drop.low < 0.2 < drop.high
    assert find_drop(home, there, higher=True).value == approx(-0.2)


def test_without_a_score_or_an_interval_the_drop_says_why():
    few = Reason("too-few", "too few: 3 positives, 10 are needed")
    scored, unsure = Score(value=0.9, low=0.8, high=0.95), Score(value=0.7, reason=few)
    assert find_drop(scored, unsure, True) == Score(value=approx(0.2), reason=few)
    assert find_drop(scored, Score(value=None, reason=few), True) == Score(value=None, reason=few)


def test_a_model_without_runs_at_home_has_no_drop_and_other_seeds_are_named(fill):
    fill("net", 0.5, 3.0, seeds=())
    root = fill("other", 0.5, 3.0, seeds=(0, 1, 2), seeds_there=(0, 1))
    section = section_of(boards_of(root))
    lines = {line[0]: line[1:] for line in section.rows}
    assert (lines["net"][0].value, lines["net"][2].value) == (None, None)
    assert "other: seeds 0, 1, 2 at home, 0, 1 there" in section.notes


def test_without_results_at_home_there_is_no_table(fill):
    (board,) = boards_of(fill("net", 0.5, 3.0, seeds=()))
    assert board.sections == ()


def test_each_recipe_has_its_line(fill):
    fill("net", 0.5, 3.0, protocol=SCRATCH)
    root = fill("net", 1.0, 2.0, protocol=TUTORIAL)
    assert len(boards_of(root)) == 4
    lines = section_of(boards_of(root, recipes=True)).rows
    assert {line[0] for line in lines} == {"net · scratch", "net · tutorial"}


def test_a_deterministic_model_has_a_drop_over_patients_alone(fill):
    pretrained = {"init": "pretrained", "weights_tag": "demo", "weights_digest": "d", "protocol": LINEAR_PROBE}
    root = fill("net", 0.5, 3.0, seeds=(0,), seeds_there=(0,), **pretrained)
    ((_, _, _, drop),) = section_of(boards_of(root)).rows
    assert drop.low is not None and not drop.method.with_seeds


# --- formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", sorted({*FORMATS} - {"csv"}))
def test_every_format_shows_the_line_without_being_asked(fill, form):
    boards = boards_of(fill("net", 0.5, 3.0))
    ((_, at_home, there, drop),) = section_of(boards).rows
    text = write_boards(boards, form, Layout(width=80))
    if form == "json":
        (found,) = [board["sections"]["external"] for board in json.loads(text)["boards"] if board["sections"]]
        (line,) = found["rows"]
        assert [line[name]["value"] for name in ("at home", "there", "drop")] == [
            at_home.value,
            there.value,
            drop.value,
        ]
        return
    value = f"{drop.value:.3f}".replace("0.", ".", 1)
    lines = [line for line in text.splitlines() if value in line]
    assert lines, text


def test_csv_has_the_lines_as_a_table(fill):
    boards = boards_of(fill("net", 0.5, 3.0))
    (line,) = csv.DictReader(io.StringIO(table_to_csv(boards, "external")))
    ((_, _, _, drop),) = section_of(boards).rows
    assert (float(line["drop"]), float(line["drop_low"]), float(line["drop_high"])) == (drop.value, drop.low, drop.high)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_terminal_has_one_line_per_model(fill, width):
    text = write_boards(boards_of(fill("net", 0.5, 3.0)), "terminal", Layout(width=width))
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("auroc at home (dots) and there (there)"))
    assert lines[start + 1].split() == ["model", "at", "home", "there", "drop"]
    assert lines[start + 2].startswith("net ") and all(len(line) <= width for line in lines[start : start + 3])
