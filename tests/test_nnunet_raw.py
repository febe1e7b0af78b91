"""Datasets written as nnU-Net's raw data: read back, they are equal."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
from folders import card, open_source
from test_segmentation import squares
from test_sources_descriptions import block, photograph, volume

from zoo.data.nnunet_raw import RawFold, affine_of, name_cases, name_raw_folders, require_own_masks, write_raw
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError, UsageError


def write_and_open(
    root, cache, draw=lambda source: np.resize(["train", "train", "val", "test"], len(source.sample_ids))
):
    """Write a fold of a folder, and return it with its folder and with the dataset that is read from there."""
    source = open_dataset(open_source(root)[0], cache)
    fold = RawFold(source=source, split_of=draw(source))
    folder = cache / "Dataset900_written"
    write_raw(fold, folder, lambda *_: None)
    return fold, folder, open_dataset(open_source(folder)[0], cache)


def pixels(source, row):
    samples = source.samples
    return (samples.volumes or samples.read)(samples.table["image"].iloc[row])


def mask(source, row):
    return source.samples.masks(source.samples.table["image"].iloc[row])


def rows_by_case(fold, folder, written):
    """The rows of the images of training in the dataset, and in what was read back."""
    names = written.samples.table["image"].tolist()
    ending = json.loads((folder / "dataset.json").read_text())["file_ending"]
    rows = np.flatnonzero(np.isin(fold.split_of, ["train", "val"])).tolist()
    return [(row, names.index(f"imagesTr/{fold.names[row]}_0000{ending}")) for row in rows]


def assert_equal(fold, folder, written):
    pairs = rows_by_case(fold, folder, written)
    assert len(pairs) == len(written.sample_ids)
    assert written.spec.labels == fold.source.spec.labels
    for own, other in pairs:
        np.testing.assert_array_equal(pixels(written, other), pixels(fold.source, own))
        np.testing.assert_array_equal(mask(written, other), mask(fold.source, own))


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    root = card(squares(tmp_path_factory.mktemp("gray") / "set"), 'patient = {regex = "(patient[0-9]+)_"}\n')
    return write_and_open(root, tmp_path_factory.mktemp("cache"), lambda source: draw_split(source).folds[0])


def test_gray_images_and_their_masks_are_read_back(gray):
    assert_equal(*gray)


def test_the_split_is_ours_and_no_patient_is_in_two_parts(gray):
    _, folder, _ = gray
    with open(folder / "cases.csv", encoding="utf-8", newline="") as stream:
        cases = list(csv.DictReader(stream))
    ((own,),) = [json.loads((folder / "splits_final.json").read_text())]
    by_split = {split: {row["case"] for row in cases if row["split"] == split} for split in ("train", "val", "test")}
    assert {"train": set(own["train"]), "val": set(own["val"])} == {name: by_split[name] for name in ("train", "val")}
    patients = [{row["patient"] for row in cases if row["split"] == split} for split in by_split]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12
    assert {path.name for path in (folder / "imagesTs").iterdir()} == {f"{case}_0000.png" for case in by_split["test"]}


def test_the_masks_of_test_images_are_not_written(gray):
    fold, folder, _ = gray
    assert {path.stem for path in (folder / "labelsTr").iterdir()} == {*fold.cases("train"), *fold.cases("val")}


def test_color_images_are_one_file_with_three_channels(tmp_path):
    for number in range(12):
        photograph(tmp_path / "set" / "images" / f"a{number}.png")
        photograph(tmp_path / "set" / "masks" / f"a{number}.png", is_mask=True)
    fold, folder, written = write_and_open(tmp_path / "set", tmp_path)
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert_equal(fold, folder, written)


def test_volumes_of_two_channels_are_read_back_with_their_grid(tmp_path):
    """Their axes are stored in another order, and their affine is oblique."""
    root = tmp_path / "set"
    affine = np.array([[0, -1.5, 0.02, 10], [1.0, 0, 0, -4], [0, 0.03, 2.0, 7], [0, 0, 0, 1]])
    for number in range(12):
        volume(root / "labelsTr" / f"a{number:02}.nii.gz", block(2))
        for channel in range(2):
            volume(root / "imagesTr" / f"a{number:02}_{channel:04}.nii.gz")
    for path in root.rglob("*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    labels = {"background": 0, "liver": 1, "tumor": 2}
    names = {"0": "T1", "1": "chest CT"}
    document = {"channel_names": names, "labels": labels, "numTraining": 12, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(document))
    fold, folder, written = write_and_open(root, tmp_path)
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "T1", "1": "CT"}
    assert_equal(fold, folder, written)
    upright = nibabel.as_closest_canonical(nibabel.load(root / "labelsTr" / "a00.nii.gz")).affine
    for path in (*folder.rglob("a*.nii.gz"),):
        np.testing.assert_allclose(nibabel.load(path).affine, upright, atol=1e-6)


def test_cases_are_named_by_file_or_by_path():
    assert name_cases(["a/x_0000.nii.gz", "b/y z.png"]) == ["x", "y_z"]
    assert name_cases(["a/x.png", "b/x.png"]) == ["a_x", "b_x"]
    assert name_cases(["a/x.png", "a_x.png", "b/x.png"]) == ["a_x_0", "a_x_1", "b_x_2"]
    assert len(set(name_cases(["a/b c.png", "a/b_c.png", "a/b_c_0.png"]))) == 3
    assert name_cases(["a/x.png", "b/X.png"]) == ["a_x", "b_X"]  # one file on Windows and macOS


def test_two_test_images_whose_masks_would_have_one_name_are_refused():
    fold = RawFold(source=SimpleNamespace(), split_of=np.array(["test", "train", "test"]))
    fold.__dict__["masks"] = ["a.png", "a.png", "b.png"]
    fold.source.sample_ids, fold.source.spec = np.array(["a.png", "a.jpg", "b.png"]), SimpleNamespace(name="set")
    require_own_masks(fold)
    fold.split_of[1] = "test"
    with pytest.raises(DataError, match=r"a\.png and a\.jpg: their masks would have one name"):
        require_own_masks(fold)


def test_volumes_of_one_file_have_the_affine_of_their_spacing():
    samples = SimpleNamespace(files=(Path("all.npz"),), table=pandas.DataFrame({"image": ["0", "1"]}), spacing=None)
    source = SimpleNamespace(samples=samples, spec=SimpleNamespace(dims=3))
    np.testing.assert_array_equal(affine_of(source, 1), np.eye(4))


def test_a_number_in_use_is_refused(tmp_path):
    (tmp_path / "Dataset901_other").mkdir()
    assert [path.name for path in name_raw_folders(tmp_path, "a set", 902, 2)] == [
        "Dataset902_a_set",
        "Dataset903_a_set",
    ]
    for number in (900, 999):
        with pytest.raises(UsageError):
            name_raw_folders(tmp_path, "a set", number, 2)


def test_a_label_with_a_meaning_in_nnunet_is_refused(tmp_path):
    root = card(squares(tmp_path / "set", count=12), 'labels = {255 = "ignore"}\n')
    with pytest.raises(DataError) as refused:
        write_and_open(root, tmp_path)
    assert "ignore" in refused.value.line() and not (tmp_path / "Dataset900_written").exists()
