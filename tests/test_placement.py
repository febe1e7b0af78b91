"""Points and masks return from the square input of a model to the original pixels, and to millimeters."""

import nibabel
import numpy as np
import pytest
from dicom_files import ramp, write
from factories import make_dataset_spec, make_samples
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from zoo.data.decoded import READER_VERSION, cache_images, read_placements
from zoo.data.opening import open_dataset
from zoo.images.formats import read_image, read_spacing
from zoo.images.placement import Placement, pack_placements, place_in_square, unpack_placements
from zoo.images.reading import Reading
from zoo.images.resizing import fit_square, fit_with_placement
from zoo.sources.opening import find_source

SIZES = [(100, 50), (50, 100), (33, 71), (7, 500), (3, 2), (64, 64), (1, 1000)]  # height, width


@pytest.mark.parametrize("shape", SIZES)
def test_the_corners_of_the_image_in_the_square_are_those_of_the_original(shape):
    pixels = np.full(shape, 200, np.uint8)
    square, placement = fit_with_placement(pixels, 64)
    rows, columns = (np.flatnonzero(square.any(axis=axis)) for axis in (1, 0))
    corners = np.array([[rows[0], columns[0]], [rows[-1] + 1, columns[-1] + 1]])
    np.testing.assert_allclose(placement.to_original(corners), [[0, 0], shape], atol=1e-9)
    np.testing.assert_array_equal(square, fit_square(pixels, 64))


def test_a_point_of_known_geometry_returns_to_its_pixel_and_millimeter():
    placement = place_in_square(100, 50, 64, spacing=(0.5, 0.25))
    assert placement == Placement(100, 50, scale=(0.64, 0.64), offset=(0, 16), spacing=(0.5, 0.25))
    points = np.array([[32.0, 32.0], [0.0, 16.0], [64.0, 48.0]])
    np.testing.assert_allclose(placement.to_original(points), [[50, 25], [0, 0], [100, 50]])
    np.testing.assert_allclose(placement.to_millimeters(points), [[25, 6.25], [0, 0], [50, 12.5]])


def test_the_center_of_a_bright_spot_returns_to_where_it_was():
    pixels = np.zeros((301, 187), np.uint8)
    pixels[200:212, 40:52] = 255  # center at (206, 46)
    square, placement = fit_with_placement(pixels, 128)
    weights = square / square.sum()
    center = [(weights.sum(axis=1 - axis) * (np.arange(128) + 0.5)).sum() for axis in (0, 1)]
    np.testing.assert_allclose(placement.to_original(np.array(center)), [206, 46], atol=0.5)


def test_points_without_spacing_have_no_millimeters():
    with pytest.raises(ValueError, match="unknown"):
        place_in_square(10, 10, 8).to_millimeters(np.zeros((1, 2)))


@pytest.mark.parametrize("shape", SIZES)
def test_a_mask_returns_at_the_size_of_the_original_without_padding(shape):
    square, placement = fit_with_placement(np.full(shape, 7, np.uint8), 64)
    restored = placement.mask_to_original(square)
    assert restored.shape == shape
    assert (restored == 7).all()


def test_a_mask_of_an_enlarged_image_returns_exactly():
    labels = np.random.default_rng(0).integers(0, 5, (9, 6)).astype(np.uint8)
    enlarged = np.zeros((72, 72), np.uint8)
    enlarged[:, 12:60] = labels.repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_array_equal(place_in_square(9, 6, 72).mask_to_original(enlarged), labels)


def test_a_mask_with_labels_in_its_last_axis_keeps_them():
    mask = np.random.default_rng(0).random((8, 8, 3)) > 0.5
    np.testing.assert_array_equal(place_in_square(8, 8, 8).mask_to_original(mask), mask)


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64), (17, 31)])
def test_a_mask_lies_in_the_input_where_its_image_does(shape):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 2 : 3 * shape[1] // 4] = 1
    fitted, placement = fit_with_placement(mask * np.uint8(200), 128)
    placed = placement.mask_to_input(mask, 128)
    assert ((fitted.reshape(128, 128) > 100) != (placed == 1)).mean() < 0.01  # pixels on an edge are mixed
    assert (placement.mask_to_original(placed) != mask).mean() < 0.04


