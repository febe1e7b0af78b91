"""Galleries: which images a rule chooses, where they come from, and why there are none."""

import re
from dataclasses import replace

import numpy as np
import pytest
from factories import draw_images, make_dataset_spec, make_predictions, make_samples
from html_pages import Page

from zoo import BINARY, MULTILABEL, REGRESSION
from zoo.data.contact_sheet import Thumbnail
from zoo.data.opening import open_dataset
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.pictures import choose_images
from zoo.leaderboard.tables import ScoredRow, SectionRequest
from zoo.registry.opening import open_registry
from zoo.report.board_html import to_html
from zoo.report.formats import Layout
from zoo.report.gallery import (
    MAX_PICTURES,
    NOT_AT_HAND,
    ImageSource,
    choose_for_board,
    find_objection,
    is_open_license,
    make_galleries,
    make_maps,
)
from zoo.report.html import MAX_PICTURE_BYTES, small_picture
from zoo.specs.metric import ScoringContext

KNOWN = {spec.name: spec for spec in METRICS}


def choose(test, task, labels, threshold="half"):
    positive = 1 if task is BINARY else None
    card = ScoringContext(task=task, labels=labels, positive=positive, unit="image", has_patients=False)
    row = ScoredRow(label="net", baseline=False, stored=[[{"test": test}]], seeds=(7,))
    request = SectionRequest(rows=[row], card=card, facts={}, primary=None, threshold=threshold)
    return choose_images(row, request)


def ids_by_rule(chosen):
    by_rule = {}
    for image in chosen:
        by_rule.setdefault(image.rule, []).append(image.sample_id)
    return by_rule


# --- rules -----------------------------------------------------------------------------------------------------------
def test_decisions_are_chosen_by_confidence():
    test = make_predictions([0, 1, 1, 0, 1, 0], [0.01, 0.9, 0.95, 0.8, 0.2, 0.45])
    chosen = choose(test, BINARY, ("clear", "nodule"))
    assert ids_by_rule(chosen) == {
        "most confident, right": ["s0", "s2"],
        "most confident, wrong": ["s3", "s4"],
        "least confident": ["s5", "s3"],
    }
    assert (chosen[2].target, chosen[2].answer, chosen[2].confidence, chosen[2].seed) == ("clear", "nodule", 0.8, 7)


def test_equals_are_ordered_by_sample_id():
    test = make_predictions([1, 1, 1], [0.9, 0.9, 0.9], ids=["c", "a", "b"])
    assert ids_by_rule(choose(test, BINARY, ("clear", "nodule")))["most confident, right"] == ["a", "b"]


def test_a_rule_without_images_has_none():
    assert "most confident, wrong" not in ids_by_rule(choose(make_predictions([1], [0.9]), BINARY, ("clear", "nodule")))


def test_labels_are_right_if_every_known_one_is():
    targets = np.array([[1, np.nan], [1, 0], [0, 0]])
    test = make_predictions(targets, np.array([[0.9, 0.9], [0.8, 0.9], [0.4, 0.3]]))
    chosen = ids_by_rule(choose(test, MULTILABEL, ("mass", "air")))
    assert chosen["most confident, right"] == ["s0", "s2"] and chosen["most confident, wrong"] == ["s1"]


def test_numbers_are_chosen_by_error():
    test = make_predictions(np.array([10.0, 20.0, 30.0]), np.array([[10.5], [29.0], [30.0]]))
    chosen = choose(test, REGRESSION, ("age",))
    assert ids_by_rule(chosen) == {"smallest error": ["s2", "s0"], "largest error": ["s1", "s0"]}
    assert (chosen[2].target, chosen[2].answer, chosen[2].confidence) == ("20", "29", None)


# --- permission ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["CC BY 4.0", "CC-BY-4.0", "cc0", "CC0 1.0", "CC BY-SA 4.0", "Public Domain", "MIT", "Apache-2.0"]
)
def test_licenses_that_allow_anybody_to_share_are_open(text):
    assert is_open_license(text)


@pytest.mark.parametrize(
    "text", ["", "CC BY-NC 4.0", "CC BY-ND 4.0", "CC BY-NC-SA 4.0", "see the page", "proprietary", "research only"]
)
def test_other_licenses_are_not(text):
    assert not is_open_license(text)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"license": "CC BY 4.0"}, True),
        ({}, False),
        ({"synthetic": True}, True),
        ({"license": "CC BY 4.0", "share_images": False}, False),
        ({"license": "secret", "share_images": True}, True),
        ({"license": "CC BY 4.0", "share_targets": False}, False),
    ],
)
def test_the_card_decides_before_the_license(fields, allowed):
    spec = make_dataset_spec(make_samples(draw_images([0, 1]), [0, 1]), **fields)
    assert (find_objection(spec) is None) is allowed


# --- a page ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def source(tmp_path):
    """A registry with a dataset `dots` of the test images that stored results are about."""
    images = draw_images(np.arange(40) % 2, shape=(64, 48))
    ids = [f"test0-{number}" for number in range(40)]
    samples = make_samples(images, np.arange(40) % 2, ids=ids, splits=["train"] * 20 + ["test"] * 20)
    spec = make_dataset_spec(samples, channels=1, license="CC BY 4.0", labels=("clear", "nodule"))

    def build(**fields):
        registry = replace(open_registry(), datasets={"dots": replace(spec, **fields)})
        return ImageSource(registry=registry, cache=tmp_path / "cache")

    return build


