"""The sections of a board's page: the answer, ties, rows, pairs, the record; and the page in a real browser."""

import html
import itertools
import json
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Browser
from factories import make_predictions
from html_pages import NO_BROWSER, Page
from scipy.stats import chi2_contingency

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.families import fill_families
from zoo.leaderboard.prevalence import find_prevalence_shift
from zoo.leaderboard.ties import group_ties
from zoo.registry.opening import open_registry
from zoo.report.board_csv import to_csv
from zoo.report.board_html import to_html
from zoo.report.board_json import to_json
from zoo.report.board_markdown import to_markdown
from zoo.report.board_page import rows
from zoo.report.board_page.answer import list_costs
from zoo.report.board_page.checklists import CLAIM, TRIPOD_AI
from zoo.report.board_page.rows import MAX_OPENED, place_brackets
from zoo.report.board_page.tables import MAX_ROWS, describe_table
from zoo.report.board_terminal import to_terminal
from zoo.report.charts import CHARACTER_WIDTH, Mark, draw_scatter, overlap, stack_labels
from zoo.report.formats import Layout
from zoo.report.names import name_plainly, name_section
from zoo.report.summary import outlook
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import SCRATCH, override
from zoo.specs.section import FigureSeries, Section, SectionFigure

KNOWN = {spec.name: spec for spec in METRICS}
SIZES = {"resnet10": 2e6, "resnet18": 11e6, "vit_tiny": 30e6}


def boards_of(root):
    return build_leaderboard(load_results(root)[0], KNOWN, sections=())


def page_of(root):
    return to_html(boards_of(root))


@pytest.fixture(scope="module")
def results(tmp_path_factory, store):
    """Three models of two families and sizes, one of them clearly worse, a baseline, and ages that tell the label."""
    root = tmp_path_factory.mktemp("results")
    ages = np.where(np.arange(40) % 2, "80", "20")
    shared = {
        "facts": {
            "known_issues": ["two scanners", "age alone predicts the label: AUROC .98"],
            "notes": ["left out as copies of test: 3 images of train"],
            "has_patients": True,
            "patient": "patient",
        }
    }
    shared |= {"metadata": {"age": ages}, "metrics": ("auroc", "accuracy")}
    for seed in range(3):
        for model, noise in (("resnet10", 0.3), ("resnet18", 0.3), ("vit_tiny", 3.0)):
            cost = {"num_parameters": SIZES[model], "latency_seconds": SIZES[model] / 1e9, "flops": SIZES[model] * 99}
            plugin = "zoo-other" if model == "vit_tiny" else "zoo-tiny"
            details = {"family": model.partition("_")[0].rstrip("018")}
            store(root, model=model, seed=seed, noise=noise, cost=cost, plugin=plugin, details=details, **shared)
    store(root, model="constant", noise=None, **shared)
    return root


@pytest.fixture(scope="module")
def text(results):
    return page_of(results)


# --- the answer ------------------------------------------------------------------------------------------------------
def test_the_card_says_by_how_much_what_can_be_shown_and_what_it_costs(text):
    shown = Page(text).text
    assert re.search(r"resnet1\d minus the next model, resnet1\d: [+-]?\.\d+ \[-\.\d+ \+\.\d+\]", shown)
    assert "40 test patients with these seeds show a difference of ." in shown
    assert "Not detectably worse and smaller: resnet10: 2 M parameters" in shown or "resnet10: 2 M parameters" in shown
    assert "constant .500 (differences from baselines are not tested)" in shown
    assert "left out as copies of test: 3 images of train" in text


@pytest.mark.parametrize(
    ("facts", "unit"), [({}, "image"), ({"dims": 3}, "volume"), ({"dims": 3, "boundaries": {"unit": "mm"}}, "patch")]
)
def test_the_latency_is_of_an_image_a_volume_or_a_patch(facts, unit):
    cost = dict.fromkeys(("num_parameters", "peak_memory_bytes", "train_seconds"))
    row = SimpleNamespace(cost={**cost, "latency_seconds": 0.016})
    assert list_costs(row, SimpleNamespace(facts=facts)) == f"16 ms per {unit}"


