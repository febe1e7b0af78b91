"""Folders of DICOM files: which files are images, their patients, and their rows in a table."""

import numpy as np
import pytest
from dicom_files import ramp, write
from folders import card, open_source, refusal, table
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from zoo.auditing.audit import run_audit
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source


def notes_of(samples):
    return "\n".join(samples.notes)


def scan(number, shape=(8, 8)):
    """A CT image that depends on the number."""
    return np.random.default_rng(number).integers(-500, 500, shape).astype(np.int16)


def exams(root, count=6, **elements):
    """Two images of each exam, in class folders."""
    for number in range(count):
        for view in range(2):
            identity = {"PatientID": f"H{number}", "AccessionNumber": f"A{number}", "StudyInstanceUID": f"1.2.{number}"}
            values = {name: each(number) if callable(each) else each for name, each in elements.items()}
            write(root / "ab"[number % 2] / f"{number}_{view}.dcm", scan(2 * number + view), **{**identity, **values})
    return root


def exam_rows(count=6):
    return [f"A{number},{'ill' if number % 2 else 'well'}" for number in range(count)]


# --- which files are images ------------------------------------------------------------------------------------------
def test_slices_are_in_the_order_of_their_series_not_of_their_names(tmp_path):
    for number in range(4):
        for label in "ab":
            series = {"SeriesInstanceUID": f"1.2.{ord(label)}", "InstanceNumber": 4 - number}
            write(tmp_path / label / f"{number}.dcm", scan(number + 4 * ord(label)), **series)
    _, samples = open_source(tmp_path)
    assert list(samples.table["image"][:4]) == ["a/3.dcm", "a/2.dcm", "a/1.dcm", "a/0.dcm"]


def test_reports_localizers_and_screen_captures_are_left_out_with_their_counts(tmp_path):
    exams(tmp_path)
    write(tmp_path / "a" / "report.dcm", SOPClassUID=BasicTextSRStorage, Modality="SR")
    write(tmp_path / "a" / "scout.dcm", scan(90), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(tmp_path / "b" / "screen.dcm", scan(91), SOPClassUID=SecondaryCaptureImageStorage)
    _, samples = open_source(tmp_path)
    assert len(samples.table) == 12
    assert "1 files left out: no pixels (Basic Text SR Storage)" in notes_of(samples)
    assert "1 files left out: localizer" in notes_of(samples)
    assert "1 files left out: secondary capture" in notes_of(samples)


def test_secondary_captures_are_read_if_there_are_no_other_images(tmp_path):
    _, samples = open_source(exams(tmp_path, SOPClassUID=SecondaryCaptureImageStorage))
    assert len(samples.table) == 12
    assert "all 12 images are secondary capture: they are read nevertheless" in notes_of(samples)


def test_files_without_pixels_are_refused_by_name(tmp_path, golden):
    for label in "ab":
        write(tmp_path / label / "report.dcm", SOPClassUID=BasicTextSRStorage, Modality="SR")
    golden(refusal(tmp_path), "error[data]", "a/report.dcm", "SR")


def test_a_screen_capture_is_read_if_it_is_the_only_image_of_a_row(tmp_path):
    exams(tmp_path)
    for path in (tmp_path / "a").glob("4_*.dcm"):
        path.unlink()
    write(tmp_path / "a" / "screen.dcm", scan(91), SOPClassUID=SecondaryCaptureImageStorage, AccessionNumber="A4")
    write(tmp_path / "a" / "second.dcm", scan(92), SOPClassUID=SecondaryCaptureImageStorage, AccessionNumber="A0")
    table(tmp_path, "accession,finding", *exam_rows())
    card(
        tmp_path,
        'images = "**/*.dcm"\ntable = "labels.csv"\njoin = {tag = "AccessionNumber", column = "accession"}\n'
        'label = {column = "finding"}\n',
    )
    _, samples = open_source(tmp_path)
    assert "a/screen.dcm" in set(samples.table["image"])
    assert "a/second.dcm" not in set(samples.table["image"])
    assert "1 of these are read nevertheless: each is the only image of a row in the table" in notes_of(samples)


def test_files_without_a_suffix_beside_what_a_disc_carries_are_read(tmp_path):
    for number in range(4):
        write(tmp_path / "ab"[number % 2] / f"ST{number}" / f"IM00000{number}", scan(number))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "AUTORUN.INF").write_text("[autorun]")
    _, samples = open_source(tmp_path)
    assert list(samples.table["image"][:2]) == ["a/ST0/IM000000", "a/ST2/IM000002"]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_compressed_files_beside_plain_ones_have_the_same_pixels(tmp_path, syntax):
    for number in range(6):
        write(tmp_path / "plain" / "ab"[number % 2] / f"{number}.dcm", scan(number, (32, 32)))
        how = {"compress": syntax} if number % 3 else {}
        write(tmp_path / "packed" / "ab"[number % 2] / f"{number}.dcm", scan(number, (32, 32)), **how)
    (_, plain), (_, packed) = open_source(tmp_path / "plain"), open_source(tmp_path / "packed")
    for image in plain.table["image"]:
        assert (plain.read(image) == packed.read(image)).all()


