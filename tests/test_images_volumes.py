"""Slices of volumes, compared with nibabel, NumPy and tifffile; invalid volumes are refused."""

import gzip
import os
import pickle
import shutil
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from bad_sets import MAX_BYTES, measure
from costs import peak_memory

from zoo.errors import DataError
from zoo.images import volumes
from zoo.images.formats import read_header, read_image, read_values
from zoo.images.reading import AS_STORED, Reading
from zoo.images.volumes import count_stored_channels
from zoo.sources.opening import find_source
from zoo.sources.whole_volumes import open_whole
from zoo.specs.dataset import DatasetSpec, Samples, SamplesRequest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BRAIN = np.random.default_rng(0).integers(-100, 900, (5, 6, 7)).astype(np.int16)
PAGES = Reading(pages=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def nifti(path: Path, array=BRAIN, axes: str = "RAS", slope: float | None = None, inter: float = 0.0) -> Path:
    """Write a NIfTI whose array is stored along `axes`."""
    ornt = nibabel.orientations.axcodes2ornt(tuple(axes))
    affine = nibabel.orientations.inv_ornt_aff(ornt, array.shape[:3]) if array.ndim >= 3 else np.eye(4)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(slope, inter if slope else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def refusal(path: Path, reading: Reading = AS_STORED) -> str:
    with pytest.raises(DataError) as caught:
        read_header(path, reading)
    line = caught.value.line()
    assert "\n" not in line
    assert path.name in line
    return line


def open_source(path: Path) -> tuple[DatasetSpec, Samples]:
    spec = find_source(path)
    return spec, pickle.loads(pickle.dumps(spec.samples))(SamplesRequest(folder=path))


# --- slices against the libraries ------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", ["RAS", "LPS", "LIA", "PSR"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_match_the_closest_canonical_volume_upright(tmp_path, axes, axis, suffix):
    path = nifti(tmp_path / f"a{suffix}", axes=axes)
    reference = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    reading = Reading(axis=axis)
    header = read_header(path, reading)
    assert header.frames == reference.shape[axis]
    for frame in range(header.frames):
        plane = np.take(reference, frame, axis)
        values = read_values(path, frame, reading)
        assert np.array_equal(values, np.rot90(plane.T, 2))
        assert (header.height, header.width) == values.shape


def test_an_axial_slice_has_anterior_on_top_and_the_patients_right_on_the_left(tmp_path):
    array = np.zeros((4, 4, 2), np.uint8)  # RAS+: the first index grows to the right of the patient
    array[3, 3, 0] = 200  # the patient's right, front, foot
    assert np.argwhere(read_image(nifti(tmp_path / "a.nii", array), 0) == 200).tolist() == [[0, 0]]
    array = np.zeros((4, 4, 2), np.uint8)
    array[0, 3, 1] = 200  # left, front, head
    coronal = read_image(nifti(tmp_path / "b.nii", array), 3, Reading(axis=1))
    assert np.argwhere(coronal == 200).tolist() == [[0, 3]]


def test_slope_and_intercept_are_applied(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", slope=0.5, inter=-10.0)
    reference = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    header = read_header(path)
    assert header.values == (reference.min(), reference.max())
    assert header.step == 0.5
    assert np.array_equal(read_values(path, 2), reference[:, :, 2].T[::-1, ::-1])


def test_the_range_of_a_float_volume_is_measured_and_whole_numbers_are_detected(tmp_path):
    whole = read_header(nifti(tmp_path / "a.nii", BRAIN.astype(np.float32)))
    fraction = read_header(nifti(tmp_path / "b.nii", BRAIN.astype(np.float32) / 3))
    assert (whole.values, whole.step) == ((BRAIN.min(), BRAIN.max()), 1.0)
    assert fraction.step == 0.0
    assert fraction.values == pytest.approx((BRAIN.min() / 3, BRAIN.max() / 3))


def test_a_color_volume_and_one_with_a_trailing_axis_of_one_are_read(tmp_path):
    colors = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colors["G"] = np.arange(120).reshape(4, 5, 6)
    image = read_image(nifti(tmp_path / "rgb.nii.gz", colors), 3)
    assert image.shape == (5, 4, 3)
    assert np.array_equal(image[..., 1], colors["G"][:, :, 3].T[::-1, ::-1])
    assert read_header(nifti(tmp_path / "a.nii", BRAIN[..., None])).frames == 7


def test_slices_of_an_npy_and_of_tiff_pages_match_the_array(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(BRAIN))
    for axis in range(3):
        reading = Reading(axis=axis)
        assert read_header(tmp_path / "a.npy", reading).frames == BRAIN.shape[axis]
        assert np.array_equal(read_values(tmp_path / "a.npy", 2, reading), np.take(BRAIN, 2, axis))
    stack = BRAIN.astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", compression="zlib")
    assert read_header(tmp_path / "a.tif", PAGES).frames == 5
    assert np.array_equal(read_values(tmp_path / "a.tif", 3, PAGES), tifffile.imread(tmp_path / "a.tif")[3])
    color = np.random.default_rng(1).integers(0, 255, (3, 6, 5, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", color, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "rgb.tif", 1, PAGES), color[1])
    tifffile.imwrite(tmp_path / "inverted.tif", color[..., 0], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "inverted.tif", 1, PAGES), 255 - color[1, ..., 0])


@pytest.mark.parametrize("name", ["rgb.tif", "rgb.nii.gz", "rgb.npy", "gray.tif"])
def test_the_channels_of_a_whole_volume_are_counted_as_they_are_read(tmp_path, name):
    color, path = np.random.default_rng(1).integers(0, 255, (5, 6, 7, 3), dtype=np.uint8), tmp_path / name
    if name == "rgb.npy":
        np.save(path, color)
    elif path.suffix == ".tif":
        gray = name == "gray.tif"
        tifffile.imwrite(path, color[..., 0] if gray else color, photometric="minisblack" if gray else "rgb")
    else:
        nibabel.save(nibabel.Nifti1Image(color.view([(band, "u1") for band in "RGB"])[..., 0], np.eye(4)), path)
    volume, _ = open_whole(path)
    assert volume.array.shape[:3] == (5, 6, 7)
    assert count_stored_channels(path) == volume.array[0, 0, 0].size == (1 if name == "gray.tif" else 3)


def test_an_npy_of_two_axes_or_of_colors_is_one_image(tmp_path):
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "gray.npy", plane)
    np.save(tmp_path / "rgb.npy", np.repeat(plane[..., None], 3, axis=2))
    assert read_header(tmp_path / "gray.npy").frames is None
    assert np.array_equal(read_image(tmp_path / "gray.npy"), plane)
    assert read_header(tmp_path / "rgb.npy").channels == 3
    np.save(tmp_path / "volume.npy", BRAIN)
    assert "slices = {axis = 0}" in refusal(tmp_path / "volume.npy")


# --- speed -----------------------------------------------------------------------------------------------------------
def test_a_packed_volume_is_unpacked_once_for_all_its_slices_by_several_threads(tmp_path, monkeypatch):
    paths = [nifti(tmp_path / f"{name}.nii.gz") for name in "ab"]
    unpacked = []
    monkeypatch.setattr(
        volumes.RECENT_VOLUMES, "open_file", lambda path: unpacked.append(path) or volumes.open_volume_file(path)
    )
    with ThreadPoolExecutor(4) as pool:
        frames = [(path, frame) for path in paths for frame in range(7)]
        slices = list(pool.map(lambda arguments: read_values(*arguments), frames))
    assert unpacked == paths
    assert np.array_equal(slices[8], BRAIN[:, :, 1].T[::-1, ::-1])


def test_only_recent_volumes_are_cached(tmp_path, monkeypatch):
    paths = [nifti(tmp_path / f"{number}.nii.gz") for number in range(6)]
    monkeypatch.setattr(volumes.RECENT_VOLUMES, "limit_bytes", 3 * BRAIN.nbytes)
    for path in paths:
        read_values(path, 0)
    assert 1 <= len(volumes.RECENT_VOLUMES.opened) <= 3
    assert str(paths[-1]) in {key[0][0] for key in volumes.RECENT_VOLUMES.opened}


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_while_its_parent_holds_the_lock(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    read_values(path, 0)
    with volumes.RECENT_VOLUMES.lock:
        child = os.fork()
        if not child:
            os._exit(0 if np.array_equal(read_values(path, 1), BRAIN[:, :, 1].T[::-1, ::-1]) else 1)
        assert os.waitpid(child, 0)[1] == 0


# --- bad input -------------------------------------------------------------------------------------------------------
def test_damaged_nifti_files_are_refused_with_their_name(tmp_path):
    whole = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 9999, (30, 30, 30), dtype=np.int16))
    data = whole.read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.nii.gz").write_bytes(data[:-4000] + bytes([data[-4000] ^ 8]) + data[-3999:])
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(data)[:5000])
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "page.nii.gz").write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    (tmp_path / "header.nii").write_bytes(b"\0" * 348)
    assert "copy it again" in refusal(tmp_path / "cut.nii.gz")
    assert "cannot be decoded" in refusal(tmp_path / "flipped.nii.gz")
    assert "ends early" in refusal(tmp_path / "cut.nii")
    assert "the file is empty" in refusal(tmp_path / "empty.nii.gz")
    assert "web page" in refusal(tmp_path / "page.nii.gz")
    refusal(tmp_path / "header.nii")


