"""Masks are recognized by name or content, and read where nothing labels the images; boxes and outlines are not."""

import nibabel
import numpy as np
import pytest
from folders import card, images, open_source, shared, table
from PIL import Image

from zoo import SEGMENTATION
from zoo.errors import DataError
from zoo.sources.opening import find_source, write_card

NUMBERS = range(12)
NOISE = np.random.default_rng(0)


def photograph(path, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE.normal(120, 30, (side, side)).clip(0, 255).astype(np.uint8)).save(path)


def regions(path, side=32, values=2, step=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = NOISE.integers(0, values, (side // 8, side // 8)) * step
    Image.fromarray(np.kron(blocks, np.ones((8, 8))).astype(np.uint8)).save(path)


def volume(path, *, is_mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = NOISE.integers(0, 3, (8, 8, 4)).astype("u1") if is_mask else NOISE.normal(100, 30, (8, 8, 4)).astype("i2")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def refused(root):
    with pytest.raises(DataError) as caught:
        find_source(root)
    return caught.value


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{0}/images/{1}.png", "{0}/lung masks/{1}.png"),
        ("{0}/images/{1}.png", "{0}/infection masks/{1}.png"),
        ("{0}/{1}.png", "{0}/Ground Truth/{1}.png"),
        ("{0}/images/{1}.png", "{0}/regions/{1}.png"),  # nothing in the name: what it holds tells
        ("{0}/images/{1}.jpg", "{0}/regions/{1}.jpg"),  # a JPEG blurs the edges
        ("{0}/{1}.png", "{0}/{1}_Segmentation.png"),
        ("{0}/{1}.png", "{0}/{1}_tumor.png"),
        ("{0}/{1}.png", "{0}/mask_{1}.png"),
        ("{0}/c{0}{1}/image.png", "{0}/c{0}{1}/lesion.png"),
        ("{0}/{1}_t1.png", "{0}/{1}_msk.png"),  # no file is named like both without an ending
        ("{0}/{1}_t1.png", "{0}/{1}_lesion.png"),
        ("{0}/Bild_{1}.png", "{0}/Maske_{1}.png"),
    ],
)
def test_masks_beside_images_are_left_out_with_a_note(tmp_path, image, mask):
    for label in "ab":
        for number in NUMBERS:
            photograph(tmp_path / image.format(label, number), 64)
            regions(tmp_path / mask.format(label, number), 64)
    spec, samples = open_source(tmp_path)
    expected = {image.format(label, number) for label in "ab" for number in NUMBERS}
    assert (spec.labels, set(samples.table["image"])) == (("a", "b"), expected)
    assert "24 files" in "\n".join(samples.notes)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_masks_of_another_scale_are_left_out_and_images_of_another_shape_are_not(tmp_path):
    for label in "ab":
        for number in NUMBERS:
            photograph(tmp_path / label / f"{number}.png", 64)
            regions(tmp_path / label / f"{number}_lesion.png", 32)
            regions(tmp_path / label / f"{number}_scale.png", 32)
            Image.open(tmp_path / label / f"{number}_scale.png").crop((0, 0, 32, 16)).save(
                tmp_path / label / f"{number}_scale.png"
            )
    samples = open_source(tmp_path)[1]
    assert len(samples.table) == 48 and not any("lesion" in name for name in samples.table["image"])
    assert "24 files *_lesion.* are masks" in "\n".join(samples.notes)


def test_a_blank_first_slice_of_each_case_is_not_a_mask(tmp_path):
    for label in "ab":
        for number in NUMBERS:
            regions(tmp_path / label / f"{number}_1.png")
            for other in "23":
                photograph(tmp_path / label / f"{number}_{other}.png")
    assert len(open_source(tmp_path)[1].table) == 72


def test_images_of_few_values_are_read_if_there_are_no_others(tmp_path):
    for label in "ab":
        for number in NUMBERS:
            regions(tmp_path / label / f"{number}.png")
    assert len(open_source(tmp_path)[1].table) == 24


@pytest.mark.parametrize("second", ["{}/other/{}.png", "{}/{}_late.png"])
def test_a_second_image_of_many_values_is_not_a_mask(tmp_path, second):
    first = "{}/images/{}.png" if "other" in second else "{}/{}.png"
    for label in "ab":
        for number in NUMBERS:
            photograph(tmp_path / first.format(label, number))
            photograph(tmp_path / second.format(label, number))
    table(tmp_path, "image,label", *(f"{first.format(label, n)},{label}" for label in "ab" for n in NUMBERS))
    assert "masks" not in "\n".join(open_source(tmp_path)[1].notes)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case_{:05}/imaging.nii.gz", "case_{:05}/segmentation.nii.gz"),  # KiTS
        ("volume-{}.nii", "segmentation-{}.nii"),  # LiTS
        ("volumes/volume-{}.nii", "segmentations/segmentation-{}.nii"),
        ("patient{:03}/patient{:03}_frame01.nii.gz", "patient{:03}/patient{:03}_frame01_gt.nii.gz"),  # ACDC
        ("imagesTr/scan_{:03}_0000.nii.gz", "labelsTr/scan_{:03}.nii.gz"),  # nnU-Net
        ("sub{}/t1.nii", "sub{}/tumor.nii"),  # nothing in the name
        ("sub{0}_dwi.nii.gz", "sub{0}_msk.nii.gz"),
        ("sub{0}_dwi.nii.gz", "sub{0}_lesion.nii.gz"),
    ],
)
def test_volumes_that_are_masks_are_left_out(tmp_path, image, mask):
    names = [image.format(*[number] * 2) for number in NUMBERS]
    for number, name in zip(NUMBERS, names, strict=True):
        volume(tmp_path / name, is_mask=False)
        volume(tmp_path / mask.format(*[number] * 2), is_mask=True)
    table(tmp_path, "path,label", *(f"{name},{'xy'[number % 2]}" for number, name in enumerate(names)))
    samples = open_source(tmp_path)[1]
    assert {name.partition("#")[0] for name in samples.table["image"]} == set(names)
    assert "masks" in "\n".join(samples.notes)


