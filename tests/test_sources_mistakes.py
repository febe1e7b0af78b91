"""A card that contradicts itself or the data is refused in one line that says what the data have."""

import numpy as np
import pytest
from folders import card, images, open_source, refusal, table

NAMES = [f"{number}.png" for number in range(1, 7)]
BY_FILE = 'table = "labels.csv"\njoin = {column = "file"}\n'


def write_labeled(root, header, rows):
    return table(images(root, *NAMES), header, *rows)


# --- the file by itself ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('label = {column = "a", columns = ["b"]}', "label"),
        ("label = {bins = [0, 50, 40]}", "label"),
        ('label = {bins = [0, 1, 2], names = ["low"]}', "label"),
        ('patient = {regex = "P[0-9]+"}', "patient.regex"),
        ("intensity = [nan, inf]", "intensity"),
        ("intensity = [40000, 0]", "intensity"),
        ("intensity = {levels = [0, 1], percentiles = [0, 99]}", "intensity"),
        ('intensity = {levels = [0, 1], each = "volume"}', "intensity"),
        ('images = "*.png"\nmetadata = ["age"]', "metadata.0"),
        ('task = "regression"\nlabels = ["a", "b"]', "labels"),
        ('labels = ["a", "b"]\nlabel = {bins = [0, 1, 2]}', "labels"),
        ('root = "elsewhere"', "root"),
    ],
)
def test_contradictions_in_a_card_are_reported_with_their_key(tmp_path, text, expected, golden):
    line = refusal(card(images(tmp_path, *NAMES), text))
    assert expected in line
    golden(line)


# --- labels ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cells", "text", "expected"),
    [
        ("aabbcc", 'label = {column = "x"}\ntask = "multilabel"', "'multilabel'"),
        ("aabbcc", 'label = {column = "x"}\ntask = "binary"', "'binary'"),
        ("aabbcc", 'label = {column = "x", positive = "a"}', "label.positive"),
        (
            "aabbab",
            'label = {column = "x"}\nlabels = {a = "X", b = "x "}',
            "'X'",
        ),
        ("aabbab", 'label = {column = "x"}\nlabels = {a = "", b = "b"}', "''"),
        ("aabbab", 'label = {column = "x", positive = "z"}', "label.positive"),
        (["a|b", "b", "a", "b", "c", "a"], 'label = {column = "x", separator = "|"}\nlabels = ["a", "b"]', "'c'"),
        (
            "123459",
            'label = {column = "x", bins = [0, 2, 5]}',
            "labels.csv line 7 (6.png)",
        ),
        (["1", "1e999", "3", "4", "5", "6"], 'label = {column = "x"}\ntask = "regression"', "'1e999'"),
    ],
)
def test_labels_that_do_not_match_the_task_are_refused(tmp_path, cells, text, expected, golden):
    rows = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    line = refusal(card(write_labeled(tmp_path, "file,x", rows), BY_FILE + text))
    assert expected in line
    golden(line)


@pytest.mark.parametrize(
    ("cells", "text", "expected"),
    [
        (["1,0"] * 3 + ["0,2"] * 3, "", "labels.csv line 5 (4.png)"),
        (["1,0"] * 3 + ["1,1"] * 3, 'task = "multiclass"', "labels.csv line 5 (4.png)"),
        (["1,0"] * 3 + ["0,1"] * 3, 'labels = ["a", "c"]', "labels"),
        (["1,0"] * 3 + ["0,1"] * 3, 'labels = {a = "x", b = "x"}', "labels"),
    ],
)
def test_invalid_0_1_columns_are_refused(tmp_path, cells, text, expected, golden):
    rows = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    text = f'{BY_FILE}label = {{columns = ["a", "b"]}}\n{text}'
    line = refusal(card(write_labeled(tmp_path, "file,a,b", rows), text))
    assert expected in line
    golden(line)


def test_bins_without_names_are_named_after_their_edges(tmp_path):
    rows = [f"{name},{10 * number}" for number, name in enumerate(NAMES)]
    text = BY_FILE + 'label = {column = "x", bins = [0, 20, 40, 60]}'
    spec, samples = open_source(card(write_labeled(tmp_path, "file,x", rows), text))
    assert spec.labels == ("0 to 20", "20 to 40", "40 to 60")
    assert samples.targets.tolist() == [0, 0, 1, 1, 2, 2]