def huge_header(path: Path, dims: tuple[int, ...], data: bytes = b"\0" * 1000) -> Path:
    header = nibabel.Nifti1Header()
    header.set_data_shape(dims)
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + b"\0" * 4 + data
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dim", (3, 6, 0, 6, 1, 1, 1, 1), "which is not a volume"),
        ("vox_offset", 100_000, "ends early"),
        ("datatype", 1792, "complex128"),  # with its bitpix, below
    ],
)
def test_invalid_headers_are_refused(tmp_path, field, value, expected):
    header = nibabel.Nifti1Header()
    header.set_data_shape((6, 6, 6))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"], header["scl_slope"] = 352, b"n+1", 1
    header[field] = value
    if field == "datatype":
        header["bitpix"] = 128
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 4 + np.arange(3500, dtype=np.int16).tobytes() * 2)
    assert expected in refusal(tmp_path / "a.nii")


def test_a_slice_beyond_the_end_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.nii: slice 7 of 7"):
        read_values(nifti(tmp_path / "a.nii"), 7)


def test_values_that_are_not_levels_need_a_range(tmp_path):
    with pytest.raises(DataError, match="int16 values, but no range"):
        read_image(nifti(tmp_path / "a.nii"), 0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_of_30000_cubed_is_refused_without_allocating_it(tmp_path, name):
    path = huge_header(tmp_path / name, (30000, 30000, 30000))
    with peak_memory() as peak:
        assert "30000 x 30000 x 30000" in refusal(path)
    assert peak.bytes < 10e6


def test_a_packed_volume_that_would_not_fit_into_memory_is_refused_before_reading(tmp_path):
    path = huge_header(tmp_path / "bomb.nii.gz", (1000, 1000, 1000), b"\0" * 4_000_000)
    with open(path, "ab") as stream:
        stream.write(os.urandom(2_000_000))
    assert "more than 768 MB" in refusal(path)


@pytest.mark.parametrize("shape", [(9,), (4, 4, 4, 3), (3, 3, 3, 2, 2)])
def test_a_nifti_of_another_rank_is_refused(tmp_path, shape):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    assert "expected a volume with 3 axes" in refusal(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_reported_with_their_slice(tmp_path, bad):
    array = BRAIN.astype(np.float32)
    array[1, 2, 3] = bad
    assert "1 of 30 values in slice 3 are NaN or infinite" in refusal(nifti(tmp_path / "a.nii.gz", array))


def test_npy_files_with_pickles_or_false_headers_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], dtype=object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "line.npy", np.arange(9))
    np.save(tmp_path / "five.npy", np.zeros((2, 2, 2, 2, 2)))
    with open(tmp_path / "huge.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f8", "fortran_order": False, "shape": (10_000, 10_000, 12_500)}
        )
    for name in ("objects", "pickle", "empty", "text", "huge"):
        refusal(tmp_path / f"{name}.npy")
    for name in ("line", "five"):
        assert "expected a volume with 3 axes" in refusal(tmp_path / f"{name}.npy", Reading(axis=0))


