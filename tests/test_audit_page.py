"""The audit's HTML page: its content, no external resources or scripts, and names escaped as text."""

import base64
import hashlib
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from folders import shared
from html_pages import Page
from PIL import Image

from zoo.auditing.audit import run_audit
from zoo.auditing.examine import AuditedDataset
from zoo.auditing.findings import Audit, Finding
from zoo.data.fingerprints import take_fingerprints
from zoo.data.lookup import SplitDataset
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.report.audit_page import build_page
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(3)


def page_of(root, cache):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    split = draw_split(source, fingerprints=fingerprints)
    dataset = SplitDataset(source=source, split=split, fingerprints=fingerprints)
    return build_page([AuditedDataset(audit=run_audit(source, split, fingerprints), dataset=dataset)])


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """A dataset with a leak, a conflict, a blank image, and names with markup and a right-to-left override."""
    root = tmp_path_factory.mktemp("sets") / "<script>alert(1)</script>"
    for split, count in (("train", 80), ("val", 60), ("test", 60)):
        for number in range(count):
            path = root / split / ("a & <b>", "é")[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RANDOM.integers(0, 256, (16, 24), dtype=np.uint8)).save(path)
    shutil.copy(root / "train/a & <b>/train0.png", root / "test/a & <b>/test0.png")
    shutil.copy(root / "train/a & <b>/train2.png", root / "test/é/test1.png")
    (root / "train/é/train5.png").rename(root / "train/é/x\u202egnp.png")
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(root / "train/é/x\u202egnp.png")
    return root


@pytest.fixture(scope="module")
def text(leaking, tmp_path_factory):
    return page_of(leaking, tmp_path_factory.mktemp("cache"))


def test_conflicting_pairs_are_shown_side_by_side(text):
    page = Page(text)
    pairs = [attributes for attributes in page.all("li") if attributes.get("class") == "pair"]
    assert len(pairs) == 3  # the conflict, and the two that are identical
    assert "a & <b>, train train/a & <b>/train2.png 24 x 16" in page.text
    images = page.all("img")
    assert all(image["alt"] and image["src"].startswith("data:image/jpeg;base64,") for image in images)
    pixels = Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2])))
    assert pixels.size == (160, 160) and np.asarray(pixels).std() > 20


def test_the_page_has_counts_sizes_and_every_finding(text):
    page = Page(text)
    assert "train 80 40 40" in page.text and "test 60 30 30" in page.text
    assert "width 24 / 24 / 24, height 16 / 16 / 16" in page.text
    for check in ("label-conflict", "identical", "blank"):
        assert check in page.text
    assert "<code>zoo audit --fix OUT.toml</code> leaves both out" in text


def test_the_page_lists_passed_and_skipped_checks(text):
    page_text = Page(text).text
    assert (
        "No duplicates within a split, missing classes, unusual sizes, predictive columns; not checked: patients"
        in page_text
    )
    assert (
        "(no patient key), near-duplicates (images of 16 px (under 48) are too small to identify copies)." in page_text
    )


def test_names_are_escaped(text):
    assert "<script" not in text and "\u202e" not in text
    assert "\\x202egnp.png" in text
    page = Page(text)
    assert not page.all("b") and "<script>alert(1)</script>" not in page.all("title")


def test_the_page_loads_no_resources_and_runs_no_scripts(text):
    page = Page(text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "form", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"https?://", text)


def test_the_page_is_accessible(text):
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == len(page.all("h1")) == 1
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a")} <= anchors
    assert {section["aria-labelledby"] for section in page.all("section")} <= anchors


def test_a_dataset_that_could_not_be_opened_is_on_the_page():
    finding = Finding(
        check="npz", verdict="refuse", splits=(), samples=(), count=0, message="x.npz: damaged", fix="copy"
    )
    page = Page(
        build_page(
            [AuditedDataset(audit=Audit(dataset=name, findings=f)) for name, f in (("x", (finding,)), ("y", ()))]
        )
    )
    assert (
        "Audit of 2 datasets" in page.text and "x.npz: damaged copy" in page.text and "nothing was found" in page.text
    )


def test_the_page_is_deterministic(leaking, text, tmp_path):
    assert page_of(leaking, tmp_path) == text


@pytest.mark.slow
@pytest.mark.integration
def test_the_page_of_a_real_dataset_is_under_1_mb(tmp_path):
    text = page_of(shared("nih1000"), tmp_path)
    assert len(text) < 1_000_000 and len(Page(text).all("img")) >= 16


def test_the_command_writes_the_page_or_reports_an_error(zoo, leaking, tmp_path):
    done = zoo("audit", leaking, "--html", tmp_path / "page.html")
    assert done.returncode == 4 and "wrote" in done.stderr
    assert Page((tmp_path / "page.html").read_text()).all("img")
    done = zoo("audit", leaking, "--html", tmp_path / "page.html" / "x.html")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def browser():
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        pytest.skip("no chromium here")
    return found


@pytest.mark.integration
def test_a_browser_renders_the_page_without_errors(text, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "label-conflict" in done.stdout
    assert "Content Security Policy" not in done.stderr and "CONSOLE" not in done.stderr