# --- tables ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("labels.csv", b'file,x\n"1.png,a\n', "labels.csv line 2"),
        ("labels.csv", b"\n\n", "labels.csv"),
        ("labels.jsonl", b"\n", "labels.jsonl"),
        ("labels.csv", b"file,x\n1.png,\xff\n", "labels.csv line 2"),
    ],
)
def test_an_unreadable_table_is_refused(tmp_path, name, data, expected, golden):
    (images(tmp_path, *NAMES) / name).write_bytes(data)
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_blank_lines_of_a_table_are_ignored(tmp_path):
    rows = [row for number, name in enumerate(NAMES) for row in (f"{name},{'ab'[number % 2]}", " , ")]
    assert len(open_source(write_labeled(tmp_path, "file,x_label,label".replace("x_label,", ""), rows))[1].table) == 6


def test_paths_of_a_table_may_contain_dots(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    _, samples = open_source(table(tmp_path, "path,label", "./b/../a/1.png,x", "b\\2.png,y"))
    assert list(samples.table["image"]) == ["a/1.png", "b/2.png"]


def test_a_given_table_that_names_no_image_is_refused(tmp_path):
    write_labeled(tmp_path, "file,label", ["7.png,x", "8.png,y"])
    assert f"no column names the images below {tmp_path.name}" in refusal(tmp_path / "labels.csv")


def test_a_pattern_without_a_column_of_the_table_is_refused(tmp_path, golden):
    rows = [f"{name},a" for name in NAMES]
    text = 'table = "labels.csv"\nimages = "*.png"\nlabel = {column = "x"}'
    golden(refusal(card(write_labeled(tmp_path, "file,x", rows), text)), "error[card]", "*.png", "labels.csv")


def test_two_tables_that_fit_class_folders_equally_well_are_refused(tmp_path, golden):
    images(tmp_path, "a/1.png", "b/2.png")
    for name in ("one.csv", "two.csv"):
        table(tmp_path, "image,age", "1.png,40", "2.png,50", name=name)
    golden(refusal(tmp_path), "error[data]", "one.csv", "two.csv")


def test_rows_without_an_image_are_counted_if_folders_are_the_label(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    _, samples = open_source(table(tmp_path, "image,age", "1.png,40", "2.png,50", "3.png,60", name="ages.csv"))
    assert "1 of 3 rows of ages.csv name no image here" in samples.notes


# --- what paths say --------------------------------------------------------------------------------------------------
def test_a_path_may_contain_the_patient_and_other_columns(tmp_path):
    names = [
        f"{label}/P{number:02}/{site}_{view}.png"
        for label in "ab"
        for number in range(3)
        for site, view in ("xy", "zw")
    ]
    text = 'images = "{label}/{patient}/{site}_{view}.png"'
    spec, samples = open_source(card(images(tmp_path, *names), text))
    assert (spec.patient, list(samples.table["patient"][:3])) == ("patient", ["P00", "P00", "P01"])
    assert list(samples.table["site"][:2]) == ["x", "z"]
    assert spec.metadata == ("site", "view")


def test_folders_that_are_not_splits_are_left_out_with_a_note(tmp_path):
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test", "extra") for label in "ab" for n in range(3)]
    _, samples = open_source(card(images(tmp_path, *names), 'images = "{split}/{label}/*"'))
    assert set(samples.table["split"]) == {"train", "test"}
    assert "6 images left out: in extra, which is not a split" in samples.notes


def test_a_column_named_set_without_splits_is_noted(tmp_path):
    rows = [f"{name},{'ab'[number % 2]},{number % 3}" for number, name in enumerate(NAMES)]
    spec, samples = open_source(write_labeled(tmp_path, "file,label,set", rows))
    assert not spec.official_splits
    assert any("column 'set' of labels.csv is not read as the split" in note for note in samples.notes)


def test_lists_that_name_no_image_are_refused(tmp_path, golden):
    images(tmp_path, *(f"a/{name}" for name in NAMES), *(f"b/{name}" for name in NAMES), "old/1.png")
    (tmp_path / "test.txt").write_text("old/1.png\n")
    text = 'images = "{label}/*"\nexclude = "old/*"\nsplit = {test = "test.txt"}'
    golden(refusal(card(tmp_path, text)), "error[data]", "test.txt")


def test_keys_that_do_not_apply_to_an_npz_are_reported(tmp_path, golden):
    np.savez(tmp_path / "a.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) % 2)
    text = 'root = "a.npz"\nlabels = ["x", "y"]\n'
    golden(refusal(card(tmp_path, text + 'label = {positive = "z"}')), "error[card]", "label.positive", "'z'")
    golden(refusal(card(tmp_path, 'root = "a.npz"\nlabels = {0 = "x", 1 = "y"}')), "error[card]", "labels")
