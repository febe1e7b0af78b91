"""Files in unread formats are counted, and a label without a readable image is refused."""

import pytest
from dicom_files import ramp, write
from folders import card, images, open_source, table

from zoo.errors import DataError
from zoo.sources.opening import find_source


def files(root, *names, data=b"\0\0\0\x18ftypheic"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def notes_of(root):
    return "\n".join(open_source(root)[1].notes)


def refused(root):
    with pytest.raises(DataError) as caught:
        find_source(root)
    return caught.value


def test_unread_files_are_counted_by_suffix(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    files(tmp_path, "a/5.HEIC", "a/6.heic", "b/7.svs", "b/8", "README", "b/notes.txt", ".hidden.heic", "Thumbs.db")
    assert "4 files are not read: 2 .heic, 1 .svs, 1 without suffix (first a/5.HEIC)" in notes_of(tmp_path)
    card(tmp_path, 'exclude = ["*.heic", "*.HEIC", "b/8", "*.svs"]\n')
    assert "not read" not in notes_of(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["unsure/{}.png.gz", "unsure/{}.HEIC", "unsure/{}.mnc", "unsure/deep/{}", "unsure/{}.avif"]
)
@pytest.mark.parametrize("others", [("benign", "malignant"), ("benign",)])
def test_a_class_of_only_unread_files_is_refused_by_name(tmp_path, pattern, others):
    images(tmp_path, *(f"{label}/{number}.png" for label in others for number in range(4)))
    error = refused(files(tmp_path, *(pattern.format(number) for number in range(3))))
    assert (error.code, "'unsure'" in error.message) == ("label-lost", True)
    card(tmp_path, 'exclude = "**/unsure/**"\n')
    if len(others) > 1:
        assert find_source(tmp_path).labels == others


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_a_folder_of_arrays_beside_the_classes_is_refused_by_name(tmp_path, suffix):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    error = refused(files(tmp_path, *(f"rare/{number}{suffix}" for number in range(5))))
    assert error.code == "label-lost" and "'rare'" in error.message
    card(tmp_path, 'exclude = "**/rare/**"\n')
    assert find_source(tmp_path).labels == ("a", "b")


def test_an_archive_beside_the_classes_is_noted(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    assert "archives are not read: rare.zip" in notes_of(files(tmp_path, "rare.zip"))


def test_a_class_that_is_lost_below_the_splits_is_refused(tmp_path):
    images(
        tmp_path, *(f"{split}/{label}/{number}.png" for split in ("train", "test") for label in "ab" for number in "12")
    )
    assert refused(files(tmp_path, "train/c/1.heic", "test/c/2.heic")).code == "label-lost"


def test_a_class_of_dicom_files_without_pixels_is_refused(tmp_path):
    for label in "ab":
        for number in range(3):
            write(tmp_path / label / f"{number}.dcm", ramp())
    for number in range(3):
        write(tmp_path / "c" / f"{number}.dcm", None, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    assert refused(tmp_path).code == "label-lost"


@pytest.mark.parametrize("name", ["{}.dc3", "{}.image", "scan.{}.v2", "{}"])
def test_dicom_is_read_whatever_its_suffix(tmp_path, name):
    for label in "ab":
        for number in range(3):
            path = write(tmp_path / label / "x.dcm", ramp())
            path.rename(path.with_name(name.format(number)))
    assert len(open_source(tmp_path)[1].table) == 6


def test_weights_and_texts_beside_the_classes_are_not_a_class(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    files(tmp_path, "models/net.pth", "docs/page.html", "code/run.py", "LICENSE")
    assert open_source(tmp_path)[0].labels == ("a", "b")
    assert "not read" not in notes_of(tmp_path)


def test_a_row_of_an_unread_file_is_refused(tmp_path):
    images(tmp_path, "a.png", "b.png")
    table(files(tmp_path, "c.heic", "d.heic"), "image,label", "a.png,x", "b.png,y", "c.heic,x", "d.heic,y")
    message = refused(tmp_path).message
    assert "labels.csv line 4: c.heic has a format that zoo does not read (.heic) (and 1 more rows)" in message


@pytest.mark.parametrize("name", ["code/train.cpp", "models/best.h5", "gt/1.mat", "docker/Dockerfile", "run/job.slurm"])
def test_a_folder_without_images_is_not_a_class(tmp_path, name):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    assert open_source(files(tmp_path, name, data=b"no image"))[0].labels == ("a", "b")


def test_a_class_in_a_folder_that_is_not_a_split_may_be_missing(tmp_path):
    images(
        tmp_path, *(f"{split}/{label}/{number}.png" for split in ("train", "test") for label in "ab" for number in "12")
    )
    assert open_source(files(tmp_path, "originals/c/1.heic"))[0].labels == ("a", "b")


@pytest.mark.parametrize("name", ["models/best.h5", "phone/1.heic"])
def test_a_table_one_level_down_is_read_beside_unread_files(tmp_path, name):
    images(tmp_path / "data", "images/a.png", "images/b.png")
    table(tmp_path / "data", "image,label", "a.png,x", "b.png,y")
    assert open_source(files(tmp_path, name))[0].labels == ("x", "y")


def test_texts_beside_images_are_not_opened_to_detect_dicom(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(4)))
    files(tmp_path, "a/1.txt", data=bytes(128) + b"DICM")
    assert len(open_source(tmp_path)[1].table) == 8
