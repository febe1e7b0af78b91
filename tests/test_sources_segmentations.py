"""DICOM segmentations as masks of the series that they were drawn on. highdicom and pydicom write the files."""

import numpy as np
import pytest
from dicom_files import write
from folders import card, open_source, refusal
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from zoo import SEGMENTATION
from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.sources.opening import find_source, write_card

SHAPE = (6, 33, 35)  # slices, rows, columns: a frame is no whole number of bytes
REQUIRED = (  # by highdicom
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
    *("PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
)
NOISE = np.random.default_rng(0)


def series(folder, patient="P1", shape=SHAPE, uid=None, **elements):
    """A CT series, one file per slice, 2 mm apart."""
    study, uid, frame = generate_uid(), uid or generate_uid(), generate_uid()
    for number in range(shape[0]):
        write(
            folder / f"{number:03}.dcm",
            NOISE.integers(0, 1000, shape[1:]).astype(np.int16),
            **{
                "PatientID": patient,
                "StudyInstanceUID": study,
                "SeriesInstanceUID": uid,
                "FrameOfReferenceUID": frame,
                "InstanceNumber": number + 1,
                "ImagePositionPatient": [-10.0, -20.0, 2.0 * number],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "PixelSpacing": [0.5, 0.75],
                "SliceThickness": 2.0,
                **dict.fromkeys(REQUIRED, ""),
                **elements,
            },
        )
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def areas(count=2, shape=SHAPE):
    """Segments of a series that do not overlap; the first and the last slice are empty."""
    masks = np.zeros((*shape, count), np.uint8)
    for segment in range(count):
        masks[1 + segment : 4 + segment, 2 + segment * 3 : 4 + segment * 3, 1:5, segment] = 1
    return masks


def segment(path, images, masks, names=("Liver", "Mass"), kind="BINARY", **options):
    """Write a segmentation of a series with highdicom, which omits empty frames."""
    descriptions = [
        SegmentDescription(number, name, codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
        for number, name in enumerate(names, start=1)
    ]
    written = Segmentation(
        images, masks, kind, descriptions, generate_uid(), 9, generate_uid(), 1, "zoo", "test", "1", "0", **options
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    written.save_as(path)
    return written


@pytest.fixture
def folder(tmp_path):
    for patient in ("P1", "P2"):
        images = series(tmp_path / "data" / patient / "ct", patient)
        segment(tmp_path / "data" / patient / "seg" / "1.dcm", images, areas())
    return tmp_path / "data"


def expected(number, masks=None):
    masks = areas() if masks is None else masks
    return (masks[number] * np.arange(1, masks.shape[-1] + 1)).sum(axis=-1)


def test_segmentations_of_series_are_read_without_a_card(folder):
    spec, samples = open_source(folder)
    assert (spec.task, spec.labels, spec.patient) == (SEGMENTATION, ("Liver", "Mass"), "patient")
    assert len(samples.table) == 2 * SHAPE[0] and sorted(set(samples.table["patient"])) == ["P1", "P2"]
    for number in range(SHAPE[0]):  # slices without frames are empty
        np.testing.assert_array_equal(samples.masks(f"P2/ct/{number:03}.dcm"), expected(number))
    assert "2 DICOM files of SEG with masks of 12 images" in samples.notes
    assert open_source(write_card(folder))[1].table.equals(samples.table)


def test_series_without_a_segmentation_are_left_out_and_counted(folder):
    series(folder / "P3" / "ct", "P3")
    samples = open_source(folder)[1]
    assert len(samples.table) == 12
    assert "6 files left out: no segmentation refers to their series" in samples.notes


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_fractional_segments_are_thresholded_with_a_note(tmp_path, kind, syntax):
    images = series(tmp_path / "ct")
    if kind == "LABELMAP":
        segment(tmp_path / "seg.dcm", images, areas(), kind=kind, transfer_syntax_uid=syntax)
    else:
        shares = areas() * 0.5
        shares[2, 8, 6, 0] = 0.49
        segment(tmp_path / "seg.dcm", images, shares, kind=kind, transfer_syntax_uid=syntax)
    samples = open_source(tmp_path)[1]
    for number in range(SHAPE[0]):
        np.testing.assert_array_equal(samples.masks(f"ct/{number:03}.dcm"), expected(number))
    note = "1 of 1 segmentations are FRACTIONAL: a pixel has a label from half of the maximum on"
    assert (note in samples.notes) == (kind == "FRACTIONAL")


def test_segments_in_several_files_are_labels_of_one_mask(tmp_path):
    images, masks = series(tmp_path / "ct"), areas()
    for number, name in enumerate(("Mass", "Liver")):
        segment(tmp_path / f"{name}.dcm", images, masks[..., number : number + 1], (name,))
    card(tmp_path, 'task = "segmentation"\nmasks = {modality = "SEG"}\nlabels = {Mass = "tumor", Liver = "liver"}\n')
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("tumor", "liver")
    np.testing.assert_array_equal(samples.masks("ct/003.dcm"), expected(3, masks))
    assert "2 of 2 segmentations lack some labels, which are taken as empty there" in samples.notes


def test_frames_that_name_no_image_are_placed_by_their_position(folder):
    path = folder / "P2" / "seg" / "1.dcm"
    image = dcmread(path)
    for group in image.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    image.save_as(path)
    samples = open_source(folder)[1]
    for number in range(SHAPE[0]):
        np.testing.assert_array_equal(samples.masks(f"P2/ct/{number:03}.dcm"), expected(number))


def test_a_card_that_excludes_the_segmentations_reads_the_images(folder):
    card(folder, 'exclude = ["**/seg/*"]\n')
    assert open_source(folder)[0].labels == ("P1", "P2")


# --- refusals --------------------------------------------------------------------------------------------------------
def error_of(root, cache):
    with pytest.raises(DataError) as caught:
        open_dataset(find_source(root), cache)
    assert "\n" not in caught.value.line()
    return caught.value


def test_two_readers_of_one_series_are_asked_for(tmp_path):
    images = series(tmp_path / "ct")
    for reader in "ab":
        segment(tmp_path / f"{reader}.dcm", images, areas())
    assert "a.dcm and b.dcm have the segment 'Liver' of the same images" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value", "fact"),
    [
        ("PixelSpacing", [0.5, 0.8], "spacing"),
        ("ImageOrientationPatient", [0, 1, 0, 1, 0, 0], "orientation"),
        ("ImagePositionPatient", [-10.0, -20.0, 4.5], "position"),
    ],
)
def test_a_segmentation_on_another_grid_is_refused_with_both_values(folder, tmp_path, keyword, value, fact):
    path = folder / "P1" / "ct" / "002.dcm"
    image = dcmread(path)
    setattr(image, keyword, value)
    image.save_as(path)
    error = error_of(folder, tmp_path / "cache")
    assert error.code == "geometry" and "1.dcm: the " + fact in error.message and "002.dcm is" in error.message


def test_a_segmentation_of_another_size_is_refused(folder, tmp_path):
    for path in (folder / "P1" / "ct").glob("*.dcm"):
        image = dcmread(path)
        image.Rows, image.PixelData = 32, image.PixelData[: 32 * 35 * 2]
        image.save_as(path)
    error = error_of(folder, tmp_path / "cache")
    assert "1.dcm: the size of frame" in error.message and "is (33, 35), that of" in error.message


def test_frames_on_missing_slices_are_refused_by_file(folder):
    (folder / "P2" / "ct" / "003.dcm").unlink()
    assert "P2/seg/1.dcm: 2 of its frames or contours lie on images that are not in this folder" in refusal(folder)


def test_a_segmentation_without_its_series_is_refused(folder):
    for path in (folder / "P2" / "ct").glob("*.dcm"):
        path.unlink()
    assert "P2/seg/1.dcm: no image of the series that it refers to" in refusal(folder)


def test_overlapping_segments_are_refused_by_name(tmp_path):
    masks = areas()
    masks[2, 2, 2] = 1
    segment(tmp_path / "seg.dcm", series(tmp_path / "ct"), masks)
    error = error_of(tmp_path, tmp_path / "cache")
    assert "segments 'Liver' and 'Mass' overlap on ct/002.dcm" in error.message and 'ignore = ["Mass"]' in error.fix
    text = 'task = "segmentation"\nmasks = {modality = "SEG"}\n'
    for ignore in ('ignore = ["Mass"]', 'labels = ["Liver"]\nignore = ["*"]'):
        spec, samples = open_source(card(tmp_path, text + ignore))
        assert spec.labels == ("Liver",) and "labels left out: Mass (`ignore`)" in samples.notes
        np.testing.assert_array_equal(samples.masks("ct/002.dcm"), masks[2, ..., 0])


def test_a_segment_outside_the_card_is_refused_by_name(folder):
    card(folder, 'labels = ["Liver", "Lesion"]\n')
    assert "segment 'Mass' is no label; labels are Liver, Lesion" in refusal(folder)


def test_a_header_of_too_many_frames_is_refused_before_decoding(folder):
    path = folder / "P1" / "seg" / "1.dcm"
    image = dcmread(path)
    image.Rows = image.Columns = 40_000
    image.save_as(path)
    assert "1.dcm:" in refusal(folder)
