"""The level of folders that is the split, the label or the patient; names with leading folders that do not exist."""

import pytest
from folders import card, images, open_source, table

from zoo.errors import DataError
from zoo.sources.levels import guess_pattern
from zoo.sources.opening import find_source, write_card
from zoo.sources.selection import split_of


def tree(*patterns, count=6):
    """Paths of images from patterns of folders, with alternatives separated by `|`."""
    paths = [""]
    made = []
    for pattern in patterns:
        paths = [""]
        for level in pattern.split("/"):
            paths = [f"{path}{name}/" for path in paths for name in level.split("|")]
        made += [f"{path}{path.strip('/').replace('/', '_')}_{number}.png" for path in paths for number in range(count)]
    return made


PATIENTS = "|".join(f"P{number:03d}" for number in range(12))
NUMBERED = "|".join(str(number) for number in range(8863, 8878))
COUNTED = "|".join(str(number) for number in range(1, 13))


@pytest.mark.parametrize(
    ("folders", "pattern"),
    [
        (["benign|malignant"], "{label}/**/*"),
        (["train|val|test/normal|sick"], "{split}/{label}/**/*"),
        (["train_data|val_data|test_data/normal|sick"], "{split}/{label}/**/*"),
        (["Training Set|Validation Set|Test Set/normal|sick"], "{split}/{label}/**/*"),
        (["01_train|02_test/normal|sick"], "{split}/{label}/**/*"),
        (["ISIC_train|ISIC_test/normal|sick"], "ISIC_{split}/{label}/**/*"),
        (["normal|sick/train|test"], "{label}/{split}/**/*"),
        (["normal|sick/train_images|test_images"], "{label}/{split}/**/*"),
        (["train|test/normal|sick/images"], "{split}/{label}/**/*"),
        (["scans/normal|sick"], "*/{label}/**/*"),
        ([f"{PATIENTS}/well|ill"], "{patient}/{label}/**/*"),
        ([f"{NUMBERED}/0|1"], "{patient}/{label}/**/*"),
        ([f"{COUNTED}/0|1"], "{patient}/{label}/**/*"),
        ([f"train|test/{PATIENTS}/well|ill"], "{split}/{patient}/{label}/**/*"),
        ([f"well|ill/{PATIENTS}"], "{label}/**/*"),
        (["grade1|grade2|grade3|grade4|grade5|grade6/left|right"], "{label}/**/*"),
        (["normal|tumor/40X|100X"], "{label}/**/*"),
        (["left|right"], "{label}/**/*"),
        (["left|right/cataract|glaucoma"], "*/{label}/**/*"),
        (["siteA|siteB/normal|sick"], "*/{label}/**/*"),
        (["colon_image_sets/colon_aca|colon_n", "lung_image_sets/lung_aca|lung_scc"], "*/{label}/**/*"),
        (["1|2|3|4|5/1|2|3|4|5"], "{label}/**/*"),  # numbers at both levels are no second copy
        (["1|2|3|4/1|2|3|4|5|6", "5/1|2|3|4|5"], "{label}/**/*"),
        (["OD|OS/0|1|2|3|4"], "*/{label}/**/*"),
        (["well|ill/1|2|3|4|5|6|7"], "{label}/**/*"),
        (["ill_P01|ill_P03|ill_P05|well_P02|well_P04|well_P06"], "{label}_{patient}/**/*"),
        (["train|test/ill-pat1|ill-pat2|ill-pat3|well-pat4|well-pat5"], "{split}/{label}-{patient}/**/*"),
        (["stage_P1|stage_P2|stage_P3|stage_P4|stage_P5"], "{label}/**/*"),
        ([PATIENTS], ""),
        ([f"{PATIENTS}/study1|study2"], ""),
    ],
)
def test_levels_of_folders_are_guessed(tmp_path, folders, pattern):
    assert guess_pattern(tmp_path, tree(*folders)) == pattern


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["colon/aca|adenoma", "lung/scc|nodule"], ("colon, lung", "aca, adenoma, nodule")),
        (["siteA|siteB/glioma|meningioma"], ("siteA, siteB", "glioma, meningioma")),
        (["train|test/siteA|siteB/0|1"], ("siteA, siteB", "0, 1")),
        (["siteA|siteB/0|1|2|3|4"], ("siteA, siteB", "0, 1, 2")),
        (["messidor|idrid|aptos/1|2|3|4|5|6|7"], ("aptos, idrid, messidor", "1, 2, 3")),
    ],
)
def test_two_levels_that_could_be_the_label_are_an_error_that_names_both(tmp_path, folders, names):
    images(tmp_path, *tree(*folders))
    with pytest.raises(DataError) as caught:
        find_source(tmp_path)
    assert caught.value.code == "label-level"
    assert all(each in caught.value.message for each in names)
    assert "{label}" in caught.value.fix


