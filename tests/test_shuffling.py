"""Labels are shuffled among patients: test is unchanged, a patient's images stay together, without a bias."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_fold, number_ids

from zoo import BINARY, MULTILABEL, REGRESSION
from zoo.data.shuffling import shuffle_labels


def dataset(targets, patients=None, splits=None, sample_ids=None, task=BINARY, unit="image"):
    """A dataset of these targets; without splits all but the last tenth is train, and that is test."""
    count = len(targets)
    if splits is None:
        splits = ["train"] * (count - count // 10) + ["test"] * (count // 10)
    ids = number_ids(count, "i") if sample_ids is None else sample_ids
    labels = ("clear", "nodule")
    return make_fold(targets, task=task, labels=labels, unit=unit, ids=ids, patients=patients, split_of=splits)


def test_labels_of_train_and_val_move_within_their_split_and_those_of_test_stay():
    random = np.random.default_rng(0)
    splits = np.repeat(["train", "val", "test", ""], [60, 30, 30, 10])
    plain = dataset(random.integers(0, 2, 130), splits=splits)
    shuffled = shuffle_labels(plain, 0)
    for name in ("train", "val"):
        rows = splits == name
        assert not np.array_equal(shuffled.targets[rows], plain.targets[rows])
        assert np.bincount(shuffled.targets[rows]).tolist() == np.bincount(plain.targets[rows]).tolist()
    for name in ("test", ""):
        assert np.array_equal(shuffled.targets[splits == name], plain.targets[splits == name])


def test_the_same_seed_gives_the_same_labels_and_another_seed_others():
    plain = dataset(np.arange(100) % 2)
    assert np.array_equal(shuffle_labels(plain, 3).targets, shuffle_labels(plain, 3).targets)
    assert not np.array_equal(shuffle_labels(plain, 3).targets, shuffle_labels(plain, 4).targets)


def test_images_of_a_patient_that_shared_a_label_share_one_again():
    patients = np.repeat([f"p{number}" for number in range(40)], 3)
    plain = dataset(np.repeat(np.arange(40) % 2, 3), patients)
    for seed in range(5):
        shuffled = shuffle_labels(plain, seed)
        train = shuffled.index("train")
        for patient in np.unique(patients[train]):
            assert len(np.unique(shuffled.targets[train][patients[train] == patient])) == 1


@pytest.mark.integration
def test_shuffled_labels_are_independent_of_the_kind_of_patient():
    # 30 patients with one image each, all clear; 30 with six, half of them nodules: shuffled, both kinds are alike
    patients = [f"one{number}" for number in range(30)] + [f"six{number // 6}" for number in range(180)]
    targets = [0] * 30 + [0, 1] * 90
    plain = dataset(targets, patients, splits=["train"] * 210)
    shuffled = np.array([shuffle_labels(plain, seed).targets for seed in range(400)])
    means = shuffled[:, :30].mean(axis=1), shuffled[:, 30:].mean(axis=1)
    difference = means[0] - means[1]
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(400)
    assert 0.2 < means[0].mean() < 0.3


def test_multilabel_rows_move_as_a_whole_including_unknown_labels():
    random = np.random.default_rng(1)
    targets = random.integers(0, 2, (50, 2)).astype(float)
    targets[random.random((50, 2)) < 0.3] = np.nan
    shuffled = shuffle_labels(dataset(targets, task=MULTILABEL, splits=["train"] * 50), 0)
    assert sorted(map(str, shuffled.targets.tolist())) == sorted(map(str, targets.tolist()))
    assert str(shuffled.targets.tolist()) != str(targets.tolist())


def test_a_patient_whose_unknowns_agree_shares_one_row():
    targets = np.array([[1, np.nan]] * 3 + [[0, 1]] * 3 + [[0, np.nan]] * 3 + [[1, 1]] * 3)
    plain = dataset(targets, np.repeat(list("abcd"), 3), task=MULTILABEL, splits=["train"] * 12)
    for seed in range(5):
        rows = shuffle_labels(plain, seed).targets.reshape(4, 3, 2)
        assert all(str(row.tolist()) == str([row[0].tolist()] * 3) for row in rows)


def test_frames_of_a_clip_keep_one_label_if_the_clip_is_scored():
    ids = [f"clip{clip}.avi#{frame}" for clip in range(20) for frame in range(4)]
    patients = np.repeat([f"p{number}" for number in range(10)], 8)  # each with a clip of either label
    plain = dataset(np.repeat(np.arange(20) % 2, 4), patients, ["train"] * 80, ids, unit="clip")
    shuffled = shuffle_labels(plain, 0)
    assert (np.ptp(shuffled.targets.reshape(20, 4), axis=1) == 0).all()
    assert not np.array_equal(shuffled.targets, plain.targets)


def test_regression_targets_are_shuffled_too():
    plain = dataset(np.linspace(20, 90, 40), task=REGRESSION, splits=["train"] * 40)
    shuffled = shuffle_labels(plain, 0)
    assert sorted(shuffled.targets) == pytest.approx(sorted(plain.targets))
    assert not np.array_equal(shuffled.targets, plain.targets)


def test_nothing_but_targets_changes():
    plain = dataset(np.arange(40) % 2)
    shuffled = shuffle_labels(plain, 0)
    assert replace(shuffled, targets=plain.targets).__dict__.keys() == plain.__dict__.keys()
    assert all(getattr(shuffled, name) is getattr(plain, name) for name in ("patients", "sample_ids", "split_of"))