def test_every_warning_stands_once_in_the_card(text):
    card = text[text.index('<ul class="warnings">') :]
    lines = re.findall(r"<li>(.*?)</li>", card[: card.index("</ul>")])
    assert len(lines) == len(set(lines))
    shown = " ".join(lines)
    assert shown.count("two scanners") == 1 and "known issue" not in shown
    assert shown.count("age alone predicts the label") == 1
    assert "age alone predicts the label of these images: AUROC 1.00 on other patients" in shown
    assert "few patients: 40 in test" in shown and "random init" in shown


def test_a_prevalence_that_differs_between_val_and_test_is_a_warning(tmp_path, store):
    shares = {"val": np.arange(200) < 150, "test": np.arange(200) < 100}
    parts = {
        split: make_predictions(ill.astype(int), np.where(ill, 0.8, 0.3), prefix=split) for split, ill in shares.items()
    }
    facts = {"splits": {name: {"images": 200, "patients": 200} for name in ("train", "val", "test")}}
    store(tmp_path / "many", predictions=parts, facts=facts)
    (board,) = boards_of(tmp_path / "many")
    shift = find_prevalence_shift(board)
    assert (shift.label, shift.val, shift.test) == ("nodule", 0.75, 0.5)
    assert shift.p == pytest.approx(chi2_contingency([[150, 50], [100, 100]], correction=False).pvalue)
    told = "nodule is in 75 % of val and 50 % of test, so thresholds and calibration from val may not fit"
    assert told in Page(to_html([board])).text and told in to_terminal([board])
    patients = np.repeat(np.arange(20), 10).astype(str)  # 15 and 10 of 20 patients: no evidence
    few = {split: replace(part, patients=patients) for split, part in parts.items()}
    store(tmp_path / "few", predictions=few, facts={**facts, "has_patients": True, "patient": "patient"})
    assert find_prevalence_shift(boards_of(tmp_path / "few")[0]) is None


def test_a_tie_that_looks_settled_says_why_the_test_does_not_find_a_difference(results):
    (board,) = boards_of(results)
    settled = replace(board.comparisons, patients_change_winner=0.001, seeds_change_winner=0.04)
    shown = outlook(replace(board, comparisons=settled))
    assert "in under 1 % of resampled test sets and in 4 % of redrawn seeds. Coming first is not a proven" in shown
    assert "counts both kinds of chance together, allows for few seeds and corrects for 3 comparisons" in shown
    loose = replace(board.comparisons, patients_change_winner=0.2, seeds_change_winner=0.04)
    assert "proven" not in outlook(replace(board, comparisons=loose))


def test_a_plain_page_addresses_nobody_who_has_a_command_line(text):
    page = re.sub(r"<code>zoo bench .*?</code>|<code>zoo report --format html</code>", "", text)
    assert "zoo report" not in page


# --- names -----------------------------------------------------------------------------------------------------------
def with_local_weights(digest):
    return {"init": "pretrained", "weights_tag": f"local-{digest}", "weights_digest": digest * 8}


def test_a_model_with_local_weights_has_its_plain_name_and_the_file_stands_in_its_row(tmp_path, store):
    for seed in range(2):
        store(tmp_path, model="a", seed=seed, **with_local_weights("eb983dd8"))
        store(tmp_path, model="b", seed=seed, noise=2.0, **with_local_weights("0123abcd"))
    boards = build_leaderboard(load_results(tmp_path)[0], KNOWN)
    shown = Page(to_html(boards)).text
    assert "initial weights local weights eb983dd8" in shown and "models: zoo-tiny:a (local weights eb983dd8)" in shown
    for text in (shown, to_markdown(boards), to_terminal(boards, Layout(details=True))):
        without_commands = re.sub(r"zoo-tiny:\w+\.local-\w+", "", text)
        assert ".local-" not in without_commands
    assert "a.local-eb983dd8" in to_json(boards) and "a.local-eb983dd8" in to_csv(boards)
    assert name_plainly(name_plainly(boards)) == name_plainly(boards)