@pytest.fixture
def board(store, tmp_path, source):
    """Boards of results on the dataset of `source`."""
    spec = source().registry.datasets["dots"]
    content_hash = open_dataset(spec, tmp_path / "cache").content_hash

    def build(models=("net",), **changes):
        changes = {"content_hash": content_hash, **changes}
        results = [store(tmp_path / "results", model=model, **changes) for model in models]
        (built,) = build_leaderboard(results, KNOWN)
        return built

    return build


@pytest.mark.integration
def test_a_page_shows_the_chosen_images(board, source):
    built = board()
    galleries = make_galleries([built], source())
    assert len(galleries[0].pictures) == 6 and galleries[0].reason == ""
    page = Page(to_html([built], Layout(galleries=galleries)))
    shown = page.all("img")
    assert len(shown) == 6 and all(image["src"].startswith("data:image/jpeg;base64,") for image in shown)
    assert re.fullmatch(r"test image test0-\d+: most confident, right; true .+, answer .+ \(.+\)", shown[0]["alt"])


@pytest.mark.integration
def test_many_models_share_the_room_of_a_page(board, source):
    (gallery,) = make_galleries([board(models=("a", "b", "c", "d", "e"))], source())
    assert len(gallery.pictures) == MAX_PICTURES
    assert all(len(picture.uri) <= MAX_PICTURE_BYTES for picture in gallery.pictures)


def test_large_noisy_images_are_made_small_enough(board, source):

    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    assert len(small_picture(Thumbnail(pixels=noise), (0.0, 255.0))) <= MAX_PICTURE_BYTES


@pytest.mark.integration
def test_equal_boards_make_equal_galleries(board, source):
    built = board()
    assert make_galleries([built], source()) == make_galleries([built], source())


@pytest.mark.parametrize(
    ("fields", "changes", "reason"),
    [
        ({"license": "CC BY-NC 4.0"}, {}, "license (CC BY-NC 4.0) is not known to allow it"),
        ({"share_images": False}, {}, "card forbids it"),
        ({}, {"content_hash": "c" * 64}, "not the one of these results (another content hash)"),
        ({}, {"dataset": "gone"}, NOT_AT_HAND),
        ({}, {"prefix": "pseudonym-"}, "pseudonyms in place of the names of images"),
    ],
)
def test_a_page_without_images_says_why(board, source, fields, changes, reason):
    built = board(**changes)
    (gallery,) = make_galleries([built], source(**fields))
    assert reason in gallery.reason and not gallery.pictures and "--" not in gallery.reason
    assert f"No images are shown: {gallery.reason}." in Page(to_html([built], Layout(galleries=[gallery]))).text


def test_maps_of_external_images_are_not_made_and_kept_weights_are_not_denied(board):
    built = board()
    external = replace(built, facts={**built.facts, "external": {"dataset": "far", "content_hash": "c" * 64}})
    maps = make_maps(external, choose_for_board(built), None)
    assert {label: each.reason for label, each in maps.items()} == {"net": "maps are made on the board of dots"}


def test_a_dataset_that_cannot_be_opened_is_a_reason(board, source):
    def fail(_):
        raise OSError("the disk is gone")

    (gallery,) = make_galleries([board()], source(samples=fail))
    assert "the disk is gone" in gallery.hint and gallery.reason == NOT_AT_HAND


def test_the_name_in_results_is_never_opened_as_a_path(board, source, tmp_path):
    (gallery,) = make_galleries([board(dataset=str(tmp_path))], source())
    assert gallery.reason == NOT_AT_HAND


def test_without_galleries_a_page_has_no_section_of_images(board):
    assert ">Images</h3>" not in to_html([board()])


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_the_command_shows_images_of_a_path_whose_card_allows_it(zoo, bench, tiny_data, tmp_path):
    import shutil

    data = tmp_path / "ordinal"
    shutil.copytree(tiny_data / "ordinal", data)
    with open(data / "dataset.toml", "a", encoding="utf-8") as card:
        card.write("share_images = true\n")
    results, page = tmp_path / "results", tmp_path / "board.html"
    quick = ("--protocol", "quick", "--set", "steps=2", "--seeds", "1", "--results", results)
    bench("--datasets", data, "--models", "tiny_cnn", "--weights", "none", *quick)

    def shown(*flags):
        done = zoo("report", "--results", results, "--format", "html", "--output", page, *flags)
        assert done.returncode == 0, done.stderr
        assert ("name its folder by --data to show those of ordinal" in done.stderr) is (not flags)
        return Page(page.read_text(encoding="utf-8"))

    assert len(shown("--data", data).all("img")) in range(3, 7)
    assert f"No images are shown: {NOT_AT_HAND}" in shown().text
    assert "No images are shown" not in shown("--no-images").text
    refused = zoo("report", "--results", results, "--no-images")
    assert refused.returncode == 2 and "add --format html" in refused.stderr
