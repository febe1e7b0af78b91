"""Small replicas of well-known datasets in their published layout are read without a card."""

import json

import numpy as np
import pytest
from folders import card, images, open_source, refusal, table

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source


def patients(samples):
    return dict(zip(samples.table["image"], samples.table["patient"], strict=True))


def labels(spec, samples):
    return {image: spec.labels[target] for image, target in zip(samples.table["image"], samples.targets, strict=True)}


# --- class folders ---------------------------------------------------------------------------------------------------
def kermany(root):
    """chest_xray: every patient has two images; the official val has 16."""
    names = []
    for split, kind, count in (("train", "bacteria", 40), ("test", "virus", 10), ("val", "bacteria", 4)):
        first = {"train": 1, "test": 1, "val": 101}[split]  # person1 stands in train and in test, with another kind
        for number in range(first, first + count):
            for image in (1, 2):
                names.append(f"chest_xray/{split}/PNEUMONIA/person{number}_{kind}_{2 * number + image}.jpeg")
                prefix = "NORMAL2-" if split == "test" else ""
                names.append(f"chest_xray/{split}/NORMAL/{prefix}IM-{number:04d}-000{image}.jpeg")
    return images(root, *names)


def test_patients_of_kermany_are_read_from_names_and_its_val_of_16_is_redrawn(tmp_path):
    root = kermany(tmp_path / "set")
    spec, samples = open_source(root)
    assert (spec.labels, spec.positive, spec.patient) == (("NORMAL", "PNEUMONIA"), "PNEUMONIA", "patient")
    of = patients(samples)
    assert of["train/PNEUMONIA/person1_bacteria_3.jpeg"] == of["train/PNEUMONIA/person1_bacteria_4.jpeg"]
    assert of["train/PNEUMONIA/person1_bacteria_3.jpeg"] != of["test/PNEUMONIA/person1_virus_3.jpeg"]
    assert of["train/NORMAL/IM-0001-0001.jpeg"] == "IM-0001"
    assert of["test/NORMAL/NORMAL2-IM-0001-0002.jpeg"] == "NORMAL2-IM-0001"
    assert any("patient read from the file names (Kermany" in note for note in samples.notes)

    source = open_dataset(spec, tmp_path / "cache")
    split = draw_split(source)
    (fold,) = split.folds
    assert ((fold == "test") == (source.splits == "test")).all()
    assert set(source.patients[fold == "train"]).isdisjoint(source.patients[fold == "val"])
    assert any("official val (16 images) has under 50 images: val is redrawn" in note for note in split.notes)
    assert not any("LEAK" in note for note in split.notes)


def test_brain_tumors_are_in_training_and_testing_folders(tmp_path):
    for split in ("Training", "Testing"):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            images(tmp_path, *(f"{split}/{label}/{split[:2]}-{label[:2]}_{number:04d}.jpg" for number in range(3)))
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (MULTICLASS, ("glioma", "meningioma", "notumor", "pituitary"))
    assert samples.table["split"].value_counts().to_dict() == {"train": 12, "test": 12}
    assert "no patient key: image level, so images of one patient may be in two splits" in samples.notes


def test_busi_with_masks_beside_the_images_reads_the_images_only(tmp_path):
    names = ["benign (1)", "benign (2)", "malignant (1)", "normal (1)"]
    for name in names:
        label = name.split(" ")[0]
        images(tmp_path, f"{label}/{name}.png", f"{label}/{name}_mask.png")
    images(tmp_path, "benign/benign (2)_mask_1.png", "benign/benign (2)_mask_2.png")
    _, samples = open_source(tmp_path)
    assert [image.split("/")[1].removesuffix(".png") for image in samples.table["image"]] == names
    assert "6 masks beside images are not read as images" in samples.notes


def test_folders_of_masks_are_neither_images_nor_a_class(tmp_path):
    for label in ("COVID", "Normal"):
        for number in (1, 2):
            images(tmp_path, f"{label}/images/{label}-{number}.png", f"{label}/masks/{label}-{number}.png")
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("COVID", "Normal")
    assert len(samples.table) == 4
    images(tmp_path / "seg", "images/a.png", "images/b.png", "masks/a_mask.png", "masks/b_mask.png")
    assert open_source(tmp_path / "seg")[0].labels == ("2", "3")


