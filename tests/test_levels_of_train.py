"""Levels measured on pixels depend on a fold's train images only, not on val or test."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.decoded import cache_images, map_images
from zoo.data.opening import open_dataset, read_by_train
from zoo.images.formats import read_header
from zoo.images.reading import AS_STORED
from zoo.sources.assembly import read_by
from zoo.sources.cards import DatasetCard, Intensity
from zoo.sources.intensity import NUM_MEASURED
from zoo.sources.opening import find_source

TRAIN, TEST = (0, 1000), (0, 40_000)  # the values of an image go from the one to the other


def write_set(root, intensity, kind="png"):
    """Twelve images whose values reach 1,000 in train and 40,000 in val and test."""
    rows = ["image,label,split"]
    for number in range(12):
        split = ("train", "train", "val", "test")[number % 4]
        low, high = TRAIN if split == "train" else TEST
        values = np.linspace(low, high, 256).reshape(16, 16)
        name = f"{number}.{kind}"
        if kind == "png":
            Image.fromarray(values.astype(np.uint16)).save(root / name)
        else:
            np.save(root / name, np.stack([values] * 20).astype(np.float32))
        rows.append(f"{name},{'ab'[number // 4 % 2]},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    card = 'table = "labels.csv"\nimages = "{image}"\nlabel = {column = "label"}\nsplit = {column = "split"}\n'
    (root / "dataset.toml").write_text(card + intensity)
    return root


def open_set(root, tmp_path):
    return open_dataset(find_source(root), tmp_path / "cache")


@pytest.mark.parametrize(
    ("intensity", "kind"),
    [
        ("[intensity]\npercentiles = [0, 100]\nbits = 16\n", "png"),
        ("[intensity]\npercentiles = [0, 100]\nbits = 8\n", "png"),
        ("slices = {axis = 0}\n", "npy"),
    ],
)
def test_levels_are_measured_on_train_only(tmp_path, intensity, kind):
    root = tmp_path / "set"
    root.mkdir()
    source = open_set(write_set(root, intensity, kind), tmp_path)
    train = source.splits == "train"
    assert source.samples.reading["levels"][1] == pytest.approx(40_000)
    assert read_by_train(source, train).samples.reading["levels"] == pytest.approx((0, 1000))


def test_decoded_images_of_two_folds_are_cached_separately(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    source = open_set(write_set(root, "[intensity]\npercentiles = [0, 100]\nbits = 16\n"), tmp_path)
    train = source.splits == "train"
    folds = [read_by_train(source, part) for part in (train, ~train)]
    paths = [cache_images(fold, 16, tmp_path / "cache") for fold in folds]
    assert paths[0] != paths[1]
    row = int(np.flatnonzero(train)[0])
    greatest = [int(map_images(path)[row].max()) for path in paths]
    assert greatest == [65535, pytest.approx(65535 / 40, abs=2)]


@pytest.mark.parametrize("known", [0, 1])
def test_levels_of_a_fold_without_headers_are_measured_on_all_classes(tmp_path, known):
    names = [f"{label}{number:03}.png" for label in "ab" for number in range(NUM_MEASURED)]
    for name in names:
        low, high = TRAIN if name[0] == "a" else TEST
        Image.fromarray(np.linspace(low, high, 64).reshape(8, 8).astype(np.uint16)).save(tmp_path / name)
    card = DatasetCard(intensity=Intensity(percentiles=(0, 100)))
    headers = {name: read_header(tmp_path / name) for name in names[:known]}
    _, record = read_by(card, tmp_path, headers, AS_STORED, names)
    assert record["levels"] == pytest.approx((0, 40_000))


def test_a_range_in_the_card_is_the_same_in_every_fold(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    source = open_set(write_set(root, "[intensity]\nlevels = [0, 500]\n"), tmp_path)
    assert read_by_train(source, source.splits == "train") is source