def test_a_mask_of_the_size_of_the_input_is_unchanged():
    mask = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(place_in_square(64, 64, 64).mask_to_input(mask, 64), mask)


def test_placements_survive_packing():
    placements = [place_in_square(33, 71, 64), place_in_square(100, 50, 64, spacing=(0.7, 0.3))]
    assert unpack_placements(pack_placements(placements)) == placements


# --- spacing of files ------------------------------------------------------------------------------------------------
def measures(spacing):
    group, item = Dataset(), Dataset()
    item.PixelSpacing = spacing
    group.PixelMeasuresSequence = Sequence([item])
    return Sequence([group])


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25)),
        ({"SharedFunctionalGroupsSequence": measures([0.7, 0.3])}, (0.7, 0.3)),
        ({"ImagerPixelSpacing": [0.5, 0.25]}, None),
        ({"PixelSpacing": [0, 0.25]}, None),
        ({}, None),
    ],
)
def test_the_spacing_of_a_dicom_is_that_of_the_patient(tmp_path, elements, expected):
    path = write(tmp_path / "a.dcm", ramp(), **elements)
    assert read_spacing(path) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "SRA"])
def test_the_spacing_of_a_nifti_slice_is_that_of_its_rows_and_columns(tmp_path, axes, axis):
    size_in_mm = {"R": 1.0, "L": 1.0, "A": 2.0, "P": 2.0, "S": 3.0}
    ornt = nibabel.orientations.axcodes2ornt(tuple(axes))
    shape = tuple(int(12 / size_in_mm[name]) for name in axes)  # a cube of 12 mm
    affine = nibabel.orientations.inv_ornt_aff(ornt, shape)
    affine[:3, :3] *= np.array([size_in_mm[name] for name in axes])
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine), tmp_path / "a.nii.gz")
    reading = Reading(axis=axis)
    spacing = read_spacing(tmp_path / "a.nii.gz", 0, reading)
    pixels = read_image(tmp_path / "a.nii.gz", 0, reading)
    assert np.array(pixels.shape) * spacing == pytest.approx([12, 12])


# --- the decoded cache -----------------------------------------------------------------------------------------------
def test_the_cache_keeps_the_placement_of_every_dicom(tmp_path):
    for row in range(4):
        path = tmp_path / "set" / "ab"[row % 2] / f"{row}.dcm"
        write(path, np.full((20 + row, 30), row, np.uint8), PixelSpacing=[0.5 + row, 0.25])
    source = open_dataset(find_source(tmp_path / "set"), tmp_path / "cache")
    placements = read_placements(cache_images(source, 16, tmp_path / "cache"))
    rows = [int(str(image).rpartition("/")[2][0]) for image in source.samples.table["image"]]
    assert placements == [place_in_square(20 + row, 30, 16, spacing=(0.5 + row, 0.25)) for row in rows]


def open_four(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6), dtype=np.uint8)
    return open_dataset(make_dataset_spec(make_samples(images, np.arange(4) % 2), channels=1), tmp_path)


def test_pixels_without_files_have_placements_without_spacing(tmp_path):
    source = open_four(tmp_path)
    assert read_placements(cache_images(source, 9, tmp_path)) == [place_in_square(6, 6, 9)] * 4


@pytest.mark.parametrize("damage", ["missing", "old version"])
def test_a_cache_without_placements_is_decoded_again(tmp_path, damage):
    source = open_four(tmp_path)
    path = cache_images(source, 9, tmp_path)
    path.with_name("placements.npy").unlink()
    if damage == "old version":
        path.parent.rename(path.parent.with_name(path.parent.name.replace(f"-v{READER_VERSION}", "-v2")))
    again = cache_images(source, 9, tmp_path)
    assert again.parent.name.endswith(f"-v{READER_VERSION}")
    assert len(read_placements(again)) == 4