def test_a_class_folder_named_masks_without_masks_is_a_class(tmp_path):
    images(tmp_path, "faces/1.png", "faces/2.png", "masks/3.png", "masks/4.png")
    assert find_source(tmp_path).labels == ("faces", "masks")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("a/10_left.jpeg", "a/10_right.jpeg", "b/13_left.jpeg"), {"10", "13"}),
        (("a/10_left.jpeg", "b/13_left.jpeg"), None),  # no pair: it may mean anything
        (("a/10_left.jpeg", "a/10_right.jpeg", "b/x.jpeg"), None),  # an exception
        (("a/lung_left.jpeg", "b/lung_right.jpeg"), None),
        (("a/CNV-1016042-1.jpeg", "a/CNV-1016042-2.jpeg", "b/NORMAL-53264-1.jpeg"), {"1016042", "53264"}),
        (("a/00000005_000.png", "b/00000005_001.png", "b/00000013_000.png"), {"00000005", "00000013"}),
        (("a/p1_a.png", "b/p1_b.png"), None),
    ],
)
def test_patients_are_guessed_from_names_of_known_shapes_only(tmp_path, names, found):
    _, samples = open_source(images(tmp_path, *names))
    assert (set(samples.table["patient"]) if "patient" in samples.table else None) == found
    notes = " ".join(samples.notes)
    assert ("no patient key" in notes) == (found is None)
    assert ("patient read from the file names" in notes) == (found is not None)


def test_the_patient_of_a_card_prevents_a_guess(tmp_path):
    images(tmp_path, "a/10_left.jpeg", "a/10_right.jpeg", "b/13_left.jpeg")
    spec, samples = open_source(card(tmp_path, 'patient = {none = "eyes are apart"}'))
    assert spec.patient == "none: eyes are apart"
    assert "patient" not in " ".join(samples.notes)


def test_the_folder_of_a_split_without_an_image_is_refused(tmp_path, golden):
    images(tmp_path, "train/a/1.png", "train/b/2.png")
    (tmp_path / "test").mkdir()
    golden(refusal(tmp_path), "error[data]", "test", "no image")


def test_a_class_missing_in_a_split_is_noted(tmp_path):
    images(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", "test/a/4.png", "test/b/5.png")
    assert "test has no image of c" in open_source(tmp_path)[1].notes


# --- tables ----------------------------------------------------------------------------------------------------------
def test_isic_2019_has_one_hot_columns_and_one_that_is_empty(tmp_path):
    classes = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    rows = [f"ISIC_{k:07d}," + ",".join("1.0" if k == c else "0.0" for c in range(9)) for k in range(8)]
    images(tmp_path, *(f"ISIC_2019_Training_Input/ISIC_{k:07d}.jpg" for k in range(8)), color=True)
    table(tmp_path, f"image,{classes}", *rows, name="ISIC_2019_Training_GroundTruth.csv")
    meta = [f"ISIC_{k:07d},5{k},lesion{k},male" for k in range(8)]
    table(tmp_path, "image,age_approx,lesion_id,sex", *meta, name="ISIC_2019_Training_Metadata.csv")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (MULTICLASS, tuple(classes.split(",")[:8]))
    assert samples.targets.tolist() == list(range(8))
    assert "no image has a 1 in UNK: left out" in samples.notes
    assert (
        "ISIC_2019_Training_Metadata.csv not used: it has no label column; its column 'lesion_id' may be the patient"
        in samples.notes
    )


def test_rsna_has_a_row_per_box_and_one_target_per_image(tmp_path, golden):
    images(tmp_path, *(f"stage_2_train_images/{name}.png" for name in "abc"))
    boxes = ["a,264.0,152.0,213.0,379.0,1", "a,562.0,152.0,256.0,453.0,1", "b,,,,,0", "c,10.0,9.0,1.0,2.0,1"]
    table(tmp_path, "patientId,x,y,width,height,Target", *boxes, name="stage_2_train_labels.csv")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels, spec.positive) == (BINARY, ("0", "1"), "1")
    assert samples.targets.tolist() == [1, 0, 1]
    assert list(samples.table["patient"]) == ["a", "b", "c"]
    assert "1 rows of stage_2_train_labels.csv repeat an image and are merged with its first row" in samples.notes
    assert "columns x, width, height differ between rows of one image and are left out" in samples.notes
    assert spec.metadata == ("y",)
    table(tmp_path, "patientId,Target", "a,1", "a,0", "b,0", "c,1", name="stage_2_train_labels.csv")
    golden(refusal(tmp_path))


