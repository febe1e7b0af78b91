"""Opening, splitting and decoding datasets, and reading their images on a device."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from factories import make_dataset_spec, make_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.data.dataset import count_split, open_fold, unit_of
from zoo.data.decoded import cache_images, measure_intensity
from zoo.data.fingerprints import take_fingerprints
from zoo.data.metadata import select_metadata
from zoo.data.opening import open_dataset
from zoo.data.pixels import open_pixels
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.sources.opening import find_source
from zoo.system.files import hash_file

LABELS = {"binary": 2, "multiclass": 3, "ordinal": 3, "multilabel": 3, "regression": 1}


def noise(count, size=6, channels=(), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (count, size, size, *channels), dtype=dtype)


def make_spec(images, targets, task=BINARY, *, patients=None, splits=None, sample_ids=None, **card):
    """A dataset in memory: images, targets, and optionally patients and splits."""
    ids = [f"s{i:04}" for i in range(len(images))] if sample_ids is None else sample_ids
    return make_dataset_spec(make_samples(images, targets, ids=ids, patients=patients, splits=splits), task, **card)


def open_dots(tmp_path, *arguments, **fields):
    return open_dataset(make_spec(*arguments, **fields), tmp_path)


def sides(split, source):
    """Return the patients of train, val and test for every fold."""
    return [{name: set(source.patients[fold == name]) for name in ("train", "val", "test")} for fold in split.folds]


# --- what is refused -------------------------------------------------------------------------------------------------
def test_a_tolerance_of_boundaries_is_refused_for_images_without_masks(tmp_path):
    with pytest.raises(DataError, match="tolerance_mm is for masks, but its task is binary"):
        open_dots(tmp_path, noise(4), np.array([0, 1, 0, 1]), tolerance_mm=2.0)


def with_samples(change):
    spec = make_spec(noise(4), np.array([0, 1, 0, 1]))
    samples = spec.samples(None)
    return replace(spec, samples=lambda _: change(samples))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, table=s.table[:0], targets=s.targets[:0]), "it has no images"),
        (
            lambda s: replace(s, spec=replace(make_spec(noise(4), np.zeros(4, int)), labels=(0, 1))),
            r"labels is \(0, 1\), expected tuple\[str, ...\], each once",
        ),
        (lambda s: replace(s, table=s.table.drop(columns="image")), "its table has no column 'image'"),
        (lambda s: replace(s, table=s.table.assign(sample_id="x")), "sample_id 'x' is repeated"),
        (lambda s: replace(s, targets=s.targets[:3]), "3 targets for 4 images"),
        (lambda s: replace(s, targets=np.array([0, 1, 2, 1])), "s0002: label 2, expected 0 to 1"),
        (lambda s: replace(s, targets=np.array([0, -1, 0, 1])), "s0001: label -1, expected 0 to 1"),
        (lambda s: replace(s, targets=np.zeros(4, int)), "every image is labeled 'a', so there is nothing to learn"),
        (lambda s: replace(s, targets=np.zeros(4)), "targets are float64 of shape"),
        (
            lambda s: replace(s, targets=np.zeros((4, 1), int)),
            r"targets are int64 of shape \(4, 1\), expected integers \(4,\)",
        ),
        (
            lambda s: replace(s, table=s.table.assign(split=["train", "dev", "", ""])),
            "s0001: unknown split 'dev'; fix: use",
        ),
        (lambda s: replace(s, table=s.table.assign(patient=["a", "b", None, "c"])), "'s0002' has no patient"),
    ],
)
def test_samples_that_contradict_their_spec_are_refused_with_their_row(tmp_path, change, message):
    with pytest.raises(DataError, match=f"dataset 'dots': {message}"):
        open_dataset(with_samples(change), tmp_path)


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        (REGRESSION, [1.0, np.nan, 2.0, 3.0], "s0001: target nan, expected a finite number"),
        (REGRESSION, [1.0, 2.0, 3e300, 3.0], "s0002: target 3e\\+300, expected a finite number up to 1e\\+30"),
        (MULTILABEL, np.zeros((4, 2)), r"targets of shape \(4, 2\), expected \(4, 3\)"),
        (MULTILABEL, np.full((4, 3), 0.5), "must be 0, 1 or NaN"),
    ],
    ids=["regression", "regression beyond squares", "multilabel shape", "multilabel values"],
)
def test_targets_of_other_tasks_are_checked_too(tmp_path, task, targets, message):
    with pytest.raises(DataError, match=message):
        open_dots(tmp_path, noise(4), targets, task)


def test_a_binary_set_has_two_labels(tmp_path):
    with pytest.raises(DataError, match="expected 2 labels, got 3"):
        open_dots(tmp_path, noise(4), [0, 1, 0, 1], labels=("a", "b", "c"))


# --- the content hash ------------------------------------------------------------------------------------------------
def write_files(folder, images):
    folder.mkdir()
    paths = tuple(folder / f"{row}.png" for row in range(len(images)))
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def hash_of(tmp_path, images, targets, files=(), **card):
    spec = make_spec(images, targets, **card)
    samples = replace(spec.samples(None), files=files)
    return open_dataset(replace(spec, samples=lambda _: samples), tmp_path / "cache").content_hash


def test_one_pixel_or_one_label_changes_the_content_hash(tmp_path):
    images, targets = noise(4), np.array([0, 1, 0, 1])
    first = hash_of(tmp_path, images, targets)
    brighter = images.copy()
    brighter[2, 3, 3] ^= 1
    assert hash_of(tmp_path, images.copy(), targets.copy()) == first
    assert hash_of(tmp_path, brighter, targets) != first
    assert hash_of(tmp_path, images, np.array([0, 1, 1, 1])) != first


def test_the_content_hash_of_files_changes_with_a_pixel_and_not_with_their_folder(tmp_path):
    images, targets = noise(4), np.array([0, 1, 0, 1])
    brighter = images.copy()
    brighter[0, 0, 0] ^= 1
    hashes = [
        hash_of(tmp_path, images, targets, write_files(tmp_path / name, written))
        for name, written in {"one": images, "two": images, "three": brighter}.items()
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_images_that_share_a_file_are_identified_by_their_pixels(tmp_path):
    images = noise(4)
    (tmp_path / "all.npz").write_bytes(b"the same file for all four")
    spec = make_spec(images, [0, 1, 0, 1])
    samples = replace(spec.samples(None), files=(tmp_path / "all.npz",))
    source = open_dataset(replace(spec, samples=lambda _: samples), tmp_path / "cache")
    assert len(set(source.digests)) == 4


@pytest.mark.parametrize(
    "card",
    [
        {"labels": ("a", "c")},
        {"symmetries": ("hflip",)},
        {"positive": "a"},
        {"unit": "image"},
        {"channels": 1},
        {"intensity": (0.0, 100.0)},
    ],
    ids=lambda card: next(iter(card)),
)
def test_spec_fields_that_a_run_depends_on_change_the_content_hash(tmp_path, card):
    images, targets = noise(4), np.array([0, 1, 0, 1])
    assert hash_of(tmp_path, images, targets, **card) != hash_of(tmp_path, images, targets)


def test_a_title_does_not_change_the_content_hash(tmp_path):
    images, targets = noise(4), np.array([0, 1, 0, 1])
    assert hash_of(tmp_path, images, targets, title="Dots", url="x") == hash_of(tmp_path, images, targets)


def test_an_unknown_label_counts_in_the_content_hash(tmp_path):
    images, targets = noise(4), np.array([[0, 1, 0]] * 4, float)
    unknown = targets.copy()
    unknown[1, 1] = np.nan
    assert hash_of(tmp_path, images, targets, task=MULTILABEL) != hash_of(tmp_path, images, unknown, task=MULTILABEL)


# --- splits ----------------------------------------------------------------------------------------------------------
def many(count, patients, seed=0):
    """Return images of a few pixels, targets by patient, and patients."""
    random = np.random.default_rng(seed)
    owner = np.sort(random.integers(0, patients, count))
    return noise(count, 3), random.integers(0, 2, patients)[owner], owner


@pytest.mark.integration
def test_no_patient_is_in_two_splits(tmp_path):
    images, targets, patients = many(300, 60)
    source = open_dots(tmp_path, images, targets, patients=patients)
    for fold in sides(draw_split(source), source):
        assert not fold["train"] & fold["val"]
        assert not (fold["train"] | fold["val"]) & fold["test"]
        assert fold["train"] and fold["val"] and fold["test"]


def test_a_small_set_is_cut_into_five_folds_that_test_every_patient_once(tmp_path):
    images, targets, patients = many(300, 60)
    source = open_dots(tmp_path, images, targets, patients=patients)
    split = draw_split(source)
    assert (split.origin, len(split.folds)) == ("5-fold", 5)
    tested = np.stack([fold == "test" for fold in split.folds])
    assert (tested.sum(axis=0) == 1).all()
    assert sorted(p for fold in sides(split, source) for p in fold["test"]) == sorted(set(source.patients))


@pytest.mark.parametrize(
    ("count", "positives", "origin"),
    [(600, 300, "hold-out"), (600, 150, "hold-out"), (600, 140, "5-fold"), (480, 240, "5-fold")],
    ids=["enough", "just enough positives", "too few positives", "too few images"],
)
@pytest.mark.integration
def test_a_hold_out_needs_100_patients_and_30_of_each_class_in_test(tmp_path, count, positives, origin):
    source = open_dots(tmp_path, noise(count, 3), (np.arange(count) < positives).astype(int))
    assert draw_split(source).origin == origin


def test_images_of_few_patients_do_not_make_a_hold_out(tmp_path):
    images, targets, patients = many(900, 90)
    source = open_dots(tmp_path, images, targets, patients=patients)
    assert draw_split(source).origin == "5-fold"


def test_the_number_of_folds_can_be_requested(tmp_path):
    images, targets, patients = many(300, 60)
    source = open_dots(tmp_path, images, targets, patients=patients)
    assert [len(draw_split(source, folds).folds) for folds in (1, 2, 3)] == [1, 2, 3]
    assert draw_split(source, 1).origin == "hold-out"


def test_classes_are_balanced_over_the_splits(tmp_path):
    source = open_dots(tmp_path, noise(1000, 3), (np.arange(1000) < 200).astype(int))
    (fold,) = draw_split(source).folds
    shares = [np.asarray(source.samples.targets)[fold == name].mean() for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.2] * 3, abs=0.01)
    assert [(fold == name).sum() for name in ("train", "val", "test")] == pytest.approx([640, 160, 200], abs=2)


def test_identical_images_are_in_one_split(tmp_path):
    images, targets, patients = many(200, 40)
    images[10], images[190] = images[100], images[100]  # three patients share one image
    source = open_dots(tmp_path, images, targets, patients=patients)
    assert len(set(patients[[10, 100, 190]])) == 3
    for fold in draw_split(source).folds:
        assert len(set(fold[[10, 100, 190]])) == 1


def test_a_split_is_the_same_every_time(tmp_path):
    images, targets, patients = many(200, 40)
    splits = [draw_split(open_dots(tmp_path, images, targets, patients=patients)) for _ in range(2)]
    assert splits[0].hash == splits[1].hash
    np.testing.assert_array_equal(splits[0].folds, splits[1].folds)


@settings(deadline=None, max_examples=25)
@given(st.integers(12, 60), st.integers(10, 40), st.integers(0, 1000))
@pytest.mark.integration
def test_no_group_is_divided_and_every_image_is_assigned_for_any_dataset(tmp_path_factory, extra, patients, seed):
    random = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(patients), random.integers(0, patients, extra)])
    targets = np.arange(len(owner)) % 2
    pixels = noise(len(owner), 1, seed=seed)  # one byte per image: many are identical
    pixels[: patients // 2] = np.arange(patients // 2, dtype=np.uint8)[:, None, None]
    source = open_dots(tmp_path_factory.mktemp("cache"), pixels, targets, patients=owner)
    try:
        split = draw_split(source)
    except DataError as error:
        assert error.code in {"too-small", "empty-split", "single-class"}
        return
    for fold in split.folds:
        assert set(fold) == {"train", "val", "test"}
        for key in (source.patients, source.digests):
            for value in set(key):
                assert len(set(fold[key == value])) == 1


def official(test=60, val=60, train=240, **change):
    """ReadTargets and splits of a dataset with an official split."""
    splits = np.array(["test"] * test + ["val"] * val + ["train"] * train)
    return {"targets": np.arange(len(splits)) % 2, "splits": splits, **change}


def split_of(tmp_path, *, patients=None, **official_set):
    source = open_dots(tmp_path, noise(len(official_set["splits"]), 3), patients=patients, **official_set)
    return source, draw_split(source)


def test_an_official_val_that_can_select_a_model_is_kept(tmp_path):
    official_set = official()
    _, split = split_of(tmp_path, **official_set)
    np.testing.assert_array_equal(split.folds[0], official_set["splits"])
    assert (split.origin, split.notes) == ("official", ())


@pytest.mark.parametrize(
    ("official_set", "reason"),
    [
        (official(val=49), "official val (49 images) has under 50 images"),
        (official(val=0), "no official val: it is drawn from train"),
        (official(targets=np.array([0, 1] * 30 + [0] * 56 + [1] * 4 + [0, 1] * 120)), "has under 5 images of 'b'"),
    ],
    ids=["small", "none", "one class rare"],
)
def test_val_is_drawn_from_train_if_the_official_one_cannot_select_a_model(tmp_path, official_set, reason):
    _, split = split_of(tmp_path, **official_set)
    (fold,) = split.folds
    pool = official_set["splits"] != "test"
    assert ((fold == "test") == ~pool).all()
    assert (fold == "val").sum() == pytest.approx(pool.sum() / 5, abs=1)
    assert reason in split.notes[0]


@pytest.mark.parametrize(("share", "expected"), [(0.125, 37.5), (0.3, 90)])
def test_a_card_may_set_the_share_of_val(tmp_path, share, expected):
    official_set = official(val=0, train=300)
    source = open_dots(tmp_path, noise(360, 3), **official_set)
    split = draw_split(replace(source, spec=replace(source.spec, val_share=share)))
    assert (split.folds[0] == "val").sum() == pytest.approx(expected, abs=1)
    assert ((split.folds[0] == "test") == (official_set["splits"] == "test")).all()


def test_a_card_may_set_the_number_of_folds_but_an_official_test_split_takes_precedence(tmp_path):
    images, targets, patients = many(300, 60)
    source = open_dots(tmp_path, images, targets, patients=patients)
    source = replace(source, spec=replace(source.spec, folds=3))
    assert [len(draw_split(source, folds).folds) for folds in (None, 2)] == [3, 2]
    source = open_dots(tmp_path, noise(360, 3), **official())
    split = draw_split(replace(source, spec=replace(source.spec, folds=3)))
    assert split.origin == "official"
    assert "the 3 folds of the card are not drawn" in split.notes[0]


def test_val_is_redrawn_by_patient_if_it_shares_patients_with_train(tmp_path):
    source, split = split_of(tmp_path, patients=[*range(60), *range(100, 160), *range(150, 390)], **official())
    assert "shares 10 patients with train" in split.notes[0]
    (fold,) = sides(split, source)
    assert not fold["train"] & fold["val"]
    assert (split.folds[0][:60] == "test").all()


def test_an_official_test_split_is_never_redrawn(tmp_path):
    source = open_dots(tmp_path, noise(360, 3), **official())
    with pytest.raises(DataError, match="has an official test split, which is never redrawn; fix: omit --folds"):
        draw_split(source, 5)


def test_a_test_split_without_a_train_split_is_refused(tmp_path):
    source = open_dots(tmp_path, noise(4), [0, 1, 0, 1], splits=["test", "test", "", ""])
    with pytest.raises(DataError, match="a test split but no train split"):
        draw_split(source)


def test_too_few_patients_are_refused_in_one_line(tmp_path):
    source = open_dots(tmp_path, noise(20), [0, 1] * 10, patients=[0, 1, 2, 3] * 5)
    with pytest.raises(DataError, match="4 patients cannot be cut into 5 parts"):
        draw_split(source)


def test_the_split_hash_changes_with_any_image_moved_and_with_any_patient_renamed(tmp_path):
    moved = official()
    moved["splits"] = moved["splits"].copy()
    moved["splits"][200] = "val"
    hashes = {
        split_of(tmp_path, **official())[1].hash,
        split_of(tmp_path, **moved)[1].hash,
        split_of(tmp_path, patients=range(360), **official())[1].hash,
        split_of(tmp_path, patients=range(1, 361), **official())[1].hash,
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL, MULTILABEL, REGRESSION], ids=str)
def test_every_task_can_be_split(tmp_path, task):
    random = np.random.default_rng(0)
    targets = {
        "multilabel": np.where(random.random((100, 3)) < 0.1, np.nan, random.integers(0, 2, (100, 3))),
        "regression": random.normal(size=100),
    }.get(task.name, random.integers(0, 3, 100))
    split = draw_split(open_dots(tmp_path, noise(100), targets, task))
    assert [(fold == "test").sum() for fold in split.folds] == pytest.approx([20] * 5, abs=3)


# --- the cache -------------------------------------------------------------------------------------------------------
def cached(tmp_path, images, size=None, **card):
    targets = np.arange(len(images)) % 2
    source = open_dots(tmp_path, images, targets, **{"channels": images.shape[3] if images.ndim == 4 else 1, **card})
    return np.load(cache_images(source, size or images.shape[1], tmp_path))


def test_16_bit_levels_survive_the_cache_exactly(tmp_path):
    images = np.arange(4 * 128 * 128, dtype=np.uint16).reshape(4, 128, 128)  # every level there is
    result = cached(tmp_path, images)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result[..., 0], images)


@pytest.mark.parametrize("damage", [lambda data: data[:500], lambda data: data[:200] + bytes(len(data) - 200)])
def test_a_damaged_cache_is_decoded_again(tmp_path, damage):
    source = open_dataset(make_spec(noise(40), np.arange(40) % 2), tmp_path)
    path = cache_images(source, 6, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cache_images(source, 6, tmp_path).read_bytes() == whole


@pytest.fixture
def folder(tmp_path):
    """Two classes of image files, and the opened dataset: `folder.root`, `folder.source`."""

    class Folder:
        root = tmp_path / "set"

    for row, pixels in enumerate(noise(40)):
        path = Folder.root / "ab"[row % 2] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    Folder.source = open_dataset(find_source(Folder.root), tmp_path)
    return Folder


@pytest.mark.parametrize("change", [lambda path: Image.fromarray(noise(1)[0] ^ 255).save(path), Path.unlink])
@pytest.mark.parametrize("read", [lambda source, cache: cache_images(source, 6, cache), take_fingerprints])
def test_a_file_that_changed_since_opening_is_refused_and_not_cached(tmp_path, folder, change, read):
    change(folder.root / "b" / "07.png")
    with pytest.raises(DataError, match=r"b/07.png was changed or removed since the dataset was opened") as caught:
        read(folder.source, tmp_path)
    assert caught.value.code == "changed"
    assert not list(tmp_path.glob("images/*/images.npy")) and not list(tmp_path.glob("fingerprints/*"))


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    path = folder.root / "a" / "00.png"
    read = folder.source.samples.read.args[0]  # as the set itself has it

    def slow(image):
        pixels = read(image)
        path.write_bytes(path.read_bytes())
        return pixels

    checked = folder.source.samples.read
    with pytest.raises(DataError, match=r"a/00\.png was changed"):
        checked.func(slow, *checked.args[1:], folder.source.samples.table["image"][0])


def test_a_file_rewritten_with_the_same_content_is_read(tmp_path, folder):
    before = np.load(cache_images(folder.source, 6, tmp_path / "before"))
    for path in folder.root.rglob("*.png"):
        path.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(np.load(cache_images(folder.source, 6, tmp_path / "after")), before)


def test_a_rewritten_file_is_hashed_once_for_all_its_reads(folder, monkeypatch):
    path = folder.root / "a" / "00.png"
    path.write_bytes(path.read_bytes())
    hashed = []
    monkeypatch.setattr("zoo.data.opening.hash_file", lambda path: (hashed.append(path), hash_file(path))[1])
    image = folder.source.samples.table["image"][0]
    assert (folder.source.samples.read(image) == folder.source.samples.read(image)).all()
    assert hashed == [path]


def test_pixels_without_a_file_that_change_between_reads_are_refused(tmp_path):
    images = noise(4)
    source = open_dots(tmp_path, images, [0, 1, 0, 1])
    images[2] ^= 255
    with pytest.raises(DataError, match="image 2 was changed"):
        cache_images(source, 6, tmp_path)


def test_gray_has_one_channel_and_color_three(tmp_path):
    assert cached(tmp_path / "gray", noise(4)).shape == (4, 6, 6, 1)
    assert cached(tmp_path / "colour", noise(4, channels=(3,))).shape == (4, 6, 6, 3)


def test_a_gray_image_is_repeated_in_a_color_dataset(tmp_path):
    images = noise(4)
    np.testing.assert_array_equal(cached(tmp_path, images, channels=3), np.repeat(images[..., None], 3, axis=3))


def test_a_gray_image_stored_in_color_has_one_channel(tmp_path):
    images = np.repeat(noise(4)[..., None], 3, axis=3)
    np.testing.assert_array_equal(cached(tmp_path, images, channels=1), images[..., :1])


def test_a_color_image_in_a_gray_dataset_is_refused_by_name(tmp_path):
    images = np.repeat(noise(4)[..., None], 3, axis=3)
    images[2, 0, 0, 1] ^= 1
    with pytest.raises(DataError, match="s0002 has 3 channels; expected 1"):
        cached(tmp_path, images, channels=1)


def test_images_of_two_depths_are_refused_by_name_and_leave_no_cache(tmp_path):
    images = [*noise(3), *noise(1, dtype=np.uint16)]
    source = open_dots(tmp_path, images, [0, 1, 0, 1], channels=1)
    with pytest.raises(DataError, match="s0003 is uint16, but s0000 is uint8"):
        cache_images(source, 6, tmp_path)
    assert not list((tmp_path / "images").glob("*/images.npy"))


def test_images_are_resized_as_pillow_does_within_one_level(tmp_path):
    images = noise(3, 40)
    result = cached(tmp_path, images, 16)
    expected = [np.asarray(Image.fromarray(i).resize((16, 16), Image.Resampling.BILINEAR)) for i in images]
    assert np.abs(result[..., 0].astype(int) - np.stack(expected)).max() <= 1


BUILD_CACHE = """
import os, sys, time
from pathlib import Path
import numpy as np, pandas
from zoo.data.decoded import cache_images
from zoo.data.opening import open_dataset
from zoo.specs.dataset import DatasetSpec, Samples
from zoo import BINARY

