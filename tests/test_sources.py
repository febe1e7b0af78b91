"""A path a person has becomes a dataset, or one line that says what is wrong with it."""

import csv
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.sources import card_schema, find_source, read_npz_samples, safe_name
from zoo.specs import DatasetSpec, Samples, SamplesRequest
from zoo.tasks import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return SHARED / name


def images(root: Path, *names: str, colour: bool = False) -> Path:
    """Small image files below `root`, each with pixels of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3) if colour else (8, 8), number, np.uint8)).save(path)
    return root


def table(root: Path, *rows: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))
    return root


def card(root: Path, text: str) -> Path:
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    return root


def open_source(path: Path) -> tuple[DatasetSpec, Samples]:
    """The card and samples of a path, through a pickle as a worker process gets them."""
    spec = find_source(path)
    return spec, pickle.loads(pickle.dumps(spec.samples))(SamplesRequest(folder=path))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_source(path)
    assert "\n" not in caught.value.line()
    return caught.value.line()


# --- class folders ---------------------------------------------------------------------------------------------------
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


def test_a_folder_around_the_folders_and_what_systems_leave_behind_do_not_matter(tmp_path):
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


def test_masks_beside_images_are_not_more_images(tmp_path):
    images(
        tmp_path, "benign/a.png", "benign/a_mask.png", "benign/a_mask_1.png", "malignant/b.png", "malignant/b_mask.png"
    )
    spec, samples = open_source(tmp_path)
    assert list(samples.table["image"]) == ["benign/a.png", "malignant/b.png"]
    assert "3 masks" in " ".join(samples.notes)
    assert spec.positive == "malignant"


def test_class_folders_beat_the_label_column_but_take_patient_and_metadata(tmp_path):
    images(tmp_path, "no/a.png", "no/b.png", "yes/c.png")
    table(tmp_path, "file,label,subject_id,age", "a.png,yes,007,50", "b.png,yes,007,50", "c.png,yes,8,60")
    spec, samples = open_source(tmp_path)
    assert samples.targets.tolist() == [0, 0, 1]
    assert list(samples.table["patient"]) == ["007", "007", "8"]
    assert list(samples.table["age"]) == ["50", "50", "60"]
    assert (spec.patient, spec.metadata) == ("patient", ("age",))
    assert "not column 'label'" in " ".join(samples.notes)


# --- tables ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("image", ("a.png", "b.png", "c.png")),
        ("image_id", ("a", "b", "c")),
        ("Image Index", ("a.png", "b.png", "c.png")),
        ("path", ("deep/a.png", "./deep/b.png", "deep\\c.png")),
        ("whatever", ("deep/a", "deep/b", "deep/c")),
    ],
)
def test_images_are_found_by_path_or_name_with_or_without_suffix(tmp_path, column, cells):
    images(tmp_path, "deep/a.png", "deep/b.png", "deep/c.png")
    table(tmp_path, f"{column},dx", f"{cells[0]},x", f"{cells[1]},y", f"{cells[2]},x")
    spec, samples = open_source(tmp_path)
    assert list(samples.table["image"]) == ["deep/a.png", "deep/b.png", "deep/c.png"]
    assert samples.targets.tolist() == [0, 1, 0]
    assert spec.labels == ("x", "y")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_read_as_text_whatever_their_encoding_and_delimiter(tmp_path, encoding, delimiter):
    images(tmp_path, "007.png", "8.png", "9.png")
    rows = ("id", "label", "patient"), ("007", "NA", "01"), ("8", "Übel", "1"), ("9", "NA", "1")
    table(tmp_path, *(delimiter.join(row) for row in rows), encoding=encoding)
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("NA", "Übel")
    assert dict(zip(samples.table["image"], samples.table["patient"], strict=True)) == {
        "007.png": "01",
        "8.png": "1",
        "9.png": "1",
    }


def test_the_table_itself_can_be_named(tmp_path):
    images(tmp_path / "Set", "a.png", "b.png")
    table(tmp_path / "Set", "file,label", "a.png,x", "b.png,y", name="first.csv")
    table(tmp_path / "Set", "file,label", "a.png,y", "b.png,x", name="second.csv")
    assert "first.csv and second.csv" in refusal(tmp_path / "Set")
    spec, samples = open_source(tmp_path / "Set" / "second.csv")
    assert spec.name == "set-second"
    assert samples.targets.tolist() == [1, 0]


def test_folders_that_only_hold_images_are_not_classes(tmp_path):
    images(tmp_path, "images_part_1/a.jpg", "images_part_2/b.jpg")
    table(tmp_path, "image_id,dx", "a,mel", "b,nv")
    spec = find_source(tmp_path)
    assert spec.labels == ("mel", "nv")
    assert spec.positive == "mel"


def test_joined_findings_become_multi_label_and_no_finding_is_none(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "Image Index,Finding Labels", "a.png,Mass|Edema", "b.png,No Finding", "c.png,Mass")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (MULTILABEL, ("Edema", "Mass"))
    assert samples.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_one_hot_columns_are_classes_and_overlapping_ones_are_multi_label(tmp_path):
    images(tmp_path / "one", "a.png", "b.png", "c.png")
    table(tmp_path / "one", "image,MEL,NV,BCC", "a,1.0,0.0,0.0", "b,0.0,0.0,1.0", "c,0.0,1.0,0.0")
    spec, samples = open_source(tmp_path / "one")
    assert (spec.task, spec.labels, samples.targets.tolist()) == (MULTICLASS, ("MEL", "NV", "BCC"), [0, 2, 1])

    images(tmp_path / "many", "a.png", "b.png")
    table(tmp_path / "many", "image,Edema,Mass", "a,1,1", "b,0,")
    spec, samples = open_source(tmp_path / "many")
    assert spec.task == MULTILABEL
    np.testing.assert_array_equal(samples.targets, [[1, 1], [0, np.nan]])


def test_many_fractional_numbers_are_a_regression_and_many_whole_ones_a_question(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    images(tmp_path, *names)
    table(tmp_path, "file,target", *(f"{name},{i + 0.5}" for i, name in enumerate(names)))
    spec, samples = open_source(tmp_path)
    assert spec.task == REGRESSION
    assert sorted(samples.targets.tolist()) == [i + 0.5 for i in range(30)]
    table(tmp_path, "file,target", *(f"{name},{i}" for i, name in enumerate(names)))
    assert "30 different whole numbers" in refusal(tmp_path)


def test_split_patient_and_metadata_columns_are_recognised(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(
        tmp_path, "img,class,Split,Patient ID,lesion_id,age", "a,x,train,1,l1,5", "b,y,VALID,2,l2,6", "c,y,Test,2,l3,7"
    )
    spec, samples = open_source(tmp_path)
    assert list(samples.table["split"]) == ["train", "val", "test"]
    assert list(samples.table["patient"]) == ["1", "2", "2"]
    assert spec.metadata == ("lesion_id", "age")
    assert "not 'lesion_id'" in " ".join(samples.notes)


def test_equal_rows_of_an_image_are_one_and_rows_that_disagree_are_named(tmp_path):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "file,label,x", "a.png,p,1", "a.png,p,2", "b.png,q,3")
    _, samples = open_source(tmp_path)
    assert len(samples.table) == 2
    assert "1 further rows" in " ".join(samples.notes)
    table(tmp_path, "file,label,x", "a.png,p,1", "b.png,q,3", "a.png,q,2")
    assert "labels.csv line 2 and labels.csv line 4: a.png has the label 'p' and 'q'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("file,label", "a.png,x", "gone.png,y"), "line 3: no image 'gone.png'"),
        (("file,label", "a.png,x", "../b.png,y"), "line 3: '../b.png' leads out of"),
        (("file,label", "a.png,x", "/etc/b.png,y"), "line 3: '/etc/b.png' lies outside"),
        (("file,label", "a.png,x", "b.png,"), "line 3 (b.png): no label"),
        (("file,label", "a.png,x", "b.png,y,z"), "line 3: 3 cells, the header has 2"),
        (("file,label", "a.png,x", "b.png"), "line 3: 1 cells, the header has 2"),
        (("file,label,label", "a.png,x,x", "b.png,y,y"), "2 columns are called 'label'"),
        (("file,label,dx", "a.png,x,x", "b.png,y,y"), "'label' and 'dx'"),
        (("file,label", "a.png,x", "b.png,x"), "at least 2 labels for multiclass, got 1"),
        (("file,label", "a.png,Mel", "b.png,mel"), "differ only in case"),
        (("file,label,split", "a.png,x,train", "b.png,y,tset"), "line 3 (b.png): unknown split 'tset'"),
        (("file,label", "a.png,x", "b.png,\0"), "line 3: a NUL character"),
        (("file,label",), "no rows below the header"),
        (("file,age", "a.png,1", "b.png,2"), "no column of labels.csv is called label"),
    ],
)
def test_what_is_wrong_in_a_table_is_one_line_with_its_place(tmp_path, rows, expected):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, *rows)
    assert expected in refusal(tmp_path)
    assert "labels.csv" in refusal(tmp_path) or "labels for" in expected or "case" in expected


def test_a_name_that_fits_two_files_names_both(tmp_path):
    images(tmp_path, "images_1/a.png", "images_2/a.png", "images_1/b.png")
    table(tmp_path, "image,label", "a,x", "b,y")
    assert "'a' may be images_1/a.png or images_2/a.png" in refusal(tmp_path)


# --- folders that cannot be used -------------------------------------------------------------------------------------
def test_folders_without_labels_or_images_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no image files" in refusal(tmp_path / "empty")
    assert "nothing that labels them" in refusal(images(tmp_path / "flat", "a.png", "b.png"))
    assert "no such file or folder" in refusal(tmp_path / "absent")
    (tmp_path / "readme.md").write_text("hello")
    assert "not a folder, .csv" in refusal(tmp_path / "readme.md")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_out_of_the_folder_are_refused_and_loops_end(tmp_path):
    images(tmp_path / "other", "x.png")
    root = images(tmp_path / "set", "a/1.png", "b/2.png")
    (root / "a" / "loop").symlink_to(root)
    assert len(open_source(root)[1].table) == 2
    (root / "a" / "out.png").symlink_to(tmp_path / "other" / "x.png")
    assert "out.png: a link out of set" in refusal(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_odd_files_and_names_are_refused_and_shown_safely(tmp_path):
    root = images(tmp_path / "fifo", "a/1.png", "b/2.png")
    os.mkfifo(root / "a" / "pipe.png")
    assert "pipe.png: neither a folder nor a regular file" in refusal(root)
    line = refusal(images(tmp_path / "escape", "a/1.png", "b/\x1b[31m.png"))
    assert "control character" in line
    assert "\x1b" not in line


def test_a_damaged_file_is_named_before_anything_runs(tmp_path):
    root = images(tmp_path, "a/1.png", "b/2.png")
    (root / "b" / "page.png").write_text("<html>login</html>")
    assert "page.png" in refusal(root)


# --- dataset.toml ----------------------------------------------------------------------------------------------------
def test_a_card_says_what_cannot_be_guessed(tmp_path):
    images(tmp_path, "images_001/images/a.png", "images_002/images/b.png", "images_002/images/c.png")
    table(
        tmp_path, "Image Index,EF,who,leak,age", "a.png,10,1,z,4", "b.png,45,1,z,5", "c.png,50,2,z,6", name="list.csv"
    )
    card(
        tmp_path,
        """
        schema = 1
        name = "echo"
        title = "Echo stills"
        license = "CC BY 4.0"
        task = "ordinal"
        images = "images_*/images/{Image Index}"
        table = "list.csv"
        label = {column = "EF", bins = [0, 40, 50, 100], names = ["reduced", "mild", "normal"]}
        patient = {column = "who", means = "patient"}
        metadata = ["age"]
        hide = ["leak"]
        symmetries = ["hflip"]
        intensity = [0, 4095]
        """,
    )
    spec, samples = open_source(tmp_path)
    assert (spec.name, spec.task, spec.labels) == ("echo", ORDINAL, ("reduced", "mild", "normal"))
    assert samples.targets.tolist() == [0, 1, 2]
    assert list(samples.table.columns) == ["sample_id", "image", "patient", "age"]
    assert (spec.patient, spec.metadata, spec.symmetries, spec.intensity) == (
        "patient",
        ("age",),
        ("hflip",),
        (0, 4095),
    )
    assert spec.license == "CC BY 4.0"


def test_a_card_reads_label_split_and_patient_from_the_path(tmp_path):
    root = images(
        tmp_path / "data", "B/train/p1_left.png", "M/train/p2_left.png", "M/test/p3_right.png", "M/test/p3_mask.png"
    )
    card(
        tmp_path,
        """
        root = "data"
        images = "{label}/{split}/*.png"
        exclude = "*_mask*"
        labels = {M = "malignant", B = "benign"}
        label = {positive = "M"}
        patient = {regex = "(p[0-9]+)_(?:left|right)"}
        """,
    )
    spec, samples = open_source(tmp_path / "dataset.toml")
    assert (spec.labels, spec.positive) == (("malignant", "benign"), "malignant")
    assert dict(zip(samples.table["image"], samples.targets.tolist(), strict=True))["B/train/p1_left.png"] == 1
    assert list(samples.table["patient"]) == ["p1", "p3", "p2"]
    assert set(samples.table["split"]) == {"train", "test"}
    assert "1 images left out: excluded" in samples.notes
    assert root in samples.files[0].parents


def test_a_card_names_the_values_of_a_split_column(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,label,part", "a.png,x,A", "b.png,y,B", "c.png,y,C")
    text = 'table = "labels.csv"\njoin = {column = "file"}\nlabel = {column = "label"}\n'
    card(tmp_path, text + 'split = {column = "part", train = ["A"], val = "B", test = "C"}')
    assert list(open_source(tmp_path)[1].table["split"]) == ["train", "val", "test"]
    card(tmp_path, text + 'split = {column = "part", train = ["A", "B"]}')
    assert "labels.csv line 4 (c.png): unknown split 'C'; expected 'A', 'B'" in refusal(tmp_path)


def test_every_mistake_in_a_card_is_told_at_once_with_its_place(tmp_path):
    images(tmp_path, "a.png")
    card(
        tmp_path,
        'tabel = "x.csv"\ntask = "binry"\nlabel = {colum = "dx"}\nsymmetries = ["flip"]\npatient = {regex = "p[0-9"}\n',
    )
    line = refusal(tmp_path)
    assert "dataset.toml: 5 mistakes" in line
    assert "tabel: unknown key. Did you mean 'table'" in line
    assert "label.colum: unknown key. Did you mean 'column'" in line
    for place in ("task: ", "symmetries.0: ", "patient.regex: not a regular expression"):
        assert place in line


def test_every_column_a_card_names_and_the_table_lacks_is_told_at_once(tmp_path):
    images(tmp_path, "a.png")
    table(tmp_path, "file,label", "a.png,x")
    card(tmp_path, 'table = "labels.csv"\njoin = {column = "fil"}\nlabel = {column = "label"}\nmetadata = ["age"]\n')
    line = refusal(tmp_path)
    assert "join.column: labels.csv has no column 'fil'. Did you mean 'file'" in line
    assert "metadata.0: labels.csv has no column 'age'" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label = ", "not TOML"),
        ('images = "*.jpg"', "no image is named like '*.jpg'"),
        ('images = "*.png"', "nothing says the label"),
        ('label = {column = "dx"}', "nothing that labels them"),
        ('table = "gone.csv"\nlabel = {column = "dx"}\njoin = {column = "f"}', "gone.csv: no such file"),
        ('patient = {column = "a", none = "b"}', "exactly one of column, regex, tag, none"),
    ],
)
def test_a_card_that_does_not_fit_is_one_line(tmp_path, text, expected):
    card(images(tmp_path, "a.png"), text)
    assert expected in refusal(tmp_path)


def test_what_a_card_leaves_open_is_still_guessed(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,grade,patient", "a.png,0,p1", "b.png,1,p1", "c.png,2,p2")
    assert "ordinal" in " ".join(open_source(tmp_path)[1].notes)
    card(tmp_path, 'task = "ordinal"\ntitle = "Grades"\n')
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.title, spec.labels) == (ORDINAL, "Grades", ("0", "1", "2"))
    assert list(samples.table["patient"]) == ["p1", "p1", "p2"]


def test_a_card_may_name_the_label_column_alone(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,ejection_fraction", "a.png,55.5", "b.png,61", "c.png,30.25")
    assert 'label = {column = "NAME"}' in refusal(tmp_path)
    card(tmp_path, 'task = "regression"\nlabel = {column = "ejection_fraction"}\n')
    spec, samples = open_source(tmp_path)
    assert spec.task == REGRESSION
    assert list(samples.targets) == [55.5, 61.0, 30.25]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", "NaN", "2"], "line 4 (c.png): label 'NaN' among numbers"),
        (["1.5", "inf"] * 2, "line 3 (b.png): label 'inf'"),
    ],
)
def test_a_missing_number_is_no_class(tmp_path, values, expected):
    names = [f"{letter}.png" for letter in "abcd"]
    table(images(tmp_path, *names), "file,label", *(f"{n},{v}" for n, v in zip(names, values, strict=True)))
    assert expected in refusal(tmp_path)


def test_an_infinite_value_of_a_regression_is_named(tmp_path):
    names = [f"i{number}.png" for number in range(30)]
    rows = [f"{name},{number + 0.5}" for number, name in enumerate(names[:-1])]
    table(images(tmp_path, *names), "file,label", *rows, f"{names[-1]},inf")
    assert "line 31 (i29.png): 'inf' is not a number" in refusal(tmp_path)


def test_the_schema_of_a_card_is_json_schema_with_its_keys():
    schema = card_schema()
    assert {"schema", "images", "table", "label", "patient", "split", "symmetries"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


# --- npz -------------------------------------------------------------------------------------------------------------
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


def test_labels_of_an_npz_may_be_several_an_image_or_unsplit(tmp_path):
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
        ({"train_images": np.array([object()] * 6)}, "train_images holds Python objects"),
        ({"val_labels": None}, "val_images without its labels"),
        ({"val_labels": np.zeros((3, 1), int)}, "4 val_images but val_labels of shape (3, 1)"),
        ({"test_images": np.zeros((2, 8, 8), np.float32)}, "test_images is float32"),
        ({"test_images": np.zeros((2, 9, 9), np.uint8)}, "different shapes"),
        ({"train_labels": np.array([0, 1, np.nan, 0, 1, 0])}, "train_labels[2] is nan"),
        ({"train_labels": np.array(["a"] * 6)}, "train_labels is <U1"),
    ],
)
def test_an_npz_that_does_not_fit_is_one_line(tmp_path, changes, expected):
    assert expected in refusal(save_npz(tmp_path / "a.npz", **changes))


def test_labels_out_of_the_range_of_the_card_are_named(tmp_path):
    path = save_npz(tmp_path / "a.npz", val_labels=np.array([0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"val_labels\[2\] is 2; expected 0 to 1"):
        read_npz_samples(path, task=BINARY, labels=("no", "yes"))


def test_npz_files_that_lie_or_are_damaged_are_refused_before_they_are_unpacked(tmp_path):
    whole = save_npz(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "not a readable .npz" in refusal(tmp_path / "cut.npz")
    (tmp_path / "page.npz").write_text("<html>login</html>")
    assert "not a readable .npz" in refusal(tmp_path / "page.npz")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("train_images.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**10, 32, 32)}
        np.lib.format.write_array_header_1_0(stream, header)
    assert "10240000000128 bytes, not 128" in refusal(tmp_path / "huge.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert "it holds x" in refusal(tmp_path / "other.npz")


def test_names_become_safe_for_folders():
    assert safe_name("My Täst (v1.2)") == "my_tast_v1.2"
    assert safe_name("💊") == "dataset"


# --- real data -------------------------------------------------------------------------------------------------------
def test_nih1000_takes_patients_from_its_table_and_labels_from_its_folders():
    spec, samples = open_source(shared("nih1000"))
    assert (spec.task, spec.labels, spec.positive) == (BINARY, ("0_normal", "1_abnormal"), "1_abnormal")
    assert samples.table["patient"].nunique() == 264
    assert samples.table["split"].value_counts().to_dict() == {"train": 600, "val": 200, "test": 200}
    assert {samples.read(image).shape for image in samples.table["image"]} == {(64, 64, 3)}


def test_nih1000_by_its_table_or_by_a_card_is_multi_label(tmp_path):
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
    said, said_samples = open_source(card(tmp_path, text))
    assert (said.name, said.labels, said.patient) == ("nih1000_findings", spec.labels, "patient")
    np.testing.assert_array_equal(said_samples.targets, samples.targets)
    pandas.testing.assert_series_equal(said_samples.table["split"], samples.table["split"])


def test_ham10000_has_two_tables_and_the_one_that_knows_these_images_is_used():
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