def test_tiff_stacks_that_do_not_fit_or_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tiff:
        tiff.write(np.zeros((4, 4), np.uint8))
        tiff.write(np.zeros((5, 4), np.uint8))
    assert "page 1 is uint8 (5, 4), page 0 is uint8 (4, 4)" in refusal(tmp_path / "mixed.tif", PAGES)
    with tifffile.TiffWriter(tmp_path / "bomb.tif") as tiff:
        encoded = zlib.compress(bytes(7000 * 7000))
        for _ in range(20):
            tiff.write(iter([encoded]), shape=(7000, 7000), dtype=np.uint8, compression="zlib", rowsperstrip=7000)
    with peak_memory() as peak:
        assert "20 x 7000 x 7000 of uint8, more than 768 MB" in refusal(tmp_path / "bomb.tif", PAGES)
    assert peak.bytes < 10e6


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_the_largest_volume_that_is_read_takes_less_than_1500_megabytes(tmp_path):
    path = huge_header(tmp_path / "zeros.nii.gz", (700, 700, 800), bytes(2 * 700 * 700 * 800))
    code = "import sys, pathlib; from zoo.images.formats import read_header; read_header(pathlib.Path(sys.argv[1]))"
    done = measure([sys.executable, "-c", code, path])
    assert done.status == 0 and done.peak < MAX_BYTES


