"""NRRD and MetaImage volumes, against files that SimpleITK wrote and small files written here."""

import gzip
import zlib

import nibabel
import numpy as np
import pytest
from folders import card, open_source

from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.images.formats import read_header, read_spacing, read_values
from zoo.images.label_maps import read_declared_spacing, read_grid, read_label_map
from zoo.images.text_headers import stored_files
from zoo.images.volumes import count_stored_channels, open_volume
from zoo.sources.imported_masks import Expected, read_imported
from zoo.sources.listing import list_folder
from zoo.sources.opening import find_source
from zoo.sources.whole_volumes import open_whole

NOISE = np.random.default_rng(0)
VALUES = NOISE.integers(-500, 500, (7, 6, 5)).astype(np.int16)
SIZES, ORIGIN = (0.5, 0.75, 2.0), (-10.0, 20.0, 30.0)
# The axes of the file in LPS: the first runs to posterior, the second to the left, the third down
DIRECTIONS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]).T


def expected_affine():
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS * SIZES
    affine[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write_nrrd(path, array, *more, pack=False, **fields):
    """A NRRD as 3D Slicer writes it; the first of four axes has the channels."""
    vectors = " ".join(f"({','.join(map(str, row))})" for row in (DIRECTIONS * SIZES).T)
    known = {
        "type": {"i": "short", "u": "unsigned char"}[array.dtype.kind],
        "dimension": array.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)),
        "space directions": f"none {vectors}" if array.ndim == 4 else vectors,
        "kinds": "vector domain domain domain" if array.ndim == 4 else "domain domain domain",
        "endian": "little",
        "encoding": "gzip" if pack else "raw",
        "space origin": f"({','.join(map(str, ORIGIN))})",
        **fields,
    }
    lines = ["NRRD0004", "# a comment: of 2026", *(f"{name}: {value}" for name, value in known.items()), *more]
    data = array.tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, "", ""]).encode() + (gzip.compress(data) if pack else data))
    return path


def write_mha(path, array, *, pack=False, **fields):
    channels = array.shape[0] if array.ndim == 4 else 1
    data = array.tobytes(order="F")
    known = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(pack),
        "TransformMatrix": " ".join(map(str, DIRECTIONS.T.ravel())),
        "Offset": " ".join(map(str, ORIGIN)),
        "ElementSpacing": " ".join(map(str, SIZES)),
        "DimSize": " ".join(map(str, array.shape[-3:])),
        **({"ElementNumberOfChannels": channels} if channels > 1 else {}),
        "ElementType": {"i": "MET_SHORT", "u": "MET_UCHAR"}[array.dtype.kind],
        **fields,
    }
    known["ElementDataFile"] = known.pop("ElementDataFile", "LOCAL")  # the last line
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "".join(f"{name} = {value}\n" for name, value in known.items())
    path.write_bytes(header.encode() + (zlib.compress(data) if pack else data))
    return path


WRITERS = {".nrrd": write_nrrd, ".mha": write_mha}


def write_detached(path, array, *, pack=False, before=b""):
    """A header and, in another file, its array after some bytes."""
    data = array.tobytes(order="F")
    is_nrrd = path.suffix == ".nhdr"
    raw = path.with_suffix((".raw.gz" if is_nrrd else ".zraw") if pack else ".raw")
    if is_nrrd:
        skip = {"byte skip": len(before)} if before else {}
        write_nrrd(path, array, pack=pack, **skip, **{"data file": raw.name})
        path.write_bytes(path.read_bytes().partition(b"\n\n")[0] + b"\n")  # no empty line at the end
    else:
        skip = {"HeaderSize": -1} if before else {}
        write_mha(path, array, pack=pack, **skip, ElementDataFile=raw.name)
        path.write_bytes(path.read_bytes().partition(raw.name.encode())[0] + raw.name.encode())
    raw.write_bytes(before + ((gzip.compress if is_nrrd else zlib.compress)(data) if pack else data))
    return path


DETACHED = (".nhdr", ".mhd")


