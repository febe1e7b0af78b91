"""Folders and real data are read as datasets, or refused in one line."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from folders import card, images, open_source, refusal, shared, table

from zoo import BINARY, MULTICLASS, MULTILABEL


# --- class folders ----------------------------------------------------------------------------------------------------
def test_class_folders_become_labels_in_natural_order(tmp_path):
    images(tmp_path / "Grades", "grade10/a.png", "grade2/b.png", "grade2/deep/er/c.png", "grade1/d.png")
    spec, samples = open_source(tmp_path / "Grades")
    assert (spec.name, spec.task, spec.labels) == ("grades", MULTICLASS, ("grade1", "grade2", "grade10"))
    assert dict(zip(samples.table["image"], samples.targets.tolist(), strict=True)) == {
        "grade1/d.png": 0,
        "grade2/b.png": 1,
        "grade2/deep/er/c.png": 1,
        "grade10/a.png": 2,
    }
    assert samples.targets.dtype == np.int64
    assert [path.name for path in samples.files] == [Path(image).name for image in samples.table["image"]]
    assert samples.read("grade2/b.png")[0, 0] == 1
    assert spec.patient == "none: image level"
    assert spec.official_splits == ()


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "Testing")])
def test_split_folders_are_the_official_split(tmp_path, names):
    images(
        tmp_path,
        *(f"{split}/{label}/{i}.png" for split in names for label in ("NORMAL", "PNEUMONIA") for i in range(2)),
    )
    spec, samples = open_source(tmp_path)
    assert spec.official_splits == ("train", "val", "test")
    assert spec.task == BINARY
    assert spec.positive == "PNEUMONIA"
    assert samples.table["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}


def test_an_outer_folder_and_system_files_are_ignored(tmp_path):
    images(
        tmp_path, "chest/no/a.png", "chest/yes/b.png", "__MACOSX/chest/no/a.png", ".hidden/x/a.png", "chest/no/._a.png"
    )
    (tmp_path / "chest" / ".DS_Store").write_bytes(b"\0")
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("no", "yes")
    assert list(samples.table["image"]) == ["no/a.png", "yes/b.png"]


def test_folder_names_stay_text_even_if_they_look_like_numbers_or_blanks_or_markup(tmp_path):
    images(tmp_path, "007/a.png", "NA/b.png", "<script>/c.png", "💊/d.png")
    spec, _ = open_source(tmp_path)
    assert set(spec.labels) == {"007", "NA", "<script>", "💊"}


def test_masks_beside_images_are_not_images(tmp_path):
    images(
        tmp_path, "benign/a.png", "benign/a_mask.png", "benign/a_mask_1.png", "malignant/b.png", "malignant/b_mask.png"
    )
    spec, samples = open_source(tmp_path)
    assert list(samples.table["image"]) == ["benign/a.png", "malignant/b.png"]
    assert "3 masks" in " ".join(samples.notes)
    assert spec.positive == "malignant"


def test_class_folders_override_the_label_column_but_use_patient_and_metadata(tmp_path):
    images(tmp_path, "no/a.png", "no/b.png", "yes/c.png")
    table(tmp_path, "file,label,subject_id,age", "a.png,yes,007,50", "b.png,yes,007,50", "c.png,yes,8,60")
    spec, samples = open_source(tmp_path)
    assert samples.targets.tolist() == [0, 0, 1]
    assert list(samples.table["patient"]) == ["007", "007", "8"]
    assert list(samples.table["age"]) == ["50", "50", "60"]
    assert (spec.patient, spec.metadata) == ("patient", ("age",))
    assert "not column 'label'" in " ".join(samples.notes)


# --- folders that cannot be used --------------------------------------------------------------------------------------
def test_folders_without_labels_or_images_are_refused_with_a_fix(tmp_path, golden):
    (tmp_path / "empty").mkdir()
    golden(refusal(tmp_path / "empty"), "error[data]", "empty", "no image")
    golden(refusal(images(tmp_path / "flat", "a.png", "b.png")), "error[data]", "flat", "2 images")
    golden(refusal(tmp_path / "absent"), "error[data]", "absent", "zoo list datasets")
    (tmp_path / "readme.md").write_text("hello")
    golden(refusal(tmp_path / "readme.md"), "error[data]", "readme.md", "dataset.toml")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_out_of_the_folder_are_refused_and_loops_end(tmp_path, golden):
    images(tmp_path / "other", "x.png")
    root = images(tmp_path / "set", "a/1.png", "b/2.png")
    (root / "a" / "loop").symlink_to(root)
    assert len(open_source(root)[1].table) == 2
    (root / "a" / "out.png").symlink_to(tmp_path / "other" / "x.png")
    golden(refusal(root))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_irregular_files_and_names_are_refused_and_printed_safely(tmp_path, golden):
    root = images(tmp_path / "fifo", "a/1.png", "b/2.png")
    os.mkfifo(root / "a" / "pipe.png")
    golden(refusal(root))
    line = refusal(images(tmp_path / "escape", "a/1.png", "b/\x1b[31m.png"))
    assert "control character" in line
    assert "\x1b" not in line


def test_a_damaged_file_is_named_before_anything_runs(tmp_path):
    root = images(tmp_path, "a/1.png", "b/2.png")
    (root / "b" / "page.png").write_text("<html>login</html>")
    assert "page.png" in refusal(root)


# --- real data --------------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_nih1000_takes_patients_from_its_table_and_labels_from_its_folders():
    spec, samples = open_source(shared("nih1000"))
    assert (spec.task, spec.labels, spec.positive) == (BINARY, ("0_normal", "1_abnormal"), "1_abnormal")
    assert samples.table["patient"].nunique() == 264
    assert samples.table["split"].value_counts().to_dict() == {"train": 600, "val": 200, "test": 200}
    assert {samples.read(image).shape for image in samples.table["image"]} == {(64, 64, 3)}


@pytest.mark.integration
def test_nih1000_read_by_its_table_or_a_card_is_multilabel(tmp_path):
    root = shared("nih1000")
    spec, samples = open_source(root / "labels.csv")
    assert (spec.name, spec.task, len(spec.labels)) == ("nih1000-labels", MULTILABEL, 14)
    with open(root / "labels.csv", newline="", encoding="utf-8") as stream:
        rows = {row["path"]: set(row["finding_labels"].split("|")) - {"No Finding"} for row in csv.DictReader(stream)}
    for image, target in zip(samples.table["image"], samples.targets, strict=True):
        assert {label for label, value in zip(spec.labels, target, strict=True) if value} == rows[image]

    text = (
        f'root = "{root.as_posix()}"\n'
        + """
        name = "nih1000_findings"
        task = "multilabel"
        images = "{path}"
        table = "labels.csv"
        label = {column = "finding_labels", separator = "|", none = "No Finding"}
        patient = {column = "patient_id"}
        split = {column = "split", train = "train", val = "valid", test = "test"}
        metadata = ["age", "sex", "view"]
        hide = ["binary"]
        """
    )
    card_spec, card_samples = open_source(card(tmp_path, text))
    assert (card_spec.name, card_spec.labels, card_spec.patient) == ("nih1000_findings", spec.labels, "patient")
    np.testing.assert_array_equal(card_samples.targets, samples.targets)
    pandas.testing.assert_series_equal(card_samples.table["split"], samples.table["split"])


@pytest.mark.integration
def test_the_table_of_ham10000_that_names_its_images_is_used():
    spec, samples = open_source(shared("ham10000_mel_nv"))
    assert (spec.labels, spec.positive, spec.patient) == (("mel", "nv"), "mel", "lesion")
    assert samples.table["patient"].nunique() == 1563
    assert spec.official_splits == ("train", "test")
    assert "HAM10000_metadata.csv not used" in " ".join(samples.notes)
    leaking = set(samples.table.query("split == 'train'")["patient"])
    assert samples.table.query("split == 'test'")["patient"].isin(leaking).sum() == 234


@pytest.mark.parametrize(
    ("name", "num_labels", "counts", "channels"),
    [
        ("breastmnist", 2, (546, 78, 156), 1),
        ("pneumoniamnist", 2, (4708, 524, 624), 1),
        ("retinamnist", 5, (1080, 120, 400), 3),
    ],
)
def test_official_npz_files_are_read_as_numpy_reads_them(name, num_labels, counts, channels):
    path = shared(f"{name}.npz")
    spec, samples = open_source(path)
    assert (len(spec.labels), spec.channels, spec.image_size) == (num_labels, channels, 28)
    assert tuple(samples.table["split"].value_counts()[["train", "val", "test"]]) == counts
    with np.load(path) as arrays:
        together = np.concatenate([arrays[f"{split}_images"] for split in ("train", "val", "test")])
        labels = np.concatenate([arrays[f"{split}_labels"][:, 0] for split in ("train", "val", "test")])
    np.testing.assert_array_equal(samples.targets, labels)
    for row in range(0, len(together), 97):
        np.testing.assert_array_equal(samples.read(samples.table["image"].iloc[row]), together[row])


def test_a_copy_of_real_class_folders_without_the_table_has_no_patients(tmp_path):
    for label in ("mel", "nv"):
        source = sorted((shared("ham10000_mel_nv") / "test" / label).iterdir())[:3]
        (tmp_path / label).mkdir()
        for path in source:
            shutil.copyfile(path, tmp_path / label / path.name)
    spec, samples = open_source(tmp_path)
    assert spec.patient == "none: image level"
    assert "patient" not in samples.table
    assert samples.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_zip_is_read_like_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    root = images(tmp_path / "nodules", "benign/a.png", "benign/b.png", "malignant/c.png")
    archive = shutil.make_archive(str(tmp_path / "download"), "zip", tmp_path, "nodules")
    packed, plain = open_source(Path(archive)), open_source(root)
    assert replace(packed[0], samples=None) == replace(plain[0], samples=None)
    assert packed[1].targets.tolist() == plain[1].targets.tolist() == [0, 0, 1]