def test_folders_below_the_classes_are_clips_if_the_card_sets_frames(tmp_path):
    images(tmp_path, *tree("a/x|y|z", "b/u|v|w"))
    assert find_source(card(tmp_path, "frames = {every = 1}\n")).labels == ("a", "b")


def test_a_card_chooses_the_level(tmp_path):
    images(tmp_path, *tree("colon/aca|adenoma", "lung/scc|nodule"))
    assert find_source(card(tmp_path, 'images = "*/{label}/**/*"\n')).labels == ("aca", "adenoma", "nodule", "scc")


def test_patients_above_classes_are_kept_in_one_split(tmp_path):
    images(tmp_path, *tree(f"{NUMBERED}/0|1"))
    spec, samples = open_source(tmp_path)
    assert (spec.labels, spec.patient, samples.table["patient"].nunique()) == (("0", "1"), "patient", 15)
    assert "folders are read as {patient}/{label}" in "\n".join(samples.notes)
    assert open_source(write_card(tmp_path))[1].table.equals(samples.table)


@pytest.mark.parametrize(
    "folders", [["train_data|val_data|test_data/a|b"], ["a|b/train|val|test"], ["x_train|x_val|x_test/a|b"]]
)
def test_split_folders_may_have_other_words_in_their_names(tmp_path, folders):
    spec, samples = open_source(images(tmp_path, *tree(*folders)))
    assert (spec.labels, spec.official_splits) == (("a", "b"), ("train", "val", "test"))
    assert samples.table["split"].value_counts().to_dict() == {"train": 12, "val": 12, "test": 12}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train_data", "train"),
        ("TestSet", "test"),
        ("Validation Images", "val"),
        ("01_train", "train"),
        ("train_val", ""),
        ("positive_test", ""),
        ("data", ""),
    ],
)
def test_a_name_is_a_split_if_it_has_no_other_meaning(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("folders", [["no|yes", "my_dataset/no|yes"], ["no|yes", "copy/no"]])
def test_a_folder_with_a_second_copy_of_the_dataset_is_refused(tmp_path, folders):
    images(tmp_path, *tree(*folders))
    with pytest.raises(DataError) as caught:
        find_source(tmp_path)
    assert caught.value.code == "label-level"


def test_a_dataset_is_read_if_its_second_copy_is_excluded(tmp_path):
    images(tmp_path, *tree("no|yes", "my_dataset/no|yes"))
    assert find_source(card(tmp_path, 'exclude = "my_dataset/**"\n')).labels == ("no", "yes")


def test_a_test_folder_without_class_folders_is_refused_by_name(tmp_path):
    images(tmp_path, *tree("train/no|yes", "test"))
    with pytest.raises(DataError) as caught:
        find_source(tmp_path)
    assert caught.value.code == "label-level" and "6 images of test" in caught.value.message
    assert find_source(card(tmp_path, 'exclude = "test/**"\n')).labels == ("no", "yes")


def test_folders_of_patients_are_not_classes(tmp_path):
    images(tmp_path, *tree(PATIENTS))
    with pytest.raises(DataError, match="nothing labels the 72 images"):
        find_source(tmp_path)


# --- names that begin with folders not here --------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["{root}/", "data/{root}/", "/home/ann/{root}/", "C:\\\\scans\\\\", "./elsewhere/"])
def test_a_table_may_name_images_from_a_folder_above_or_on_another_machine(tmp_path, prefix):
    names = [f"train/{patient}/study1/{number}.png" for patient in PATIENTS.split("|") for number in range(3)]
    images(tmp_path, *names)
    start = prefix.format(root=tmp_path.name).replace("\\\\", "\\")
    table(
        tmp_path, "Path,label", *(f"{start}{name},{number % 2}" for number, name in enumerate(names)), name="train.csv"
    )
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("0", "1")
    assert len(samples.table) == 36 and samples.table["patient"].nunique() == 12
    assert "do not exist here and are ignored" in "\n".join(samples.notes)


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "image,label", "/home/ann/a.png,x", "/mnt/b.png,y")
    with pytest.raises(DataError):
        find_source(tmp_path)
