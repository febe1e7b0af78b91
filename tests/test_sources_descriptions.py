"""Sets of masks that a JSON file describes: nnU-Net's raw data and MONAI's datalists."""

import json

import nibabel
import numpy as np
import pytest
from folders import card, open_source, refusal
from PIL import Image

from zoo import SEGMENTATION
from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.sources.opening import find_source, write_card

NOISE = np.random.default_rng(0)
SHAPE = (10, 9, 8)
LABELS = {"background": 0, "liver": 1, "tumor": 4}


def volume(path, values=None, spacing=(1.0, 1.5, 2.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = NOISE.normal(100, 20, SHAPE).astype(np.float32) if values is None else values
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)


def block(value=1, shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[2:6, 3:7, 1:5] = 1
    mask[4, 4, 2] = value
    return mask


def photograph(path, *, is_mask=False, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = NOISE.integers(0, 2, size) if is_mask else NOISE.integers(0, 255, (*size, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def nnunet(root, cases=("a_01", "a_02", "b_01", "b_02"), channels=("CT",), ending=".nii.gz", **changes):
    """nnU-Net's raw data: every case has a file per channel and a mask."""
    for case in cases:
        for number in range(len(channels)):
            volume(root / "imagesTr" / f"{case}_{number:04}{ending}")
        volume(root / "labelsTr" / f"{case}{ending}", block(4))
    describe(root, channels, ending, len(cases), **changes)
    return root


def describe(root, channels, ending, count, **changes):
    document = {
        "channel_names": dict(enumerate(channels)),
        "labels": LABELS,
        "numTraining": count,
        "file_ending": ending,
        **changes,
    }
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def error_of(root, cache):
    """The line of the error of a dataset, found when it is listed or when it is opened."""
    with pytest.raises(DataError) as caught:
        open_dataset(find_source(root), cache)
    line = caught.value.line()
    assert "\n" not in line
    return line


# --- nnU-Net ---------------------------------------------------------------------------------------------------------
def test_raw_data_of_nnunet_are_read_without_a_card(tmp_path):
    nnunet(tmp_path)
    volume(tmp_path / "imagesTs" / "c_01_0000.nii.gz")
    (tmp_path / "splits_final.json").write_text("[]")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.dims, spec.labels, spec.modality) == (SEGMENTATION, 3, ("liver", "tumor"), "CT")
    assert list(samples.table["image"]) == [f"imagesTr/{case}_0000.nii.gz" for case in ("a_01", "a_02", "b_01", "b_02")]
    np.testing.assert_array_equal(samples.masks("imagesTr/b_01_0000.nii.gz"), np.where(block(4) == 4, 2, block(4)))
    assert any("splits_final.json is not used" in note for note in samples.notes)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_channels_of_nnunet_are_read_as_one_volume(tmp_path):
    nnunet(tmp_path, channels=("T1", "T2"))
    samples = open_source(tmp_path)[1]
    image = "imagesTr/a_02_0000.nii.gz"
    assert len(samples.table) == 4
    second = nibabel.load(tmp_path / "imagesTr" / "a_02_0001.nii.gz").get_fdata()
    np.testing.assert_array_equal(samples.volumes(image)[..., 1], second.astype(np.float32))
    assert samples.more_files[image] == (tmp_path / "imagesTr" / "a_02_0001.nii.gz",)
    written = open_source(write_card(tmp_path))[1]
    np.testing.assert_array_equal(written.volumes(image), samples.volumes(image))


def test_a_changed_second_channel_changes_the_content_hash(tmp_path):
    nnunet(tmp_path, channels=("T1", "T2"))
    spec = find_source(tmp_path)
    before = open_dataset(spec, tmp_path / "cache")
    assert before.samples.volumes("imagesTr/a_01_0000.nii.gz").shape == (*SHAPE, 2)
    volume(tmp_path / "imagesTr" / "a_01_0001.nii.gz")
    assert open_dataset(spec, tmp_path / "cache").content_hash != before.content_hash
    with pytest.raises(DataError, match=r"a_01_0001.nii.gz was changed"):
        before.samples.volumes("imagesTr/a_01_0000.nii.gz")


def test_color_images_of_nnunet_are_read_from_one_file(tmp_path):
    for case in ("s1", "s2", "s3"):
        photograph(tmp_path / "imagesTr" / f"{case}_0000.png")
        photograph(tmp_path / "labelsTr" / f"{case}.png", is_mask=True)
    describe(tmp_path, ("R", "G", "B"), ".png", 3, labels={"background": 0, "road": 1})
    spec, samples = open_source(tmp_path)
    assert (spec.dims, spec.labels, spec.channels, len(samples.table)) == (2, ("road",), 3, 3)
    drawn = np.asarray(Image.open(tmp_path / "labelsTr" / "s2.png"))
    np.testing.assert_array_equal(samples.masks("imagesTr/s2_0000.png"), drawn)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_patients_of_nnunet_are_proposed_and_not_assumed(tmp_path):
    nnunet(tmp_path, cases=[f"p{patient:02}_{scan}" for patient in range(6) for scan in "ab"])
    spec, samples = open_source(tmp_path)
    assert "patient" not in samples.table.columns and spec.patient.startswith("none")
    hint = next(note for note in samples.notes if "share 6 beginnings" in note)
    expression = hint.partition("patient = ")[2]
    card(tmp_path, f'task = "segmentation"\npatient = {expression}\n')
    assert open_source(tmp_path)[1].table["patient"].nunique() == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'whole' is a region of several values, [1, 2]"),
        ({"labels": {"background": 0, "whole": [1, 4], "core": 4}}, 'labels = {1 = "NAME", 4 = "NAME"}'),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "'ignore' marks voxels without a label"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "'b' has the value 1"),
        ({"labels": {"background": 0, "a": "1"}}, "'a' has the value '1'"),
        ({"labels": None}, "labels is missing"),
        ({"file_ending": ".mhd"}, "file_ending is '.mhd'"),
        ({"file_ending": None}, "file_ending is None"),
        ({"channel_names": {}}, "channel_names is empty"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "a_01_0001.nii.gz is missing"),
        ({"numTraining": 5}, "numTraining is 5, but labelsTr has 4 files"),
        ({"dataset": {}}, "its key `dataset` lists files elsewhere"),
    ],
)
def test_a_wrong_description_of_nnunet_is_refused_in_one_line(tmp_path, changes, expected):
    line = refusal(nnunet(tmp_path, **changes))
    assert expected in line and ("dataset.json" in line or "a_01_0001" in line)


@pytest.mark.parametrize(
    ("file", "is_removed", "expected"),
    [
        ("labelsTr/a_02.nii.gz", True, "imagesTr/a_02_0000.nii.gz: labelsTr/a_02.nii.gz is missing"),
        ("labelsTr/odd.nii.gz", False, "labelsTr/odd.nii.gz: imagesTr/odd_0000.nii.gz is missing"),
        ("imagesTr/odd.nii.gz", False, "imagesTr/odd.nii.gz: no image of nnU-Net"),
        ("imagesTr/a_01_0001.nii.gz", False, "a_01_0001.nii.gz is not in channel_names"),
    ],
)
def test_files_of_nnunet_without_their_counterpart_are_refused_by_name(tmp_path, file, is_removed, expected):
    nnunet(tmp_path)
    if is_removed:
        (tmp_path / file).unlink()
    else:
        volume(tmp_path / file, block())
    assert expected in refusal(tmp_path)


def test_a_channel_on_another_grid_is_refused_by_name(tmp_path):
    nnunet(tmp_path, channels=("T1", "T2"))
    volume(tmp_path / "imagesTr" / "b_01_0001.nii.gz", spacing=(1.0, 1.5, 2.5))
    source = open_dataset(find_source(tmp_path), tmp_path / "cache")
    with pytest.raises(
        DataError, match=r"b_01_0001.nii.gz: its spacing is \[1 1.5 2.5\], that of .*b_01_0000"
    ) as caught:
        source.samples.volumes("imagesTr/b_01_0000.nii.gz")
    assert caught.value.code == "geometry"


def test_labels_of_a_card_replace_regions(tmp_path):
    nnunet(tmp_path, labels={"background": 0, "whole": [1, 4], "core": 4})
    card(tmp_path, 'labels = {1 = "edema", 4 = "core"}\n')
    assert open_source(tmp_path)[0].labels == ("edema", "core")


def test_a_card_of_another_task_is_read_by_its_own_rules(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "labels.csv").write_text(
        "image,label\n" + "".join(f"{n}_0000.nii.gz,{n[0]}\n" for n in ("a_01", "a_02", "b_01", "b_02"))
    )
    card(tmp_path, 'task = "binary"\n')
    assert open_source(tmp_path)[0].labels == ("a", "b")


# --- MONAI -----------------------------------------------------------------------------------------------------------
def datalist(root, entries=None, name="folds.json", **others):
    for number in range(6):
        volume(root / "scans" / f"{number}.nii.gz")
        volume(root / "drawn" / f"x{number}.nii.gz", block())
    entries = entries or [
        {"image": f"scans/{number}.nii.gz", "label": f"./drawn/x{number}.nii.gz", "fold": number % 3}
        for number in range(6)
    ]
    (root / name).write_text(json.dumps({"training": entries, **others}))
    return root


@pytest.mark.parametrize("by", ["", "folds.json"])
def test_a_datalist_pairs_images_and_masks(tmp_path, by):
    datalist(tmp_path, testing=[{"image": "scans/9.nii.gz"}])
    spec, samples = open_source(tmp_path / by)
    assert (spec.task, spec.dims, spec.labels, len(samples.table)) == (SEGMENTATION, 3, ("foreground",), 6)
    np.testing.assert_array_equal(samples.masks("scans/4.nii.gz"), block())
    notes = "\n".join(samples.notes)
    assert "fold of folds.json (3 folds) is not used" in notes and "1 entries of folds.json are left out" in notes
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_sections_of_a_datalist_are_the_official_split(tmp_path):
    validation = [{"image": "scans/5.nii.gz", "label": "drawn/x5.nii.gz"}]
    training = [{"image": f"scans/{n}.nii.gz", "label": f"drawn/x{n}.nii.gz"} for n in range(5)]
    datalist(tmp_path, training, validation=validation, labels={"0": "background", "1": "liver"})
    spec, samples = open_source(tmp_path)
    assert list(samples.table["split"]) == ["train"] * 5 + ["val"] and spec.labels == ("liver",)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_several_files_of_an_image_in_a_datalist_are_its_channels(tmp_path):
    names = ("flair", "t1", "t1ce")
    for case in ("B1", "B2"):
        for name in names:
            volume(tmp_path / case / f"{case}_{name}.nii.gz")
        volume(tmp_path / case / f"{case}_seg.nii.gz", block())
    entries = [
        {"image": [f"{case}/{case}_{name}.nii.gz" for name in names], "label": f"{case}/{case}_seg.nii.gz"}
        for case in ("B1", "B2")
    ]
    (tmp_path / "brats.json").write_text(json.dumps({"training": entries}))
    samples = open_source(tmp_path)[1]
    assert list(samples.table["image"]) == ["B1/B1_flair.nii.gz", "B2/B2_flair.nii.gz"]
    assert samples.volumes("B2/B2_flair.nii.gz").shape == (*SHAPE, 3)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


ENTRY = {"image": "scans/0.nii.gz", "label": "drawn/x0.nii.gz"}


@pytest.mark.parametrize(
    ("entries", "others", "expected"),
    [
        ([ENTRY | {"fold:": 0}], {}, "training 0: unknown key 'fold:'. Did you mean 'fold'?"),
        ([ENTRY], {"validaton": []}, "unknown key 'validaton'. Did you mean 'validation'?"),
        ([ENTRY | {"label": 1}], {}, "training 0: its label is 1, expected the name of a mask"),
        ([{"image": "scans/0.nii.gz"}], {}, "no entry has a label"),
        ([ENTRY | {"image": "scans/77.nii.gz"}], {}, "training 0: no image 'scans/77.nii.gz'"),
        ([ENTRY | {"label": "drawn/77.nii.gz"}], {}, "training 0: label: no mask 'drawn/77.nii.gz'"),
        ([ENTRY | {"label": "../../x.nii.gz"}], {}, "training 0: label: '../../x.nii.gz' leads out of"),
        ([ENTRY, ENTRY | {"label": "drawn/x1.nii.gz"}], {}, "scans/0.nii.gz has label"),
        ([ENTRY, {**ENTRY, "image": ["scans/1.nii.gz", "scans/2.nii.gz"]}], {}, "the files of its channels are"),
        ([ENTRY, 7], {}, "training 1 is 7"),
    ],
)
def test_a_wrong_datalist_is_refused_in_one_line(tmp_path, entries, others, expected):
    assert expected in refusal(datalist(tmp_path, entries, **others) / "folds.json")


def test_two_datalists_are_asked_for(tmp_path):
    datalist(datalist(tmp_path), name="other.json")
    assert "several datalists: folds.json and other.json" in refusal(tmp_path)


def test_a_json_file_that_lists_no_images_is_refused(tmp_path):
    datalist(tmp_path)
    (tmp_path / "other.json").write_text('{"training": 3}')
    assert "neither a datalist of MONAI nor" in refusal(tmp_path / "other.json")


# --- tables ----------------------------------------------------------------------------------------------------------
def test_a_column_of_a_table_names_the_masks(tmp_path):
    datalist(tmp_path)
    (tmp_path / "folds.json").unlink()
    rows = [f"scans/{number}.nii.gz,drawn/x{5 - number}.nii.gz,p{number % 2}" for number in range(6)]
    volume(tmp_path / "drawn" / "x0.nii.gz", np.zeros(SHAPE, np.uint8))
    (tmp_path / "masks.csv").write_text("\n".join(["image,mask,patient", *rows]))
    text = (
        'task = "segmentation"\ndims = 3\ntable = "masks.csv"\njoin = {column = "image"}\nmasks = {column = "mask"}\n'
    )
    samples = open_source(card(tmp_path, text))[1]
    assert list(samples.table["patient"]) == ["p0", "p1"] * 3
    assert [bool(samples.masks(image).any()) for image in samples.table["image"]] == [True] * 5 + [False]
    (tmp_path / "masks.csv").write_text("\n".join(["image,mask,patient", *rows[:-1], "scans/5.nii.gz,,p1"]))
    assert "1 of 6 images have no mask, first scans/5.nii.gz" in refusal(card(tmp_path, text))
