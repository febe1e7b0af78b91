"""Sections of plugins below a board: in every format, under their names, and left out with one line if they fail."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from zoo import FigureSeries, Section, SectionFigure, SectionSpec, builtin, hookimpl
from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec, Inapplicable
from zoo.conformance.section_claims import draw_board
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.thresholds import choose_thresholds
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.sections import CORE_SECTIONS, OwnedSection, complete_section, complete_sections, list_sections
from zoo.leaderboard.tables import ReportOptions, parse_by
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_registry
from zoo.report.board_csv import table_to_csv
from zoo.report.board_html import to_html
from zoo.report.board_json import to_json
from zoo.report.board_markdown import to_markdown
from zoo.report.board_terminal import to_terminal
from zoo.report.figures.board_figures import draw_section_dots, draw_section_lines, list_figures
from zoo.report.figures.figure import to_csv_file, to_svg_file
from zoo.report.formats import Layout
from zoo.results.store import load_results
from zoo.tasks.kinds import TASKS

KNOWN = {spec.name: spec for spec in METRICS}
PAGE = Path(__file__).parents[1] / "docs" / "write-a-plugin.md"
DETAILS = Layout(width=80, details=True)
TABLE = Section(columns=("model", "value"), rows=(("net", 0.5),))


@pytest.fixture(scope="module")
def documented():
    """The plugin in the docs, as a module."""
    module = ModuleType("documented_section")
    text = PAGE.read_text(encoding="utf-8").partition("## `SectionSpec`")[2]
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], vars(module))
    return module


def plugin_with(*specs):
    return SimpleNamespace(register_sections=hookimpl(lambda: list(specs)))


def load(**plugins):
    """The registry of the core and of some plugins by name."""
    modules = {"zoo-bench": builtin, **{f"zoo-{name}": plugin for name, plugin in plugins.items()}}
    return load_registry(
        [InstalledPlugin(name=name, load=lambda module=module: module) for name, module in modules.items()]
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("results")
    for seed in range(3):
        store(root, model="net", seed=seed, noise=1.0)
    store(root, model="other_net", noise=2.0)
    return load_results(root)[0]


@pytest.fixture(scope="module")
def board(documented, results):
    """The board with the section of the docs and without those of the core."""
    sections = [each for each in list_sections(load(stable=documented)) if each.plugin == "zoo-stable"]
    (board,) = build_leaderboard(results, KNOWN, sections=sections)
    return board


# --- the example of the docs -----------------------------------------------------------------------------------------
def test_the_section_in_the_docs_conforms(documented):
    (spec,) = documented.register_sections()
    for check in checks_of("section"):
        if check.id not in {"light-import", "spawn"}:  # it is no file that another process could import
            try:
                check.run(CheckedSpec(spec=spec))
            except Inapplicable as reason:
                pytest.fail(f"{check.id}: {reason}")


def test_the_section_in_the_docs_counts_decisions_that_depend_on_the_seed(board, results):
    made = []
    for result in (result for result in results if result.run["shown"] == "net"):
        run = result.predictions()
        (cut,) = choose_thresholds(run["val"], result.card(), "val")
        made.append(run["test"].probabilities[:, 1] >= cut)
    changed = int((np.min(made, axis=0) != np.max(made, axis=0)).sum())
    (section,) = board.sections
    assert (len(made), section.name, section.rows) == (3, "stability", (("net", 40, changed, changed / 40),))
    assert 0 < changed < 40


@pytest.mark.parametrize("write", [to_terminal, to_markdown, to_html])
def test_a_section_is_in_every_format_for_people(board, write):
    text = write([board], DETAILS)
    for part in (
        "Stability: which decisions depend on the seed?",
        "A decision is changed if two seeds differ",
        "share",
    ):
        assert part in text


def test_a_section_is_in_json_and_csv(board):
    (record,) = json.loads(to_json([board]))["boards"]
    section = record["sections"]["stability"]
    assert section["text"].startswith("A decision is changed") and section["figures"][0]["kind"] == "dots"
    assert section["rows"][0]["model"] == "net"
    (row,) = csv.DictReader(io.StringIO(table_to_csv([board], "stability")))
    assert (row["model"], row["changed"]) == ("net", str(section["rows"][0]["changed"]))


def test_a_section_that_no_option_requests_is_shown_with_details_only(board):
    assert "Stability" not in to_terminal([board], Layout(width=80))


def test_the_figure_of_a_section_is_on_the_page_and_a_file(board):
    (figure,) = [figure for figure in list_figures(board).figures if figure.name.startswith("section-stability")]
    assert figure.svg in to_html([board])
    assert "Decisions that depend on the seed" in to_svg_file(figure)
    assert to_csv_file(figure).splitlines()[0] == "series,model,share of changed decisions,low,high"


def test_a_further_table_with_the_name_of_another_section_is_left_out(results):
    sections = [
        OwnedSection(
            name=name, plugin="zoo-x", spec=SectionSpec(name=name, build=lambda _, part=part: replace(TABLE, name=part))
        )
        for name, part in (("a", "b"), ("a.b", ""))
    ]
    (board,) = build_leaderboard(results, KNOWN, sections=sections)
    assert [section.name for section in board.sections] == ["a.b"]
    (dropped,) = board.dropped
    assert dropped.name == "a" and "another section is called 'a.b'" in dropped.reason


@pytest.mark.parametrize("name", ["model", "group", "p (Holm)", "dataset", "auroc_low", "num_parameters", "a|b", "<b>"])
def test_a_metric_may_have_the_name_of_another_column(tmp_path, store, name):
    known = {**KNOWN, name: replace(KNOWN["accuracy"], name=name)}
    sexes = np.array(["m", "f"] * 20)
    for seed in (0, 1):
        store(tmp_path, seed=seed, metrics=(name, "auroc"), metadata={"sex": sexes})
    options = ReportOptions(by=parse_by(["sex"]), ensembles=True)
    (board,) = build_leaderboard(load_results(tmp_path)[0], known, options, sections=CORE_SECTIONS)
    assert not board.dropped and list_figures(board).figures
    for table in ("board", "subgroups", "ensembles"):
        headings, first, *_ = csv.reader(io.StringIO(table_to_csv([board], table)))
        line = dict(zip(headings, first, strict=True))
        assert len(line) == len(headings)
        assert (line["dataset"], line["model"]) == ("dots", "net")
        assert {f"metric {name}", f"table {name}", name} & line.keys()


# --- sections that fail ----------------------------------------------------------------------------------------------
def fail(request):
    raise ValueError("no numbers")


def leave(request):
    raise SystemExit(3)


def cancel(request):
    raise KeyboardInterrupt


def write_into(request):
    request.rows[0].stored[0][0]["test"].probabilities[:] = 0


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (fail, "ValueError: no numbers"),
        (leave, "SystemExit: 3"),
        (cancel, "KeyboardInterrupt"),
        (write_into, "ValueError: assignment destination is read-only"),
        (lambda request: {"rows": []}, "TypeError: `build` returned dict, expected Section, a list of them, or None"),
    ],
)
def test_a_section_that_fails_is_left_out_with_one_line_that_names_its_plugin(results, build, reason):
    registry = load(
        bad=plugin_with(SectionSpec(name="bad", build=build)),
        good=plugin_with(SectionSpec(name="good", build=lambda request: TABLE)),
    )
    sections = [each for each in list_sections(registry) if each.plugin != "zoo-bench"]
    (board,) = build_leaderboard(results, KNOWN, sections=sections)
    assert [section.name for section in board.sections] == ["good"]
    line = f"section bad of zoo-bad is left out: {reason}"
    for text in (to_terminal([board], replace(DETAILS, width=140)), to_json([board])):
        assert line in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": (("net",),)}, "row 0 has 1 cells, expected 2"),
        ({"columns": ("model", "model")}, "`columns` are model, model, expected names, each once"),
        ({"columns": ()}, "`columns` are empty"),
        ({"compact": ("speed",)}, "`compact` has the column 'speed'"),
        ({"rows": (("net", [0.5]),)}, "a cell is list, expected"),
        ({"rows": (("net", True),)}, "a cell is bool, expected"),
        ({"title": 3}, "`title`, `text` and `columns` are texts"),
        ({"notes": (3,)}, "a note is int"),
        ({"notes": "a note"}, "`notes` is a text"),
        ({"details": {"curve": np.zeros(2)}}, "not JSON serializable"),
        ({"details": {"curve": float("nan")}}, "not JSON compliant"),
        ({"figures": ("a figure",)}, "a figure is str"),
    ],
)
def test_a_table_that_a_format_cannot_show_is_refused(change, reason):
    with pytest.raises((TypeError, ValueError), match=re.escape(reason)):
        complete_section(replace(TABLE, **{"title": "", **change}))


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (FigureSeries(name="a", x=(0, 1), y=(1.0,)), "differ in length"),
        (FigureSeries(name="a", x=(0, 1), y=(1.0, 2.0), low=(0.0, 1.0)), "differ in length"),
        (FigureSeries(name="a", x=(0, None), y=(1.0, 2.0)), "`x` of 'a' is undefined"),
        (FigureSeries(name="a", x=(0,), y=(float("nan"),)), "has no values"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(series, reason):
    figure = SectionFigure(title="f", text="t", axes=("x", "y"), series=(series,))
    with pytest.raises(ValueError, match=re.escape(reason)):
        complete_section(replace(TABLE, figures=(figure,)))


@pytest.mark.parametrize("kind", ["lines", "dots"])
def test_thirty_six_series_of_a_figure_differ_in_style(kind):
    series = tuple(FigureSeries(name=str(number), x=(0, 1), y=(0.5, number / 36)) for number in range(36))
    figure = SectionFigure(title="f", text="t", axes=("x", "y"), series=series, kind=kind)
    drawn = {"lines": draw_section_lines, "dots": draw_section_dots}[kind](figure)
    patterns = {"lines": r'class="line (c\d)"( stroke-dasharray="[^"]*")? ', "dots": r'class="mark (c\d)" d="([^"]*)"'}
    styles = {(color, re.sub(r"[mM][\d. -]*", "", shape)) for color, shape in re.findall(patterns[kind], drawn)}
    assert len(styles) == 36


def test_numbers_of_numpy_and_intervals_become_plain_cells():
    row = (np.str_("net"), np.float32(0.5), np.int64(3), float("nan"), (0.5, np.float64(0.4), 0.6))
    section = complete_section(Section(columns=tuple("abcde"), rows=(row,)))
    assert section.rows == (("net", 0.5, 3, None, Score(value=0.5, low=0.4, high=0.6)),)
    assert [type(cell) for cell in section.rows[0][:3]] == [str, float, int]


def test_lines_are_drawn_with_their_bands(results):
    series = FigureSeries(name="net", x=(0, 1, 2), y=(0.1, None, 0.3), low=(0.0, None, 0.2), high=(0.2, None, 0.4))
    figure = SectionFigure(title="A curve", text="It rises.", axes=("dose", "answer"), series=(series,))
    spec = SectionSpec(name="curve", build=lambda request: replace(TABLE, figures=(figure,)))
    (board,) = build_leaderboard(results, KNOWN, sections=[OwnedSection(name="curve", plugin="zoo-x", spec=spec)])
    (drawn,) = [figure for figure in list_figures(board).figures if figure.title == "A curve"]
    assert 'class="band' in drawn.svg and "dose" in drawn.svg
    assert drawn.rows[1] == ("net", 1, None, None, None)


# --- names and tasks -------------------------------------------------------------------------------------------------
def test_the_sections_of_the_core_are_registered_like_those_of_a_plugin():
    assert [(each.name, each.plugin) for each in list_sections(load())] == [
        (each.name, "zoo-bench") for each in CORE_SECTIONS
    ]


def test_two_sections_of_one_name_are_told_apart_by_their_plugins():
    spec = SectionSpec(name="calibration", build=lambda request: TABLE)
    own = [each for each in list_sections(load(other=plugin_with(spec))) if each.plugin == "zoo-other"]
    assert [each.name for each in own] == ["zoo-other:calibration"]
    assert [part.name for part in complete_sections(TABLE, own[0])] == ["zoo-other:calibration"]


def test_a_spec_may_build_several_tables_with_names_of_their_own():
    owned = OwnedSection(name="sites", plugin="zoo-x", spec=SectionSpec(name="sites", build=fail, title="By site"))
    parts = complete_sections([TABLE, replace(TABLE, name="worst", title="The worst site")], owned)
    assert [(part.name, part.title) for part in parts] == [("sites", "By site"), ("sites.worst", "The worst site")]
    with pytest.raises(ValueError, match="two of its tables are called 'sites'"):
        complete_sections([TABLE, TABLE], owned)


def test_a_board_of_another_task_has_no_such_section(results):
    spec = SectionSpec(name="errors", build=fail, tasks=("regression",))
    (board,) = build_leaderboard(results, KNOWN, sections=[OwnedSection(name="errors", plugin="zoo-x", spec=spec)])
    assert (board.sections, board.dropped) == ((), ())


def test_a_section_scores_a_metric_as_the_board_does(results):
    spec = SectionSpec(
        name="again",
        build=lambda request: Section(
            columns=("model", "auroc"),
            rows=tuple((row.label, request.score(row, KNOWN["auroc"])) for row in request.rows),
        ),
    )
    (board,) = build_leaderboard(results, KNOWN, sections=[OwnedSection(name="again", plugin="zoo-x", spec=spec)])
    assert dict(board.sections[0].rows) == {row.label: row.scores["auroc"] for row in board.rows}


def test_a_section_scores_a_metric_over_the_labels_that_count():
    request = draw_board(TASKS["multilabel"])
    some, auroc = replace(request, labels=(0, 1)), KNOWN["auroc"]
    alone = some.over_counted_labels()
    score = some.score(some.rows[0], auroc)
    assert score == alone.score(alone.rows[0], auroc) != request.score(request.rows[0], auroc)


FAILING = """
from zoo import SectionSpec, hookimpl

def fail(request):
    return request.no_such_field

@hookimpl
def register_sections():
    return [SectionSpec(name="fails", build=fail)]
"""


def test_the_command_warns_once_of_a_section_that_fails(main, results, store, tmp_path):
    (tmp_path / "fails.py").write_text(FAILING)
    for dataset in ("dots", "other"):
        store(tmp_path / "results", dataset=dataset)
    status, out, err = main("report", "--plugin", "fails.py", "--format", "json")
    assert status == 0 and len(json.loads(out)["boards"]) == 2
    assert err.count("section fails of fails is left out: AttributeError") == 1
