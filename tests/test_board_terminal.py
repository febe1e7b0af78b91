"""The board on a terminal: at every width each model is named, and the answer stands above the table."""

import itertools
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.report.board_terminal import MAX_NAME, to_terminal
from zoo.report.drawing import break_name, wrap_title
from zoo.report.formats import FORMATS, Layout, write_boards
from zoo.report.summary import MAX_NAMES, MAX_WARNINGS, summarize_board, warnings
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation

BY_NAME = {spec.name: spec for spec in METRICS}
LONG_NAME = "vit_base_patch16_clip_quickgelu_224.openai_ft_in12k_in1k"
SHOWN = ("auroc", "accuracy", "f1_macro", "mcc", "balanced_accuracy")
WIDTHS = (80, 90, 100, 140)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store):
    """Results of four models and a baseline that the best of them beats."""
    root = tmp_path_factory.mktemp("results")
    for model, noise in (("net", 0.4), (LONG_NAME, 0.9), ("efficientnet_b0", 1.5), ("flat", None)):
        for seed in range(3):
            store(root, model=model, seed=seed, noise=noise, metrics=SHOWN)
    store(root, model="thumbnails", noise=5.0, metrics=SHOWN)
    return root


@pytest.fixture(scope="module")
def board(folder):
    (board,) = build_leaderboard(load_results(folder)[0], BY_NAME)
    return board


def boards_of(folder):
    return build_leaderboard(load_results(folder)[0], BY_NAME, sections=())


def table_of(text):
    """The lines of the board's table, without its heading."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("rank "))
    end = next(i for i in range(start, len(lines)) if not lines[i] or lines[i].startswith("not shown"))
    return lines[start + 1 : end]


def names_of(rows):
    """The names in a table's second column, the parts of a folded one joined."""
    names = []
    for row in rows:
        rank, cell = row[:6].strip(), re.split(r"  +", row[6:].strip())[0]
        if rank:
            names.append(cell)
        else:
            names[-1] += cell
    return names


@pytest.mark.parametrize("width", [*WIDTHS, 200])
def test_every_model_is_named_in_full_at_every_width(board, width):
    names = names_of(table_of(to_terminal([board], Layout(width=width))))
    assert [name.removesuffix("(degenerate)").rstrip(" *") for name in names] == [row.label for row in board.rows]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_of_the_board_is_wider_than_the_terminal(board, width):
    for line in to_terminal([board], Layout(width=width)).splitlines():
        assert cell_len(line) <= width or line.startswith("All statements")


def test_a_terminal_narrower_than_any_table_still_shows_names_and_scores(board):
    rows = table_of(to_terminal([board], Layout(width=20)))
    assert "".join(names_of(rows)).startswith("net")
    assert all(re.search(r"\.\d{3}", row) for row in rows if row[:6].strip())


@pytest.mark.integration
def test_columns_are_dropped_in_the_documented_order(board):
    headings = ["seconds", "params", "train img/s", "mcc", "f1", "bal. acc", "accuracy", "seed SD"]
    orders = []
    for width in range(200, 30, -1):
        text = to_terminal([board], Layout(width=width)).replace("\n  ", " ")
        hidden = re.search(r"^not shown at this width: (.*)$", text, re.MULTILINE)
        orders.append(set(hidden[1].split(", ")) if hidden else set())
    dropped = [name for before, after in itertools.pairwise(orders) for name in after - before]
    assert dropped == headings


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("resnet18", ["resnet18"]),
        ("vit_base_patch16", ["vit_base_", "patch16"]),
        ("x" * 25, ["x" * 10, "x" * 10, "x" * 5]),
        ("net * (degenerate)", ["net *", "(degenerat", "e)"]),
        ("ab_cdefghij *", ["ab_", "cdefghij *"]),
        ("肺" * 6, ["肺" * 5, "肺"]),
    ],
)
def test_a_folded_name_loses_no_character(name, lines):
    assert break_name(name, 10).split("\n") == lines
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_a_long_name_is_folded_before_it_costs_a_column(tmp_path, store):
    for seed in range(2):
        store(tmp_path / "long", model="m" * 60, seed=seed)
        store(tmp_path / "short", model="m" * MAX_NAME, seed=seed)
    texts = [to_terminal(boards_of(at), Layout(width=80)) for at in (tmp_path / "long", tmp_path / "short")]
    hidden = [re.findall("^not shown.*$", text, re.MULTILINE) for text in texts]
    assert hidden[0] == hidden[1]


def test_the_answer_takes_at_most_three_lines_between_title_and_table(board, golden):
    lines = to_terminal([board], Layout(width=1000)).splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("rank "))
    assert lines[0].startswith("dots · binary") and 1 <= table - 1 <= 3
    golden("\n".join(summarize_board(board)))