def test_the_figures_of_sections_have_plain_names():
    series = FigureSeries(name="a.local-1", x=("a.local-1", "b"), y=(1.0, 2.0))
    figure = SectionFigure(title="f", text="a.local-1 is 1", axes=("x", "y"), series=(series,), kind="dots")
    (plain,) = name_section(Section(columns=("model",), rows=(), figures=(figure,)), {"a.local-1": "a"}).figures
    assert (plain.text, plain.series[0].name, plain.series[0].x) == ("a is 1", "a", ("a", "b"))


def test_rows_that_would_have_the_same_name_keep_their_tags(tmp_path, store):
    for seed in range(2):
        store(tmp_path, model="a", seed=seed, **with_local_weights("eb983dd8"))
        store(tmp_path, model="a", seed=seed, **with_local_weights("0123abcd"))
        store(tmp_path, model="b", seed=seed, **with_local_weights("eb983dd8"))
    (board,) = name_plainly(boards_of(tmp_path))
    assert {row.label for row in board.rows} == {"a.local-eb983dd8", "a.local-0123abcd", "b"}


# --- ties ------------------------------------------------------------------------------------------------------------
def brute_groups(tied):
    """Every maximal run of neighbors of which all pairs are tied."""
    rows = sorted(tied)
    runs = [rows[a:b] for a in range(len(rows)) for b in range(a + 2, len(rows) + 1)]
    whole = [run for run in runs if all(b in tied[a] for a, b in itertools.combinations(run, 2))]
    return [tuple(run) for run in whole if not any(set(run) < set(other) for other in whole)]


@pytest.mark.parametrize("seed", range(8))
def test_brackets_are_the_largest_groups_without_a_detectable_difference(seed):
    random = np.random.default_rng(seed)
    rows = sorted(random.choice(12, 8, replace=False).tolist())
    tied = {row: [] for row in rows}
    for a, b in itertools.combinations(rows, 2):
        if random.random() < 0.7:
            tied[a].append(b)
            tied[b].append(a)
    assert group_ties(tied) == brute_groups(tied)


def test_overlapping_brackets_have_lanes_of_their_own():
    brackets, num_lanes, left_out = place_brackets([(0, 1, 2), (2, 3), (4, 5)])
    assert (num_lanes, left_out) == (2, 0)
    assert [part["lane"] for part in brackets[2]] == [0, 1]
    assert place_brackets([tuple(range(start, start + 9)) for start in range(9)])[1:] == (4, 5)


# --- rows ------------------------------------------------------------------------------------------------------------
def test_a_family_is_the_recorded_one_else_that_of_the_installed_plugin(tmp_path, store):
    store(tmp_path, model="resnet18", plugin="zoo-timm", details={"family": "recorded"})
    store(tmp_path, model="vit_tiny_patch16_224", plugin="zoo-timm")
    store(tmp_path, model="vit_tiny_patch16_224", plugin="zoo-gone")
    boards = fill_families(boards_of(tmp_path), open_registry())
    families = {row.qualified: row.family for row in boards[0].rows}
    assert families == {
        "zoo-timm:resnet18": "recorded",
        "zoo-timm:vit_tiny_patch16_224": "vision_transformer",
        "zoo-gone:vit_tiny_patch16_224": "",
    }
    assert 'data-facts="not recorded|zoo-gone|' in to_html(boards)


def test_baselines_are_named_at_their_lines_and_labels_do_not_overlap(text):
    axis = re.search(r'<svg class="axis".*?</svg>', text, re.DOTALL)[0]
    assert ">constant</text>" in axis and "constant at .5" in axis
    lines = stack_labels([(100.0, "constant"), (104.0, "thumbnails"), (230.0, "third")])
    assert [[name for _, name in line] for line in lines] == [["constant", "third"], ["thumbnails"]]