# --- joined by a tag -------------------------------------------------------------------------------------------------
def test_a_column_of_accession_numbers_is_recognized_and_applies_to_all_images_of_an_exam(tmp_path):
    root = exams(tmp_path / "set")
    for number, path in enumerate(sorted(root.rglob("*.dcm"))):
        path.rename(root / f"{number}.dcm")
    spec, samples = open_source(table(root, "exam,finding", *exam_rows()))
    assert (spec.labels, len(samples.table)) == (("ill", "well"), 12)
    assert "column 'exam' of labels.csv holds the DICOM tag AccessionNumber (guessed)" in notes_of(samples)


def test_a_card_may_join_by_any_tag(tmp_path):
    root = exams(tmp_path, StudyID=lambda number: f"S{number}")
    table(root, "study,finding", *(row.replace("A", "S") for row in exam_rows()))
    card(root, 'table = "labels.csv"\njoin = {tag = "StudyID", column = "study"}\nlabel = {column = "finding"}\n')
    _, samples = open_source(root)
    assert len(samples.table) == 12


def test_a_row_of_a_missing_exam_is_reported(tmp_path, golden):
    root = exams(tmp_path)
    table(root, "exam,finding", *exam_rows(7))
    card(root, 'table = "labels.csv"\njoin = {tag = "AccessionNumber", column = "exam"}\nlabel = {column = "finding"}')
    golden(refusal(root), "error[data]", "line 8", "AccessionNumber", "A6")


# --- whose they are --------------------------------------------------------------------------------------------------
def test_the_patient_is_the_tag_patient_id(tmp_path):
    spec, samples = open_source(exams(tmp_path))
    assert (spec.patient, samples.table["patient"].nunique()) == ("patient", 6)
    assert "the patient is DICOM tag PatientID: 6 in 12 files (guessed)" in notes_of(samples)


def test_studies_are_the_patients_where_all_files_have_one_patient_id(tmp_path):
    spec, samples = open_source(exams(tmp_path, PatientID="ANON"))
    assert (spec.patient, samples.table["patient"].nunique()) == ("study", 6)
    assert "DICOM tag PatientID is the same in all files: it is not used as the patient" in notes_of(samples)


def test_missing_patient_tags_are_noted(tmp_path):
    spec, samples = open_source(exams(tmp_path, PatientID="", StudyInstanceUID="1.2.3"))
    assert spec.patient == "none: image level"
    assert "DICOM tag PatientID is missing in 12 of 12 files: it is not used as the patient" in notes_of(samples)
    assert "no patient key: image level" in notes_of(samples)


def test_a_card_may_name_the_tag_of_the_patient(tmp_path):
    root = card(exams(tmp_path), 'patient = {tag = "AccessionNumber", means = "exam"}\n')
    spec, samples = open_source(root)
    assert (spec.patient, samples.table["patient"][0]) == ("exam", "A0")