def upright(array):
    """The same volume by nibabel, in RAS+ order."""
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(array, expected_affine()))


@pytest.mark.parametrize("pack", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_values_axes_sizes_and_places_are_those_of_the_same_nifti(tmp_path, suffix, pack):
    path = WRITERS[suffix](tmp_path / f"a{suffix}", VALUES, pack=pack)
    nifti = upright(VALUES)
    volume, grid = open_volume(path), read_grid(path)
    np.testing.assert_array_equal(volume.array, nifti.dataobj)
    np.testing.assert_allclose(volume.affine, nifti.affine)
    np.testing.assert_allclose(volume.voxel, nifti.header.get_zooms())
    assert grid.shape == nifti.shape and grid.spacing == read_declared_spacing(path) == volume.voxel
    np.testing.assert_allclose(grid.affine, nifti.affine)
    nibabel.save(nibabel.Nifti1Image(VALUES, expected_affine()), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_values(path, 2), read_values(tmp_path / "a.nii", 2))
    assert read_spacing(path, 2) == read_spacing(tmp_path / "a.nii", 2) == (0.5, 0.75)
    assert read_header(path).frames == 5


@pytest.mark.parametrize(("pack", "before"), [(False, b""), (True, b""), (False, b"12345678")])
@pytest.mark.parametrize("suffix", DETACHED)
def test_the_array_of_a_detached_header_is_read_from_its_file(tmp_path, suffix, pack, before):
    path = write_detached(tmp_path / f"a{suffix}", VALUES, pack=pack, before=before)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.array, upright(VALUES).dataobj)
    np.testing.assert_allclose(volume.affine, upright(VALUES).affine)
    assert [file.suffix for file in stored_files(path)] == [
        suffix,
        ".gz" if pack and suffix == ".nhdr" else ".zraw" if pack else ".raw",
    ]


@pytest.mark.parametrize("suffix", DETACHED)
@pytest.mark.parametrize("name", ["gone.raw", "../a.raw", "/etc/passwd", "a%03d.raw 1 3 1", "LIST", "LIST 2"])
def test_a_detached_header_names_one_file_beside_it(tmp_path, suffix, name):
    path = write_detached(tmp_path / f"a{suffix}", VALUES)
    path.write_bytes(path.read_bytes().replace(b"a.raw", name.encode()))
    with pytest.raises(DataError) as caught:
        open_volume(path)
    assert "\n" not in caught.value.line() and ("gone.raw: no such file" in str(caught.value)) == (name == "gone.raw")


@pytest.mark.parametrize("suffix", DETACHED)
def test_the_data_file_of_a_detached_header_may_have_spaces_and_accents_in_its_name(tmp_path, suffix):
    path = write_detached(tmp_path / f"a{suffix}", VALUES)
    path.with_suffix(".raw").rename(tmp_path / "Müller 1.raw")
    path.write_bytes(path.read_bytes().replace(b"a.raw", "Müller 1.raw".encode()))
    np.testing.assert_array_equal(open_volume(path).array, upright(VALUES).dataobj)
    assert list_folder(tmp_path).others == ()


def test_an_array_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    path = write_detached(tmp_path / "set" / "a.mhd", VALUES)
    path.with_suffix(".raw").rename(tmp_path / "elsewhere.raw")
    path.with_suffix(".raw").symlink_to(tmp_path / "elsewhere.raw")
    refusals = {}
    assert not list_folder(tmp_path / "set", refusals.__setitem__).images
    assert "a link to" in str(refusals["a.mhd"])


