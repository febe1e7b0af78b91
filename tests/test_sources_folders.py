"""Folders are classes, patients, exams or clips, as tables, tags and names show."""

import nibabel
import numpy as np
import pytest
from dicom_files import ramp, write
from folders import card, images, open_source, refusal, table

from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source

PATIENTS = [f"P{number:03d}" for number in range(1, 13)]


def notes_of(samples):
    return "\n".join(samples.notes)


def patient_folders(root, *, below=""):
    """Twelve folders of three images each."""
    return images(root, *(f"{below}{patient}/{number}.png" for patient in PATIENTS for number in range(3)))


# --- a folder a patient ----------------------------------------------------------------------------------------------
def test_numbered_folders_are_not_classes_if_a_table_labels_their_images(tmp_path):
    rows = [f"{p}/{n}.png,{'ill' if i % 2 else 'well'}" for i, p in enumerate(PATIENTS) for n in range(3)]
    spec, samples = open_source(table(patient_folders(tmp_path), "image,label", *rows))
    assert spec.labels == ("ill", "well")
    assert len(samples.table) == 36


@pytest.mark.parametrize("below", ["", "scans/"])
def test_a_row_may_apply_to_all_images_of_a_patients_folder(tmp_path, below):
    rows = [f"{patient},{'ill' if number % 2 else 'well'},6{number % 10}" for number, patient in enumerate(PATIENTS)]
    spec, samples = open_source(table(patient_folders(tmp_path, below=below), "patient,diagnosis,age", *rows))
    assert (spec.labels, spec.patient, spec.metadata) == (("ill", "well"), "patient", ("age",))
    assert list(samples.table["patient"][:4]) == ["P001", "P001", "P001", "P002"]
    assert list(samples.targets[:6]) == [1, 1, 1, 0, 0, 0]
    assert "column 'patient' of labels.csv names folders: a row applies to all images in one (guessed)" in notes_of(
        samples
    )


def test_images_of_one_row_stay_together_without_a_patient_key(tmp_path):
    rows = [f"{patient},{'ill' if number % 2 else 'well'}" for number, patient in enumerate(PATIENTS)]
    spec, samples = open_source(table(patient_folders(tmp_path), "exam,label", *rows))
    assert spec.patient == "row"
    assert samples.table["patient"].nunique() == 12
    assert "the images of one row of labels.csv are taken as one patient" in notes_of(samples)


def test_a_card_joins_folders_by_a_placeholder_in_the_path_of_the_folder(tmp_path):
    rows = [f"{patient[1:]},{number % 2}" for number, patient in enumerate(PATIENTS)]
    table(patient_folders(tmp_path), "number,label", *rows)
    card(tmp_path, 'images = "P{number}/*.png"\ntable = "labels.csv"\nlabel = {column = "label"}\n')
    _, samples = open_source(tmp_path)
    assert len(samples.table) == 36
    assert list(samples.targets[:6]) == [0, 0, 0, 1, 1, 1]


def test_two_files_of_one_name_are_still_ambiguous(tmp_path, golden):
    images(tmp_path, "part_1/a.png", "part_2/a.png", "part_2/b.png")
    table(tmp_path, "id,label", "a,x", "b,y")
    card(tmp_path, 'images = "part_*/{id}.png"\ntable = "labels.csv"\nlabel = {column = "label"}\n')
    golden(refusal(tmp_path), "error[data]", "part_1/a.png", "part_2/a.png")


def test_folders_of_dicom_files_of_one_patient_each_are_not_classes(tmp_path):
    for number in range(6):
        for view in range(2):
            path = tmp_path / "ABCDEF"[number] / f"IM{view}.dcm"
            path.parent.mkdir(exist_ok=True)
            write(path, ramp(), PatientID=f"H{number}", AccessionNumber=f"A{number}")
    table(tmp_path, "AccessionNumber,bleeding", *(f"A{number},{number % 2}" for number in range(6)))
    line = refusal(tmp_path)
    assert "labels.csv" in line
    assert "AccessionNumber, bleeding" in line
    card(tmp_path, 'label = {column = "bleeding"}\n')
    spec, samples = open_source(tmp_path)
    assert (len(samples.table), samples.table["patient"].nunique(), spec.patient) == (12, 6, "patient")


def test_a_study_in_the_layout_of_bids_is_labeled_by_its_participants(tmp_path):
    for number in range(1, 7):
        for kind in ("T1w", "FLAIR"):
            path = tmp_path / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.random.default_rng(number).integers(0, 99, (6, 6, 3), dtype=np.uint8)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    rows = [f"sub-{number:02d}\t{number + 50}\t{'stroke' if number % 2 else 'control'}" for number in range(1, 7)]
    table(tmp_path, "participant_id\tage\tgroup", *rows, name="participants.tsv")
    spec, samples = open_source(tmp_path)
    assert (spec.labels, spec.positive, spec.patient) == (("control", "stroke"), "stroke", "patient")
    assert (len(samples.table), samples.table["patient"].nunique()) == (6 * 2 * 3, 6)


