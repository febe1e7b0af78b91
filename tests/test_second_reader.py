"""The masks of a second reader: a row of every board of its dataset, scored against the first reader, not ranked."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from folders import card, open_source, shared
from PIL import Image
from test_segmentation import write
from test_top_hat import lines

from zoo.data.opening import open_dataset
from zoo.data.references import open_references
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.evaluation.predict_masks import collect_masks
from zoo.registry.finding import find_plugins
from zoo.registry.loading import CORE, load_registry
from zoo.runner.second_reader import find_stored, read_second_masks, score_reader
from zoo.sources.opening import find_source
from zoo.system.settings import Settings
from zoo.tasks.overlaps import statistic

CARD = """task = "segmentation"
images = "images/*"
labels = ["line"]
masks = {path = "masks/{stem}.png", second = "second/{stem}.png"}
patient = {regex = 'p([0-9]+)', means = "eye"}
"""


def two_readers(root, count=15):
    """The second reader draws every line one pixel lower."""
    lines(root, count)
    for number in range(count):
        mask = np.asarray(Image.open(root / "masks" / f"p{number}.png"))
        write(root / "second" / f"p{number}.png", np.roll(mask, 1, 0))
    return card(root, CARD)


def references(root, cache):
    source = open_dataset(find_source(root), cache)
    count = len(source.sample_ids)
    split = Split(folds=(np.array(["train"] * (count - 3) + ["test"] * 3),), origin="drawn", hash="h")
    return open_references(source, split, 0)


def silent(done, total):
    pass


def test_the_second_masks_are_no_images_and_no_parts_of_the_first(tmp_path):
    spec, samples = open_source(two_readers(tmp_path))
    assert len(samples.table) == 15 and spec.labels == ("line",)
    first, second = samples.masks("images/p3.png"), samples.second_masks("images/p3.png")
    assert np.array_equal(np.roll(first, 1, 0), second) and not np.array_equal(first, second)
    assert "15 of 15 images have masks of a second reader" in samples.notes


def test_a_pattern_of_masks_that_matches_those_of_the_second_reader_is_refused(tmp_path):
    card(two_readers(tmp_path, 3), CARD.replace("second/{stem}.png", "masks/{stem}.*"))
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    assert "path and second match the same 3 files, first masks/p0.png" in str(caught.value)


def test_the_second_masks_are_scored_against_the_first(tmp_path):
    fold = references(two_readers(tmp_path / "set"), tmp_path)
    rows = fold.index("test")
    dices = statistic(collect_masks(fold, rows, read_second_masks(fold, silent)).probabilities, "dice")[:, 0]
    for row, dice in zip(rows, dices, strict=True):
        first = fold.label_maps[row] > 0
        second = np.roll(first, 1, 0)
        assert dice == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("fault", ["missing", "size"])
def test_a_second_mask_that_is_missing_or_has_another_size_is_named(tmp_path, fault):
    root = two_readers(tmp_path / "set")
    fold = references(root, tmp_path)
    image = fold.source.samples.table["image"].iloc[fold.index("test")[-1]]
    path = root / image.replace("images", "second")
    path.unlink()
    if fault == "size":
        write(path, np.zeros((9, 9), np.uint8))
    else:
        fold = references(root, tmp_path)
    with pytest.raises(DataError) as caught:
        list(read_second_masks(fold, silent))
    assert path.stem in caught.value.line() and caught.value.code == "mask"


def test_stored_results_are_found_by_the_masks_alone(tmp_path, monkeypatch):
    fold = references(two_readers(tmp_path / "set"), tmp_path)
    registry = load_registry([plugin for plugin in find_plugins() if plugin.name == CORE])
    context = SimpleNamespace(settings=Settings(results=tmp_path / "results"), registry=registry)
    first = score_reader([fold], context, silent)
    monkeypatch.setattr("zoo.runner.second_reader.collect_masks", None)  # it compares masks
    assert [result.id for result in score_reader([fold], context, silent)] == [first[0].id]
    row = fold.index("test")[0]
    image, mask = fold.source.samples.table["image"].iloc[row], fold.label_maps[row]
    write(tmp_path / "set" / image.replace("images", "second"), np.ones_like(mask))
    fold = references(tmp_path / "set", tmp_path)
    assert find_stored([fold], context, silent) is None


@pytest.mark.parametrize("second", ["third/{stem}.png", "second/{eye}.png"])
def test_a_pattern_of_second_masks_that_matches_nothing_is_a_mistake_of_the_card(tmp_path, second):
    card(two_readers(tmp_path), CARD.replace("second/{stem}.png", second))
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    assert "masks.second" in caught.value.message


def test_a_second_reader_without_a_first_is_refused(tmp_path):
    card(two_readers(tmp_path), CARD.replace('path = "masks/{stem}.png", ', ""))
    with pytest.raises(DataError):
        open_source(tmp_path)


@pytest.mark.slow
def test_the_second_reader_of_chasedb1_has_a_dice_of_777_over_all_images(tmp_path):
    text = CARD.replace("images/*", "*.jpg").replace("'p(", "'Image_(")
    text = text.replace("masks/{stem}", "{stem}_1stHO").replace("second/{stem}", "{stem}_2ndHO")
    path = tmp_path / "chase.toml"
    path.write_text(f"root = '{shared('chasedb1')}'\n{text}")
    fold = references(path, tmp_path)
    fold = replace(fold, split_of=np.full(28, "test"))
    test = collect_masks(fold, fold.index("test"), read_second_masks(fold, silent), counts_only=True)
    assert statistic(test.probabilities, "dice").mean() == pytest.approx(0.777, abs=0.001)


# --- the board -------------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_a_board_has_the_second_reader_and_the_filter_unranked(zoo, tmp_path):
    data = two_readers(tmp_path / "set", count=20)
    bench = "--models unet2d --protocol quick --set steps=2 --set batch_size=2 --weights none --seeds 1 --folds 1"
    done = zoo("bench", "--datasets", data, *bench.split(), "--workers", "1", cwd=tmp_path, COLUMNS="140")
    assert done.returncode == 0, done.stderr
    report = zoo("report", "--format", "json", cwd=tmp_path)
    rows = {row["model"]: row for row in json.loads(report.stdout)["leaderboard"]}
    assert rows.keys() == {"unet2d", "second-reader", "top-hat", "atlas", "empty"}
    assert rows["second-reader"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert rows["top-hat"]["value"] > rows["atlas"]["value"]
    assert {rows[name]["rank"] for name in ("second-reader", "top-hat")} == {None}
    assert all(rows[name]["baseline"] for name in ("second-reader", "top-hat"))
    answer = next(line for line in done.stdout.splitlines() if line.startswith("No winner"))
    assert "top-hat" in answer and "second-reader" not in answer
    assert "the masks of a second reader" in zoo("report", "--details", cwd=tmp_path, COLUMNS="140").stdout
    assert zoo("bundle", "bundle.zip", cwd=tmp_path).returncode == 0
    assert "no differences" in zoo("verify", "bundle.zip", cwd=tmp_path).stdout