def test_a_changed_array_of_a_detached_header_changes_all_that_was_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        write_detached(tmp_path / "set" / "imagesTr" / f"{number}.mhd", VALUES + number)
        write_detached(tmp_path / "set" / "labelsTr" / f"{number}.mhd", (number < VALUES).astype(np.uint8))
    root = card(
        tmp_path / "set",
        'task = "segmentation"\ndims = 3\nimages = "imagesTr/*"\nmasks = {path = "labelsTr/{stem}.mhd"}\n',
    )
    first = open_dataset(find_source(root), tmp_path / "cache")
    assert len(first.sample_ids) == 3 and not any("not read" in note for note in first.samples.notes)
    for folder, values in (("imagesTr", -VALUES), ("labelsTr", (VALUES < 0).astype(np.uint8))):
        (root / folder / "1.raw").write_bytes(values.tobytes(order="F"))  # the headers stay as they are
    with pytest.raises(DataError, match=r"1.raw was changed"):
        first.samples.read("imagesTr/1.mhd")
    second = open_dataset(find_source(root), tmp_path / "cache")
    assert (first.digests != second.digests).tolist() == [False, True, False]
    assert [one != two for one, two in zip(first.mask_digests, second.mask_digests, strict=True)] == [
        False,
        True,
        False,
    ]
    np.testing.assert_array_equal(second.samples.volumes("imagesTr/1.mhd"), upright(-VALUES).dataobj)


@pytest.mark.parametrize("suffix", WRITERS)
def test_channels_become_the_last_axis(tmp_path, suffix):
    channels = np.stack([VALUES, -VALUES])
    volume, _ = open_whole(WRITERS[suffix](tmp_path / f"a{suffix}", channels))
    for channel, values in enumerate((VALUES, -VALUES)):
        np.testing.assert_array_equal(volume.array[..., channel], upright(values).dataobj)
    assert count_stored_channels(tmp_path / f"a{suffix}") == 2
    with pytest.raises(DataError):
        open_volume(tmp_path / f"a{suffix}")