# --- other tasks -----------------------------------------------------------------------------------------------------
def drive(root):
    for split in ("training", "test"):
        for number in NUMBERS:
            photograph(root / split / "images" / f"{number}_{split}.tif")
            regions(root / split / "1st_manual" / f"{number}_manual1.gif")
            regions(root / split / "mask" / f"{number}_{split}_mask.gif")


def pairs(root):
    for number in NUMBERS:
        photograph(root / "Original" / f"{number}.png")
        regions(root / "Ground Truth" / f"{number}.png", values=4, step=40)


def test_masks_are_the_targets_where_nothing_labels_the_images(tmp_path):
    pairs(tmp_path)
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (SEGMENTATION, ("40", "80", "120"))
    drawn = np.asarray(Image.open(tmp_path / "Ground Truth" / "3.png"))
    np.testing.assert_array_equal(samples.masks("Original/3.png"), drawn // 40)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


def test_masks_whose_names_fit_no_image_are_asked_for(tmp_path):
    drive(tmp_path)  # the masks of the field of view do fit
    assert refused(tmp_path).code == "mask"


def test_images_that_a_card_leaves_out_are_not_masks(tmp_path):
    for number in NUMBERS:
        photograph(tmp_path / f"{number}.png")
    card(tmp_path, 'exclude = ["1.png"]\ndrop = ["2.png"]\n')
    assert refused(tmp_path).code == "data"


def area(path, *, rows, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize("names", [("_mask", "_mask_2"), ("_reader1", "_reader2"), ("_mask", "_mask_b")])
def test_a_second_reader_of_some_images_is_asked_for(tmp_path, names):
    for number in NUMBERS:
        photograph(tmp_path / f"{number}.png")
        area(tmp_path / f"{number}{names[0]}.png", rows=slice(4, 20))
        if number % 2:
            area(tmp_path / f"{number}{names[1]}.png", rows=slice(5, 21))
    card(tmp_path, 'task = "segmentation"\n')
    error = refused(tmp_path)
    assert error.code == "several-masks" and f"6 of 12 images have 2 masks: {{stem}}{names[0]}.*" in error.message


def test_a_second_reader_is_asked_for_below_the_named_folder(tmp_path):
    for number in NUMBERS:
        photograph(tmp_path / "set" / "images" / f"{number}.png")
        area(tmp_path / "set" / "masks" / f"{number}_mask.png", rows=slice(4, 20))
        if number % 2:
            area(tmp_path / "set" / "masks" / f"{number}_mask_2.png", rows=slice(5, 21))
    assert refused(tmp_path).code == "several-masks"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{split}/images/{n}.png", "{split}/masks/{n}.png"),
        ("images/{split}/{split}{n}.png", "masks/{split}/{split}{n}.png"),
        ("{split}/{n}.png", "{split}/masks/{n}_mask.png"),
    ],
)
def test_masks_are_found_in_folders_of_splits(tmp_path, image, mask):
    for split, height in (("train", 9), ("test", 3)):
        for number in NUMBERS:
            photograph(tmp_path / image.format(split=split, n=number))
            area(tmp_path / mask.format(split=split, n=number), rows=slice(0, height))
    samples = open_source(tmp_path)[1]
    for split, height in (("train", 9), ("test", 3)):
        assert all(samples.masks(image.format(split=split, n=number)).sum() == 32 * height for number in NUMBERS)


