"""A table beside images is read as a dataset, or refused in one line that names the row."""

import numpy as np
import pandas
import pytest
from costs import cost_ratio
from folders import card, images, open_source, refusal, table

from zoo import MULTICLASS, MULTILABEL, REGRESSION
from zoo.sources.cards import DatasetCard
from zoo.sources.guess import add_table
from zoo.sources.joining import column_mistakes
from zoo.sources.label_tables import LabelTable
from zoo.sources.opening import find_source


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("image", ("a.png", "b.png", "c.png")),
        ("image_id", ("a", "b", "c")),
        ("Image Index", ("a.png", "b.png", "c.png")),
        ("path", ("deep/a.png", "./deep/b.png", "deep\\c.png")),
        ("whatever", ("deep/a", "deep/b", "deep/c")),
    ],
)
def test_images_are_found_by_path_or_name_with_or_without_suffix(tmp_path, column, cells):
    images(tmp_path, "deep/a.png", "deep/b.png", "deep/c.png")
    table(tmp_path, f"{column},dx", f"{cells[0]},x", f"{cells[1]},y", f"{cells[2]},x")
    spec, samples = open_source(tmp_path)
    assert list(samples.table["image"]) == ["deep/a.png", "deep/b.png", "deep/c.png"]
    assert samples.targets.tolist() == [0, 1, 0]
    assert spec.labels == ("x", "y")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_read_as_text_whatever_their_encoding_and_delimiter(tmp_path, encoding, delimiter):
    images(tmp_path, "007.png", "8.png", "9.png")
    rows = ("id", "label", "patient"), ("007", "NA", "01"), ("8", "Übel", "1"), ("9", "NA", "1")
    table(tmp_path, *(delimiter.join(row) for row in rows), encoding=encoding)
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("NA", "Übel")
    assert dict(zip(samples.table["image"], samples.table["patient"], strict=True)) == {
        "007.png": "01",
        "8.png": "1",
        "9.png": "1",
    }


@pytest.mark.parametrize(
    "rows",
    [
        (",image,label", "0,a.png,x", "1,b.png,y"),  # the index that pandas writes
        (",image,label", "17,a.png,x", "4,b.png,y"),  # of a table that was shuffled
        ("image,label,", "a.png,x,", "b.png,y,"),
        ("image,label,", "a.png,x", "b.png,y"),
        (",image,,label,,", "0,a.png,,x,,", "1,b.png,,y,,"),
    ],
)
def test_a_column_without_a_name_is_ignored_if_it_is_blank_or_an_index(tmp_path, rows):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, *rows)
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("x", "y")
    assert list(samples.table.columns) == ["sample_id", "image"]
    assert find_source(tmp_path / "labels.csv").labels == ("x", "y")


def test_a_key_without_a_name_is_ignored_like_a_column(tmp_path, golden):
    images(tmp_path, "a.png", "b.png")
    lines = '{"": 0, "image": "a.png", "label": "x"}', '{"": 1, "image": "b.png", "label": "y"}'
    table(tmp_path, *lines, name="metadata.jsonl")
    assert list(open_source(tmp_path)[1].table.columns) == ["sample_id", "image"]
    table(tmp_path, *(line.replace('"":', '"n": 1, "":') for line in lines), name="metadata.jsonl")
    golden(refusal(tmp_path))


def test_the_table_itself_can_be_named(tmp_path, golden):
    images(tmp_path / "Set", "a.png", "b.png")
    table(tmp_path / "Set", "file,label", "a.png,x", "b.png,y", name="first.csv")
    table(tmp_path / "Set", "file,label", "a.png,y", "b.png,x", name="second.csv")
    golden(refusal(tmp_path / "Set"))
    spec, samples = open_source(tmp_path / "Set" / "second.csv")
    assert spec.name == "set-second"
    assert samples.targets.tolist() == [1, 0]


def test_image_folders_are_not_classes(tmp_path):
    images(tmp_path, "images_part_1/a.jpg", "images_part_2/b.jpg")
    table(tmp_path, "image_id,dx", "a,mel", "b,nv")
    spec = find_source(tmp_path)
    assert spec.labels == ("mel", "nv")
    assert spec.positive == "mel"


