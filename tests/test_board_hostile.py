"""The page of a board for hostile and degenerate input: no runs, failures, ties, hostile names, strangers' bundles."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser
from html_pages import NO_BROWSER, Page, in_browser

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.unfinished import list_unfinished
from zoo.report.board_html import to_html
from zoo.report.formats import Layout
from zoo.results.store import load_results

pytestmark = pytest.mark.integration

KNOWN = {spec.name: spec for spec in METRICS}
HOSTILE = '"><script>document.title = "owned"</script><img src=x onerror=alert(1)>'
BUNDLES = sorted(Path(__file__).with_name("bundles").glob("*.zip"))


def page_of(root):
    results = load_results(root)[0]
    return to_html(build_leaderboard(results, KNOWN), Layout(unfinished=list_unfinished(results)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, store):
    """A page whose model, plugin, class, file, column and dataset names are HTML, long, or of other scripts."""
    root = tmp_path_factory.mktemp("hostile")
    long, arabic = "m" * 60, "نموذج\u202eمعكوس"
    facts = {
        "labels": [HOSTILE, "clear " * 10],
        "title": HOSTILE,
        "license": HOSTILE,
        "known_issues": [HOSTILE],
        "splits": {
            name: {"images": 40, "patients": 40, "labels": {HOSTILE: 20, "clear " * 10: 20}}
            for name in ("train", "val", "test")
        },
    }
    for seed in range(2):
        for model in (HOSTILE, long, arabic, "モデル🫁"):
            changes = {"prefix": HOSTILE, "plugin": HOSTILE, "dataset": f"data {HOSTILE}", "facts": facts}
            store(root, model=model, seed=seed, cost={"num_parameters": 10 + len(model)}, **changes)
    store(root, model="bad", status="failed", dataset=f"data {HOSTILE}", facts=facts)
    return page_of(root)


def test_no_hostile_name_becomes_an_element(hostile):
    page = Page(hostile)
    assert hostile.count("<script>") == 1 and not page.all("img") and "\u202e" not in hostile
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]
    assert HOSTILE in page.text  # shown as text


@NO_BROWSER
@pytest.mark.parametrize("width", [500, 1000])
def test_hostile_names_run_nothing_and_fit_the_width(hostile, tmp_path, width):
    script = """
    for (const details of document.querySelectorAll('details')) details.open = true;
    const wide = document.documentElement.scrollWidth > window.innerWidth;
    document.title = document.title.startsWith('Leaderboard') + ' ' + document.images.length + ' ' + wide;
    """
    assert in_browser(hostile, script, tmp_path, f"--window-size={width},900") == "true 0 false"


@pytest.mark.parametrize("seeds", [0, 1])
def test_failures_are_named_where_nothing_finished(tmp_path, store, seeds):
    for seed in range(seeds):
        store(tmp_path, model="only", seed=seed)
    for seed in range(3):
        store(tmp_path, model="bad", status="failed", dataset="other", seed=seed)
    shown = Page(page_of(tmp_path)).text
    assert "bad other scratch@1+" in shown or "bad other scratch@1" in shown
    assert "3 failed the loss is nan" in shown
    assert ("The answer" in shown) == bool(seeds)


def test_a_failed_and_a_missing_run_stay_visible(tmp_path, store):
    for seed in range(3):
        store(tmp_path, model="whole", seed=seed)
        store(tmp_path, model="half", seed=seed, **({"status": "failed"} if seed == 1 else {}))
    store(tmp_path, model="gone", seed=0)
    shown = Page(page_of(tmp_path)).text
    assert "half 2 of 3 runs" in shown and "half seed 1 failed the loss is nan" in shown
    assert "gone seed 1, 2 not run" in shown and "Failed and missing runs (3)" in shown


def test_ties_everywhere_make_one_bracket(tmp_path, store):
    for seed in range(2):
        for model in ("a", "b", "c", "d"):
            store(tmp_path, model=model, seed=seed, noise=None)
    page = Page(page_of(tmp_path))
    assert [i["class"] for i in page.all("i")] == ["l0 first", "l0", "l0", "l0 last"]


def test_one_class_in_test_has_no_score_and_a_page(tmp_path, store):
    for seed in range(2):
        for model in ("a", "b"):
            store(tmp_path, model=model, seed=seed, one_class=True)
    shown = Page(page_of(tmp_path)).text
    assert "No winner" in shown


def test_a_result_without_predictions_is_a_missing_run(tmp_path, store):
    for seed in range(3):
        for model in ("a", "b"):
            result = store(tmp_path, model=model, seed=seed)
    (result.folder / "predictions.npz").unlink()
    assert "b seed 2 not run" in Page(page_of(tmp_path)).text


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.stem)
def test_a_stranger_s_bundle_makes_a_page(zoo, bundle, tmp_path):
    done = zoo("report", "--results", bundle, "--format", "html", "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "The answer" in page.text and "bundle" in page.text


# --- accessibility ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, from npm or the file in ZOO_AXE; it is never shipped (MPL-2.0)."""
    if path := os.environ.get("ZOO_AXE"):
        return Path(path).read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(["npm", "pack", "axe-core@4"], cwd=folder, capture_output=True, timeout=60, check=True)
        archive = next(folder.glob("axe-core-*.tgz"))
        subprocess.run(["tar", "xzf", archive.name], cwd=folder, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError, StopIteration):
        pytest.skip("axe-core is not available: npm pack axe-core failed; set ZOO_AXE to axe.min.js")
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


SERIOUS = """
for (const details of document.querySelectorAll('details')) details.open = true;
axe.run({resultTypes: ['violations']}).then(found => found.violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(', ')))
"""


@NO_BROWSER
def test_axe_finds_nothing_serious(hostile, axe, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(hostile, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (1280, True), (390, False)):
            browser.resize(width)
            browser.set_dark(dark)
            browser.open(path)
            browser.run(axe)
            assert browser.run(SERIOUS) == []
        browser.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<img alt>'.replace(' alt', ''))")
        assert browser.run(SERIOUS)  # the check sees a picture without a text


# --- size ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_300_models_on_6_datasets_with_5_seeds_take_less_than_2_mb(tmp_path, store):
    metrics = ("auroc", "accuracy", "brier")
    for model in range(300):
        cost = {
            "num_parameters": 10_000 * (model + 3) ** 2,
            "flops": 1e9 + model * 1e7,
            "peak_memory_bytes": 1e8 + model,
        }
        cost |= {"train_seconds": 10.0 + model, "latency_seconds": 0.001 * (model + 1)}
        name = f"architecture{model % 25}_variant_{model:03}"
        for seed in range(5):
            store(tmp_path, model=name, seed=seed, noise=0.4 + model / 300, cost=cost, metrics=metrics)
    store(tmp_path, model="constant", noise=None, metrics=metrics)
    (board,) = build_leaderboard(load_results(tmp_path)[0], KNOWN)
    # Six datasets with the same scores: as many rows, a sixth of the time.
    boards = [replace(board, dataset=f"data{number}") for number in range(6)]
    start = time.monotonic()
    page = to_html(boards)
    print(f"{len(page.encode())} bytes in {time.monotonic() - start:.0f} s")
    assert len(page.encode()) < 2_000_000
    assert page.count("data-facts") == 1_800
