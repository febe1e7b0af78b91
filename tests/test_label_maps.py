"""Label maps read from files, paired by case and compared grid by grid."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError, UsageError
from zoo.images.label_maps import check_same_grid, read_declared_spacing, read_label_map
from zoo.sources.label_map_pairs import find_label_maps, pair_label_maps, read_case_patients

MAP = np.zeros((6, 8), np.uint8)
MAP[1:4, 2:5], MAP[4:, 5:] = 1, 2
BINARY = (MAP > 0).astype(np.uint8)
VOLUME = np.zeros((4, 5, 6), np.uint8)
VOLUME[1:3, 1:4, 2:5] = 3


def png(path: Path, array, mode=None, palette=None) -> Path:
    image = Image.fromarray(array)
    if palette:
        image.putpalette(palette)
    image = image.convert(mode) if mode else image
    image.save(path)
    return path


def nifti(path: Path, array=VOLUME, spacing=(1.0, 1.0, 2.5), axes="RAS", shift=0.0) -> Path:
    """Write the same places whatever the axes along which the array is stored."""
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))
    image.affine[:3, 3] += shift
    stored = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    nibabel.save(image.as_reoriented(stored), path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_label_map(path)
    line = caught.value.line()
    assert path.name in line and "\n" not in line
    return line


# --- formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_a_mask_of_0_and_255_is_read_as_0_and_1(tmp_path, suffix):
    read = read_label_map(png(tmp_path / f"a{suffix}", BINARY * 255))
    assert np.array_equal(read.labels, BINARY)
    assert (read.values, read.is_white, read.spacing) == ((1,), True, None)


def test_a_1_bit_mask_is_read_as_0_and_1(tmp_path):
    assert np.array_equal(read_label_map(png(tmp_path / "a.png", BINARY * 255, "1")).labels, BINARY)


def test_label_numbers_are_kept(tmp_path):
    assert np.array_equal(read_label_map(png(tmp_path / "a.png", MAP)).labels, MAP)
    deep = MAP.astype(np.uint16) * 1000
    assert np.array_equal(read_label_map(png(tmp_path / "b.png", deep)).labels, deep)


def test_a_palette_is_read_by_index_and_a_black_and_white_one_by_color(tmp_path):
    colors = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert np.array_equal(read_label_map(png(tmp_path / "a.png", MAP, palette=colors)).labels, MAP)
    inverted = png(tmp_path / "b.png", 1 - BINARY, palette=[255, 255, 255, 0, 0, 0])
    assert np.array_equal(read_label_map(inverted).labels, BINARY)


def test_a_gray_mask_in_three_channels_is_read_as_gray(tmp_path):
    assert np.array_equal(read_label_map(png(tmp_path / "a.png", BINARY * 255, "RGB")).labels, BINARY)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_an_npy_of_whole_numbers_is_read(tmp_path, dtype):
    np.save(tmp_path / "a.npy", BINARY.astype(dtype))
    assert np.array_equal(read_label_map(tmp_path / "a.npy").labels, BINARY)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_is_reoriented_with_its_spacing_and_affine(tmp_path, axes, suffix):
    first, second = (read_label_map(nifti(tmp_path / f"{each}{suffix}", axes=each)) for each in ("RAS", axes))
    assert np.array_equal(second.labels, VOLUME)
    assert second.labels.flags.c_contiguous
    assert second.spacing == pytest.approx((1.0, 1.0, 2.5))
    check_same_grid(first, second)
    assert read_declared_spacing(second.path) == pytest.approx(second.spacing)


def test_scaled_and_floating_point_niftis_are_read(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.astype(np.float64), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii.gz")
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_slope_inter(2.0, 0.0)
    nibabel.save(image, tmp_path / "b.nii")
    values = nibabel.load(tmp_path / "b.nii").get_fdata()
    assert np.array_equal(read_label_map(tmp_path / "a.nii.gz").labels, VOLUME)
    assert np.array_equal(read_label_map(tmp_path / "b.nii").labels, values)


def test_a_volume_of_one_slice_is_an_image(tmp_path):
    read = read_label_map(nifti(tmp_path / "a.nii.gz", MAP[:, :, None], (0.5, 0.7, 9.0)))
    assert np.array_equal(read.labels, MAP)
    assert read.spacing == pytest.approx((0.5, 0.7))


# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_lossy_mask_is_refused_with_its_values(tmp_path, golden):
    Image.fromarray(BINARY * 255).save(tmp_path / "a.jpg", quality=60)
    golden(refusal(tmp_path / "a.jpg"), "JPEG")


def test_a_smoothed_mask_is_refused_with_its_values(tmp_path, golden):
    smooth = Image.fromarray(BINARY * 255).resize((80, 60), Image.Resampling.BILINEAR)
    smooth.save(tmp_path / "a.png")
    golden(refusal(tmp_path / "a.png"), "mask")


def test_a_mask_in_colors_is_refused(tmp_path, golden):
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[MAP]
    golden(refusal(png(tmp_path / "a.png", colors)), "(255, 0, 0)")


@pytest.mark.parametrize(
    "array",
    [
        np.where(BINARY, np.nan, 0.0),
        BINARY * 0.5,
        BINARY.astype(np.int16) * -1,
        BINARY.astype(np.int32) * 70_000,
        np.arange(10_001 * 2, dtype=np.uint16).reshape(2, -1),
        np.zeros((2, 3, 4, 5), np.uint8),
        np.zeros(7, np.uint8),
    ],
    ids=["nan", "fractions", "negative", "large", "many", "4-D", "1-D"],
)
def test_an_array_that_is_no_label_map_is_refused(tmp_path, golden, array):
    np.save(tmp_path / "a.npy", array)
    golden(refusal(tmp_path / "a.npy"), "error[mask]")


def test_a_nifti_of_four_axes_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    assert "(2, 3, 4, 5)" in refusal(tmp_path / "a.nii.gz")


def test_a_header_of_40_gb_is_refused_before_it_is_unpacked(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((20_000, 20_000, 100))
    header.set_data_dtype(np.uint8)
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(5000))
    assert "ends early" in refusal(tmp_path / "a.nii")


# --- grids -----------------------------------------------------------------------------------------------------------
def test_another_grid_is_refused_with_both_values(tmp_path, golden):
    reference = read_label_map(nifti(tmp_path / "reference.nii.gz"))
    np.save(tmp_path / "plain.npy", VOLUME)
    others = [
        nifti(tmp_path / "shape.nii.gz", VOLUME[:, :, :5]),
        nifti(tmp_path / "spacing.nii.gz", spacing=(1.0, 1.0, 2.0)),
        nifti(tmp_path / "affine.nii.gz", shift=0.01),
        tmp_path / "plain.npy",
    ]
    for other in others:
        with pytest.raises(DataError) as caught:
            check_same_grid(reference, read_label_map(other))
        golden(caught.value.line(), "geometry", other.name, "reference.nii.gz")


def test_a_difference_of_header_rounding_is_the_same_grid(tmp_path):
    one, other = (read_label_map(nifti(tmp_path / f"{shift}.nii", shift=shift)) for shift in (0.0, 0.0005))
    check_same_grid(one, other)


# --- pairs -----------------------------------------------------------------------------------------------------------
def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return str(root)


def test_files_of_folders_are_paired_by_path_without_suffix(tmp_path):
    predictions = find_label_maps(touch(tmp_path / "p", "a.nii.gz", "deep/b.png", "c.png", "plans.json", ".hidden.png"))
    references = find_label_maps(touch(tmp_path / "r", "a.nii.gz", "deep/b.npy", "d.png"))
    pairs = pair_label_maps(predictions, references)
    assert list(pairs.pairs) == ["a", "d", "deep/b"]
    assert [path.name for path in pairs.unpredicted] == ["d.png"]
    assert [path.name for path in pairs.unmatched] == ["c.png"]
    assert predictions.others == ("plans.json",)


def test_composed_and_decomposed_names_are_one_case(tmp_path):
    predictions = find_label_maps(touch(tmp_path / "p", "N\u00fa\u00f1ez.png"))
    references = find_label_maps(touch(tmp_path / "r", "Nu\u0301n\u0303ez.png"))
    assert not pair_label_maps(predictions, references).unpredicted


def test_a_star_stands_for_the_case(tmp_path):
    root = touch(tmp_path, "x_seg.png", "x_image.png", "y_seg.png", "one/mask.png")
    assert list(find_label_maps(f"{root}/*_seg.png").by_case) == ["x", "y"]
    assert list(find_label_maps(f"{root}/*/mask.png").by_case) == ["one"]


@pytest.mark.parametrize("place", ["missing", "empty", "*/*.png", "twice"])
def test_a_place_without_one_mask_per_case_is_refused(tmp_path, golden, place):
    touch(tmp_path / "empty", "notes.txt")
    touch(tmp_path / "twice", "a.png", "a.npy")
    with pytest.raises(UsageError) as caught:
        find_label_maps(f"{tmp_path}/{place}")
    golden(caught.value.line(), "error[masks]")


def test_two_places_without_a_common_case_are_refused(tmp_path, golden):
    places = [find_label_maps(touch(tmp_path / name, f"a{name}.png", f"b{name}.png")) for name in ("p", "r")]
    with pytest.raises(UsageError) as caught:
        pair_label_maps(*places)
    golden(caught.value.line(), "'ap'", "'ar'")


def test_patients_are_read_by_case(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("\ufeffcase,patient,eye\na,p1,left\nb,p1,right\n", encoding="utf-8")
    assert read_case_patients(path) == {"a": "p1", "b": "p1"}


@pytest.mark.parametrize("text", ["image,patient\na,p\n", "case,patient\na,\n", "case,patient\na,p\na,q\n"])
def test_an_invalid_table_of_patients_is_refused(tmp_path, text):
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"patients\.csv"):
        read_case_patients(path)
