"""What a card says and the data do not bear out: each is one line that says what is there instead."""

import numpy as np
import pytest
from folders import card, images, open_source, refusal, table

NAMES = [f"{number}.png" for number in range(1, 7)]
BY_FILE = 'table = "labels.csv"\njoin = {column = "file"}\n'


def labelled(root, header, rows):
    return table(images(root, *NAMES), header, *rows)


# --- the file by itself ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('label = {column = "a", columns = ["b"]}', "label: give either column or columns"),
        ("label = {bins = [0, 50, 40]}", "label: bins must rise, got [0.0, 50.0, 40.0]"),
        ('label = {bins = [0, 1, 2], names = ["low"]}', "label: 3 bins make 2 grades, got 1 names"),
        ('patient = {regex = "P[0-9]+"}', "patient.regex: needs one group in parentheses: the patient"),
        ("intensity = [nan, inf]", "intensity: expected two finite levels, the lower one first"),
        ("intensity = [40000, 0]", "intensity: expected two finite levels, the lower one first"),
        ("intensity = {levels = [0, 1], percentiles = [0, 99]}", "intensity: give one of window, levels, percentiles"),
        ('intensity = {levels = [0, 1], each = "volume"}', 'intensity: each = "volume" needs percentiles'),
        ('images = "*.png"\nmetadata = ["age"]', "metadata.0: needs `table`, the file with these columns"),
        ('task = "regression"\nlabels = ["a", "b"]', "labels: a regression has none"),
        ('labels = ["a", "b"]\nlabel = {bins = [0, 1, 2]}', "labels: use label.names"),
        ('root = "elsewhere"', "root: no folder"),
    ],
)
def test_what_contradicts_itself_is_told_with_its_place(tmp_path, text, expected):
    assert expected in refusal(card(images(tmp_path, *NAMES), text))


