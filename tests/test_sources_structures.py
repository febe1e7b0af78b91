"""DICOM structure sets as masks of their series. pydicom writes the files, matplotlib fills the polygons."""

import json

import numpy as np
import pytest
from dicom_files import write
from folders import card, open_source, refusal
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, generate_uid
from test_sources_segmentations import SHAPE, areas, error_of, segment, series

from zoo import SEGMENTATION
from zoo.sources.opening import write_card

OBLIQUE = [0.8, 0.6, 0.0, -0.48, 0.64, 0.6]  # a turned and tilted series
OUTER = np.array([[3.2, 4.1], [25.7, 6.3], [28.4, 27.9], [14.6, 15.2], [5.3, 29.8]])  # column, row
HOLE = np.array([[8.3, 9.4], [13.1, 9.7], [10.2, 13.3]])


def to_mm(image, points, off=0.0):
    """Pixels (column, row) of an image in the coordinates of the patient, as a file stores them."""
    along_row, along_column = np.split(np.array(image.ImageOrientationPatient, float), 2)
    steps = points * [float(image.PixelSpacing[1]), float(image.PixelSpacing[0])]
    placed = np.array(image.ImagePositionPatient, float) + steps @ [along_row, along_column]
    return (placed + off * np.cross(along_row, along_column)).ravel()


def filled(points):
    centers = np.stack(np.meshgrid(np.arange(SHAPE[2]), np.arange(SHAPE[1])), axis=-1)
    return Polygon(points).contains_points(centers.reshape(-1, 2)).reshape(SHAPE[1:])


def structures(path, images, regions, *, names_images=True, kind="CLOSED_PLANAR"):
    """Write a structure set; `regions` maps a name to (image, points in mm) of each contour."""
    sets, contours = [], []
    for number, (name, own) in enumerate(regions.items(), start=1):
        region, contour_set = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        contour_set.ReferencedROINumber, contour_set.ContourSequence = number, []
        for image, points in own:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points) // 3
            contour.ContourData = [f"{value:.6f}" for value in points]
            if names_images:
                reference = Dataset()
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
                    image.SOPClassUID,
                    image.SOPInstanceUID,
                )
                contour.ContourImageSequence = [reference]
            contour_set.ContourSequence.append(contour)
        sets.append(region)
        contours.append(contour_set)
    frame, study, referenced = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = images[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [referenced], [study]
    write(
        path,
        SOPClassUID=RTStructureSetStorage,
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        PatientID=images[0].PatientID,
        StructureSetROISequence=sets,
        ROIContourSequence=contours,
        ReferencedFrameOfReferenceSequence=[frame],
    )


def contours_of(images, off=0.0):
    outer = [(images[number], to_mm(images[number], OUTER, off)) for number in (1, 2)]
    return {"Heart": [*outer, (images[2], to_mm(images[2], HOLE, off))]}


@pytest.mark.parametrize("names_images", [True, False])
@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], OBLIQUE])
def test_contours_are_filled_and_holes_are_cut_out(tmp_path, orientation, names_images):
    images = series(tmp_path / "ct", ImageOrientationPatient=orientation)
    structures(tmp_path / "rt.dcm", images, contours_of(images), names_images=names_images)
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels, len(samples.table)) == (SEGMENTATION, ("Heart",), SHAPE[0])
    expected = {1: filled(OUTER), 2: filled(OUTER) ^ filled(HOLE)}
    for number in range(SHAPE[0]):
        mask = samples.masks(f"ct/{number:03}.dcm")
        np.testing.assert_array_equal(mask, expected.get(number, np.zeros(SHAPE[1:])))
    assert expected[2].sum() < expected[1].sum()
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_regions_that_a_card_ignores_may_overlap(tmp_path):
    images = series(tmp_path / "ct")
    regions = contours_of(images) | {"BODY": [(images[1], to_mm(images[1], OUTER - 1))]}
    structures(tmp_path / "rt.dcm", images, regions)
    assert "segments 'Heart' and 'BODY' overlap" in error_of(tmp_path, tmp_path / "cache").message
    text = 'task = "segmentation"\nmasks = {modality = "RTSTRUCT"}\nlabels = {Heart = "heart"}\nignore = ["*"]\n'
    spec, samples = open_source(card(tmp_path, text))
    assert spec.labels == ("heart",)
    np.testing.assert_array_equal(samples.masks("ct/001.dcm"), filled(OUTER))


def test_contours_off_their_image_are_refused(tmp_path):
    images = series(tmp_path / "ct")
    structures(tmp_path / "rt.dcm", images, contours_of(images, off=0.7))
    error = error_of(tmp_path, tmp_path / "cache")
    assert error.code == "geometry" and "a contour of 'Heart' is 0.7 mm off" in error.message


def test_contours_between_images_are_refused(tmp_path):
    images = series(tmp_path / "ct")
    structures(tmp_path / "rt.dcm", images, contours_of(images, off=0.7), names_images=False)
    assert "rt.dcm: 3 of its frames or contours lie on images that are not in this folder" in refusal(tmp_path)


def test_a_region_without_a_name_is_refused(tmp_path):
    images = series(tmp_path / "ct")
    structures(tmp_path / "rt.dcm", images, {"": contours_of(images)["Heart"]})
    assert "rt.dcm: no structure set with closed contours of named regions" in refusal(tmp_path)


def test_points_are_no_regions(tmp_path):
    images = series(tmp_path / "ct")
    structures(tmp_path / "rt.dcm", images, contours_of(images), kind="POINT")
    assert "rt.dcm: no structure set with closed contours of named regions" in refusal(tmp_path)


@pytest.mark.integration
def test_sets_of_segmentations_and_of_structures_get_boards(zoo, tmp_path):
    shape = (3, 33, 35)
    for patient in [f"P{number}" for number in range(10)]:
        images = series(tmp_path / "segments" / patient / "ct", patient, shape)
        segment(tmp_path / "segments" / patient / "seg.dcm", images, areas(shape=shape))
        images = series(tmp_path / "structures" / patient / "ct", patient, shape)
        structures(tmp_path / "structures" / patient / "rt.dcm", images, contours_of(images))
    bench = "--models unet2d --protocol quick --set steps=1 --set batch_size=2 --weights none --seeds 1 --folds 1"
    done = zoo("bench", "--datasets", "segments,structures", *bench.split(), "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(zoo("report", "--format", "json", cwd=tmp_path).stdout)["leaderboard"]
    dices = {(row["dataset"], row["model"]): row["value"] for row in rows}
    assert len(dices) == 6 and dices["segments", "empty"] == dices["structures", "empty"] == 0
    assert dices["structures", "atlas"] > 0.5
    boundaries = [json.loads(path.read_text())["dataset"]["boundaries"] for path in tmp_path.rglob("result.json")]
    assert {each["unit"] for each in boundaries} == {"mm"}
