"""A dataset.toml sets what cannot be guessed; all mistakes in it are reported at once."""

from typing import Literal, get_args, get_origin

import pytest
from folders import card, images, open_source, refusal, table

from zoo import MULTICLASS, ORDINAL, REGRESSION
from zoo.sources.cards import read_card
from zoo.sources.opening import card_json_schema
from zoo.sources.synopsis import read_synopsis
from zoo.sources.writing import compose_card, to_toml
from zoo.specs.dataset import FACT_TYPES, FACTS


def test_a_card_sets_what_cannot_be_guessed(tmp_path):
    images(tmp_path, "images_001/images/a.png", "images_002/images/b.png", "images_002/images/c.png")
    table(
        tmp_path, "Image Index,EF,who,leak,age", "a.png,10,1,z,4", "b.png,45,1,z,5", "c.png,50,2,z,6", name="list.csv"
    )
    card(
        tmp_path,
        """
        schema = 1
        name = "echo"
        title = "Echo stills"
        license = "CC BY 4.0"
        task = "ordinal"
        images = "images_*/images/{Image Index}"
        table = "list.csv"
        label = {column = "EF", bins = [0, 40, 50, 100], names = ["reduced", "mild", "normal"]}
        patient = {column = "who", means = "patient"}
        metadata = ["age"]
        hide = ["leak"]
        symmetries = ["hflip"]
        intensity = [0, 4095]
        """,
    )
    spec, samples = open_source(tmp_path)
    assert (spec.name, spec.task, spec.labels) == ("echo", ORDINAL, ("reduced", "mild", "normal"))
    assert samples.targets.tolist() == [0, 1, 2]
    assert list(samples.table.columns) == ["sample_id", "image", "patient", "age"]
    assert (spec.patient, spec.metadata, spec.symmetries, spec.intensity) == (
        "patient",
        ("age",),
        ("hflip",),
        (0, 4095),
    )
    assert spec.license == "CC BY 4.0"


def test_a_card_reads_label_split_and_patient_from_the_path(tmp_path):
    root = images(
        tmp_path / "data", "B/train/p1_left.png", "M/train/p2_left.png", "M/test/p3_right.png", "M/test/p3_mask.png"
    )
    card(
        tmp_path,
        """
        root = "data"
        images = "{label}/{split}/*.png"
        exclude = "*_mask*"
        labels = {M = "malignant", B = "benign"}
        label = {positive = "M"}
        patient = {regex = "(p[0-9]+)_(?:left|right)"}
        """,
    )
    spec, samples = open_source(tmp_path / "dataset.toml")
    assert (spec.labels, spec.positive) == (("malignant", "benign"), "malignant")
    assert dict(zip(samples.table["image"], samples.targets.tolist(), strict=True))["B/train/p1_left.png"] == 1
    assert list(samples.table["patient"]) == ["p1", "p3", "p2"]
    assert set(samples.table["split"]) == {"train", "test"}
    assert "1 images left out: excluded" in samples.notes
    assert root in samples.files[0].parents


def test_a_card_names_the_values_of_a_split_column(tmp_path, golden):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,label,part", "a.png,x,A", "b.png,y,B", "c.png,y,C")
    text = 'table = "labels.csv"\njoin = {column = "file"}\nlabel = {column = "label"}\n'
    card(tmp_path, text + 'split = {column = "part", train = ["A"], val = "B", test = "C"}')
    assert list(open_source(tmp_path)[1].table["split"]) == ["train", "val", "test"]
    card(tmp_path, text + 'split = {column = "part", train = ["A", "B"]}')
    golden(refusal(tmp_path))


def test_all_mistakes_in_a_card_are_reported_at_once(tmp_path):
    images(tmp_path, "a.png")
    card(
        tmp_path,
        'tabel = "x.csv"\ntask = "binry"\nlabel = {colum = "dx"}\nsymmetries = ["flip"]\npatient = {regex = "p[0-9"}\n',
    )
    line = refusal(tmp_path)
    assert "dataset.toml: 5 mistakes" in line
    assert "tabel: unknown key. Did you mean 'table'" in line
    assert "label.colum: unknown key. Did you mean 'column'" in line
    for place in ("task: ", "symmetries.0: ", "patient.regex: not a regular expression"):
        assert place in line