def test_big_endian_values_are_read(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", VALUES.astype(">i2"), endian="big")
    np.testing.assert_array_equal(open_volume(path).array, upright(VALUES).dataobj)


def test_a_volume_without_a_place_in_the_patient_keeps_its_axes(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", VALUES, space="")
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.array, VALUES)
    grid = read_grid(path)
    assert volume.affine is None and (grid.shape, grid.spacing, grid.affine) == (VALUES.shape, None, None)


def test_a_predicted_mask_may_have_a_place_that_its_reference_lacks(tmp_path):
    reference = write_nrrd(tmp_path / "a.nrrd", np.ones(VALUES.shape, np.uint8), space="")
    nibabel.save(nibabel.Nifti1Image(np.ones(VALUES.shape, np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    read = read_imported(tmp_path / "a.nii.gz", (1,), Expected(shape=VALUES.shape, spacing=None, reference=reference))
    assert read.shape == VALUES.shape and read.all()


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_image_of_two_axes_is_upright(tmp_path, suffix):
    path = WRITERS[suffix](tmp_path / f"a{suffix}", VALUES[:, :, 0])
    header = read_header(path)
    assert (header.width, header.height, header.frames) == (7, 6, 1)
    np.testing.assert_array_equal(read_values(path, 0), VALUES[:, :, 0].T)


FAULTS = {
    "detached": lambda path: write_nrrd(path / "a.nrrd", VALUES, "data file: a.raw"),
    "text": lambda path: write_nrrd(path / "a.nrrd", VALUES, encoding="ascii"),
    "bz2": lambda path: write_nrrd(path / "a.nrrd", VALUES, encoding="bzip2"),
    "block": lambda path: write_nrrd(path / "a.nrrd", VALUES, type="block"),
    "huge": lambda path: write_nrrd(path / "a.nrrd", VALUES, sizes="4000 4000 2000"),
    "huge packed": lambda path: write_nrrd(path / "a.nrrd", VALUES, sizes="4000 4000 2000", pack=True),
    "short packed": lambda path: write_nrrd(path / "a.nrrd", VALUES, sizes="7 6 6", pack=True),
    "long packed": lambda path: write_nrrd(path / "a.nrrd", VALUES, sizes="7 6 4", pack=True),
    "negative": lambda path: write_nrrd(path / "a.nrrd", VALUES, sizes="-7 6 5"),
    "four axes": lambda path: write_nrrd(
        path / "a.nrrd", np.stack([VALUES] * 2), kinds=" ".join(["domain"] * 4), **{"space directions": ""}
    ),
    "mha detached": lambda path: write_mha(path / "a.mha", VALUES, ElementDataFile="a.raw"),
    "mha text": lambda path: write_mha(path / "a.mha", VALUES, BinaryData="False"),
    "mha type": lambda path: write_mha(path / "a.mha", VALUES, ElementType="MET_LONG_LONG"),
    "mha huge": lambda path: write_mha(path / "a.mha", VALUES, DimSize="4000 4000 2000", pack=True),
    "mha word": lambda path: write_mha(path / "a.mha", VALUES, DimSize="seven 6 5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_read_is_refused_in_one_line_that_names_the_file(tmp_path, fault):
    path = FAULTS[fault](tmp_path)
    with pytest.raises(DataError) as caught:
        open_whole(path)
    assert path.name in caught.value.line() and "\n" not in caught.value.line()


@pytest.mark.parametrize("start", [b"", b"NRRD0004\n", b"ObjectType = Image\nNDims = 3\n", bytes(range(256))])
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_that_is_neither_is_refused_in_one_line(tmp_path, start, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(start)
    with pytest.raises(DataError) as caught:
        open_volume(path)
    assert path.name in caught.value.line() and "\n" not in caught.value.line()


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_set_of_volumes_and_masks_is_read_without_a_card(tmp_path, suffix):
    labels = {}
    for number in range(6):
        mask = np.zeros(VALUES.shape, np.uint8)
        mask[number : number + 2, 1:4, 1:3] = 1
        labels[f"imagesTr/p{number}{suffix}"] = mask
        WRITERS[suffix](tmp_path / "imagesTr" / f"p{number}{suffix}", VALUES + np.int16(number))
        WRITERS[suffix](tmp_path / "labelsTr" / f"p{number}{suffix}", mask, pack=True)
    spec, samples = open_source(tmp_path)
    assert (spec.dims, spec.task.name, len(samples.table)) == (3, "segmentation", 6)
    for image, mask in labels.items():
        np.testing.assert_array_equal(samples.masks(image), upright(mask).dataobj)
        assert samples.spacing(image) == (0.75, 0.5, 2.0)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    for number in range(4):
        write_nrrd(tmp_path / "images" / f"p{number}.nrrd", VALUES)
        write_nrrd(
            tmp_path / "masks" / f"p{number}.nrrd", (VALUES > 400).astype(np.uint8), **{"space origin": "(0,0,0)"}
        )
    text = (
        'task = "segmentation"\ndims = 3\nimages = "images/*"\nmasks = {path = "masks/{stem}.nrrd"}\nlabels = ["a"]\n'
    )
    _, samples = open_source(card(tmp_path, text))
    with pytest.raises(DataError) as caught:
        samples.masks("images/p0.nrrd")
    assert caught.value.code == "geometry" and "affine" in caught.value.message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [*WRITERS, *DETACHED])
def test_files_of_simpleitk_are_read_as_it_reads_them(tmp_path, suffix, packed):
    sitk = pytest.importorskip("SimpleITK")
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])  # oblique
    for name, array in [("scan", VALUES), ("mask", (VALUES > 0).astype(np.uint8))]:
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing(SIZES)
        image.SetOrigin(ORIGIN)
        image.SetDirection(turn.ravel())
        sitk.WriteImage(image, str(tmp_path / f"{name}{suffix}"), packed)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        ours, nifti = (open_volume(tmp_path / f"{name}{each}") for each in (suffix, ".nii.gz"))
        np.testing.assert_array_equal(ours.array, nifti.array)
        np.testing.assert_allclose(ours.affine, nifti.affine, atol=1e-5)
    both = [read_label_map(tmp_path / f"mask{each}") for each in (suffix, ".nii.gz")]
    np.testing.assert_array_equal(both[0].labels, both[1].labels)
    sitk.WriteImage(sitk.Compose(image, image), str(tmp_path / f"channels{suffix}"), packed)
    channels = open_whole(tmp_path / f"channels{suffix}")[0].array
    np.testing.assert_array_equal(channels, np.stack([both[0].labels] * 2, axis=-1))
