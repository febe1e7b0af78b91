"""The leaderboard as a page: what it shows, that it loads nothing, and that names in it are text."""

import base64
import hashlib
import re
import subprocess

import numpy as np
import pytest
from html_pages import CHROMIUM, NO_BROWSER, Page, in_browser

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard, request_sections
from zoo.leaderboard.curves import GRID, compute_curves, precision_points, roc_points
from zoo.leaderboard.tables import ReportOptions
from zoo.report.board_html import to_html
from zoo.report.charts import fit_axis
from zoo.results.store import load_results

KNOWN = {spec.name: spec for spec in METRICS}


def page_of(root):
    return to_html(build_leaderboard(load_results(root)[0], KNOWN))


@pytest.fixture(scope="module")
def results(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("results")
    for seed in range(3):
        for model, noise in (("sharp", 0.3), ("blunt", 1.5), ("twin", 0.3)):
            cost = {"num_parameters": 1000 * len(model), "train_seconds": 2.0 + len(model), "flops": 1e9}
            store(root, model=model, seed=seed, noise=noise, cost=cost, metrics=("auroc", "accuracy", "brier"))
    store(root, model="constant", noise=None, metrics=("auroc", "accuracy", "brier"))
    store(root, model="broken", seed=0, status="failed")
    return root


@pytest.fixture(scope="module")
def text(results):
    return page_of(results)


# --- what it shows ---------------------------------------------------------------------------------------------------
def test_the_answer_stands_before_the_board(text):
    headings = ["The answer</h2>", "No clear winner: ", "The board</h3>", "Pairs</h3>", "How it was made</h2>"]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "Another model comes first in" in text


def test_every_row_has_its_interval_as_a_picture_with_words(text):
    labels = [a["aria-label"] for a in Page(text).all("svg") if a["class"] == "interval"]
    assert len(labels) == 5
    assert any(re.fullmatch(r"auroc \.\d+ \[\.?\d+ 1?\.?\d*\]", label) for label in labels)


def test_a_row_opens_to_its_runs_and_the_command_that_repeats_it(text):
    shown = Page(text).text
    command = "zoo bench --models zoo-tiny:sharp --datasets dots --protocol scratch --seeds 0,1,2 --weights none"
    assert f"{command} --threads 1 --device cpu" in shown
    assert "diverged" in shown or "the loss is nan" in shown  # the failed run stays visible


def test_pairs_show_which_differences_are_detectable(text):
    kinds = [a["class"] for a in Page(text).all("td") if a.get("title")]
    assert any("better" in kind for kind in kinds) and any("tie" in kind for kind in kinds)


@pytest.mark.integration
def test_equal_results_make_equal_bytes(results, text):
    assert page_of(results) == text


# --- safety ----------------------------------------------------------------------------------------------------------
def test_the_page_loads_nothing_and_allows_its_one_script_by_hash(text):
    page = Page(text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy and len(script) < 8192
    assert not re.search(r"https?://", text) and not {"link", "iframe", "object", "form"} & {
        t for t, _ in page.elements
    }
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_names_are_text_whatever_is_in_them(tmp_path, store):
    name = "<script>alert(1)</script>\u202e" + "x" * 60
    for seed in range(2):
        store(tmp_path, model=name, seed=seed, dataset="a & <b>")
        store(tmp_path, model="plain", seed=seed, dataset="a & <b>")
    text = page_of(tmp_path)
    assert text.count("<script>") == 1 and "\u202e" not in text
    assert not Page(text).all("b")


@pytest.mark.parametrize("seeds", [0, 1])
def test_a_page_of_failures_or_of_one_run_says_that_there_is_no_order(tmp_path, store, seeds):
    for seed in range(seeds):
        store(tmp_path, model="only", seed=seed)
    store(tmp_path, model="bad", status="failed")
    shown = Page(page_of(tmp_path)).text
    assert ("No winner: one seed is never ranked" if seeds else "no finished runs") in shown


def test_no_results_make_a_page_that_says_so():
    assert "no finished runs" in Page(to_html([])).text


def test_the_page_can_be_read_aloud(text):
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == len(page.all("h1")) == 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {label["for"] for label in page.all("label") if "for" in label} <= anchors


# --- curves ----------------------------------------------------------------------------------------------------------
def test_a_roc_curve_is_scikit_learn_s():
    from sklearn.metrics import roc_curve

    random = np.random.default_rng(0)
    positives = random.random(80) < 0.4
    scores = np.round(random.normal(size=80) + positives, 1)  # with ties
    alarms, hits, _ = roc_curve(positives, scores)
    found = roc_points(positives, scores, np.ones((1, 80)), GRID)[0]
    assert found[1:] == pytest.approx(np.interp(GRID, alarms, hits)[1:], abs=1e-12)


def test_a_weight_is_a_repetition():
    random = np.random.default_rng(1)
    positives, scores, drawn = random.random(40) < 0.5, random.normal(size=40), random.integers(0, 3, 40)
    again = np.repeat(np.arange(40), drawn)
    for points in (roc_points, precision_points):
        weighted = points(positives, scores, drawn[None].astype(float), GRID)
        repeated = points(positives[again], scores[again], np.ones((1, len(again))), GRID)
        assert weighted == pytest.approx(repeated, abs=1e-12)


def test_precision_at_a_recall_is_scikit_learn_s():
    from sklearn.metrics import precision_recall_curve

    random = np.random.default_rng(2)
    positives = random.random(60) < 0.3
    scores = random.normal(size=60) + positives
    precision, recall, _ = precision_recall_curve(positives, scores)
    found = precision_points(positives, scores, np.ones((1, 60)), GRID)[0]
    for x, y in zip(GRID[1:], found[1:], strict=True):
        reaching = np.flatnonzero(recall >= x - 1e-12)
        assert y == pytest.approx(precision[reaching[-1]])


@pytest.mark.parametrize("positive", [0, 1])
def test_the_curves_are_those_of_the_positive_class(tmp_path, store, positive):
    from sklearn.metrics import roc_curve

    result = store(tmp_path, model="net", seed=0, facts={"positive": positive})
    (board,) = build_leaderboard([result], KNOWN)
    request = request_sections(board, ReportOptions())
    (curves,) = compute_curves(request, request.rows)
    test = result.predictions()["test"]
    alarms, hits, _ = roc_curve(test.targets == positive, test.probabilities[:, positive])
    assert curves.label == result.dataset["labels"][positive]
    assert curves.roc.y[1:] == pytest.approx(np.interp(GRID, alarms, hits)[1:], abs=1e-12)


@pytest.mark.parametrize(
    "values",
    [(0.5,), (0.1, 0.9), (0.91, 0.913), (-3, 1200), (0, 0), (1e-9, 2e-9), (float("nan"), 1.0), (), (3.2e17,), (-5e15,)],
)
def test_an_axis_holds_its_values_between_round_ticks(values):
    axis = fit_axis(values)
    known = [value for value in values if value == value]
    assert all(axis.low - 1e-12 <= value <= axis.high + 1e-12 for value in known)
    assert 2 <= len(axis.ticks) <= 8 and axis.low < axis.high


# --- in a browser ----------------------------------------------------------------------------------------------------
@pytest.mark.integration
@NO_BROWSER
def test_a_click_on_a_heading_sorts_and_a_second_one_turns_the_order(text, tmp_path):
    script = """
    const all = selector => [...document.querySelectorAll('table.board ' + selector)];
    const click = name => all('thead button').find(b => b.textContent === name).click();
    const names = () => all('tbody summary').map(s => s.firstChild.textContent.trim());
    click('params'); const down = names(); click('params'); document.title = down + ' | ' + names();
    """
    down, up = in_browser(text, script, tmp_path).split(" | ")
    assert down.split(",")[:3] in (["sharp", "blunt", "twin"], ["blunt", "sharp", "twin"])
    assert up.split(",")[0] == "twin"


@pytest.mark.integration
@NO_BROWSER
def test_a_filter_hides_other_rows_and_a_column_can_be_left_out(text, tmp_path):
    script = """
    const box = document.querySelector('[data-filter]'); box.value = 'SHA'; box.dispatchEvent(new Event('input'));
    const all = selector => [...document.querySelectorAll(selector)];
    const seen = all('table.board tbody tr').filter(r => !r.hidden).length;
    const hidden = () => all('table.board thead th').filter(h => !h.checkVisibility()).map(h => h.textContent);
    const before = hidden();
    all('fieldset label').find(l => l.textContent.includes('accuracy')).firstChild.click();
    document.title = seen + ' ' + hidden().filter(h => !before.includes(h));
    """
    assert in_browser(text, script, tmp_path) == "1 accuracy"


@pytest.mark.integration
@NO_BROWSER
def test_a_row_opens_and_shows_its_command(text, tmp_path):
    script = """
    const row = document.querySelector('table.board tbody details');
    const seen = () => row.querySelector('dl').checkVisibility();
    const before = seen();
    row.querySelector('summary').click();
    document.title = before + ' ' + seen();
    """
    assert in_browser(text, script, tmp_path) == "false true"


@pytest.mark.integration
@NO_BROWSER
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(text, tmp_path, width):
    script = "document.title = document.documentElement.scrollWidth <= window.innerWidth"
    assert in_browser(text, script, tmp_path, f"--window-size={width},900") == "true"


@pytest.mark.integration
@NO_BROWSER
def test_the_page_prints(text, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={tmp_path / 'page.pdf'}"]
    subprocess.run([*command, (tmp_path / "page.html").as_uri()], capture_output=True, timeout=120, check=True)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