@pytest.mark.integration
def test_a_long_board_names_each_command_once(tmp_path, store):
    for model in range(MAX_OPENED + 3):
        store(tmp_path, model=f"net{model:02}", noise=0.1 + model / 50)
    page = page_of(tmp_path)
    assert page.count("--models zoo-tiny:net") == MAX_OPENED
    assert page.count("zoo bench --models MODEL") == 2  # for the script, and for readers


def test_a_changed_field_and_a_smaller_batch_are_deviations_from_the_published_protocol(tmp_path, store):
    changed = override(SCRATCH, {"epochs": "3"})
    store(tmp_path, protocol=changed, deviations=(Deviation(kind="batch-size", detail=(8, 32)),))
    shown = Page(page_of(tmp_path)).text
    assert "deviations from scratch@1 epochs=3; batch_size: 8 instead of 32" in shown
    assert "note batch_size" not in shown and "--protocol scratch --set epochs=3 --seeds 0" in shown


@pytest.mark.integration
def test_the_command_of_a_row_repeats_its_runs(bench, zoo, tiny_data, tmp_path):
    chosen = ["--protocol", "scratch", "--set", "steps=2", "--set", "image_size=16", "--seeds", "1,4", "--workers", 1]
    chosen += ["--folds", 2, "--metrics", "auroc"]
    status, _, _ = bench("-m", "tiny_cnn", "-d", tiny_data / "patients", *chosen, "--results", tmp_path / "results")
    assert status == 0
    done = zoo("report", "--results", tmp_path / "results", "--format", "html", "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    command = re.search(r"<code>(zoo bench .*?)</code>", (tmp_path / "page.html").read_text())[1]
    words = shlex.split(html.unescape(command))[2:]
    words[words.index("--datasets") + 1] = str(tiny_data / "patients")
    status, again, _ = bench(*words, "--results", tmp_path / "results")
    assert status == 0 and all(run["reused"] for run in again["runs"])


def test_the_names_of_the_pareto_front_are_inside_the_plot_and_cover_nothing():
    names = ["tf_efficientnet_lite0 · finetune", "vit_small_patch14_dinov2 · finetune", "resnet50", "squeezenet1_0"]
    front = [Mark(name, 10.0**x, 0.5 + x / 20, True, (0.4 + x / 20, 0.6 + x / 20)) for x, name in enumerate(names, 5)]
    others = [Mark(f"other{x}", 10.0**x, 0.45) for x in range(5, 9)]
    svg = draw_scatter([*front, *others], ("parameters", "auroc"), "words", log_x=True)
    width, boxes = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]), []
    for x, y, anchor, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]{8,})</text>', svg):
        if name in names:
            low = float(x) - CHARACTER_WIDTH * len(name) * {"start": 0, "middle": 0.5, "end": 1}[anchor]
            boxes.append((low, low + CHARACTER_WIDTH * len(name), float(y) - 10, float(y) + 3))
    assert len(boxes) == 4 and all(low >= 0 and high <= width for low, high, _, _ in boxes)
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    assert "<title>other7: auroc .45, parameters 10 M</title>" in svg


# --- pairs, tables, record -------------------------------------------------------------------------------------------
def test_the_best_models_disagree_on_named_patients(text):
    assert "resnet10 and resnet18: the difference" in text or "resnet18 and resnet10: the difference" in text
    assert re.search(r'<th scope="row">test-?\d+', text) and "where they disagree most" in text


def test_images_are_not_listed_where_the_license_forbids_it(results):
    (board,) = boards_of(results)
    page = to_html([replace(board, facts={**board.facts, "share_targets": False})])
    assert "where they disagree most, of" not in page and "does not allow sharing their labels" in page