# --- sets of volumes -------------------------------------------------------------------------------------------------
def blank_at_the_ends(seed: int) -> np.ndarray:
    array = np.random.default_rng(seed).integers(0, 1000, (6, 5, 8)).astype(np.int16)
    array[:, :, [0, 7]] = 0
    return array


def class_folders(root: Path, suffix: str = ".nii.gz") -> Path:
    for number in range(6):
        nifti(root / ("sick" if number % 2 else "well") / f"p{number}{suffix}", blank_at_the_ends(number))
    return root


def test_class_folders_of_volumes_are_slices_of_one_patient_each_with_a_note(tmp_path):
    spec, samples = open_source(class_folders(tmp_path))
    assert len(samples.table) == 6 * 6
    assert samples.table["sample_id"].iloc[0] == "sick/p1.nii.gz#1"
    assert samples.table["patient"].nunique() == 6
    assert spec.labels == ("sick", "well")
    notes = "\n".join(samples.notes)
    assert "6 volumes give 36 slices across axis 2 (axial)" in notes
    assert "12 with only one value are left out (guessed" in notes
    assert "no patient key" in notes
    expected = blank_at_the_ends(1)[:, :, 1].T[::-1, ::-1]
    # the smallest value is level 0, and each step is a level
    assert np.array_equal(samples.read("sick/p1.nii.gz#1"), expected)


def test_axis_step_and_keep_are_applied(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "dataset.toml").write_text('slices = {axis = 1, step = 2, keep = "all"}\n')
    _, samples = open_source(tmp_path)
    frames = [name.rpartition("#")[2] for name in samples.table["sample_id"] if "p1" in name]
    assert frames == ["0", "2", "4"]
    assert samples.reading["axis"] == 1
    assert np.array_equal(samples.read("sick/p1.nii.gz#2"), blank_at_the_ends(1)[:, 2, :].T[::-1, ::-1])
    (tmp_path / "dataset.toml").write_text('slices = {step = 2, keep = "all"}\n')
    assert len(open_source(tmp_path)[1].table) == 6 * 4


def test_constant_volumes_have_no_slices_and_are_reported(tmp_path):
    root = class_folders(tmp_path)
    nifti(root / "sick" / "blank.nii.gz", np.full((5, 6, 7), 3, np.int16))
    _, samples = open_source(root)
    assert any("1 volumes have no slice left, first sick/blank.nii.gz" in note for note in samples.notes)
    for path in root.rglob("*.nii.gz"):
        nifti(path, np.full((5, 6, 7), 3, np.int16))
    with pytest.raises(DataError, match="every slice has only one value, as in all other volumes"):
        find_source(root)


@pytest.mark.parametrize("cell", ["p{}", "p{}.nii.gz", "scans/p{}.nii.gz"])
def test_a_table_lists_volumes_and_masks_beside_them_are_not_images(tmp_path, cell):
    for number in range(4):
        nifti(tmp_path / "scans" / f"p{number}.nii.gz", blank_at_the_ends(number))
        nifti(tmp_path / "scans" / f"p{number}_seg.nii.gz", blank_at_the_ends(number))
        nifti(tmp_path / "labelsTr" / f"p{number}.nii.gz", blank_at_the_ends(number))
    rows = [f"{cell.format(number)},{'ab'[number % 2]},m{number // 2}\n" for number in range(4)]
    (tmp_path / "labels.csv").write_text("".join(["file,label,patient\n", *rows]))
    _, samples = open_source(tmp_path)
    assert {name.partition("#")[0] for name in samples.table["image"]} == {f"scans/p{n}.nii.gz" for n in range(4)}
    assert set(samples.table["patient"]) == {"m0", "m1"}
    assert any("8 masks beside volumes" in note for note in samples.notes)


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_truncated_stack_is_named_but_not_the_complete_ones_beside_it(tmp_path, share):
    for number in range(4):
        path = tmp_path / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, BRAIN.astype(np.uint16), photometric="minisblack")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"b/3\.tif: "):
        find_source(tmp_path)


