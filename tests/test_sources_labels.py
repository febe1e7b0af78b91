"""Labels in many forms: uncertain, one-hot, in lists, beside other columns, or in a published npz."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import card, images, open_source, shared, table

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.data.lookup import find_datasets
from zoo.data.opening import open_dataset
from zoo.errors import DataError
from zoo.registry.opening import open_registry
from zoo.sources.decimals import to_number
from zoo.sources.opening import find_source, write_card
from zoo.sources.tables import LIST, cell_text, split_labels

NAMES = [f"{number:03d}" for number in range(12)]


def write_labeled(root, header, cells):
    """Twelve images, and a table with `cells(number)` in each row."""
    images(root, *(f"{name}.png" for name in NAMES))
    return table(root, f"image,{header}", *(f"{name},{cells(number)}" for number, name in enumerate(NAMES)))


def notes_of(samples):
    return "\n".join(samples.notes)


# --- uncertain -------------------------------------------------------------------------------------------------------
def chexpert(root):
    return write_labeled(
        root, "Sex,Edema,Mass", lambda n: f"F,{('1.0', '0.0', '', '-1.0')[n % 4]},{('0', '1', '-1')[n % 3]}"
    )


def test_minus_one_in_columns_of_findings_is_unknown_and_noted(tmp_path):
    spec, samples = open_source(chexpert(tmp_path))
    assert (spec.task, spec.labels) == (MULTILABEL, ("Edema", "Mass"))
    np.testing.assert_array_equal(samples.targets[:4], [[1, 0], [0, 1], [np.nan, np.nan], [np.nan, 0]])
    assert "7 cells of Edema, Mass are -1" in notes_of(samples)


@pytest.mark.parametrize(("policy", "value"), [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_a_card_sets_the_meaning_of_minus_one(tmp_path, policy, value):
    card(chexpert(tmp_path), f'label = {{uncertain = "{policy}"}}\n')
    np.testing.assert_array_equal(open_source(tmp_path)[1].targets[3], [value, 0])


def test_minus_one_without_any_zero_is_ambiguous(tmp_path):
    write_labeled(tmp_path, "Edema,Mass", lambda n: f"{(1, -1)[n % 2]},{(-1, 1, 1)[n % 3]}")
    with pytest.raises(DataError, match="Mass is -1") as caught:
        find_source(tmp_path)
    assert "uncertain" in caught.value.fix
    card(tmp_path, 'label = {uncertain = "zeros"}\n')
    assert open_source(tmp_path)[1].targets[:2].tolist() == [[1, 0], [0, 1]]


# --- other columns of 0 and 1 ----------------------------------------------------------------------------------------
def test_columns_that_are_not_classes_are_metadata_and_noted(tmp_path):
    flags = "MEL,NV,BCC,is_test,smoke,diabetes"
    root = write_labeled(
        tmp_path, flags, lambda n: f"{n % 3 == 0:d},{n % 3 == 1:d},{n % 3 == 2:d},{n > 9:d},{n % 2},{n % 5 == 0:d}"
    )
    spec, samples = open_source(root)
    assert (spec.task, spec.labels) == (MULTICLASS, ("MEL", "NV", "BCC"))
    assert samples.targets.tolist() == [n % 3 for n in range(12)]
    assert {"smoke", "diabetes"} <= set(spec.metadata)
    for column in ("is_test", "smoke", "diabetes"):
        assert f"column '{column}' is not read as a label" in notes_of(samples)


def test_classes_between_other_columns_are_found(tmp_path):
    root = write_labeled(
        tmp_path, "ulcer,a,b,c,itch", lambda n: f"{n % 2},{n % 3 == 0:d},{n % 3 == 1:d},{n % 3 == 2:d},{n % 5 == 0:d}"
    )
    assert open_source(root)[0].labels == ("a", "b", "c")


def test_a_pair_of_classes_beside_other_findings_is_ambiguous(tmp_path):
    root = write_labeled(tmp_path, "well,ill,itch,pain", lambda n: f"{n % 2},{1 - n % 2},{n % 3 == 0:d},{n % 5 == 0:d}")
    with pytest.raises(DataError, match="well, ill"):
        find_source(root)
    card(root, 'label = {columns = ["well", "ill"]}\ntable = "labels.csv"\njoin = {column = "image"}\n')
    assert open_source(root)[0].task == BINARY


@pytest.mark.parametrize("odd", ["2", "U", "yes", "-2"])
def test_a_column_of_findings_with_another_value_is_noted(tmp_path, odd):
    root = write_labeled(tmp_path, "Edema,Mass,Nodule", lambda n: f"{n % 2},{n % 3 == 0:d},{odd if n == 5 else n % 2}")
    spec, samples = open_source(root)
    assert spec.labels == ("Edema", "Mass")
    assert f"column 'Nodule' is not read as a label: it contains {odd!r}" in notes_of(samples)


def test_columns_of_words_for_yes_and_no_beside_0_1_columns_are_noted(tmp_path):
    def row(number):
        return ",".join([*(f"{number // 2**shift % 2}" for shift in (0, 1)), "present" if number % 3 else "absent"])

    notes = notes_of(open_source(write_labeled(tmp_path, "edema,mass,nodule", row))[1])
    assert "column 'nodule' is not read as a label: it contains" in notes


def test_a_json_object_in_a_cell_is_reported_as_one(tmp_path):
    root = write_labeled(tmp_path, "label", lambda n: f'"{{""edema"": {n % 2}}}"')
    with pytest.raises(DataError, match="JSON object") as caught:
        find_source(root)
    assert caught.value.code == "data" and "labels.csv line 2" in caught.value.message


def test_columns_of_true_and_false_are_labels(tmp_path):
    root = write_labeled(tmp_path, "a,b,c", lambda n: f"{n % 3 == 0},{n % 3 == 1},{n % 3 == 2}")
    assert open_source(root)[1].targets.tolist() == [n % 3 for n in range(12)]


def test_flag_columns_beside_a_label_column_are_noted_as_unused(tmp_path):
    root = write_labeled(tmp_path, "dx,a,b", lambda n: f"{'xy'[n % 2]},{n % 2},{n % 3 == 0:d}")
    assert "labels are column 'dx', not the 0/1 columns a, b of labels.csv" in notes_of(open_source(root)[1])


# --- several labels in a cell ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "cells",
    [
        ("['normal']", "['edema', 'mass']", "['mass']", "['edema']"),
        ('["normal"]', '["edema", "mass"]', '["mass"]', '["edema"]'),
        ("['normal']", "['edema' 'mass']", "['mass']", "['edema']"),  # as numpy writes it
        ("[normal]", "[edema, mass]", "[mass]", "[edema]"),
        ("{'normal'}", "{'edema', 'mass'}", "{'mass'}", "{'edema'}"),
        ("('normal',)", "('edema', 'mass')", "('mass',)", "('edema',)"),
        ("normal", "edema;mass", "mass", "edema"),
        ("normal", "edema, mass", "mass", "edema"),
        ("normal", "edema / mass", "mass", "edema"),
        ("normal", "edema mass", "mass", "edema"),
        ("normal", "edema and mass", "mass", "edema"),
        ("normal", "edema - mass", "mass", "edema"),
        ("normal", "edema|mass", "mass", "edema"),
    ],
)
def test_several_labels_in_a_cell_are_several_labels(tmp_path, cells):
    root = write_labeled(tmp_path, "Labels", lambda n: '"' + cells[n % 4].replace('"', '""') + '"')
    spec, samples = open_source(root)
    assert (spec.task, spec.labels) == (MULTILABEL, ("edema", "mass", "normal"))
    assert samples.targets[:4].tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0]]
    written = open_source(write_card(root))[1]
    assert written.targets.tolist() == samples.targets.tolist()


@pytest.mark.parametrize("names", [("left, upper", "left, lower", "right, upper", "right, lower"), ("a b", "c d")])
def test_a_class_name_may_contain_a_separator(tmp_path, names):
    root = write_labeled(tmp_path, "label", lambda n: f'"{names[n % len(names)]}"')
    assert open_source(root)[0].labels == tuple(sorted(names))


def test_lists_of_one_label_each_are_classes_and_an_empty_one_is_none(tmp_path):
    root = write_labeled(tmp_path / "one", "label", lambda n: "['a']" if n % 2 else "['b']")
    assert open_source(root)[0].task == BINARY
    root = write_labeled(tmp_path / "none", "label", lambda n: ("['a']", "[]", "['No Finding']")[n % 3])
    assert open_source(root)[1].targets[:3].tolist() == [[1], [0], [0]]


def test_a_cell_that_is_not_a_list_is_reported(tmp_path):
    root = write_labeled(tmp_path, "label", lambda n: "\"['a', b']\"" if n == 3 else "['a']")
    with pytest.raises(DataError, match=r"labels\.csv line 5"):
        find_source(root)


def test_a_list_is_read_as_json_reads_it():
    assert split_labels(text := json.dumps(["Crohn's", "b, c"]), LIST) == json.loads(text)


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_decimal_commas_are_a_quantity_and_not_classes(tmp_path):
    names = [f"{number:02}" for number in range(30)]
    images(tmp_path, *(f"{name}.png" for name in names))
    table(tmp_path, "image;score", *(f"{name};{number},5" for number, name in enumerate(names)))
    card(tmp_path, 'label = {column = "score"}\n')
    spec, samples = open_source(tmp_path)
    assert spec.task == REGRESSION
    assert samples.targets.tolist() == [number + 0.5 for number in range(30)]


@pytest.mark.parametrize(("text", "value"), [("0,5", 0.5), ("-3,25", -3.25), ("1.5", 1.5), ("1,2,3", None), ("", None)])
def test_a_number_may_have_a_decimal_comma(text, value):
    assert to_number(text) == value


def scores(root, values):
    names = [f"{number:02}" for number in range(len(values))]
    images(root, *(f"{name}.png" for name in names))
    table(root, "image;score", *(f"{name};{value}" for name, value in zip(names, values, strict=True)))
    return card(root, 'label = {column = "score"}\n')


@pytest.mark.parametrize("values", [["950", "1,234", "12,500"], [*map(str, range(900, 930)), "1,234", "12,500"]])
def test_commas_that_may_separate_thousands_are_ambiguous(tmp_path, values):
    with pytest.raises(DataError) as caught:
        find_source(scores(tmp_path, values))
    assert (caught.value.code, "'1,234'" in caught.value.message) == ("decimal-comma", True)


@pytest.mark.parametrize("other", ["0,987", "3,5", "1234,567"])
def test_one_cell_that_can_only_be_a_decimal_comma_decides_for_its_column(tmp_path, other):
    samples = open_source(scores(tmp_path, [*(f"{number},234" for number in range(1, 31)), other]))[1]
    assert samples.targets.tolist() == [*(number + 0.234 for number in range(1, 31)), float(other.replace(",", "."))]


@pytest.mark.parametrize("values", [["a", "b, c"], [], [1, 2], [f"finding {number}" for number in range(20)]])
def test_a_list_of_a_parquet_column_is_read_as_its_labels(values):
    assert split_labels(cell_text(np.array(values, dtype=object)), LIST) == [str(value) for value in values]


# --- npz -------------------------------------------------------------------------------------------------------------
def packed(folder, labels, **more):
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(folder / "set.npz", train_images=noise, train_labels=labels, **more)
    return folder


@pytest.mark.parametrize("dtype", ["u1", "f4", "?"])
def test_one_hot_labels_of_an_npz_are_classes(tmp_path, dtype):
    targets = np.arange(12) % 3
    spec, samples = open_source(packed(tmp_path, np.eye(3)[targets].astype(dtype)) / "set.npz")
    assert (spec.task, samples.targets.tolist()) == (MULTICLASS, targets.tolist())
    assert find_source(packed(tmp_path, np.eye(2)[targets % 2]) / "set.npz").task == BINARY


def test_a_folder_with_a_single_npz_is_read_as_the_npz(tmp_path):
    assert find_source(packed(tmp_path, np.arange(12) % 2)).task == BINARY


@pytest.mark.parametrize(
    ("task", "kind"), [("multiclass", MULTICLASS), ("ordinal", ORDINAL), ("multilabel", MULTILABEL)]
)
def test_the_task_of_a_card_applies_to_one_hot_labels(tmp_path, task, kind):
    root = card(packed(tmp_path, np.eye(3)[np.arange(12) % 3]), f'root = "set.npz"\ntask = "{task}"\n')
    assert open_source(root)[0].task == kind


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (np.ones((12, 3)), "multiclass"),
        (np.eye(3)[np.arange(12) % 3], "regression"),
        (np.arange(12) % 2, "multilabel"),
        (np.where(np.eye(3)[np.arange(12) % 3] == 1, np.nan, 0), "multiclass"),
    ],
)
def test_a_task_that_the_labels_of_an_npz_cannot_have_is_refused(tmp_path, labels, task):
    card(packed(tmp_path, labels), f'root = "set.npz"\ntask = "{task}"\n')
    with pytest.raises(DataError, match=task):
        find_source(tmp_path)


def test_columns_of_several_labels_are_not_a_regression(tmp_path):
    card(packed(tmp_path, np.ones((12, 3))), 'root = "set.npz"\ntask = "regression"\n')
    with pytest.raises(DataError) as caught:
        find_source(tmp_path)
    assert (caught.value.code, caught.value.fix) == ("data", "save labels of shape (N,)")


def open_published(path, cache):
    (spec,) = find_datasets(str(path), open_registry(), cache, offline=True)
    return spec, open_dataset(spec, cache)


def test_a_published_npz_is_recognized_by_its_checksum_whatever_its_name(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(Path(shared("retinamnist.npz")).read_bytes())
    spec, source = open_published(path, tmp_path)
    assert (spec.name, spec.task, spec.derived_from) == ("mine", ORDINAL, ("deepdrid", "retinamnist"))
    assert np.array_equal(
        source.samples.targets, np.concatenate([np.load(path)[f"{s}_labels"][:, 0] for s in ("train", "val", "test")])
    )
    spec, source = open_published(shared("breastmnist.npz"), tmp_path)
    assert (spec.positive, len(source.sample_ids)) == ("malignant", 780)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["pneumoniamnist.npz", "PneumoniaMNIST.npz"])
def test_a_changed_file_under_a_published_name_is_noted(tmp_path, name):
    arrays = dict(np.load(shared("pneumoniamnist.npz")))
    arrays["train_labels"] = 1 - arrays["train_labels"]
    np.savez(tmp_path / name, **arrays)
    spec, source = open_published(tmp_path / name, tmp_path)
    assert f"{name} is not the file published as pneumoniamnist" in notes_of(source.samples)
    assert "pneumoniamnist.npz" in spec.checksums and spec.license == ""


@pytest.mark.parametrize(("unknown", "dtype"), [(255, np.uint8), (-1, np.int64)])
def test_a_label_of_an_npz_that_may_mean_unknown_is_refused(tmp_path, unknown, dtype):
    labels = np.array([0, 1, 2, unknown] * 3, dtype)
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 8, 8), np.uint8), labels=labels)
    with pytest.raises(DataError, match=rf"labels\[3\] is {unknown}") as caught:
        find_source(tmp_path / "a.npz")
    assert caught.value.code == "data"
