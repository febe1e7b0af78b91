"""A file of arrays is read as a dataset, or refused in one line."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from folders import open_source, refusal

from zoo import BINARY, MULTILABEL
from zoo.errors import DataError
from zoo.sources.arrays import read_npz_samples
from zoo.sources.opening import dataset_name


def save_npz(path: Path, **changes) -> Path:
    arrays = {
        f"{split}_{kind}": np.arange(n * 64, dtype=np.uint8).reshape(n, 8, 8)
        if kind == "images"
        else np.arange(n)[:, None] % 2
        for split, n in (("train", 6), ("val", 4), ("test", 2))
        for kind in ("images", "labels")
    }
    np.savez_compressed(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def test_an_npz_in_the_layout_of_medmnist_is_a_dataset(tmp_path):
    path = save_npz(tmp_path / "My Set.npz")
    spec, samples = open_source(path)
    assert (spec.name, spec.task, spec.labels, spec.channels, spec.image_size) == ("my_set", BINARY, ("0", "1"), 1, 8)
    assert spec.official_splits == ("train", "val", "test")
    assert samples.table["sample_id"].iloc[6] == "val/0"
    with np.load(path) as arrays:
        for row, image in enumerate(samples.table["image"]):
            split, number = image.split("/")
            np.testing.assert_array_equal(samples.read(image), arrays[f"{split}_images"][int(number)])
            assert samples.targets[row] == arrays[f"{split}_labels"][int(number), 0]


def test_large_arrays_are_read_in_blocks_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.sources.arrays.BLOCK_BYTES", 130)  # two images of 64 bytes
    path = save_npz(tmp_path / "a.npz")
    read = pickle.loads(pickle.dumps(read_npz_samples(path).read))
    with np.load(path) as arrays:
        for number in (5, 0, 3, 3, 1, 4, 2, 0):
            np.testing.assert_array_equal(read(f"train/{number}"), arrays["train_images"][number])


def test_an_npz_may_have_several_labels_per_image_or_no_splits(tmp_path):
    multihot = {
        f"{split}_labels": np.eye(6, 3, dtype=np.uint8)[:n] for split, n in (("train", 6), ("val", 4), ("test", 2))
    }
    spec, samples = open_source(save_npz(tmp_path / "many.npz", **multihot))
    assert (spec.task, samples.targets.shape) == (MULTILABEL, (12, 3))
    np.savez(tmp_path / "plain.npz", images=np.zeros((3, 8, 8, 3), np.uint16), labels=np.array([3.0, 7.0, 3.0]))
    spec, samples = open_source(tmp_path / "plain.npz")
    assert (spec.labels, spec.channels, spec.official_splits) == (("3", "7"), 3, ())
    assert samples.targets.tolist() == [0, 1, 0]
    assert samples.read("images/2").dtype == np.uint16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train_images": np.array([object()] * 6)}, "train_images"),
        ({"val_labels": None}, "val_labels"),
        ({"val_labels": np.zeros((3, 1), int)}, "val_labels"),
        ({"test_images": np.zeros((2, 8, 8), np.float32)}, "test_images"),
        ({"test_images": np.zeros((2, 9, 9), np.uint8)}, "different shapes"),
        ({"train_labels": np.array([0, 1, np.nan, 0, 1, 0])}, "train_labels[2] is nan"),
        ({"train_labels": np.array(["a"] * 6)}, "train_labels"),
    ],
)
def test_an_invalid_npz_is_one_line(tmp_path, changes, expected, golden):
    line = refusal(save_npz(tmp_path / "a.npz", **changes))
    assert expected in line
    golden(line)


def test_labels_out_of_the_range_of_the_card_are_named(tmp_path):
    path = save_npz(tmp_path / "a.npz", val_labels=np.array([0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"val_labels\[2\] is 2; expected 0 to 1"):
        read_npz_samples(path, task=BINARY, labels=("no", "yes"))


def test_false_or_damaged_npz_files_are_refused_before_unpacking(tmp_path, golden):
    whole = save_npz(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    golden(refusal(tmp_path / "cut.npz"), "error[npz]", "cut.npz")
    (tmp_path / "page.npz").write_text("<html>login</html>")
    golden(refusal(tmp_path / "page.npz"), "error[npz]", "page.npz")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("train_images.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**10, 32, 32)}
        np.lib.format.write_array_header_1_0(stream, header)
    golden(refusal(tmp_path / "huge.npz"), "error[npz]", "huge.npz", "train_images")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    golden(refusal(tmp_path / "other.npz"), "error[npz]", "other.npz", "train_labels")


def test_the_positive_label_of_an_npz_is_guessed_with_a_note(tmp_path):
    path = save_npz(tmp_path / "scans.npz")
    assert "positive label: 1 (guessed)" in open_source(path)[1].notes
    (tmp_path / "card.toml").write_text('root = "scans.npz"\nlabels = ["malignant", "benign"]\n')
    spec, samples = open_source(tmp_path / "card.toml")
    assert spec.positive == "malignant" and "positive label: malignant (guessed)" in samples.notes


def test_names_become_safe_for_folders():
    assert dataset_name("My Täst (v1.2)") == "my_tast_v1.2"
    assert dataset_name("💊") == "dataset"