def test_tiffs_that_all_have_pages_are_stacks_and_a_single_one_is_an_error(tmp_path):
    for number in range(4):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        pages = np.random.default_rng(number).integers(0, 255, (3, 8, 9), dtype=np.uint8)
        tifffile.imwrite(folder / f"{number}.tif", pages, photometric="minisblack")
    _, samples = open_source(tmp_path)
    assert len(samples.table) == 12
    assert np.array_equal(samples.read("a/2.tif#1"), tifffile.imread(tmp_path / "a" / "2.tif")[1])
    tifffile.imwrite(tmp_path / "a" / "single.tif", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match="3 pages"):
        find_source(tmp_path)
    (tmp_path / "dataset.toml").write_text('slices = {keep = "all"}\n')
    assert len(open_source(tmp_path)[1].table) == 13


def test_volumes_of_different_depths_share_one_mapping_and_coarse_ones_are_reported(tmp_path):
    for number, scale in enumerate((1, 1, 1, 1000)):
        array = np.random.default_rng(number).random((6, 6, 3)).astype(np.float32) * scale
        nifti(tmp_path / "ab"[number % 2] / f"{number}.nii", array)
    _, samples = open_source(tmp_path)
    low, high = samples.reading["levels"]
    values = nibabel.load(tmp_path / "b" / "3.nii").get_fdata()[:, :, 0].T[::-1, ::-1]
    assert np.abs(samples.read("b/3.nii#0") - (values - low) / (high - low) * 65535).max() <= 0.5 + 1e-6
    assert any("3 of 4 volumes span under 10% of this range and are nearly black" in note for note in samples.notes)


def test_volumes_without_a_unit_may_each_have_their_own_levels(tmp_path):
    for number, scale in enumerate((1, 1, 50, 1000)):
        array = np.random.default_rng(number).random((6, 6, 4)).astype(np.float32) * scale
        nifti(tmp_path / "ab"[number % 2] / f"{number}.nii", array)
    (tmp_path / "dataset.toml").write_text('intensity = {percentiles = [10, 90], each = "volume"}\n')
    _, samples = open_source(tmp_path)
    assert samples.reading == {"percentiles": (10.0, 90.0), "bits": 16}
    assert any("percentiles 10 and 90 of each volume become levels 0 to 65535" in note for note in samples.notes)
    for image in ("a/0.nii", "a/2.nii", "b/3.nii"):
        values = nibabel.load(tmp_path / image).get_fdata()
        low, high = np.percentile(values, [10, 90])
        expected = np.clip((values[:, :, 2].T[::-1, ::-1] - low) / (high - low), 0, 1) * 65535
        assert np.abs(samples.read(f"{image}#2") - expected).max() < 65535 / 500  # quantiles in steps of 0.001


def test_levels_of_each_volume_are_refused_where_there_is_none(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "x.npy", BRAIN[:, :, 0].astype(np.uint16))
    (tmp_path / "dataset.toml").write_text('intensity = {percentiles = [0, 99], each = "volume"}\n')
    with pytest.raises(DataError, match=r"x\.npy: not a volume, as intensity\.each = 'volume' needs"):
        find_source(tmp_path)


def test_volumes_are_not_read_again_for_a_second_opening(tmp_path, monkeypatch):
    first = find_source(class_folders(tmp_path))
    monkeypatch.setattr(volumes, "read_header", lambda *_: pytest.fail("was not remembered"))
    assert find_source(tmp_path).labels == first.labels


def test_the_hippocampus_dataset_matches_nibabel(tmp_path):
    source = SHARED / "msd_hippocampus"
    if not source.exists():
        pytest.skip("msd_hippocampus is not in ../shared/data")
    names = sorted(path.name for path in (source / "imagesTr").glob("*.nii.gz"))[:20]
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(source / folder / name, tmp_path / folder / name)
    deep = {name: nibabel.load(source / "imagesTr" / name).shape[2] > 35 for name in names}
    rows = [f"{name.removesuffix('.nii.gz')},{'deep' if deep[name] else 'shallow'}" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["volume,label", *rows]) + "\n")
    (tmp_path / "dataset.toml").write_text("slices = {axis = 2, step = 8}\n")
    spec, samples = open_source(tmp_path)
    assert samples.table["patient"].nunique() == 20
    assert spec.labels == ("deep", "shallow")
    low, high = samples.reading["levels"]
    for image in samples.table["image"][::7]:
        name, _, frame = image.partition("#")
        volume = nibabel.as_closest_canonical(nibabel.load(source / name)).get_fdata()
        expected = (volume[:, :, int(frame)].T[::-1, ::-1] - low) / (high - low) * 65535
        assert np.abs(samples.read(image) - expected).max() <= 0.5 + 1e-6