@pytest.mark.parametrize(("image", "grade"), [("id_code", "diagnosis"), ("image", "level")])
def test_aptos_and_diabetic_retinopathy_are_ordered_grades_with_a_note(tmp_path, image, grade):
    images(tmp_path, *(f"train_images/{k}_{side}.png" for k in range(3) for side in ("left", "right")))
    rows = [
        f"{k}_{side},{grade}" for grade, (k, side) in enumerate((k, s) for k in range(3) for s in ("left", "right"))
    ]
    table(tmp_path, f"{image},{grade}", *rows[:5], "2_right,0", name="train.csv")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (ORDINAL, ("0", "1", "2", "3", "4"))
    assert any("read as ordered grades (guessed" in note for note in samples.notes)
    assert samples.table["patient"].nunique() == 3


@pytest.mark.parametrize(
    ("column", "values", "task"),
    [
        ("level", "0,1,2", ORDINAL),
        ("Severity", "0,1,2,3", ORDINAL),
        ("level", "1,2,3", MULTICLASS),  # not from 0
        ("level", "0,1,3", MULTICLASS),  # a gap
        ("level", "0,1", BINARY),
        ("class", "0,1,2", MULTICLASS),
        ("grade", "low,mid,high", MULTICLASS),
    ],
)
def test_grades_are_guessed_from_the_name_and_the_values_of_a_column(tmp_path, column, values, task):
    values = values.split(",")
    images(tmp_path, *(f"i{number}.png" for number in range(len(values))))
    table(tmp_path, f"file,{column}", *(f"i{number},{value}" for number, value in enumerate(values)))
    assert find_source(tmp_path).task == task


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_hugging_face_image_folder_is_read_by_its_metadata(tmp_path, kind, nested):
    found = {("train", "0001"): "cat", ("train", "0002"): "dog", ("test", "0001"): "dog"}
    images(tmp_path, *(f"{split}/{name}.png" for split, name in found))
    for folder in ("train", "test") if nested else ("",):
        rows = [
            (f"{name}.png" if nested else f"{split}/{name}.png", label)
            for (split, name), label in found.items()
            if split == folder or not nested
        ]
        lines = [f"{name},{label}" for name, label in rows]
        if kind == "jsonl":
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
        table(tmp_path / folder, *(["file_name,label"] * (kind == "csv")), *lines, name=f"metadata.{kind}")
    spec, samples = open_source(tmp_path)
    assert labels(spec, samples) == {f"{split}/{name}.png": label for (split, name), label in found.items()}
    assert spec.official_splits == ("train", "test")


def test_a_list_of_words_in_json_lines_is_several_labels(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    rows = [{"file_name": "a.png", "labels": ["x", "y"], "age": 5}, {"file_name": "b.png", "labels": [], "age": None}]
    rows.append({"age": 7.5, "labels": ["y"], "file_name": "c.png"})
    table(tmp_path, *map(json.dumps, rows), name="metadata.jsonl")
    card(tmp_path, 'label = {column = "labels", separator = "|"}')
    spec, samples = open_source(tmp_path)
    assert spec.task == MULTILABEL
    np.testing.assert_array_equal(samples.targets, [[1, 1], [0, 0], [0, 1]])
    assert list(samples.table["age"]) == ["5", "", "7.5"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"file_name": "b.png"', "metadata.jsonl line 2"),
        ("[1, 2]", "metadata.jsonl line 2"),
        ('{"file_name": "b.png", "lable": "y"}', "lable"),
        ('{"file_name": "b.png", "label": "y", "label": "x"}', "line 2"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_an_error_in_json_lines_is_one_line_with_its_place(tmp_path, line, expected, golden):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, '{"file_name": "a.png", "label": "x"}', line, name="metadata.jsonl")
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_tables_of_splits_that_differ_in_columns_are_refused(tmp_path, golden):
    images(tmp_path, "train/a.png", "test/b.png")
    table(tmp_path / "train", "file_name,label", "a.png,x", name="metadata.csv")
    table(tmp_path / "test", "file_name", "b.png", name="metadata.csv")
    golden(refusal(tmp_path), "error[data]", "test/metadata.csv", "'label'")


# --- as the cards of dataset.toml say them ---------------------------------------------------------------------------
def test_ham10000_by_its_card(tmp_path):
    images(tmp_path, *(f"HAM10000_images_part_{1 + k // 2}/ISIC_{k}.jpg" for k in range(4)), color=True)
    rows = [f"HAM_{k // 2},ISIC_{k},{dx},histo,{40 + k},male,back" for k, dx in enumerate(("mel", "mel", "nv", "bkl"))]
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    table(tmp_path, header, *rows, name="HAM10000_metadata.csv")
    spec, samples = open_source(card(tmp_path, CARDS["HAM10000"]))
    assert (spec.task, spec.labels, spec.patient) == (MULTICLASS, ("bkl", "mel", "nv"), "lesion")
    assert list(samples.table["patient"]) == ["HAM_0", "HAM_0", "HAM_1", "HAM_1"]
    assert spec.metadata == ("age", "sex", "localization")
    assert "dx_type" not in samples.table
    assert spec.symmetries == ("hflip", "vflip", "rot90")


def test_nih_by_its_card(tmp_path):
    names = [f"{k:08d}_00{k % 2}.png" for k in range(1, 7)]
    images(tmp_path, *(f"images_00{1 + k // 3}/images/{name}" for k, name in enumerate(names)))
    findings = ["Cardiomegaly|Effusion", "No Finding", "Effusion", "Hernia", "No Finding", "Hernia|Effusion"]
    rows = [f"{name},{finding},{k},58,M,PA" for k, (name, finding) in enumerate(zip(names, findings, strict=True))]
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    table(tmp_path, header, *rows, name="Data_Entry_2017.csv")
    (tmp_path / "test_list.txt").write_text("\n".join(names[:2]))
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[2:]))
    spec, samples = open_source(card(tmp_path, CARDS["NIH"]))
    assert (spec.task, spec.labels) == (MULTILABEL, ("Cardiomegaly", "Effusion", "Hernia"))
    assert samples.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]]
    assert list(samples.table["split"]) == ["test"] * 2 + ["train"] * 4
    assert spec.val_share == 0.125