def test_frames_of_a_file_are_images_of_one_patient(tmp_path):
    for number in range(4):
        write(tmp_path / "ab"[number % 2] / f"{number}.dcm", scan(number, (10, 8, 8)), PatientID=f"H{number}")
    spec, samples = open_source(card(tmp_path, "frames = {every = 4, max = 2}\n"))
    assert list(samples.table["sample_id"][:3]) == ["a/0.dcm#0", "a/0.dcm#4", "a/2.dcm#0"]
    assert (spec.patient, list(samples.table["patient"][:3])) == ("patient", ["H0", "H0", "H2"])
    assert (samples.read("a/0.dcm#4") - 32768.0 == scan(0, (10, 8, 8))[4]).all()


# --- what may tell the class without the disease ---------------------------------------------------------------------
@pytest.mark.integration
def test_tags_that_differ_are_columns_and_the_audit_tests_them(tmp_path):
    root = tmp_path / "set"
    for number in range(80):
        maker = {"Manufacturer": "ABCD"[number % 2], "StationName": "CT1", "PatientAge": f"0{30 + number % 40}Y"}
        write(root / "ab"[number % 2] / f"{number}.dcm", scan(number, (64, 64)), PatientID=f"H{number}", **maker)
    spec, samples = open_source(root)
    assert spec.metadata == ("Manufacturer", "PatientAge")
    assert list(samples.table["PatientAge"][:2]) == ["30", "32"]
    source = open_dataset(find_source(root), tmp_path / "cache")
    findings = run_audit(source, draw_split(source), take_fingerprints(source, tmp_path / "cache")).findings
    assert [finding.message for finding in findings if finding.check == "metadata"] == [
        "column 'Manufacturer' alone predicts the label: AUROC 1.00 on other patients"
    ]


def test_a_column_of_the_table_replaces_the_tag_of_the_same_name(tmp_path):
    root = exams(tmp_path, PatientSex=lambda number: "MF"[number // 3])
    rows = [f"{path.name},{'x' if path.name < '2' else 'y'}" for path in sorted(root.rglob("*.dcm"))]
    spec, samples = open_source(table(root, "file,patientsex", *rows))
    assert spec.metadata == ("patientsex",)
    assert set(samples.table["patientsex"]) == {"x", "y"}


def test_burned_in_text_is_noted_if_files_declare_it(tmp_path):
    _, samples = open_source(exams(tmp_path, BurnedInAnnotation="YES"))
    assert "12 files declare text burned into their pixels (BurnedInAnnotation): it can reveal the label" in notes_of(
        samples
    )


def ultrasounds(root):
    """Clips with a bright margin around the region of tissue."""
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 4, 8
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 27, 31
    for number in range(4):
        pixels = np.full((3, 40, 32, 3), 255, np.uint8)
        pixels[:, 8:32, 4:28] = number
        facts = {"SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "PatientID": f"U{number}"}
        path = root / "ab"[number % 2] / f"{number}.dcm"
        write(path, pixels, **facts, SequenceOfUltrasoundRegions=[region])
    return root


def test_ultrasound_is_cropped_to_its_regions_if_the_card_sets_it_and_that_is_recorded(tmp_path):
    _, whole = open_source(ultrasounds(tmp_path))
    assert 'in dataset.toml: crop = "ultrasound-region"' in notes_of(whole)
    assert whole.read("a/0.dcm#0").shape == (40, 32, 3)
    _, cropped = open_source(card(tmp_path, 'crop = "ultrasound-region"\n'))
    assert "burnt" not in notes_of(cropped)
    assert cropped.reading == {"crop": "ultrasound-region"}
    assert cropped.read("b/3.dcm#2").shape == (24, 24, 3)
    assert (cropped.read("b/3.dcm#2") == 3).all()


# --- levels ----------------------------------------------------------------------------------------------------------
def test_ct_values_have_one_mapping_whatever_the_intercepts_of_the_files(tmp_path):
    for number, intercept in enumerate((0, -1024, 0, -1024)):
        pixels = ramp(np.int16, 0) - intercept
        write(tmp_path / "ab"[number % 2] / f"{number}.dcm", pixels, RescaleSlope=1, RescaleIntercept=intercept)
    _, samples = open_source(tmp_path)
    first = samples.read("a/0.dcm")
    assert all((samples.read(image) == first).all() for image in samples.table["image"])