def test_all_missing_columns_are_reported_at_once(tmp_path):
    images(tmp_path, "a.png")
    table(tmp_path, "file,label", "a.png,x")
    card(tmp_path, 'table = "labels.csv"\njoin = {column = "fil"}\nlabel = {column = "label"}\nmetadata = ["age"]\n')
    line = refusal(tmp_path)
    assert "join.column: labels.csv has no column 'fil'. Did you mean 'file'" in line
    assert "metadata.0: labels.csv has no column 'age'" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label = ", "dataset.toml"),
        ('images = "*.jpg"', "'*.jpg'"),
        ('images = "*.png"', "label"),
        ('label = {column = "dx"}', "images"),
        ('table = "gone.csv"\nlabel = {column = "dx"}\njoin = {column = "f"}', "gone.csv"),
        ('patient = {column = "a", none = "b"}', "patient"),
    ],
)
def test_a_card_that_does_not_match_the_data_is_one_line(tmp_path, text, expected, golden):
    card(images(tmp_path, "a.png"), text)
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_fields_that_a_card_leaves_open_are_guessed(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,grade,patient", "a.png,0,p1", "b.png,1,p1", "c.png,2,p2")
    assert open_source(tmp_path)[0].task == ORDINAL
    card(tmp_path, 'task = "multiclass"\ntitle = "Grades"\n')
    spec, samples = open_source(tmp_path)
    assert (spec.task, spec.title, spec.labels) == (MULTICLASS, "Grades", ("0", "1", "2"))
    assert list(samples.table["patient"]) == ["p1", "p1", "p2"]


def test_a_card_may_name_the_label_column_alone(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,ejection_fraction", "a.png,55.5", "b.png,61", "c.png,30.25")
    assert 'label = {column = "NAME"}' in refusal(tmp_path)
    card(tmp_path, 'task = "regression"\nlabel = {column = "ejection_fraction"}\n')
    spec, samples = open_source(tmp_path)
    assert spec.task == REGRESSION
    assert list(samples.targets) == [55.5, 61.0, 30.25]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", "NaN", "2"], "'NaN'"),
        (["1.5", "inf"] * 2, "'inf'"),
    ],
)
def test_a_missing_number_is_not_a_class(tmp_path, values, expected, golden):
    names = [f"{letter}.png" for letter in "abcd"]
    table(images(tmp_path, *names), "file,label", *(f"{n},{v}" for n, v in zip(names, values, strict=True)))
    line = refusal(tmp_path)
    assert expected in line
    golden(line)


def test_an_infinite_value_of_a_regression_is_named(tmp_path, golden):
    names = [f"i{number}.png" for number in range(30)]
    rows = [f"{name},{number + 0.5}" for number, name in enumerate(names[:-1])]
    table(images(tmp_path, *names), "file,label", *rows, f"{names[-1]},inf")
    golden(refusal(tmp_path), "error[data]", "line 31", names[-1], "inf")


def test_the_schema_of_a_card_is_json_schema_with_its_keys():
    schema = card_json_schema()
    assert {"schema", "images", "table", "label", "patient", "split", "symmetries"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def another_value(kind):
    """A value of the type of a fact that is not the default."""
    if kind in (bool, bool | None):
        return False
    if kind == float | None:
        return 2.5
    if get_origin(kind) is tuple:
        return (another_value(get_args(kind)[0]),)
    return get_args(kind)[-1] if get_origin(kind) is Literal else "as given"


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_of_a_dataset_is_a_key_of_every_card(tmp_path, name):
    value = another_value(FACT_TYPES[name])
    line = f"{name} = {to_toml(value)}"
    images(tmp_path, "mass/a.png", "mass/b.png", "none/c.png", "none/d.png")
    card(tmp_path, line)
    spec, _ = open_source(tmp_path)
    assert getattr(spec, name) == value
    assert line in compose_card(read_card(tmp_path / "dataset.toml"), spec, "", ())
    synopsis = tmp_path / "listed.toml"
    synopsis.write_text(f'task = "binary"\nlabels = ["mass", "none"]\n{line}\n')
    assert getattr(read_synopsis(synopsis), name) == value
