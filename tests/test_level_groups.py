"""Groups of files with different headers and different levels are reported."""

import nibabel
import numpy as np
import pytest
from dicom_files import write
from folders import open_source
from pydicom.uid import DigitalXRayImageStorageForPresentation

from zoo.images.reading import Header
from zoo.sources.level_groups import describe_lost_rescaling, group_facts, levels_overlap

CT = {"BitsStored": 12, "HighBit": 11}
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024}
FILES = 24


def scan(number, middle=1100):
    return np.random.default_rng(number).normal(middle, 60, (32, 32)).clip(0, 4095).astype(np.uint16)


def write_set(root, elements_of, pixels_of=scan, num_files=FILES):
    """Half of the files in each of two classes, one patient per file."""
    for number in range(num_files):
        elements = {"PatientID": f"P{number}", **elements_of(number)}
        write(root / ("well" if number < num_files // 2 else "ill") / f"{number:02}.dcm", pixels_of(number), **elements)
    return root


def is_inverted(number):
    return number % 4 >= 2


def radiograph(number):
    photometric = "MONOCHROME1" if is_inverted(number) else "MONOCHROME2"
    sop_class = DigitalXRayImageStorageForPresentation
    return {"Modality": "DX", "SOPClassUID": sop_class, "PhotometricInterpretation": photometric}


def film(number):
    return 4095 - scan(number) if is_inverted(number) else scan(number)


def columns_of(samples):
    return [column for column in samples.table.columns if column.startswith("levels_by_")]


def notes_of(samples, word):
    return [note for note in samples.notes if word in note]


@pytest.mark.parametrize(
    "lost",
    [
        {},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": 1, "RescaleIntercept": ""},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
    ],
)
def test_files_with_lost_rescaling_are_counted(tmp_path, lost):
    _, samples = open_source(write_set(tmp_path, lambda number: {**CT, **(lost if number in (20, 23) else HU)}))
    (note,) = notes_of(samples, "no rescaling")
    assert note.startswith(f"2 of {FILES} CT files")
    assert "ill/20.dcm" in note
    assert columns_of(samples) == ["levels_by_rescaling"]
    without_rescaling = samples.table["image"][samples.table["levels_by_rescaling"] == "without rescaling"]
    assert without_rescaling.tolist() == ["ill/20.dcm", "ill/23.dcm"]


def test_one_file_without_rescaling_is_enough(tmp_path):
    _, samples = open_source(write_set(tmp_path, lambda number: {**CT, **({} if number == 20 else HU)}))
    assert notes_of(samples, "no rescaling")


def test_signed_hounsfield_units_beside_rescaled_ones_are_not_noted(tmp_path):
    def pixels(number):
        return scan(number) if number % 2 else scan(number).astype(np.int16) - 1024

    _, samples = open_source(write_set(tmp_path, lambda number: HU if number % 2 else {}, pixels))
    assert not columns_of(samples)
    assert not notes_of(samples, "rescaling")


def test_rescaling_of_another_modality_is_ignored():
    plain = Header(width=8, height=8, channels=1, modality="DX", tags={"Modality": "DX"})
    ct = Header(
        width=8, height=8, channels=1, modality="CT", values=(-1024, 3071), is_rescaled=True, tags={"Modality": "CT"}
    )
    assert describe_lost_rescaling({"a": plain, "b": ct}) == ()


def test_inverted_files_of_an_unused_range_are_noted(tmp_path):
    _, samples = open_source(write_set(tmp_path, radiograph, film))
    (note,) = notes_of(samples, "PhotometricInterpretation")
    low, high = np.percentile(np.stack([scan(number) for number in range(FILES)]), [5, 95])
    numbers = [int(word) for word in note.replace(",", "").split() if word.isdecimal()]
    assert numbers[:2] == pytest.approx([low, high], abs=10)
    assert numbers[3:5] == pytest.approx([61440 + low, 61440 + high], abs=10)
    assert columns_of(samples) == ["levels_by_PhotometricInterpretation"]


def test_inverted_files_of_the_stored_range_are_not_noted(tmp_path):
    _, samples = open_source(write_set(tmp_path, lambda number: {**radiograph(number), **CT}, film))
    assert not columns_of(samples)


def test_a_declared_window_can_equalize_groups(tmp_path):
    def windowed(number):
        # windows apply before gray is inverted
        return {**radiograph(number), "WindowCenter": 2048, "WindowWidth": 4096}

    _, samples = open_source(write_set(tmp_path, windowed, film))
    assert samples.reading["window"] == "dicom"
    assert not columns_of(samples)


def test_scanners_of_different_scale_are_noted(tmp_path):
    def pixels(number):
        return scan(number, 300 if number % 2 else 3000)

    def scanner(number):
        return {**CT, "Modality": "MR", "Manufacturer": "A" if number % 2 else "B"}

    _, samples = open_source(write_set(tmp_path, scanner, pixels))
    assert columns_of(samples) == ["levels_by_Manufacturer"]


def test_dicom_files_named_by_their_uid_are_one_type():
    header = Header(width=8, height=8, channels=1, tags={"Modality": "CT"})
    assert len({group_facts(f"1.2.840.{number}", header)["type"] for number in range(4)}) == 1


def test_files_of_one_kind_are_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.sources.level_groups.read_image", None)  # calling it would raise
    _, samples = open_source(write_set(tmp_path, lambda _: {**CT, **HU}))
    assert not columns_of(samples)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((0, 4), (2, 6), 1 / 3), ((0, 1), (2, 3), 0), ((0, 8), (2, 4), 1 / 4), ((5, 5), (5, 5), 1)],
)
def test_overlap_is_intersection_over_union(a, b, expected):
    assert levels_overlap(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_nifti_files_of_one_depth_that_lost_their_rescaling_are_counted(tmp_path, dtype):
    """Floating-point files need no rescaling."""
    for number in range(8):
        values = np.random.default_rng(number).integers(0, 3000, (8, 8, 4))
        image = nibabel.Nifti1Image((values - 1024).astype(np.float32), np.eye(4))
        image.header.set_data_dtype(np.int16)
        image.header.set_slope_inter(1, -1024)
        folder = tmp_path / ("well" if number < 4 else "ill")
        folder.mkdir(exist_ok=True)
        is_plain = number < 4
        nibabel.save(
            nibabel.Nifti1Image(values.astype(dtype), np.eye(4)) if is_plain else image, folder / f"{number}.nii.gz"
        )
    notes = notes_of(open_source(tmp_path)[1], "have no rescaling")
    assert [note[:24] for note in notes] == (["4 of 8 16-bit NIfTI file"] if dtype == "int16" else [])
    assert all("well/0.nii.gz" in note and "scl_inter" in note for note in notes)