def test_a_long_table_says_where_its_other_rows_are():
    rows = tuple((f"m{i}", 0.5) for i in range(MAX_ROWS + 2))
    table = describe_table(Section(name="calibration", title="", columns=("model", "ECE"), rows=rows))
    assert len(table["rows"]) == MAX_ROWS
    assert table["notes"] == ["2 further rows are in the CSV of this report only"]


def test_the_record_has_every_field_of_the_protocol_and_every_version(text, results):
    shown = Page(text).text
    (board,) = boards_of(results)
    assert set(board.record.protocol) == set(load_results(results)[0][0].run["protocol"])
    assert all(name in shown for name in board.record.protocol)
    assert "torch 2.11.0" in shown and board.facts["content_hash"] in shown and board.facts["split_hash"] in shown


def test_the_checklists_are_whole_and_name_their_blanks(text):
    assert [item.number for item in CLAIM] == [str(number) for number in range(1, 45)]
    assert len(TRIPOD_AI) == len({item.number for item in TRIPOD_AI}) == 52
    assert {re.match(r"\d+", item.number)[0] for item in TRIPOD_AI} == {str(number) for number in range(1, 28)}
    blanks = Page(text).text.count("blank: the authors write this")
    assert 30 < blanks < 60


def test_one_dataset_has_no_order_across_datasets_and_says_so(text):
    assert "No order across datasets: this page has 1 dataset" in text


# --- in a browser ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def opened(browser, text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text, encoding="utf-8")
    browser.resize(1000)
    browser.open(path)
    return browser


VISIBLE = """
[...document.querySelectorAll('.board tbody tr')].filter(r => !r.hidden)
  .map(r => r.querySelector('summary').firstChild.textContent.trim())
"""


@pytest.mark.integration
@NO_BROWSER
@pytest.mark.parametrize(
    ("label", "value", "left"),
    [
        ("family", "vit", {"vit_tiny"}),
        ("plugin", "zoo-tiny", {"resnet10", "resnet18"}),
        ("parameters", "2", {"resnet18"}),
    ],
)
def test_rows_are_filtered_by_what_their_models_are(opened, label, value, left):
    choose = f"""(value => {{
      const labels = [...document.querySelectorAll('.tools label')];
      const box = labels.find(l => l.textContent.startsWith({json.dumps(label)}));
      box.firstElementChild.value = value;
      box.firstElementChild.dispatchEvent(new Event('change'));
    }})"""
    opened.run(f"{choose}({json.dumps(value)})")
    try:
        assert set(opened.run(VISIBLE)) == {*left, "constant"}
    finally:
        opened.run(f"{choose}('')")
    assert len(opened.run(VISIBLE)) == 4


@pytest.mark.integration
@NO_BROWSER
def test_the_keyboard_sorts_and_opens_a_row(opened):
    focused = "document.activeElement.closest('.board') && document.activeElement.textContent.trim()"
    for key, wanted in (("Enter", "auroc"), (" ", "resnet18")):
        for _ in range(60):
            opened.press("Tab")
            if opened.run(focused) == wanted:
                break
        assert opened.run(focused) == wanted
        opened.press(key)
    assert opened.run("document.querySelector('.board [aria-sort]').ariaSort") == "descending"
    assert opened.run("document.activeElement.parentElement.open")
    assert opened.run("document.activeElement.parentElement.querySelector('code').checkVisibility()")


@pytest.mark.integration
@NO_BROWSER
def test_no_request_leaves_the_page(opened):
    assert len(opened.requests) == 1 and opened.requests[0].startswith("file:")


@pytest.mark.integration
@NO_BROWSER
@pytest.mark.parametrize("width", [390, 1000, 1440])
def test_nothing_is_wider_than_the_window_and_at_1000_px_neither_is_the_board(opened, width):
    opened.resize(width)
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    if width >= 1000:
        assert opened.run("(box => box.scrollWidth <= box.clientWidth)(document.querySelector('.board').parentElement)")