def test_joined_findings_become_multi_label_and_no_finding_is_none(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "Image Index,Finding Labels", "a.png,Mass|Edema", "b.png,No Finding", "c.png,Mass")
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.labels) == (MULTILABEL, ("Edema", "Mass"))
    assert samples.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_one_hot_columns_are_classes_and_overlapping_ones_are_multi_label(tmp_path):
    images(tmp_path / "one", "a.png", "b.png", "c.png")
    table(tmp_path / "one", "image,MEL,NV,BCC", "a,1.0,0.0,0.0", "b,0.0,0.0,1.0", "c,0.0,1.0,0.0")
    spec, samples = open_source(tmp_path / "one")
    assert (spec.task, spec.labels, samples.targets.tolist()) == (MULTICLASS, ("MEL", "NV", "BCC"), [0, 2, 1])

    images(tmp_path / "many", "a.png", "b.png")
    table(tmp_path / "many", "image,Edema,Mass", "a,1,1", "b,0,")
    spec, samples = open_source(tmp_path / "many")
    assert spec.task == MULTILABEL
    np.testing.assert_array_equal(samples.targets, [[1, 1], [0, np.nan]])


def test_many_fractional_numbers_are_a_regression_and_many_whole_ones_are_ambiguous(tmp_path, golden):
    names = [f"{i}.png" for i in range(30)]
    images(tmp_path, *names)
    table(tmp_path, "file,target", *(f"{name},{i + 0.5}" for i, name in enumerate(names)))
    spec, samples = open_source(tmp_path)
    assert spec.task == REGRESSION
    assert sorted(samples.targets.tolist()) == [i + 0.5 for i in range(30)]
    table(tmp_path, "file,target", *(f"{name},{i}" for i, name in enumerate(names)))
    golden(refusal(tmp_path))


def test_split_patient_and_metadata_columns_are_recognized(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(
        tmp_path, "img,class,Split,Patient ID,lesion_id,age", "a,x,train,1,l1,5", "b,y,VALID,2,l2,6", "c,y,Test,2,l3,7"
    )
    spec, samples = open_source(tmp_path)
    assert list(samples.table["split"]) == ["train", "val", "test"]
    assert list(samples.table["patient"]) == ["1", "2", "2"]
    assert spec.metadata == ("lesion_id", "age")
    assert "not 'lesion_id'" in " ".join(samples.notes)


SPLIT_CARD = 'table = "labels.csv"\nimages = "{image}.png"\nlabel = {column = "label"}\n'


def write_split(root, column, cells):
    names = [f"{number:02d}" for number in range(12)]
    images(root, *(f"{name}.png" for name in names))
    rows = (f"{name},{'ab'[number % 2]},{cells[number * len(cells) // 12]}" for number, name in enumerate(names))
    return table(root, f"image,label,{column}", *rows)


@pytest.mark.parametrize("text", ["", SPLIT_CARD], ids=["guessed", "card"])
@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("Data Split", ("train", "test")),
        ("usage", ("Training", "Test")),
        ("is_test", (0, 1)),
        ("in_test_set", ("no", "yes")),
    ],
)
def test_a_column_whose_cells_are_splits_is_the_split_with_a_note(tmp_path, column, cells, text):
    root = write_split(tmp_path, column, cells)
    samples = open_source(card(root, text) if text else root)[1]
    assert samples.table["split"].tolist() == ["train"] * 6 + ["test"] * 6
    assert f"split is column '{column}' of labels.csv" in "\n".join(samples.notes)


@pytest.mark.parametrize("text", ["", SPLIT_CARD], ids=["guessed", "card"])
@pytest.mark.parametrize(
    ("column", "cells"),
    [("usage", ("TRAIN", "DEV", "EVAL")), ("fold", (0, 1, 2)), ("train", (0, 1)), ("my_split", ("A", "B"))],
)
def test_a_column_that_may_be_the_split_is_noted_with_the_line_of_a_card(tmp_path, column, cells, text):
    root = write_split(tmp_path, column, cells)
    samples = open_source(card(root, text) if text else root)[1]
    assert "split" not in samples.table
    (note,) = [note for note in samples.notes if f"column '{column}'" in note]
    assert f'split = {{column = "{column}"' in note


