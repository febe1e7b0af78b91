"""Boards in every format: rounding, escaping, and equal bytes for equal results."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from zoo.errors import UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.formatting import amount, disarm, number, share
from zoo.report.board_csv import rows_to_csv, table_to_csv, to_csv
from zoo.report.board_json import to_json
from zoo.report.board_markdown import escape, to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.formats import Layout
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.section import Section

DETAILS = Layout(width=200, details=True)

HOSTILE = {
    "labels": ["=cmd|' /C calc'!A0", "<script>alert(1)</script> | `x` \x1b[31m*bold*"],
    "patient": "none: \u202eevil",
    "notes": ["two\nlines | and a pipe", "[link](javascript:alert(1))"],
}
HOSTILE["splits"] = {
    name: {"images": 40, "patients": 40, "labels": dict.fromkeys(HOSTILE["labels"], 20)}
    for name in ("train", "val", "test")
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("results")
    for model, noise in (("net", 1.0), ("other_net", 2.0)):
        for seed in range(2):
            store(root, model=model, seed=seed, noise=noise)
    store(root, model="net", seed=2, status="oom")
    store(root, model="constant", noise=0.0)
    return root


@pytest.fixture(scope="module")
def boards(stored):
    return build_leaderboard(load_results(stored)[0], {spec.name: spec for spec in METRICS})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("hostile")
    store(root, facts=HOSTILE, deviations=(Deviation("other", ("=1+1",)), Deviation("other", ("image_size: 32 | 64",))))
    return build_leaderboard(load_results(root)[0], {spec.name: spec for spec in METRICS})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9134, ".913"),
        (0.0, ".000"),
        (1.0, "1.000"),
        (0.9996, ".999"),
        (-0.25, "-.250"),
        (-0.99996, "-.999"),
        (12.345, "12.35"),
        (12_345.6, "12346"),
        (2.5, "2.500"),
        (None, "-"),
    ],
)
def test_numbers_are_short_and_never_rounded_up_to_certainty(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (352.0, "352"),
        (11_180_000, "11.2 M"),
        (999_999, "1 M"),
        (999.4, "999"),
        (4e9, "4 G"),
        (1500, "1.5 k"),
    ],
)
def test_amounts_have_three_digits_and_a_prefix(value, text):
    assert amount(value) == text


def test_details_show_every_statement_and_the_ranks(boards):
    text = to_terminal(boards, DETAILS)
    for told in (
        "dots · binary · 40 train / 40 val / 40 test images · scratch@1 · 2 seeds (preliminary) · random init",
        "baseline: class prior",
        "40 test images; images: clear 20, nodule 20; positive: nodule, prevalence .50",
        "split: official (55555555); dataset cccccccc",
        "abacus, 1 thread; torch 2.11.0; zoo 0.1.0; 2025-01-01",
        "tuning: none, the protocol's values are unchanged",
        "not shown: images of other hospitals, devices and years",
        "intervals: 95 %, Newcombe's method 5; logit-DeLong (patients + seeds); overlapping intervals",
        "rank: 1 + the models that score detectably higher (t test over patients and seeds, Holm over 1 pair)",
        "best score: net; no detectable difference from other_net",
        "this test set of 40 images, with these seeds, finds a difference of .",
        " of resampled test sets (the same seeds)",
        " of redrawn seeds (the same test set)",
        "net: 2 of 3 runs count",
        "net: oom: the loss is nan",
    ):
        assert told in text
    rows = re.findall(r"^([\d-]) +(net|other_net|constant) ", text, re.MULTILINE)
    assert rows == [("1", "net"), ("1", "other_net"), ("-", "constant")]
    assert "\x1b" not in text


def test_a_board_of_an_interrupted_bench_counts_the_finished_runs(tmp_path, store):
    for fold in range(2):
        details = {"pretraining": ["imagenet-1k"]}
        store(tmp_path, fold=fold, num_folds=5, init="pretrained", weights_tag="a1", details=details)
    text = to_terminal(build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS}), DETAILS)
    assert "80 images, tested in 2 of 5 folds so far" in text
    assert "net: 0 of 5 runs count; 2 are done, and a seed counts with all its folds" in text
    assert "pretrained on imagenet-1k: no overlap with this set is known" in text
    assert "no seed has finished all its folds" in text and "no finished run" not in text


@pytest.mark.integration
def test_interval_methods_that_differ_only_by_seeds_share_one_line(tmp_path, store):
    for seed in range(2):
        store(tmp_path, seed=seed, images_each=2, noise=1.0 + seed)
    store(tmp_path, model="thumbnails", images_each=2, noise=3.0)
    text = to_terminal(build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS}), DETAILS)
    (line,) = [line for line in text.splitlines() if line.startswith("intervals: 95 %") and "overlap" in line]
    assert line == (
        "intervals: 95 %, Newcombe's method 5 with a design effect by patient (patients + seeds where there are "
        "several); overlapping intervals do not show that two models are equal"
    )


def test_color_is_used_only_if_requested(boards):
    assert "\x1b[" in to_terminal(boards, Layout(color=True))
    assert "\x1b" not in to_terminal(boards, Layout(color=False))


def test_the_numbers_of_all_formats_agree(boards):
    row = next(row for row in boards[0].rows if row.model == "net")
    exact = row.scores["auroc"].value
    (line,) = [line for line in csv.DictReader(io.StringIO(rows_to_csv(boards))) if line["model"] == "net"]
    (item,) = [item for item in json.loads(to_json(boards))["leaderboard"] if item["model"] == "net"]
    assert float(line["auroc"]) == item["value"] == exact
    assert f"{exact:.3f}".lstrip("0") in to_markdown(boards)
    assert f"{exact:.3f}".lstrip("0") in to_terminal(boards, DETAILS)


def test_json_has_the_fields_of_the_contract_and_ranks_with_ties(boards):
    document = json.loads(to_json(boards))
    assert (document["schema"], document["command"]) == (1, "report")
    for item in document["leaderboard"]:
        assert {"dataset", "model", "rank", "tied_with", "metric", "value", "low", "high", "seeds", "coverage"} <= set(
            item
        )
    net, other, constant = document["leaderboard"]
    assert (net["rank"], net["tied_with"], net["unranked"]) == (1, ["other_net"], None)
    assert (other["rank"], other["tied_with"]) == (1, ["net"])
    assert (constant["rank"], constant["tied_with"]) == (None, [])
    assert constant["unranked"] == "a baseline is not ranked"
    assert [item["coverage"] for item in document["leaderboard"]] == ["2/3", "2/3", "1/1"]


def test_json_has_every_pair_with_the_parts_of_its_variance(boards):
    (board,) = json.loads(to_json(boards))["boards"]
    (pair,) = board["comparisons"]["pairs"]
    assert (pair["first"], pair["second"], pair["winner"]) == ("net", "other_net", None)
    items = json.loads(to_json(boards))["leaderboard"]
    assert pair["difference"] == pytest.approx(items[0]["value"] - items[1]["value"])
    assert pair["patient_variance"] > 0 and pair["seed_variance"] > 0 and pair["df"] > 2
    assert 0 <= board["comparisons"]["seeds_change_winner"] < 0.5


def test_every_format_separates_the_effect_of_other_seeds_from_that_of_other_patients(boards):
    found = boards[0].comparisons
    for text in (to_terminal(boards, DETAILS), to_markdown(boards)):
        assert f"another model comes first in {share(found.patients_change_winner)} of resampled test sets" in text
        assert f"another model comes first in {share(found.seeds_change_winner)} of redrawn seeds" in text
    line, *_ = csv.DictReader(io.StringIO(rows_to_csv(boards)))
    (told,) = json.loads(to_json(boards))["boards"]
    for name in ("patients_change_winner", "seeds_change_winner"):
        assert float(line[name]) == told["comparisons"][name] == getattr(found, name)
    assert found.patients_change_winner != found.seeds_change_winner


def test_the_heading_names_seeds_if_the_interval_includes_them(boards):
    assert "auroc [patients + seeds]" in to_terminal(boards, DETAILS)
    assert r"auroc \[patients + seeds\]" in to_markdown(boards)


def test_one_seed_is_never_ranked(tmp_path, store):
    for model in ("a", "b"):
        store(tmp_path, model=model)
    boards = build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS})
    assert "No winner: one seed is never ranked" in to_terminal(boards)
    assert {item["rank"] for item in json.loads(to_json(boards))["leaderboard"]} == {None}


@pytest.mark.parametrize(("value", "text"), [(0.004, "under 1 %"), (0.014, "1 %"), (0.5, "50 %"), (None, "-")])
def test_shares_below_the_resolution_of_2000_draws_are_under_1_percent(value, text):
    assert share(value) == text


def tables(markdown):
    """The lines of every table."""
    return [part.splitlines() for part in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)]


def test_markdown_has_a_table_per_board_and_section_with_equal_cells_in_every_row(boards):
    found = tables(to_markdown(boards))
    assert len(found) == 1 + len(boards[0].sections)
    assert len(found[0]) == 2 + 3
    for rows in found:
        assert len({line.count("|") for line in rows}) == 1


def test_the_table_of_rows_has_one_line_per_row_and_empty_cells_for_missing_values(boards):
    lines = list(csv.reader(io.StringIO(rows_to_csv(boards))))
    assert len(lines) == 1 + 3
    assert len({len(line) for line in lines}) == 1
    assert not {"none", "nan"} & {cell.lower() for line in lines for cell in line}


def test_names_from_data_cannot_become_markup(hostile):
    text = to_markdown(hostile)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert r"\[link\](javascript" in text
    assert r"\`x\`" in text
    assert "\x1b" not in text and "\u202e" not in text
    for head, rule, *rows in tables(text):  # a pipe in a name would add a column
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, *rows)} == {rule.count("|")}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("see https://x.org", r"see https\://x.org"),
        ("www.x.org", r"www\.x.org"),
        ("@ann and a@x.org", "@<!-- -->ann and a@<!-- -->x.org"),
        ("finetune@1", "finetune@1"),
        ("# head #12", r"\# head \#12"),
        (r"a\|b", r"a\\\|b"),
    ],
)
def test_markdown_has_no_links_mentions_or_headings_from_names(text, escaped):
    assert escape(text) == escaped


def test_markdown_aligns_numbers_to_the_right_and_names_to_the_left(boards):
    head, rule, *_ = tables(to_markdown(boards))[0]
    aligned = dict(zip(head.split("|")[1:-1], rule.split("|")[1:-1], strict=True))
    assert aligned.pop(" model ") == ":---" and set(aligned.values()) == {"---:"}


def test_markdown_starts_with_the_answer(boards):
    lines = [line for line in to_markdown(boards).splitlines() if line]
    assert lines[1].startswith("No winner: no model scores higher than the baseline constant")


def test_tidy_csv_has_one_line_per_model_dataset_metric_and_label(boards):
    lines = list(csv.DictReader(io.StringIO(to_csv(boards))))
    keys = [(line["row"], line["dataset"], line["protocol"], line["metric"], line["label"]) for line in lines]
    assert len(set(keys)) == len(lines) == 3 * len(boards[0].metrics)
    by_row = {(line["row"], line["metric"]): line for line in lines}
    net, accuracy = by_row["net", "auroc"], by_row["net", "accuracy"]
    score = boards[0].rows[0].scores["auroc"]
    assert (float(net["value"]), float(net["low"]), float(net["high"])) == (score.value, score.low, score.high)
    assert (net["level"], net["method"], net["seeds"]) == ("0.95", score.method.text, "0 1")
    assert (net["cases"], net["case"], net["positives"], net["negatives"]) == ("40", "image", "20", "20")
    assert (net["ranks"], net["rank"], net["tied_with"]) == ("1", "1", "other_net")
    assert (accuracy["ranks"], accuracy["rank"], accuracy["label"]) == ("0", "", "")
    assert net["definition"].startswith("Area under the ROC curve") and net["higher_is_better"] == "1"
    assert by_row["constant", "auroc"]["unranked"] == "a baseline is not ranked"


def test_tidy_csv_has_the_code_of_each_missing_value(tmp_path, store):
    store(tmp_path, model="good")
    store(tmp_path, model="bad", status="crashed")
    boards = build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS})
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(to_csv(boards))) if line["metric"] == "auroc"}
    assert (lines["bad"]["value"], lines["bad"]["reason_code"]) == ("", "not-run")
    assert (lines["good"]["reason_code"], lines["good"]["level"]) == ("", "0.95")


def test_the_table_of_rows_is_that_of_the_flag(boards):
    assert table_to_csv(boards, "board") == rows_to_csv(boards)


def test_names_from_data_cannot_drive_the_terminal(hostile):
    text = to_terminal(hostile, DETAILS)
    assert "\x1b" not in text and "\u202e" not in text
    assert "\\x1b[31m" in text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_reads_as_a_formula_gets_a_leading_quote(text):
    assert disarm(text).startswith("'")


def test_numbers_and_plain_text_are_unchanged_in_csv():
    assert [disarm(cell) for cell in (-0.5, 3, "net", None)] == [-0.5, 3, "net", ""]


def test_no_cell_of_a_hostile_csv_starts_a_formula(hostile):
    for line in csv.reader(io.StringIO(to_csv(hostile))):
        assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in line)
    assert "'=1+1" in to_csv(hostile)


def test_synthetic_data_are_headed_as_a_demonstration(tmp_path, store):
    store(tmp_path, facts={"synthetic": True})
    boards = build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS})
    expected = "demonstration: synthetic data; these numbers say nothing about patients"
    assert to_terminal(boards, DETAILS).startswith(expected)
    assert "synthetic data" in to_terminal(boards)
    assert expected in to_markdown(boards)


def test_a_row_that_deviates_is_marked_and_says_why(tmp_path, store):
    store(tmp_path, deviations=(Deviation("no-weights"),))
    boards = build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS})
    text = to_terminal(boards, DETAILS)
    assert "net *" in text
    assert "net: weights: none found, random init" in text
    assert "random init: no weights reachable" in text


def test_pretrained_rows_name_their_weights(tmp_path, store):
    store(tmp_path, init="pretrained", weights_tag="demo")
    boards = build_leaderboard(load_results(tmp_path)[0], {spec.name: spec for spec in METRICS})
    assert "net.demo" in to_terminal(boards, DETAILS)
    assert "pretrained weights" in to_terminal(boards, DETAILS)


@pytest.mark.integration
def test_the_same_results_give_the_same_bytes_in_every_format(stored, boards):
    again = build_leaderboard(load_results(stored)[0], {spec.name: spec for spec in METRICS})
    for form in (to_terminal, to_markdown, to_csv, to_json):
        assert form(boards) == form(again)


@pytest.mark.parametrize("form", [to_terminal, to_markdown, to_csv, to_json])
def test_no_boards_are_no_error(form):
    assert isinstance(form([]), str)


def test_a_section_stands_below_its_board_in_every_format(boards):
    section = Section(
        name="groups",
        title="by <sex>",
        columns=("group", "auroc"),
        rows=(
            ("=F", Score(value=0.91, low=0.875, high=0.94)),
            ("M", Score(value=None, reason=Reason("too-few", (8, 10, "image", "", "")))),
        ),
        notes=("2 groups",),
    )
    boards = [replace(boards[0], sections=(section,))]
    assert ".910 [.875 .940]" in to_terminal(boards, DETAILS) and "2 groups" in to_terminal(boards, DETAILS)
    assert "| =F | .910 \\[.875 .940\\] |" in to_markdown(boards) and "### by &lt;sex&gt;" in to_markdown(boards)
    found = json.loads(to_json(boards))["boards"][0]["sections"]["groups"]
    assert found["rows"][1]["auroc"]["reason"] == "too few: 8 images, 10 are needed"
    first, second = csv.DictReader(io.StringIO(table_to_csv(boards, "groups")))
    assert (first["group"], first["auroc_low"], second["auroc"]) == ("'=F", "0.875", "")
    with pytest.raises(UsageError, match="no board has a table 'ages'"):
        table_to_csv(boards, "ages")


def test_a_terminal_shows_the_compact_part_of_a_section_and_names_the_rest(boards):
    section = Section(
        name="wide",
        title="wide",
        columns=("model", "ECE", "log loss"),
        rows=(("net", 0.1, 0.5), ("hidden", 0.2, 0.6)),
        compact=("model", "ECE"),
        compact_rows=1,
        details={"bins": 15},
    )
    boards = [replace(boards[0], sections=(section,))]
    text = to_terminal(boards, DETAILS)
    assert "in the other formats: log loss and 1 more row" in text
    assert ".500" not in text.partition("wide")[2] and "hidden" not in text
    assert "| hidden | .200 | .600 |" in to_markdown(boards)
    assert json.loads(to_json(boards))["boards"][0]["sections"]["wide"]["details"] == {"bins": 15}