@pytest.mark.integration
@NO_BROWSER
def test_a_link_opens_the_section_it_leads_to(browser, results, tmp_path):
    (board,) = boards_of(results)
    second = replace(board, dataset="other")
    (tmp_path / "page.html").write_text(to_html([board, second]), encoding="utf-8")
    browser.open(tmp_path / "page.html")
    visible = "document.getElementById('board-2-rows').checkVisibility()"
    assert browser.run("document.getElementById('board-1-rows').checkVisibility()") and not browser.run(visible)
    browser.run("document.querySelector('nav a[href=\"#board-2\"]').click()")
    opens = f"new Promise(done => setTimeout(() => done({visible}), 100))"
    assert browser.run(opens)
    assert not browser.run("document.getElementById('board-2-figures').closest('details').open")


@pytest.mark.integration
@NO_BROWSER
def test_a_printout_shows_folded_sections(browser, results, tmp_path):
    (board,) = boards_of(results)
    (tmp_path / "page.html").write_text(to_html([board, replace(board, dataset="other")]), encoding="utf-8")
    browser.open(tmp_path / "page.html")
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run("document.getElementById('board-2-rows').checkVisibility()")
        assert browser.run("document.getElementById('board-2-rows').getBoundingClientRect().height > 0")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.integration
@NO_BROWSER
def test_it_prints_on_a4(opened):
    pdf = opened.print()
    assert pdf.startswith(b"%PDF")
    assert re.search(rb"/MediaBox \[0 0 841\.\d+ 59[45]", pdf)


@pytest.mark.integration
@NO_BROWSER
def test_without_scripts_every_row_opens_and_columns_can_be_chosen(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("plain") / "page.html"
    path.write_text(text, encoding="utf-8")
    with Browser(tmp_path_factory.mktemp("profile")) as plain:
        plain.disable_scripts()
        plain.open(path)
        assert plain.run("document.querySelector('.tools').hidden && !document.querySelector('th button')")
        shown = (
            "[...document.querySelectorAll('.board thead th')].filter(h => h.checkVisibility()).map(h => h.textContent)"
        )
        assert "FLOPs" not in plain.run(shown)
        place = plain.run(
            "[...document.querySelectorAll('.choose label')].findIndex(l => l.textContent.includes('FLOPs'))"
        )
        plain.run(f"document.querySelectorAll('.choose input')[{place}].click()")
        assert "FLOPs" in plain.run(shown)
        plain.run("document.querySelector('.board summary').click()")
        assert plain.run("document.querySelector('.board details code').checkVisibility()")


@pytest.mark.integration
@NO_BROWSER
def test_the_script_draws_the_rows_far_down_a_long_board(browser, tmp_path, store, monkeypatch):
    for model in range(MAX_OPENED + 2):
        store(tmp_path, model=f"net{model:02}", noise=0.1 + model / 20)
    boards, drawn = boards_of(tmp_path), []
    for most in (MAX_OPENED, 99):
        monkeypatch.setattr(rows, "MAX_OPENED", most)
        path = tmp_path / f"{most}.html"
        path.write_text(to_html(boards), encoding="utf-8")
        browser.open(path)
        browser.run("document.querySelectorAll('.board details').forEach(details => { details.open = true; })")
        last = "[...document.querySelectorAll('.board tbody tr')].at(-1).querySelector"
        numbers = f"((e => e.getAttribute('d'))({last}('svg > path')) + ' ' + {last}('circle').getAttribute('cx'))"
        parts = [float(part) for part in re.findall(r"[\d.]+", browser.run(numbers))]
        drawn.append((parts, browser.run(f"{last}('svg').ariaLabel"), browser.run(f"{last}('dl').textContent")))
    (of_script, label, details), (of_page, same_label, _) = drawn
    assert of_script == pytest.approx(of_page, abs=0.3) and label == same_label
    assert "zoo bench --models zoo-tiny:net" in details and "scratch@1" in details