folder = Path(sys.argv[1])

def read(row):
    (folder / f"read-{os.getpid()}-{row}").touch()
    time.sleep(0.05)  # long enough for the two to meet
    return np.full((4, 4), row, np.uint8)

table = pandas.DataFrame({"sample_id": [f"s{i}" for i in range(8)], "image": range(8)})
samples = Samples(table=table, targets=np.arange(8) % 2, read=read)
spec = DatasetSpec(name="dots", task=BINARY, labels=("a", "b"), samples=lambda _: samples, channels=1)
source = open_dataset(spec, folder / "cache")
for path in folder.glob(f"read-{os.getpid()}-*"):
    path.unlink()  # opening reads the pixels for their hash
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
cache_images(source, 4, folder / "cache")
"""


@pytest.mark.integration
def test_two_processes_that_need_a_cache_at_once_build_it_once(tmp_path):
    command = [sys.executable, "-c", BUILD_CACHE, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=100)[1] == b""
        assert process.returncode == 0
    builders = {path.name.split("-")[1] for path in tmp_path.glob("read-*")}
    assert len(builders) == 1
    (path,) = (tmp_path / "cache" / "images").glob("*/images.npy")
    np.testing.assert_array_equal(np.load(path)[:, 0, 0, 0], np.arange(8))


# --- what a network sees ---------------------------------------------------------------------------------------------
def opened(tmp_path, images, *, targets=None, task=BINARY, **card):
    channels = images.shape[3] if images.ndim == 4 else 1
    targets = np.arange(len(images)) % 2 if targets is None else targets
    source = open_dots(tmp_path, images, targets, task, **{"channels": channels, **card})
    return open_fold(source, draw_split(source), 0, cache_images(source, images.shape[1], tmp_path))


def test_8_bit_levels_become_0_to_1(tmp_path):
    images = noise(20, channels=(3,))
    pixels = open_pixels(opened(tmp_path, images), (0, 0, 0), (1, 1, 1), "cpu")
    batch = pixels.batch(torch.tensor([3, 0]))
    torch.testing.assert_close(batch, torch.from_numpy(images[[3, 0]]).permute(0, 3, 1, 2) / 255)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_16_bit_levels_above_32767_are_not_negative(tmp_path):
    images = noise(20, dtype=np.uint16)
    images[0, 0, :3] = [0, 32768, 65535]
    pixels = open_pixels(opened(tmp_path, images, intensity=(0.0, 65535.0)), (0,), (1,), "cpu")
    torch.testing.assert_close(pixels.batch(torch.tensor([0]))[0, 0, 0, :3], torch.tensor([0, 32768 / 65535, 1.0]))


def test_levels_beyond_the_intensity_range_are_kept_and_not_clipped(tmp_path):
    images = noise(20, dtype=np.uint16) % 4000
    pixels = open_pixels(opened(tmp_path, images, intensity=(1000.0, 2000.0)), (0,), (1,), "cpu")
    np.testing.assert_allclose(pixels.batch(torch.arange(20))[:, 0], (images - 1000.0) / 1000, rtol=1e-6)


def test_the_intensity_of_16_bits_is_measured_on_train_alone(tmp_path):
    images = noise(100, dtype=np.uint16) % 4096
    dataset = opened(tmp_path, images)
    train = dataset.split_of == "train"
    assert dataset.intensity == pytest.approx(np.percentile(images[train], [0.1, 99.9]))
    images[~train] = 60_000
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "images.npy", images[..., None])
    assert measure_intensity(tmp_path / "other" / "images.npy", train) == dataset.intensity


def test_the_intensity_of_8_bits_is_the_range_of_the_type(tmp_path):
    assert opened(tmp_path, noise(20) // 2).intensity == (0.0, 255.0)


def test_gray_is_normalized_by_the_mean_of_the_models_channels(tmp_path):
    pixels = open_pixels(opened(tmp_path, noise(20)), (0.3, 0.4, 0.8), (0.1, 0.2, 0.3), "cpu")
    batch = pixels.batch(torch.arange(2))
    torch.testing.assert_close(pixels.normalize(batch), (batch - 0.5) / 0.2)


def test_the_targets_of_a_regression_are_scaled_by_train(tmp_path):
    targets = np.random.default_rng(0).normal(50, 9, 100)
    dataset = opened(tmp_path, noise(100), targets=targets, task=REGRESSION)
    train = targets[dataset.split_of == "train"]
    assert dataset.target_scale == pytest.approx((train.mean(), train.std()))
    assert opened(tmp_path, noise(100)).target_scale == (0.0, 1.0)


# --- the card --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("patients", "targets", "card", "unit"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], {}, "patient"),
        ([0, 0, 1, 1], [0, 1, 1, 1], {}, "image"),
        ([0, 1, 2, 3], [0, 0, 1, 1], {}, "image"),
        (None, [0, 0, 1, 1], {}, "image"),
        ([0, 0, 1, 1], [0, 0, 1, 1], {"unit": "image"}, "image"),
    ],
    ids=["one label a patient", "mixed patients", "one image a patient", "no patients", "as the card says"],
)
def test_the_patient_is_the_unit_if_each_has_one_label(tmp_path, patients, targets, card, unit):
    assert unit_of(open_dots(tmp_path, noise(4), targets, patients=patients, **card)) == unit


@pytest.mark.parametrize(
    ("unit", "targets", "patients", "expected"),
    [
        ("clip", [0, 1, 1, 1], [0, 0, 1, 1], "a.avi#0 and a.avi#8 of a.avi have different labels"),
        ("clip", [0, 0, 1, 1], [0, 1, 2, 2], "a.avi#0 and a.avi#8 of one clip have different patients"),
        ("patient", [0, 0, 1, 0], [0, 0, 1, 1], "b.avi#0 and b.avi#8 of p1 have different labels"),
        ("patient", [0, 0, 1, 1], None, "there is no patient key"),
        ("lesion", [0, 0, 1, 1], None, "unit is 'lesion', expected one of auto, image, clip, patient"),
    ],
)
def test_the_images_of_a_unit_must_agree(tmp_path, unit, targets, patients, expected):
    names = ["a.avi#0", "a.avi#8", "b.avi#0", "b.avi#8"]
    with pytest.raises(DataError) as caught:
        open_dots(tmp_path, noise(4), targets, patients=patients, sample_ids=names, unit=unit)
    assert expected in caught.value.line()


def test_the_clip_is_the_unit_if_the_card_sets_it(tmp_path):
    names = ["a.avi#0", "a.avi#8", "b.avi#0", "b.avi#8"]
    assert unit_of(open_dots(tmp_path, noise(4), [0, 0, 1, 1], sample_ids=names, unit="clip")) == "clip"
    with pytest.raises(DataError, match="no image is a frame"):
        open_dots(tmp_path, noise(4), [0, 0, 1, 1], unit="clip")


def test_patients_with_the_same_unknown_labels_share_a_target(tmp_path):
    targets = np.array([[0, np.nan, 1], [0, np.nan, 1], [1, 1, 0], [1, 1, 0]])
    assert unit_of(open_dots(tmp_path, noise(4), targets, MULTILABEL, patients=[0, 0, 1, 1])) == "patient"


def test_the_positive_class_is_the_cards_else_the_last(tmp_path):
    assert opened(tmp_path, noise(20)).positive == 1
    assert opened(tmp_path, noise(20), positive="a").positive == 0
    with pytest.raises(DataError, match="unknown positive class 'z'; the labels are a, b"):
        opened(tmp_path, noise(20), positive="z")


def test_a_split_is_counted_by_images_patients_and_labels(tmp_path):
    source = open_dots(tmp_path, noise(360, 3), patients=np.arange(360) // 2, channels=1, **official())
    dataset = open_fold(source, draw_split(source), 0, cache_images(source, 3, tmp_path))
    assert count_split(dataset, "test") == {"images": 60, "patients": 30, "labels": {"a": 30, "b": 30}}


# --- metadata --------------------------------------------------------------------------------------------------------
def kept(tmp_path, columns, patients=None):
    """Return the columns of a table of 200 images that results would keep."""
    spec = make_spec(noise(200), np.arange(200) % 2, patients=patients, metadata=tuple(columns))
    samples = spec.samples(None)
    spec = replace(spec, samples=lambda _: replace(samples, table=samples.table.assign(**columns)))
    return select_metadata(open_dataset(spec, tmp_path))


def test_columns_that_group_images_are_kept_as_text(tmp_path):
    random = np.random.default_rng(0)
    columns = {
        "sex": random.choice(["F", "M", None], 200),
        "age": random.integers(20, 90, 200),
        "dose": random.normal(size=200),
        "scanner": random.choice([" A ", "B"], 200),
        "weight": pandas.array([70.5, None, 81.0, 81.0] * 50),
    }
    result = kept(tmp_path, columns)
    assert list(result) == list(columns)
    assert set(result["sex"]) == {"F", "M", ""} and set(result["scanner"]) == {"A", "B"}
    assert result["age"].tolist() == [str(age) for age in columns["age"]]
    assert result["weight"][:4].tolist() == ["70.5", "", "81.0", "81.0"]


def test_a_column_of_numbers_may_contain_words_for_unknown(tmp_path):
    ages = np.random.default_rng(0).integers(10, 99, 200).astype(str).astype(object)
    ages[3], ages[50], ages[51] = "NA", "unknown", "n/a"
    assert kept(tmp_path, {"age": ages})["age"].tolist() == ages.tolist()


def test_ids_free_text_and_constant_columns_are_not_kept(tmp_path):
    patients = np.repeat(np.arange(50), 4)
    columns = {
        "exam": np.arange(200) + 7_000_000,
        "file": [f"scan{i}.dcm" for i in range(200)],
        "subject": [f"Smith {patient}" for patient in patients],
        "record": patients * 31,
        "comment": ["seen twice, motion in the upper part, compare with the exam of May", "artefact"] * 100,
        "hospital": ["here"] * 200,
        "nothing": [""] * 200,
    }
    assert kept(tmp_path, columns, patients) == {}


def test_only_the_metadata_columns_of_the_card_are_kept(tmp_path):
    spec = make_spec(noise(20), np.arange(20) % 2)
    samples = spec.samples(None)
    spec = replace(spec, samples=lambda _: replace(samples, table=samples.table.assign(sex=["F", "M"] * 10)))
    assert select_metadata(open_dataset(spec, tmp_path)) == {}