# --- a folder a class ------------------------------------------------------------------------------------------------
def test_numbered_class_folders_stay_classes_beside_a_table_without_labels(tmp_path):
    images(tmp_path, *(f"grade{grade}/{grade}_{number}.png" for grade in range(4) for number in range(3)))
    rows = [f"{grade}_{number}.png,{50 + number}" for grade in range(4) for number in range(3)]
    spec, samples = open_source(table(tmp_path, "image,age", *rows, name="ages.csv"))
    assert spec.labels == ("grade0", "grade1", "grade2", "grade3")
    assert list(samples.table["age"][:3]) == ["50", "51", "52"]


def test_numbered_class_folders_that_agree_with_a_table_stay_classes(tmp_path):
    images(tmp_path, *(f"grade{grade}/{grade}_{number}.png" for grade in range(3) for number in range(3)))
    rows = [f"{grade}_{number}.png,{grade}" for grade in range(3) for number in range(3)]
    spec, _ = open_source(table(tmp_path, "image,label", *rows))
    assert spec.labels == ("grade0", "grade1", "grade2")


def test_a_table_that_describes_the_classes_does_not_make_their_folders_patients(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in ("benign", "malignant") for number in range(4)))
    spec, _ = open_source(table(tmp_path, "name,code", "benign,C1", "malignant,C2", name="classes.csv"))
    assert spec.labels == ("benign", "malignant")


def test_a_table_that_names_no_image_is_noted(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    _, samples = open_source(table(tmp_path, "image,age", "7.png,50", name="ages.csv"))
    assert "ages.csv not used: none of its columns names the images" in notes_of(samples)


def test_an_only_table_that_names_no_image_is_refused_with_a_fix(tmp_path):
    images(tmp_path, "scan_1.png", "scan_2.png")
    line = refusal(table(tmp_path, "number,label", "1,x", "2,y"))
    assert "no column of labels.csv names any of the 2 images" in line
    assert 'images = "{COLUMN}_*.png"' in line


# --- folders below the classes ---------------------------------------------------------------------------------------
def clip_folders(root, split=""):
    names = [f"{label}/clip{number:02d}" for label in ("normal", "polyp") for number in range(8)]
    return images(root, *(f"{split}{name}/{frame}.png" for name in names for frame in range(4)))


def test_images_of_one_folder_below_a_class_are_kept_together_with_a_note(tmp_path):
    root = clip_folders(tmp_path / "set")
    spec, samples = open_source(root)
    assert spec.patient == "folder"
    assert samples.table["patient"].nunique() == 8  # one name in two classes may be one patient
    assert "64 images are in 16 folders below the classes: each folder stays in one split" in notes_of(samples)
    source = open_dataset(find_source(root), tmp_path / "cache")
    for fold in draw_split(source).folds:
        assert set(source.patients[fold == "train"]).isdisjoint(source.patients[fold == "test"])


def test_the_outermost_folders_of_which_every_class_has_several_are_taken(tmp_path):
    kinds = {"benign": "adenosis", "malignant": "lobular"}  # as BreakHis nests them
    names = [
        f"{label}/SOB/{kind}/{kind}_{n}/{zoom}X/{n}.png"
        for label, kind in kinds.items()
        for n in range(6)
        for zoom in (40, 100)
    ]
    _, samples = open_source(images(tmp_path, *names))
    assert samples.table["patient"].nunique() == 12
    assert samples.table["patient"][0] == "adenosis_0"


def test_folders_of_the_same_name_in_two_official_splits_are_not_one_patient(tmp_path):
    for split in ("train", "test"):
        clip_folders(tmp_path, f"{split}/")
    _, samples = open_source(tmp_path)
    assert samples.table.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.parametrize("folder", ["images", "part{}"])
def test_image_folders_are_not_patients(tmp_path, folder):
    names = [f"{label}/{folder.format(n % 6)}/{n}.png" for label in "ab" for n in range(12)]
    spec, _ = open_source(images(tmp_path, *names))
    assert spec.patient.startswith("none")


def test_frames_in_the_card_prevent_guessing_folders_as_patients(tmp_path):
    spec, samples = open_source(card(clip_folders(tmp_path), "frames = {every = 2}\n"))
    assert spec.patient == "file"
    assert len(samples.table) == 16 * 2