def test_a_clear_winner_is_named(tmp_path, store, golden):
    for seed in range(5):
        for model, noise in (("good", 0.2), ("bad", 8.0)):
            store(tmp_path, model=model, seed=seed, noise=noise)
    (board,) = boards_of(tmp_path)
    assert board.comparisons.winner == 0 and not board.tied_with(0)
    first, *_ = summarize_board(board)
    assert first.startswith("Winner: good")
    golden(first)


def test_without_ranks_the_answer_says_why_and_what_to_do(tmp_path, store, golden):
    for model in ("a", "b"):
        store(tmp_path, model=model)
    (board,) = boards_of(tmp_path)
    golden("\n".join(summarize_board(board)), "No winner", "--seeds")


def test_a_single_model_is_not_ranked_and_its_score_is_shown(tmp_path, store, golden):
    for seed in range(2):
        store(tmp_path, model="net", seed=seed)
    (board,) = boards_of(tmp_path)
    golden("\n".join(summarize_board(board)), "No ranking", "net", "auroc .")


def test_intervals_of_a_narrow_section_stand_below_their_values(board):
    layout = Layout(width=100, sections=frozenset({"calibration"}))
    text = to_terminal([board], layout).partition("Calibration")[2]
    assert not re.search(r"\[\.\d+$", text, re.MULTILINE)


def test_a_baseline_that_no_model_beats_is_the_answer(tmp_path, store, golden):
    for seed in range(2):
        store(tmp_path, model="net", seed=seed, noise=3.0)
        store(tmp_path, model="other", seed=seed, noise=3.0)
    store(tmp_path, model="thumbnails", noise=0.1)
    (board,) = boards_of(tmp_path)
    golden(summarize_board(board)[0], "No winner", "thumbnails (1.000)")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"deviations": (Deviation("leak-allowed", ("known twins",)),)}, "known twins"),
        ({"deviations": (Deviation("no-weights"),)}, "pretrained weights"),
        ({"facts": {"synthetic": True}}, "synthetic"),
        ({"facts": {"known_issues": ["blurred"]}}, "known issue"),
        ({"init": "pretrained", "weights_tag": "a", "details": {"pretraining": ["dots"]}}, "pretrained on images"),
        ({"noise": None}, "constant predictor"),
        ({"facts": {"has_patients": False}}, "patients unknown"),
        ({"num_folds": 2}, "0 of 2"),
    ],
)
def test_what_changes_the_reading_is_a_warning_above_the_table(tmp_path, store, changes, word):
    store(tmp_path, **changes)
    (board,) = boards_of(tmp_path)
    assert word in "; ".join(warnings(board))


def test_a_local_weights_file_is_no_missing_one(tmp_path, store):
    for seed in range(2):
        store(tmp_path, model="net", seed=seed, deviations=(Deviation("local-weights"),))
    (board,) = boards_of(tmp_path)
    assert not any("no pretrained weights" in warning for warning in warnings(board))


@pytest.mark.integration
def test_many_warnings_and_names_are_counted(tmp_path, store):
    facts = {"synthetic": True, "known_issues": ["a", "b"]}
    for model in "abcdefgh":
        store(
            tmp_path, model=model, facts=facts, deviations=(Deviation("no-weights"), Deviation("leak-allowed", ("x",)))
        )
        store(tmp_path, model=model, seed=1, status="oom", facts=facts)
    (board,) = boards_of(tmp_path)
    assert len(warnings(board)) > MAX_WARNINGS
    line = summarize_board(board)[-1]
    assert line.endswith(f"; and {len(warnings(board)) - MAX_WARNINGS} more.")
    assert f"and {8 - MAX_NAMES} more" in "; ".join(warnings(board))


def test_sections_stand_below_the_short_board_only_if_a_flag_asks_for_them(board):
    assert board.sections
    short = to_terminal([board], Layout(width=120))
    assert not any(section.title[:20] in short for section in board.sections)
    asked = to_terminal([board], Layout(width=120, sections=frozenset({"calibration"})))
    (calibration,) = [section for section in board.sections if section.name == "calibration"]
    assert calibration.title[:20] in asked
    details = to_terminal([board], Layout(width=120, details=True))
    assert all(section.title[:20] in details for section in board.sections)


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_below_a_board_name_every_model_too(board, width, details):
    layout = Layout(width=width, details=details, sections=frozenset({"calibration"}))
    text = to_terminal([replace(board, rows=board.rows)], layout).partition("Calibration")[2]
    joined = re.sub(r"\s", "", "".join(line[: max(12, width // 3)] for line in text.splitlines()))
    assert "vit_base_patch16" in joined and "efficientnet_b0" in joined


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_can_be_written(board, form):
    assert "efficientnet" in write_boards([board], form)


def test_a_part_of_a_title_that_is_longer_than_a_line_is_broken_between_words():
    protocols = ", ".join(f"finetune@1+steps={number}" for number in range(8))
    assert max(map(len, wrap_title(f"dots · {protocols} · 3 seeds", 80).splitlines())) <= 80
