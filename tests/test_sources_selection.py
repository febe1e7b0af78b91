"""A card selects images and splits; patterns and names without a match are reported at once."""

import pytest
from folders import card, images, open_source, refusal, table

FOLDERS = 'images = "{label}/*.png"\n'


def splits(samples):
    return dict(zip(samples.table["image"], samples.table["split"], strict=True))


# --- what is left out ------------------------------------------------------------------------------------------------
def test_images_in_drop_are_left_out_even_if_the_table_names_them(tmp_path):
    images(tmp_path, "a.png", "deep/b.png", "c.png", "d.png")
    table(tmp_path, "file,label", "a.png,x", "b.png,y", "c.png,x", "d.png,y")
    card(tmp_path, 'drop = ["a.png", "deep/b.png"]')
    _, samples = open_source(tmp_path)
    assert list(samples.table["image"]) == ["c.png", "d.png"]
    notes = " ".join(samples.notes)
    assert "2 images left out: listed in drop" in notes
    assert "2 of 4 rows of labels.csv belong to images left out" in notes


def test_rows_of_images_left_out_are_not_a_mistake_if_the_pattern_joins_them(tmp_path, golden):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "id,label", "a,x", "b,y", "c,x")
    text = 'images = "{id}.png"\ntable = "labels.csv"\nlabel = {column = "label"}\n'
    card(tmp_path, text + 'drop = ["c.png"]')
    assert list(open_source(tmp_path)[1].table["image"]) == ["a.png", "b.png"]
    (tmp_path / "c.png").unlink()
    card(tmp_path, text)
    golden(refusal(tmp_path))


def test_masks_of_a_card_are_not_images_and_are_counted_once(tmp_path):
    names = ["a/x (1).png", "a/x (1)_mask.png", "a/x (1)_mask_1.png", "b/y (1).png", "b/y (1)_mask.png", "b/z_mask.png"]
    images(tmp_path, *names)
    masks = 'exclude = "*_mask*.png"\nmasks = {path = "{label}/{stem}_mask*.png", merge = "union"}\n'
    _, samples = open_source(card(tmp_path, FOLDERS + masks))
    assert list(samples.table["image"]) == ["a/x (1).png", "b/y (1).png"]
    assert samples.notes[:2] == (
        "4 masks beside images are not read as images",
        "1 masks belong to no image, first b/z_mask.png",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('masks = {path = "{label}/{stem}_gt.png"}', "masks.path"),
        ('masks = {path = "{class}/{stem}_mask.png"}', "masks.path"),
        ('masks = {path = "{label}/{stem}_mask.png"}', "masks.path"),
        ('exclude = ["*.jpg"]', "exclude.0"),
        ('drop = ["a/y.png"]', "drop.0"),
        ('drop = ["../x.png"]', "drop.0"),
        ('exclude = "*"', "images"),
        ('known_conflicts = [["x", "nobody"]]', "known_conflicts.0"),
    ],
)
def test_a_name_or_pattern_without_a_match_is_reported_with_its_key(tmp_path, text, expected, golden):
    images(tmp_path, "a/x.png", "a/xx_mask.png", "b/w.png")
    card(tmp_path, FOLDERS + text)
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_all_mistakes_about_files_are_reported_at_once(tmp_path):
    images(tmp_path, "a/x.png", "b/y.png")
    card(
        tmp_path,
        FOLDERS + 'exclude = "z*"\ndrop = ["q"]\ntable = "gone.csv"\njoin = {column = "f"}\n'
        'split = {test = "t.txt", rest = "../r.txt"}',
    )
    line = refusal(tmp_path)
    assert "dataset.toml: 5 mistakes" in line
    for place in ("exclude: 'z*'", "drop.0: no image 'q'", "table: ", "gone.csv: no such file"):
        assert place in line
    assert "split.test: no file 't.txt'" in line
    assert "split.rest: '../r.txt' leads out of" in line


def test_a_table_outside_of_the_folder_is_not_read(tmp_path):
    images(tmp_path / "set", "a.png")
    table(tmp_path, "file,label", "a.png,secret")
    card(tmp_path / "set", 'table = "../labels.csv"\njoin = {column = "file"}\nlabel = {column = "label"}')
    line = refusal(tmp_path / "set")
    assert "table: '../labels.csv' leads out of set" in line
    assert "secret" not in line