def test_a_star_beside_the_stem_leaves_the_longest_name_of_an_image(tmp_path):
    for number in NUMBERS:  # 1 and 11
        photograph(tmp_path / "images" / f"{number}.png")
        area(tmp_path / "masks" / f"{number}a.png", rows=slice(0, number + 1))
    card(tmp_path, 'task = "segmentation"\nimages = "images/*"\nmasks = {path = "masks/{stem}*.png"}\n')
    samples = open_source(tmp_path)[1]
    assert [int(samples.masks(f"images/{number}.png").sum()) // 32 for number in NUMBERS] == [n + 1 for n in NUMBERS]


@pytest.mark.slow
def test_two_readers_are_asked_for():
    error = refused(shared("chasedb1"))
    assert error.code == "several-masks" and "{stem}_1stHO.* and {stem}_2ndHO.*" in error.message


def test_masks_of_volumes_whose_names_do_not_say_so_are_refused(tmp_path):
    for number in NUMBERS:
        volume(tmp_path / f"sub{number}/t1.nii", is_mask=False)
        volume(tmp_path / f"sub{number}/tumor.nii", is_mask=True)
    assert refused(tmp_path).code == "volume-masks"


def test_folders_of_volumes_and_masks_may_have_german_names(tmp_path):
    for number in NUMBERS:
        volume(tmp_path / f"bilder/ct_{number}.nii.gz", is_mask=False)
        volume(tmp_path / f"masken/ct_{number}.nii.gz", is_mask=True)
    assert open_source(tmp_path)[0].task == SEGMENTATION


def test_real_volumes_with_masks_are_a_set_of_volumes():
    spec, samples = open_source(shared("msd_hippocampus"))
    assert (spec.task, spec.dims, spec.labels, len(samples.table)) == (SEGMENTATION, 3, ("1", "2"), 260)


def test_real_boxes_are_refused():
    assert refused(shared("bccd")).code == "boxes"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("Annotations/0.xml", "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"),
        ("labels/0.txt", "0 0.5 0.5 0.25 0.1\n"),
        ("annotations/instances.json", '{"annotations": [{"bbox": [1, 2, 3, 4]}]}'),
    ],
)
def test_files_of_boxes_without_labels_are_refused(tmp_path, file, text):
    images(tmp_path, *(f"images/{number}.png" for number in NUMBERS))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    error = refused(tmp_path)
    assert error.code == "boxes" and file in error.message


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels/train/0.txt", "0 0.5 0.5 0.25 0.1 0.2 0.2\n"),  # a polygon of YOLO
        ("images/train/0.json", '{"shapes": [{"points": [[1, 2], [3, 4], [5, 6]]}]}'),  # LabelMe
        ("annotations/all.json", '{"annotations": [{"segmentation": [[1, 2, 3, 4, 5, 6]]}]}'),
    ],
)
def test_files_of_outlines_without_labels_are_refused(tmp_path, file, text):
    images(tmp_path, *(f"images/{split}/{number}.png" for split in ("train", "val") for number in NUMBERS))
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).write_text(text)
    error = refused(tmp_path)
    assert error.code == "outlines" and file in error.message


def test_a_table_of_encoded_masks_is_refused(tmp_path):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "ImageId,EncodedPixels", "a.png,1 3 10 5", "b.png,-1", name="train-rle.csv")
    error = refused(tmp_path)
    assert error.code == "outlines" and "EncodedPixels in train-rle.csv" in error.message


@pytest.mark.parametrize("label", ["class", "cell_type"])
def test_boxes_with_several_labels_per_image_are_refused(tmp_path, label):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, f"filename,{label},xmin,ymin,xmax,ymax", "a.png,x,1,2,3,4", "a.png,y,2,3,4,5", "b.png,x,1,1,2,2")
    assert refused(tmp_path).code == "boxes"
