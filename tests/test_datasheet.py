"""The description of a dataset is counted from its rows; its ten thumbnails are chosen evenly and reproducibly."""

import json

import numpy as np
import pytest

from zoo.data.datasheet import choose_rows, describe_source, draw_sheet, evenly, to_readable
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source


@pytest.fixture
def opened(tiny_data, tmp_path):
    def look(name):
        source = open_dataset(find_source(tiny_data / name), tmp_path)
        split = draw_split(source)
        return source, split, take_fingerprints(source, tmp_path)

    return look


def labels_shown(source):
    targets = np.asarray(source.samples.targets)
    return [source.spec.labels[targets[row]] for row in choose_rows(source)]


@pytest.mark.integration
@pytest.mark.parametrize(
    "name", ["binary.npz", "multiclass.npz", "folders", "table", "patients", "multilabel", "ordinal", "regression"]
)
def test_every_kind_of_dataset_is_described_as_json_and_text(opened, tmp_path, name):
    source, split, fingerprints = opened(name)
    facts = describe_source(source, split, fingerprints) | draw_sheet(
        source, split, fingerprints, tmp_path / "sheet.png"
    )
    document = json.loads(json.dumps(facts))
    assert sum(part["images"] for part in document["splits"].values()) == document["images"]
    assert len(document["shown"]) == 10 and len({item["sample_id"] for item in document["shown"]}) == 10
    assert "None" not in str(to_readable(facts).values())


def test_counts_are_those_of_the_rows(opened):
    source, split, fingerprints = opened("folders")
    counts = describe_source(source, split, fingerprints)["splits"]
    for name, part in counts.items():
        ours = [i for i, chosen in zip(source.sample_ids, split.folds[0], strict=True) if chosen == name]
        assert part["images"] == len(ours)
        assert part["labels"]["nodule"] == sum("/nodule/" in i for i in ours)


def test_missing_patients_are_emphasized(opened):
    source, split, fingerprints = opened("folders")
    facts = describe_source(source, split, fingerprints)
    assert (facts["patient"], facts["patients"]) == ("none: image level", None)
    shown = to_readable(facts | {"sheet": "x.png", "shown": [], "shown_from_to": [0, 255]})
    assert shown["patient"].startswith("NONE: image level; every image counts as one patient")
    source, split, fingerprints = opened("patients")
    facts = describe_source(source, split, fingerprints)
    assert (facts["patient"], facts["patients"], facts["folds"]) == ("patient", 20, 5)


def test_classes_share_the_thumbnails_evenly(opened):
    assert labels_shown(opened("folders")[0]) == ["clear"] * 5 + ["nodule"] * 5
    shown = labels_shown(opened("multiclass.npz")[0])
    assert {label: shown.count(label) for label in shown} == {"0": 3, "1": 3, "2": 2, "3": 2}


def test_regression_thumbnails_go_from_least_to_greatest(opened):
    source = opened("regression")[0]
    shown = np.asarray(source.samples.targets)[choose_rows(source)]
    assert (np.diff(shown) >= 0).all()
    assert (shown[0], shown[-1]) == (source.samples.targets.min(), source.samples.targets.max())


def test_evenly_spread_indices_begin_and_end_with_all_there_are():
    assert evenly(100, 4).tolist() == [0, 33, 66, 99]
    assert evenly(3, 10).tolist() == [0, 1, 2]
    assert evenly(0, 10).tolist() == []


def test_the_sheet_of_16_bits_is_displayed_through_the_percentiles_of_train(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(1000, 5000, (60, 64, 64)).astype(np.uint16)
    np.savez(tmp_path / "deep.npz", images=images, labels=np.arange(60) % 2)
    source = open_dataset(find_source(tmp_path / "deep.npz"), tmp_path)
    split = draw_split(source)
    shown = draw_sheet(source, split, take_fingerprints(source, tmp_path), tmp_path / "sheet.png")["shown_from_to"]
    expected = np.percentile(images[split.folds[0] == "train"], [0.1, 99.9])
    assert shown == pytest.approx(expected)


def test_the_same_set_gives_the_same_sheet(opened, tmp_path):
    source, split, fingerprints = opened("table")
    draw_sheet(source, split, fingerprints, tmp_path / "a.png")
    draw_sheet(source, split, fingerprints, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
