"""Predicting a split, aggregating by unit, and storing predictions."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from factories import make_fold
from torch import nn

from zoo import BINARY, MULTICLASS, MULTILABEL, REGRESSION
from zoo.data.pixels import Pixels
from zoo.errors import ResultsError, RunError
from zoo.evaluation.predict import predict
from zoo.evaluation.predictions import Predictions, load_predictions, save_predictions
from zoo.system.devices import Device


def make_dataset(targets, assignment, task=BINARY, labels=("a", "b"), patients=None):
    """A dataset whose image i is one pixel of level i."""
    count = len(assignment)
    dataset = make_fold(targets, task=task, labels=labels, patients=patients, split_of=assignment, intensity=(0.0, 1.0))
    one = torch.ones(1, 1, 1, 1)
    images = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1)
    return dataset, Pixels(images=images, scale=(0.0, 1.0), mean=one * 0, std=one, device="cpu")


class Level(nn.Module):
    """Returns (level, 0), so that the logits identify the image."""

    def forward(self, images):
        level = images.mean(dim=(1, 2, 3))
        return torch.stack([level, torch.zeros_like(level)], dim=1)


def make_predictions(**change):
    fields = {
        "sample_ids": np.array(["s0", "s1", "s2", "s3"]),
        "patients": np.array(["q", "p", "q", "p"]),
        "targets": np.array([1, 0, 1, 0]),
        "probabilities": np.array([[0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [1.0, 0.0]]),
    }
    return Predictions(**{**fields, **change})


# --- prediction ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_split_is_predicted_once_in_dataset_order(batch_size, monkeypatch):
    monkeypatch.setattr(Device, "prediction_batch", lambda *_: batch_size)
    assignment = ["test", "train", "val", "test", "val", "test"]
    dataset, pixels = make_dataset([0, 1, 1, 0, 0, 1], assignment, patients=list("abcdef"))
    actual = predict(Level(), dataset, pixels, "test", precision="fp32")
    assert actual.sample_ids.tolist() == ["s0", "s3", "s5"]
    assert actual.patients.tolist() == ["a", "d", "f"]
    assert actual.targets.tolist() == [0, 0, 1]
    np.testing.assert_allclose(actual.probabilities[:, 0], scipy.special.expit([0.0, 3.0, 5.0]), rtol=1e-6)


def test_predicting_changes_neither_weights_nor_running_statistics():
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(1, 2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    dataset, pixels = make_dataset([0, 1] * 4, ["val"] * 8)
    first = predict(module, dataset, pixels, "val", precision="fp32")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    np.testing.assert_array_equal(
        predict(module, dataset, pixels, "val", precision="fp32").probabilities, first.probabilities
    )
    assert not module.training


def test_a_regression_is_predicted_in_the_units_of_its_targets():
    targets = [10.0, 20.0, 30.0, 40.0]
    dataset, pixels = make_dataset(targets, ["train", "train", "train", "test"], REGRESSION, ("age",))
    first = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    with torch.no_grad():
        first[1].weight.fill_(1.0)
        first[1].bias.fill_(-1.0)
    actual = predict(first, dataset, pixels, "test", precision="fp32")  # level 3 - 1: two deviations above the mean
    assert actual.probabilities[0, 0] == pytest.approx(np.mean(targets[:3]) + 2 * np.std(targets[:3]))


def test_an_output_that_is_not_finite_names_the_first_image():
    class Broken(Level):
        def forward(self, images):
            return torch.log(2.5 - super().forward(images))

    dataset, pixels = make_dataset([0, 1] * 3, ["test"] * 6)
    with pytest.raises(RunError, match=r"\bs3\b") as caught:
        predict(Broken(), dataset, pixels, "test", precision="fp32")
    assert caught.value.code == "diverged"


def test_bf16_probabilities_are_near_those_of_fp32():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))
    dataset, pixels = make_dataset([0, 1] * 10, ["test"] * 20)
    pixels = replace(pixels, scale=(0.0, 20.0))
    exact, rough = (predict(module, dataset, pixels, "test", precision=p).probabilities for p in ("fp32", "bf16"))
    np.testing.assert_allclose(rough, exact, atol=0.01)
    assert rough.dtype == np.float64


# --- aggregation by unit ---------------------------------------------------------------------------------------------
def test_a_patients_probability_is_the_mean_over_its_images():
    actual = make_predictions().by_unit("patient")
    assert actual.patients.tolist() == actual.sample_ids.tolist() == ["p", "q"]
    assert actual.targets.tolist() == [0, 1]
    np.testing.assert_allclose(actual.probabilities, [[0.8, 0.2], [0.3, 0.7]])


def test_a_clips_probability_is_the_mean_over_its_frames_and_it_keeps_its_patient():
    clips = make_predictions(sample_ids=np.array(["a.avi#0", "b.avi#0", "a.avi#8", "b.avi#8"]))
    actual = clips.by_unit("clip")
    assert actual.sample_ids.tolist() == ["a.avi", "b.avi"]
    assert actual.patients.tolist() == clips.patients[:2].tolist()
    np.testing.assert_allclose(actual.probabilities, (clips.probabilities[:2] + clips.probabilities[2:]) / 2)
    assert clips.by_unit("image") is clips


def test_metadata_follow_their_images():
    dataset, pixels = make_dataset([0, 1, 1, 0], ["test", "train", "test", "val"])
    dataset = replace(dataset, metadata={"sex": np.array(["F", "M", "M", ""])})
    actual = predict(Level(), dataset, pixels, "test", precision="fp32")
    assert actual.metadata["sex"].tolist() == ["F", "M"]


def test_metadata_of_a_patient_are_the_shared_value_the_mean_or_several():
    metadata = {
        "sex": np.array(["F", "M", "F", "M"]),
        "age": np.array(["50", "61", "51", "61"]),
        "view": np.array(["AP", "PA", "PA", "PA"]),
        "site": np.array(["", "", "x", ""]),
    }
    actual = make_predictions(metadata=metadata).by_unit("patient")
    assert actual.patients.tolist() == ["p", "q"]
    assert {name: values.tolist() for name, values in actual.metadata.items()} == {
        "sex": ["M", "F"],
        "age": ["61", "50.5"],
        "view": ["PA", "several"],
        "site": ["", "x"],
    }


# --- storage ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL, REGRESSION], ids=str)
def test_stored_predictions_are_read_back_unchanged(tmp_path, task):
    targets = {
        "multilabel": np.array([[0, 1], [np.nan, 1], [0, 0], [1, np.nan]]),
        "regression": np.array([1.5, 2.5, np.pi, 0.0]),
    }.get(task.name, np.array([1, 0, 1, 0]))
    stored = {"val": make_predictions(targets=targets), "test": make_predictions(targets=targets[::-1])}
    save_predictions(tmp_path / "p.npz", stored)
    actual = load_predictions(tmp_path / "p.npz")
    assert list(actual) == ["val", "test"]
    for split, predictions in actual.items():
        for name in ("sample_ids", "patients", "targets", "probabilities"):
            np.testing.assert_array_equal(getattr(predictions, name), getattr(stored[split], name))


def test_metadata_columns_may_have_any_name(tmp_path):
    metadata = {"sex": np.array(["F", "", "M", "F"]), "../a/b:10 Ä": np.array(["1", "2", "3", "4"])}
    save_predictions(tmp_path / "p.npz", {split: make_predictions(metadata=metadata) for split in ("val", "test")})
    for part in load_predictions(tmp_path / "p.npz").values():
        assert {name: values.tolist() for name, values in part.metadata.items()} == {
            name: values.tolist() for name, values in metadata.items()
        }


def test_metadata_of_another_length_are_a_damaged_file(tmp_path):
    save_predictions(tmp_path / "p.npz", {"test": make_predictions(metadata={"sex": np.array(["F", "M"])})})
    with pytest.raises(ResultsError, match=r"p\.npz: .*test: .*metadata"):
        load_predictions(tmp_path / "p.npz")


def test_stored_predictions_need_no_pickle(tmp_path):
    ids = np.array(["Ä 🩻", "b", "c", "d"], dtype=object)
    save_predictions(tmp_path / "p.npz", {"test": make_predictions(sample_ids=ids)})
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert arrays["test_sample_ids"].tolist() == ids.tolist()
    assert list(load_predictions(tmp_path / "p.npz")) == ["test"]


def damage(content):
    yield "empty", b""
    yield "text", b"not a zip file"
    yield "cut", content[: len(content) // 2]
    for place in range(60, len(content) - 60, 97):
        yield f"byte {place}", content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def test_a_damaged_file_is_read_correctly_or_is_an_error_that_names_it(tmp_path):
    stored = make_predictions()
    save_predictions(tmp_path / "p.npz", {"test": stored})
    refused = 0
    for kind, content in damage((tmp_path / "p.npz").read_bytes()):
        (tmp_path / "q.npz").write_bytes(content)
        try:
            actual = load_predictions(tmp_path / "q.npz")
        except ResultsError as error:
            assert "q.npz: cannot be read" in str(error), kind
            refused += 1
            continue
        if "test" in actual:  # the damaged byte was one that nobody reads, as a date
            np.testing.assert_array_equal(actual["test"].probabilities, stored.probabilities)
    assert refused > 3


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ResultsError, match=r"none\.npz"):
        load_predictions(tmp_path / "none.npz")


def test_val_and_test_may_have_different_metadata_columns(tmp_path):
    ages, sites = np.array(["40", "", "50", "60"]), np.array(["a", "a", "b", "b"])
    stored = {"val": make_predictions(metadata={"age": ages}), "test": make_predictions(metadata={"site": sites})}
    save_predictions(tmp_path / "p.npz", stored)
    actual = load_predictions(tmp_path / "p.npz")
    assert list(actual["val"].metadata) == ["age"] and actual["test"].metadata["site"].tolist() == sites.tolist()
