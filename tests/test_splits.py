"""Copies stay in one split; on request they are dropped from train and val of an official split."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from factories import make_dataset_spec, make_samples
from sklearn.model_selection import StratifiedGroupKFold

from zoo import BINARY, MULTICLASS
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset, discard_split
from zoo.data.splits import SPLIT_SEED, draw_part, draw_split
from zoo.errors import DataError


def make_source(count, *, patients=None, splits=None, digests=None, **card):
    """A binary dataset of rows without images, as nothing is decoded."""
    ids = np.array([f"s{row:04}" for row in range(count)])
    samples = make_samples(count, np.arange(count) % 2, ids=ids, patients=patients, read=lambda row: row)
    return OpenDataset(
        spec=make_dataset_spec(samples, **card),
        samples=samples,
        sample_ids=ids,
        patients=samples.table["patient"].to_numpy().astype(str) if patients is not None else ids,
        splits=np.array(splits if splits is not None else [""] * count),
        digests=np.array(digests if digests is not None else [f"d{row}" for row in range(count)]),
        content_hash="c",
    )


def make_prints(count, *, pixels=None, blank=(), alike=()):
    return Fingerprints(
        pixels=np.array(pixels if pixels is not None else [f"x{row}" for row in range(count)]),
        blank=np.isin(np.arange(count), blank),
        widths=np.full(count, 64),
        heights=np.full(count, 64),
        bits=np.full(count, 8),
        channels=np.ones(count, int),
        gray=np.ones(count, bool),
        hashes=np.zeros(count, np.uint64),
        alike=np.array(alike, int).reshape(-1, 2),
        skipped="",
    )


def cut(split, pairs):
    """Return the pairs of rows that are in different splits in some fold."""
    return [pair for pair in pairs if any(fold[pair[0]] != fold[pair[1]] for fold in split.folds)]


PAIRS = [(row, row + 100) for row in range(0, 80, 2)]


def test_without_copies_the_split_is_the_one_drawn_without_fingerprints():
    source = make_source(300, patients=np.arange(300) // 2)
    assert draw_split(source, fingerprints=make_prints(300)).hash == draw_split(source).hash


@pytest.mark.integration
def test_images_that_look_alike_stay_on_one_side():
    source = make_source(300)
    assert cut(draw_split(source), PAIRS)
    assert not cut(draw_split(source, fingerprints=make_prints(300, alike=PAIRS)), PAIRS)


def test_images_of_the_same_pixels_in_different_files_stay_on_one_side():
    pixels = [f"x{row}" for row in range(300)]
    for first, second in PAIRS:
        pixels[second] = pixels[first]
    assert not cut(draw_split(make_source(300), fingerprints=make_prints(300, pixels=pixels)), PAIRS)


@pytest.mark.integration
def test_a_card_may_ignore_images_that_look_alike():
    source = make_source(300, near_duplicates="ignore")
    split = draw_split(source, fingerprints=make_prints(300, alike=PAIRS))
    assert split.hash == draw_split(source).hash


def test_blank_images_do_not_join_their_patients():
    blank = np.arange(0, 300, 3)  # one of each patient
    pixels = ["black" if row in blank else f"x{row}" for row in range(300)]
    source = make_source(300, patients=np.arange(300) // 3, digests=pixels)
    split = draw_split(source, fingerprints=make_prints(300, pixels=pixels, blank=blank))
    assert len({fold[row] for fold in split.folds for row in blank}) == 3
    assert not cut(split, [(row, row + 1) for row in blank])


@pytest.mark.integration
def test_look_alikes_that_join_most_images_are_not_kept_together_with_a_note():
    chain = [(row, row + 1) for row in range(200)]
    split = draw_split(make_source(300), fingerprints=make_prints(300, alike=chain))
    assert "images that look alike would join 201 of 300 images into one group: not kept together" in split.notes
    assert split.hash == draw_split(make_source(300)).hash


def test_a_set_of_one_image_is_refused_in_one_line():
    with pytest.raises(
        DataError, match="1 image cannot be cut into 5 parts; there are 60 images, copies counted as one"
    ):
        draw_split(make_source(60), fingerprints=make_prints(60, pixels=["x"] * 60))


# --- official splits -------------------------------------------------------------------------------------------------
OFFICIAL = np.repeat(["train", "val", "test"], [200, 60, 100])


def test_leaks_are_dropped_from_train_and_val_and_test_is_whole():
    alike = [(0, 300), (210, 301), (5, 220), (7, 8), (302, 303)]
    source = make_source(360, splits=OFFICIAL)
    split = draw_split(source, fingerprints=make_prints(360, alike=alike), drop_leaks=True)
    (fold,) = split.folds
    assert np.flatnonzero(fold != OFFICIAL).tolist() == [0, 5, 210]
    assert set(fold[[0, 5, 210]]) == {""}
    assert split.notes == (
        "left out as copies of test (same patient, same pixels or alike): 1 image of train and 1 image of val",
        "left out as copies of val (same patient, same pixels or alike): 1 image of train",
    )
    assert split.hash != draw_split(source).hash


def test_patients_of_test_are_dropped_from_train_and_val():
    patients = np.arange(360)
    patients[[300, 301]] = [3, 230]
    source = make_source(360, splits=OFFICIAL, patients=patients)
    (fold,) = draw_split(source, fingerprints=make_prints(360), drop_leaks=True).folds
    assert np.flatnonzero(fold == "").tolist() == [3, 230]


def test_without_leaks_nothing_is_dropped_or_noted():
    source = make_source(360, splits=OFFICIAL)
    split = draw_split(source, fingerprints=make_prints(360), drop_leaks=True)
    assert split.hash == draw_split(source).hash
    assert not split.notes


def test_a_redrawn_val_keeps_copies_together():
    splits = np.where(OFFICIAL == "val", "train", OFFICIAL)
    split = draw_split(make_source(360, splits=splits), fingerprints=make_prints(360, alike=PAIRS))
    assert not cut(split, PAIRS)


def test_a_discarded_official_split_makes_a_dataset_of_another_name():
    source = make_source(360, splits=OFFICIAL)
    other = discard_split(source)
    assert other.spec.name == "dots-resplit"
    assert draw_split(other).origin != "official"
    assert "the official split is discarded: --resplit" in other.samples.notes
    plain = make_source(360)
    assert discard_split(plain) is plain
    assert discard_split(replace(source, splits=np.full(360, "train"))).spec.name == "dots"


# --- small sets ------------------------------------------------------------------------------------------------------
def small(targets, *, labels="ab", task=BINARY, **more):
    """A dataset of these targets."""
    source = make_source(len(targets), labels=tuple(labels), task=task, **more)
    return replace(source, samples=replace(source.samples, targets=np.asarray(targets)))


PER_PATIENT = np.repeat(np.arange(10), 3)
SMALL = {
    "one image a class": (
        small([0, 1]),
        "dataset 'dots': too small for train, val and test in 5 folds: 2 images cannot be cut into 5 parts; there "
        "are 2 images (a: 1, b: 1), and 7 images of each of two classes are enough; fix: add images of a and b",
    ),
    "five images": (
        small([0, 0, 0, 1, 1]),
        "5 parts need 5 images of a class, and no class has more than 3 images left; "
        "there are 5 images (a: 3, b: 2), and ",
    ),
    "all positives of one patient": (
        small((PER_PATIENT == 4).astype(int), patients=PER_PATIENT),
        "train would contain only one class; there are 30 images of 10 patients (a: 9, b: 1), and 7 patients of each "
        "of two classes are enough; fix: add patients of b",
    ),
    "one patient a class": (
        small(np.repeat([0, 1], 15), patients=np.repeat([0, 1], 15)),
        "2 patients cannot be cut into 5 parts; there are 30 images of 2 patients (a: 1, b: 1), and 7 patients of each",
    ),
    "a class of one image": (small([0] * 40 + [1]), "there are 41 images (a: 40, b: 1), and 7 images of each of two"),
    "small official train": (
        small([0, 1] * 5, splits=["train"] * 6 + ["test"] * 4),
        ": too small for a val split drawn from train: 5 parts need 5 images of a class, and no class has more than 3 "
        "images left; there are 6 images (a: 3, b: 3), and 5 images of each of two classes are enough",
    ),
    "many classes": (
        small(np.arange(12) % 6, labels="abcdef", task=MULTICLASS),
        "there are 12 images (a: 2, b: 2, c: 2, d: 2, ...), and 7 images of each of two classes are enough; fix: add "
        "images of each class; if these are not the classes, set `label` in a dataset.toml",
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_dataset_that_is_too_small_is_refused_with_its_size_and_the_required_one(name):
    source, expected = SMALL[name]
    with pytest.raises(DataError) as caught:
        draw_split(source)
    assert expected in str(caught.value)
    assert (caught.value.code, caught.value.exit_status) == ("too-small", 4)


@pytest.mark.parametrize("folds", [99_999_999_999, 10**400])
def test_too_many_folds_are_refused_before_drawing(folds):
    with pytest.raises(DataError, match=f"40 images cannot be cut into {folds} parts.* and {folds} images of each of"):
        draw_split(make_source(40), folds)


def test_fewer_patients_than_folds_are_refused_with_a_possible_number():
    source = small(np.repeat(np.arange(8) % 2, 3), patients=np.repeat(np.arange(8), 3))
    with pytest.raises(DataError, match=r"8 patients cannot be cut into 10 parts.* or draw fewer folds with --folds 5"):
        draw_split(source, 10)


@pytest.mark.parametrize("folds", [None, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("more", [0, 50])
def test_the_reported_sufficient_size_is_sufficient(folds, images, more):
    few = small([0, 1])
    with pytest.raises(DataError) as caught:
        draw_split(few, folds)
    enough = int(re.search(r"and (\d+) images of each", caught.value.message)[1])
    owners = np.repeat(np.arange(2 * enough + more), images)
    split = draw_split(small((owners < enough).astype(int), patients=owners), folds)
    targets = (owners < enough).astype(int)
    for fold in split.folds:
        assert all(set(targets[fold == name]) == {0, 1} for name in ("train", "val"))
        assert (fold == "test").any()


def test_a_class_too_rare_for_all_splits_is_noted():
    split = draw_split(small([0] * 40 + [1] * 40 + [2], labels="abc", task=MULTICLASS))
    assert "class 'c' has 1 image, too few to be in train, val and test" in split.notes
    assert not any("class 'a'" in note for note in split.notes)


def test_look_alikes_of_test_images_leave_train_even_in_long_chains():
    splits = np.array(["train"] * 200 + ["val"] * 100 + ["test"] * 60)
    chain = [(row, row + 1) for row in range(359)]  # all are linked: no group of copies
    split = draw_split(make_source(360, splits=splits), fingerprints=make_prints(360, alike=chain), drop_leaks=True)
    (fold,) = split.folds
    assert any("join 360 of 360 images into one group" in note for note in split.notes)
    assert fold[299] == "" and fold[300] == "test"
    assert fold[199] == "" and fold[200] == "val"
    assert (fold == "").sum() == 2


@pytest.mark.parametrize("parts", [2, 5, 20])
@pytest.mark.parametrize("num_classes", [1, 2, 9])
@pytest.mark.parametrize("images_per_group", [1, 3])
def test_parts_equal_those_of_scikit_learn(parts, num_classes, images_per_group):
    random = np.random.default_rng(parts)
    strata = random.choice(num_classes, 150, p=random.dirichlet(np.ones(num_classes) * 3))
    groups = random.integers(0, 150 // images_per_group, 150) if images_per_group > 1 else np.arange(150)
    drawer = StratifiedGroupKFold(parts, shuffle=True, random_state=SPLIT_SEED)
    with warnings.catch_warnings(action="ignore"):
        expected = [part.tolist() for _, part in drawer.split(strata, strata, groups)]
    assert [part.tolist() for part in draw_part(np.ones(150, bool), groups, strata, parts)] == expected