def test_a_column_of_paths_in_folders_named_like_splits_is_not_the_split(tmp_path):
    names = [f"{split}/{number}.png" for split in ("train", "test") for number in range(6)]
    images(tmp_path, *names)
    table(tmp_path, "image,label,copy_of", *(f"{name},{'ab'[n % 2]},{name}" for n, name in enumerate(names)))
    assert "split is column" not in "\n".join(open_source(tmp_path)[1].notes)


def test_files_that_may_list_the_split_are_noted_with_the_line_of_a_card(tmp_path):
    images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(6)))
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("a/0.png\n")
    note = next(note for note in open_source(tmp_path)[1].notes if "train.txt" in note)
    assert 'split = {test = "test.txt", train = "train.txt", val = "val.txt"}' in note


def test_equal_rows_of_an_image_are_merged_and_conflicting_rows_are_refused(tmp_path, golden):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "file,label,x", "a.png,p,1", "a.png,p,2", "b.png,q,3")
    _, samples = open_source(tmp_path)
    assert len(samples.table) == 2
    assert "1 rows of labels.csv repeat an image" in " ".join(samples.notes)
    table(tmp_path, "file,label,x", "a.png,p,1", "b.png,q,3", "a.png,q,2")
    golden(refusal(tmp_path))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("file,label", "a.png,x", "gone.png,y"), "line 3"),
        (("file,label", "a.png,x", "../b.png,y"), "line 3"),
        (("file,label", "a.png,x", "/etc/b.png,y"), "line 3"),
        (("file,label", "a.png,x", "b.png,"), "line 3 (b.png)"),
        (("file,label", "a.png,x", "b.png,y,z"), "line 3"),
        (("file,label", "a.png,x", "b.png"), "line 3"),
        ((",file,label", "p1,a.png,x", "p2,b.png,y"), "line 2"),
        ((",file,label", "1,a.png,x", "1,b.png,y"), "line 2"),
        (("file,,label", "a.png,,x", "b.png,0,y"), "line 3"),
        (("file,label,", "a.png,x,", "b.png,y,,"), "line 3"),
        (("file,label,label", "a.png,x,x", "b.png,y,y"), "'label'"),
        (("file,label,dx", "a.png,x,x", "b.png,y,y"), "'label' and 'dx'"),
        (("file,label", "a.png,x", "b.png,x"), "labels"),
        (("file,label", "a.png,Mel", "b.png,mel"), "'mel'"),
        (("file,label", "a.png,big  one", "b.png,big one"), "'big one'"),
        (
            ("file,label,split", "a.png,x,train", "b.png,y,tset"),
            "'tset'",
        ),
        (("file,label", "a.png,x", "b.png,\0"), "line 3"),
        (("file,label",), "labels.csv"),
        (("file,age", "a.png,1", "b.png,2"), "labels.csv"),
    ],
)
def test_an_error_in_a_table_is_one_line_with_its_place(tmp_path, golden, rows, expected):
    images(tmp_path, "a.png", "b.png", "c.png")
    line = refusal(table(tmp_path, *rows))
    assert expected in line
    golden(line)


def test_a_name_that_matches_two_files_is_refused_with_both(tmp_path, golden):
    images(tmp_path, "images_1/a.png", "images_2/a.png", "images_1/b.png")
    table(tmp_path, "image,label", "a,x", "b,y")
    golden(refusal(tmp_path), "error[data]", "images_1/a.png", "images_2/a.png")


# --- a second table --------------------------------------------------------------------------------------------------
ADD = """
task = "multiclass"
images = "{id}.png"
table = "labels.csv"
add = {table = "facts.csv", by = "id"}
label = {column = "dx"}
patient = {column = "lesion"}
"""


def two_tables(folder, *facts):
    images(folder, "a.png", "b.png", "c.png")
    table(folder, "id,dx", "a,x", "b,y", "c,x", name="labels.csv")
    table(folder, *facts, name="facts.csv")
    (folder / "dataset.toml").write_text(ADD)