# --- labels ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cells", "text", "expected"),
    [
        ("aabbcc", 'label = {column = "x"}\ntask = "multilabel"', "task = 'multilabel' needs label.columns or"),
        ("aabbcc", 'label = {column = "x"}\ntask = "binary"', "expected at most 2 labels for binary, got 3: a, b, c"),
        ("aabbcc", 'label = {column = "x", positive = "a"}', "label.positive: there are 3 labels"),
        (
            "aabbab",
            'label = {column = "x"}\nlabels = {a = "X", b = "x "}',
            "labels 'X' and 'x ' differ only in case or blanks",
        ),
        ("aabbab", 'label = {column = "x"}\nlabels = {a = "", b = "b"}', "a label is '': nothing to be read"),
        ("aabbab", 'label = {column = "x", positive = "z"}', "label.positive: no label 'z'; there are a, b"),
        (["a|b", "b", "a", "b", "c", "a"], 'label = {column = "x", separator = "|"}\nlabels = ["a", "b"]', "label 'c'"),
        (
            "123459",
            'label = {column = "x", bins = [0, 2, 5]}',
            "labels.csv line 7 (6.png): 9 lies outside the bins 0 to 5",
        ),
        (["1", "1e999", "3", "4", "5", "6"], 'label = {column = "x"}\ntask = "regression"', "'1e999' is not a number"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_told(tmp_path, cells, text, expected):
    rows = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    assert expected in refusal(card(labelled(tmp_path, "file,x", rows), BY_FILE + text))


@pytest.mark.parametrize(
    ("cells", "text", "expected"),
    [
        (["1,0"] * 3 + ["0,2"] * 3, "", "labels.csv line 5 (4.png): b is '2', expected 0, 1 or blank for unknown"),
        (["1,0"] * 3 + ["1,1"] * 3, 'task = "multiclass"', "labels.csv line 5 (4.png): expected exactly one 1 in a, b"),
        (["1,0"] * 3 + ["0,1"] * 3, 'labels = ["a", "c"]', "labels: 'c'"),
        (["1,0"] * 3 + ["0,1"] * 3, 'labels = {a = "x", b = "x"}', "0/1 columns need names that differ"),
    ],
)
def test_columns_of_0_and_1_that_do_not_fit_are_told(tmp_path, cells, text, expected):
    rows = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    said = f'{BY_FILE}label = {{columns = ["a", "b"]}}\n{text}'
    assert expected in refusal(card(labelled(tmp_path, "file,a,b", rows), said))


def test_bins_without_names_are_called_after_their_edges(tmp_path):
    rows = [f"{name},{10 * number}" for number, name in enumerate(NAMES)]
    said = BY_FILE + 'label = {column = "x", bins = [0, 20, 40, 60]}'
    spec, samples = open_source(card(labelled(tmp_path, "file,x", rows), said))
    assert spec.labels == ("0 to 20", "20 to 40", "40 to 60")
    assert samples.targets.tolist() == [0, 0, 1, 1, 2, 2]


# --- tables ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("labels.csv", b'file,x\n"1.png,a\n', "labels.csv line 2: unexpected end of data"),
        ("labels.csv", b"\n\n", "labels.csv: the file is empty"),
        ("labels.jsonl", b"\n", "labels.jsonl: the file is empty"),
        ("labels.csv", b"file,x\n1.png,\xff\n", "labels.csv line 2: not UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(tmp_path, name, data, expected):
    (images(tmp_path, *NAMES) / name).write_bytes(data)
    assert expected in refusal(tmp_path)


def test_blank_lines_of_a_table_are_no_rows(tmp_path):
    rows = [row for number, name in enumerate(NAMES) for row in (f"{name},{'ab'[number % 2]}", " , ")]
    assert len(open_source(labelled(tmp_path, "file,x_label,label".replace("x_label,", ""), rows))[1].table) == 6


def test_paths_of_a_table_may_go_up_and_down_again(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    _, samples = open_source(table(tmp_path, "path,label", "./b/../a/1.png,x", "b\\2.png,y"))
    assert list(samples.table["image"]) == ["a/1.png", "b/2.png"]


def test_a_named_table_that_names_no_image_is_told(tmp_path):
    labelled(tmp_path, "file,label", ["7.png,x", "8.png,y"])
    assert f"no column names the images below {tmp_path.name}" in refusal(tmp_path / "labels.csv")


def test_a_pattern_that_names_no_column_of_the_table_is_told(tmp_path):
    rows = [f"{name},a" for name in NAMES]
    said = 'table = "labels.csv"\nimages = "*.png"\nlabel = {column = "x"}'
    assert "images: '*.png' names no column of labels.csv" in refusal(card(labelled(tmp_path, "file,x", rows), said))


def test_two_tables_that_know_class_folders_as_well_are_named(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    for name in ("one.csv", "two.csv"):
        table(tmp_path, "image,age", "1.png,40", "2.png,50", name=name)
    assert "both one.csv and two.csv describe the images" in refusal(tmp_path)


def test_rows_without_an_image_are_counted_where_folders_say_the_label(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    _, samples = open_source(table(tmp_path, "image,age", "1.png,40", "2.png,50", "3.png,60", name="ages.csv"))
    assert "1 of 3 rows of ages.csv name no image here" in samples.notes


# --- what paths say --------------------------------------------------------------------------------------------------
def test_a_path_may_say_the_patient_and_anything_else(tmp_path):
    names = [
        f"{label}/P{number:02}/{site}_{view}.png"
        for label in "ab"
        for number in range(3)
        for site, view in ("xy", "zw")
    ]
    said = 'images = "{label}/{patient}/{site}_{view}.png"'
    spec, samples = open_source(card(images(tmp_path, *names), said))
    assert (spec.patient, list(samples.table["patient"][:3])) == ("patient", ["P00", "P00", "P01"])
    assert list(samples.table["site"][:2]) == ["x", "z"]
    assert spec.metadata == ("site", "view")


def test_folders_that_stand_where_splits_do_and_are_none_are_left_out_and_said(tmp_path):
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test", "extra") for label in "ab" for n in range(3)]
    _, samples = open_source(card(images(tmp_path, *names), 'images = "{split}/{label}/*"'))
    assert set(samples.table["split"]) == {"train", "test"}
    assert "6 images left out: in extra, which is no split" in samples.notes


def test_a_column_called_set_that_holds_no_splits_is_said_to(tmp_path):
    rows = [f"{name},{'ab'[number % 2]},{number % 3}" for number, name in enumerate(NAMES)]
    spec, samples = open_source(labelled(tmp_path, "file,label,set", rows))
    assert not spec.official_splits
    assert any("column 'set' of labels.csv is not read as the split" in note for note in samples.notes)


def test_lists_of_a_split_that_name_none_of_the_images_are_told(tmp_path):
    images(tmp_path, *(f"a/{name}" for name in NAMES), *(f"b/{name}" for name in NAMES), "old/1.png")
    (tmp_path / "test.txt").write_text("old/1.png\n")
    said = 'images = "{label}/*"\nexclude = "old/*"\nsplit = {test = "test.txt"}'
    assert "no image stands in test.txt" in refusal(card(tmp_path, said))


def test_what_does_not_fit_an_npz_is_told_with_its_place(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) % 2)
    said = 'root = "a.npz"\nlabels = ["x", "y"]\n'
    assert "label.positive: no label 'z'; there are x, y" in refusal(card(tmp_path, said + 'label = {positive = "z"}'))
    assert "labels: of a .npz, a list of names" in refusal(
        card(tmp_path, 'root = "a.npz"\nlabels = {0 = "x", 1 = "y"}')
    )
