"""Wrong masks are refused in one line that names the file, before anything is allocated for them."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
from folders import card
from PIL import Image

from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.sources.opening import find_source

NOISE = np.random.default_rng(0)
SHAPE = (12, 10, 8)
MAX_BYTES = 50_000_000  # traced while a set of tiny files is refused


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def block(dtype=np.uint8):
    mask = np.zeros(SHAPE, dtype)
    mask[2:6, 3:7, 1:5] = 1
    return mask


@pytest.fixture
def volumes(tmp_path):
    """Volumes and masks in two folders; the tests replace `labelsTr/c3`."""
    for number in range(12):
        save(tmp_path / "set" / "imagesTr" / f"c{number}.nii.gz", NOISE.normal(100, 9, SHAPE).astype(np.float32))
        save(tmp_path / "set" / "labelsTr" / f"c{number}.nii.gz", block())
    return tmp_path / "set"


def error_of(root):
    """The line of the error of a set, and the peak of memory in bytes until it was raised."""
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        open_dataset(find_source(root), root.parent / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = caught.value.line()
    assert "\n" not in line and "fix: " in line and len(line) < 600
    assert peak < MAX_BYTES
    return line


def huge(path, *, dtype=np.uint8, shape=(3500, 3500, 3500)):
    """A NIfTI whose header declares 40 GB, with 1 kB of values."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = header.binaryblock + bytes(4 + 1024)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def with_nan():
    mask = block(np.float32)
    mask[0, 0, 0] = np.nan
    return mask


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.stack([block()] * 2, axis=-1), "an array of shape (12, 10, 8, 2), expected a volume with 3 axes"),
        (with_nan(), "NaN or infinite values in a label map"),
        (block(np.float32) * np.float32(0.4), "values 0.4 in a label map, expected whole numbers"),
        (-block(np.int16), "values -1 in a label map"),
    ],
)
def test_a_mask_that_is_no_label_map_is_refused_by_name(volumes, mask, problem):
    save(volumes / "labelsTr" / "c3.nii.gz", mask)
    line = error_of(volumes)
    assert problem in line and "labelsTr/c3.nii.gz" in line


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("", "labelsTr/c3.nii.gz has 8999; expected at most 255 labels"),
        ("1", "c3.nii.gz: value 2 is no label"),
    ],
)
def test_thousands_of_labels_are_refused_without_listing_them(volumes, labels, problem):
    values = np.arange(9_000, dtype=np.int32).reshape(30, 30, 10)
    save(volumes / "labelsTr" / "c3.nii.gz", values)
    save(volumes / "imagesTr" / "c3.nii.gz", values.astype(np.float32))
    if labels:
        card(volumes, 'labels = {1 = "organ"}\n')
    assert problem in error_of(volumes)


@pytest.mark.parametrize("folder", ["labelsTr", "imagesTr"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("labels", ["", 'labels = {1 = "organ"}\n'])
def test_a_header_of_forty_gigabytes_is_refused_before_allocation(volumes, folder, suffix, labels):
    if labels:
        card(volumes, labels)
    (volumes / folder / "c3.nii.gz").unlink()
    huge(volumes / folder / f"c3{suffix}")
    line = error_of(volumes)
    shapes = ("declares 3500 x 3500 x 3500", "is [3500 3500 3500]")  # itself, or compared with the other file
    assert f"{folder}/c3{suffix}" in line and any(shape in line for shape in shapes)


def test_a_mask_of_another_place_is_refused_with_both_affines(volumes):
    affine = np.diag([1, 1, 1, 1.0])
    affine[:3, 3] = 5
    save(volumes / "labelsTr" / "c3.nii.gz", block(), affine)
    line = error_of(volumes)
    assert "labelsTr/c3.nii.gz: its affine is [1 0 0 5;" in line and "imagesTr/c3.nii.gz is [1 0 0 0;" in line


def test_a_volume_without_a_mask_is_refused_by_name(volumes):
    (volumes / "labelsTr" / "c3.nii.gz").unlink()
    assert "1 of 12 images have no mask, first imagesTr/c3.nii.gz" in error_of(volumes)


def test_a_mask_without_its_volume_is_counted_by_name(volumes):
    save(volumes / "labelsTr" / "odd.nii.gz", block())
    source = open_dataset(find_source(volumes), volumes.parent / "cache")
    assert len(source.sample_ids) == 12
    assert "1 masks belong to no image, first labelsTr/odd.nii.gz" in source.samples.notes


# --- images ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def pictures(tmp_path):
    for number in range(12):
        for folder, pixels in (("images", NOISE.integers(0, 255, (16, 16))), ("masks", NOISE.integers(0, 2, (16, 16)))):
            path = tmp_path / "set" / folder / f"c{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "set"


def test_a_mask_of_another_size_than_its_image_is_refused(pictures, tmp_path):
    Image.fromarray(np.ones((16, 17), np.uint8)).save(pictures / "masks" / "c3.png")
    from zoo.data.dataset import Resolution, cache_decoded

    source = open_dataset(find_source(pictures), tmp_path / "cache")
    with pytest.raises(DataError, match=r"the mask of images/c3.png has 17 x 16 pixels, but its image has 16 x 16"):
        cache_decoded(source, Resolution(16, None), tmp_path / "decoded")


def test_an_image_without_a_mask_is_refused_by_name(pictures):
    (pictures / "masks" / "c3.png").unlink()
    assert "1 of 12 images have no mask, first images/c3.png" in error_of(pictures)


def test_a_mask_of_an_array_file_with_a_huge_header_is_refused(pictures):
    (pictures / "masks" / "c3.png").unlink()
    with open(pictures / "masks" / "c3.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (200_000, 200_000)}
        )
        stream.write(bytes(64))
    card(pictures, 'task = "segmentation"\nimages = "images/*"\nmasks = {path = "masks/{stem}.*"}\n')
    assert "masks/c3.npy: " in error_of(pictures)