def test_mistakes_in_labels_splits_and_patients_are_reported_together(tmp_path):
    images(tmp_path, "p1_a.png", "b.png")
    table(tmp_path, "file,label,part", "p1_a.png,x,train", "b.png,z,tset")
    card(
        tmp_path,
        'table = "labels.csv"\njoin = {column = "file"}\nlabel = {column = "label"}\nlabels = ["x", "y"]\n'
        'split = {column = "part"}\npatient = {regex = "(p[0-9]+)_"}',
    )
    line = refusal(tmp_path)
    assert "dataset.toml: 3 mistakes" in line
    assert "labels.csv line 3 (b.png): unknown label 'z'" in line
    assert "unknown split 'tset'" in line
    assert "b.png: patient.regex '(p[0-9]+)_'" in line


# --- who tests -------------------------------------------------------------------------------------------------------
def test_lists_of_names_are_the_official_split(tmp_path):
    images(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png")
    (tmp_path / "test.txt").write_bytes("﻿1.png\r\n\r\nb/3.png\r\n".encode())
    (tmp_path / "rest.txt").write_text("2\n4.png")
    spec, samples = open_source(card(tmp_path, FOLDERS + 'split = {test = "test.txt", rest = "rest.txt", val = 0.125}'))
    assert splits(samples) == {
        "a/1.png": "test",
        "a/2.png": "train",
        "b/3.png": "test",
        "b/4.png": "train",
        "b/5.png": "",
    }
    assert (spec.official_splits, spec.val_share) == (("train", "test"), 0.125)
    assert "1 images are in no list of the split and are not used" in samples.notes


def test_lists_may_name_val_and_images_that_are_left_out(tmp_path):
    images(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    for name, text in (("tr", "1\n4"), ("va", "2"), ("te", "3")):
        (tmp_path / name).write_text(text)
    _, samples = open_source(
        card(tmp_path, FOLDERS + 'drop = ["b/4.png"]\nsplit = {train = "tr", val = "va", test = ["te"]}')
    )
    assert splits(samples) == {"a/1.png": "train", "a/2.png": "val", "b/3.png": "test"}


@pytest.mark.parametrize(
    ("test", "rest", "expected"),
    [
        ("1\n7", "2\n3", "t.txt line 2"),
        ("1\n2", "2\n3", "r.txt line 1"),
        ("1", "\n\n", "r.txt"),
        ("1\n../2.png", "3", "t.txt line 2"),
        ("1\n\0", "3", "t.txt line 2"),
    ],
)
def test_an_error_in_a_list_is_one_line_with_its_place(tmp_path, test, rest, expected, golden):
    images(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    (tmp_path / "t.txt").write_text(test)
    (tmp_path / "r.txt").write_text(rest)
    card(tmp_path, FOLDERS + 'split = {test = "t.txt", rest = "r.txt"}')
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("{}", "split"),
        ('{rest = "r", column = "c"}', "split"),
        ('{rest = "r"}', "split"),
        ("{val = 0.9}", "dataset.toml"),
        ("{val = true}", "dataset.toml"),
        ("{folds = 1}", "split.folds"),
    ],
)
def test_an_incomplete_or_contradictory_split_is_refused(tmp_path, split, expected, golden):
    images(tmp_path, "a/1.png", "b/2.png")
    line = refusal(card(tmp_path, FOLDERS + f"split = {split}"))
    assert expected in line
    golden(line)


def test_a_value_of_a_split_that_no_row_has_is_a_mistake(tmp_path, golden):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "file,label,part", "a.png,x,A", "b.png,y,A")
    card(
        tmp_path,
        'table = "labels.csv"\njoin = {column = "file"}\nlabel = {column = "label"}\n'
        'split = {column = "part", train = "A", test = "B"}',
    )
    golden(refusal(tmp_path), "error[data]", "split.test", "'B'")


def test_a_row_and_a_folder_that_disagree_on_the_split_are_named(tmp_path, golden):
    images(tmp_path, "train/a.png", "test/b.png")
    table(tmp_path, "path,label,split", "train/a.png,x,train", "test/b.png,y,train")
    golden(refusal(tmp_path), "error[data]", "line 3", "test/b.png")
