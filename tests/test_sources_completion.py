"""A card that sets only table and images takes split and patient from columns with usual names."""

import pytest
from folders import card, images, open_source, table

NAMES = [f"{number:03d}" for number in range(12)]
CARD = 'images = "{image}.png"\ntable = "labels.csv"\nlabel = {column = "dx"}\n'
JOINED = 'images = "**/*.png"\ntable = "labels.csv"\njoin = {column = "image"}\nlabel = {column = "dx"}\n'


def write_labeled(root, text=CARD):
    images(root, *(f"{name}.png" for name in NAMES))
    rows = [f"{n},{'ab'[i % 2]},{('train', 'val', 'test')[i // 4]},P{i // 2}" for i, n in enumerate(NAMES)]
    return card(table(root, "image,dx,split,patient_id", *rows), text)


@pytest.mark.parametrize("text", [CARD, JOINED])
def test_split_and_patient_columns_are_used_and_noted(tmp_path, text):
    spec, samples = open_source(write_labeled(tmp_path, text))
    assert (spec.official_splits, spec.patient) == (("train", "val", "test"), "patient")
    assert samples.table["patient"].nunique() == 6
    notes = "\n".join(samples.notes)
    assert "split is column 'split' of labels.csv" in notes and "patient is column 'patient_id'" in notes


def test_split_and_patient_of_the_card_take_precedence(tmp_path):
    text = CARD + 'split = {folds = 3}\npatient = {none = "not published"}\n'
    spec, samples = open_source(write_labeled(tmp_path, text))
    assert (spec.official_splits, spec.folds, spec.patient) == ((), 3, "none: not published")
    assert "guessed" not in "\n".join(note for note in samples.notes if "column" in note)


def test_a_hidden_column_is_not_used(tmp_path):
    spec = open_source(write_labeled(tmp_path, CARD + 'hide = ["split", "patient_id"]\n'))[0]
    assert not spec.official_splits and spec.patient.startswith("none")


def test_a_column_of_a_second_table_is_used_too(tmp_path):
    images(tmp_path, *(f"{name}.png" for name in NAMES))
    table(tmp_path, "image,dx", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(NAMES)))
    table(
        tmp_path,
        "image,Set",
        *(f"{name},{('Training', 'Test')[i // 8]}" for i, name in enumerate(NAMES)),
        name="more.csv",
    )
    card(tmp_path, CARD + 'add = {table = "more.csv", by = "image"}\n')
    assert open_source(tmp_path)[0].official_splits == ("train", "test")


def test_a_split_column_of_other_values_is_noted_as_unused(tmp_path):
    write_labeled(tmp_path)
    table(tmp_path, "image,dx,split", *(f"{name},{'ab'[i % 2]},{i % 3}" for i, name in enumerate(NAMES)))
    samples = open_source(tmp_path)[1]
    assert "column 'split' of labels.csv is not read as the split" in "\n".join(samples.notes)