def test_a_second_table_adds_its_columns_in_any_order_and_blank_for_missing_rows(tmp_path):
    two_tables(tmp_path, "age,id,lesion", "40,c,L1", "50,a,L1", "60,z,L9")
    _, samples = open_source(tmp_path)
    assert samples.table["patient"].tolist() == ["L1", "unknown b.png", "L1"]
    assert samples.table["age"].tolist() == ["50", "", "40"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (("key,lesion", "a,1"), "add"),
        (("id,lesion", "a,1", "a,2"), "add"),
        (("id,lesion,dx", "a,1,x"), "add"),
        (("id,stage", "a,1"), "patient.column"),
    ],
)
def test_a_second_table_that_cannot_be_added_is_reported_with_its_key(tmp_path, facts, expected, golden):
    two_tables(tmp_path, *facts)
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_a_second_table_outside_the_folder_is_refused(tmp_path, golden):
    two_tables(tmp_path, "id,lesion", "a,1")
    (tmp_path / "dataset.toml").write_text(ADD.replace("facts.csv", "../facts.csv"))
    golden(refusal(tmp_path), "error[card]", "../facts.csv")


@pytest.mark.integration
def test_the_cost_of_columns_is_linear(tmp_path):
    def add(count):
        columns = [f"c{number}" for number in range(count)]
        rows = pandas.DataFrame([["0"] * count], columns=columns)
        table = LabelTable("labels.csv", rows, "c0", 1.0, 1.0, (), tuple(columns))
        guessed = add_table(DatasetCard(), table, [], set(columns[:-1]), with_split=False)
        assert guessed.metadata == (columns[-1],)
        assert column_mistakes(guessed.model_copy(update={"metadata": tuple(columns)}), columns) == []

    assert cost_ratio(lambda: add(10_000), lambda: add(1_000)) < 40  # 10 times the columns; their square would be 100


# --- Unicode ---------------------------------------------------------------------------------------------------------
COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"  # é as one character, and as a Mac writes it


def test_labels_and_patients_are_normalized_to_one_unicode_form(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows = f"a.png,{COMPOSED},{DECOMPOSED}1", f"b.png,{DECOMPOSED},{COMPOSED}1", "c.png,x,2", "d.png,x,3"
    table(tmp_path, "image,label,patient", *rows)
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("x", COMPOSED)
    assert samples.targets.tolist() == [1, 1, 0, 0]
    assert samples.table["patient"].tolist() == [f"{COMPOSED}1", f"{COMPOSED}1", "2", "3"]
    card(
        tmp_path,
        f'table = "labels.csv"\njoin = {{column = "image"}}\nlabels = ["{DECOMPOSED}", "x"]\n'
        f'label = {{column = "label", positive = "{DECOMPOSED}"}}\nlabel_map = {{"{DECOMPOSED}" = "y"}}\n',
    )
    spec, samples = open_source(tmp_path)
    assert (spec.labels, spec.positive, spec.label_map) == ((COMPOSED, "x"), COMPOSED, {COMPOSED: "y"})


def test_class_folders_in_two_unicode_forms_are_one_class(tmp_path):
    images(tmp_path, f"{COMPOSED}/a.png", f"{DECOMPOSED}/b.png", "x/c.png")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this disk takes both names for one")
    spec, samples = open_source(tmp_path)
    assert spec.labels == ("x", COMPOSED)
    assert sorted(samples.table["image"]) == sorted([f"{COMPOSED}/a.png", f"{DECOMPOSED}/b.png", "x/c.png"])


def test_columns_and_lists_of_labels_are_read_in_one_unicode_form(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, f"image,{DECOMPOSED},x", "a.png,1,0", "b.png,0,1", "c.png,0,1")
    assert open_source(tmp_path)[0].labels == (COMPOSED, "x")
    table(tmp_path, "image,label", f"a.png,{COMPOSED}|x", f"b.png,{DECOMPOSED}", "c.png,x")
    assert open_source(tmp_path)[1].targets.tolist() == [[1, 1], [0, 1], [1, 0]]