def test_busi_by_its_card(tmp_path):
    images(tmp_path, *(f"{label}/{label} ({k}).png" for label in ("benign", "malignant") for k in (145, 433)))
    images(tmp_path, "benign/benign (433)_mask.png", "benign/benign (433)_mask_1.png")
    spec, samples = open_source(card(tmp_path, CARDS["BUSI"]))
    assert len(samples.table) == 4
    assert spec.known_conflicts == (("benign/benign (433).png", "malignant/malignant (145).png"),)
    assert (spec.near_duplicates, spec.patient) == ("group", "none: not published: image level")


CARDS = {
    "HAM10000": """
task = "multiclass"
images = "HAM10000_images_part_*/{image_id}.jpg"
table = "HAM10000_metadata.csv"
label = {column = "dx"}
patient = {column = "lesion_id", means = "lesion"}
metadata = ["age", "sex", "localization"]
hide = ["dx_type"]
symmetries = ["hflip", "vflip", "rot90"]
""",
    "NIH": """
task = "multilabel"
images = "images_*/images/{Image Index}"
table = "Data_Entry_2017.csv"
label = {column = "Finding Labels", separator = "|", none = "No Finding"}
patient = {column = "Patient ID"}
split = {test = "test_list.txt", rest = "train_val_list.txt", val = 0.125}
metadata = ["Patient Age", "Patient Gender", "View Position"]
symmetries = []
""",
    "BUSI": """
task = "multiclass"
images = "{label}/*.png"
exclude = "*_mask*.png"
masks = {path = "{label}/{stem}_mask*.png", merge = "union"}
patient = {none = "not published: image level"}
near_duplicates = "group"
known_conflicts = [["benign (433)", "malignant (145)"]]
""",
}


def test_names_that_share_beginnings_get_a_hint_about_patients(tmp_path):
    names = [f"{'ab'[number % 2]}/P{number:03d}_{view}.png" for number in range(6) for view in (1, 2)]
    _, samples = open_source(images(tmp_path, *names))
    assert "patient" not in samples.table  # a hint, no guess
    (hint,) = [note for note in samples.notes if "share 6 beginnings" in note]
    assert "P000_1.png and P000_2.png" in hint
    (tmp_path / "dataset.toml").write_text(hint.rpartition("dataset.toml ")[2] + "\n")
    _, samples = open_source(tmp_path)
    assert set(samples.table["patient"]) == {f"P{number:03d}" for number in range(6)}


@pytest.mark.parametrize("name", ["{label}/{number}.png", "{label}/img_{number}.png", "{label}/2024_{number}.png"])
def test_names_that_number_images_get_no_hint(tmp_path, name):
    names = [name.format(label="ab"[number % 2], number=number) for number in range(12)]
    _, samples = open_source(images(tmp_path, *names))
    assert not any("beginnings" in note for note in samples.notes)
