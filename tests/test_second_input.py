"""Metadata beside the image: coded by train only, joined with any network, part of a run's identity where used."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import draw_images, make_dataset_spec, make_fold, make_samples

from conftest import write_table
from zoo import BuildRequest
from zoo.conformance.protocol_claims import TINY_NETWORK, short_training
from zoo.data.coding import fit_coding, read_coding
from zoo.data.inputs import select_inputs
from zoo.data.opening import open_dataset
from zoo.data.pixels import as_pixels, with_metadata
from zoo.errors import DataError, UsageError
from zoo.models.building import build_model, feature_extractor, layer_groups, spec_with_metadata
from zoo.models.features import extract_features
from zoo.runner.grid import identify_inputs
from zoo.specs.protocol import FINETUNE, LINEAR_PROBE, PROTOCOLS, ZERO_SHOT, resolved_fields
from zoo.trained.inputs import NewImage
from zoo.trained.second_input import attach_metadata
from zoo.training.fitting import fit

AGES = np.array(["40", "60", "", "NA", "100", "old"])
SEXES = np.array(["F", "M", "", "F", "X", "M"])
CELLS = {"age": AGES, "sex": SEXES}
TRAIN = np.array([True, True, True, True, False, False])
REQUEST = BuildRequest(num_outputs=2, channels=1, image_size=16, metadata=3)


# --- coding ----------------------------------------------------------------------------------------------------------
def test_numbers_are_standardized_by_train_and_missing_ones_have_an_indicator():
    encoded = fit_coding({"age": AGES}, TRAIN).encode({"age": AGES})
    assert encoded.tolist() == [[-1, 0], [1, 0], [0, 1], [0, 1], [5, 0], [0, 1]]


def test_texts_have_one_indicator_per_category_of_train_and_one_for_all_others():
    encoded = fit_coding({"sex": SEXES}, TRAIN).encode({"sex": SEXES})
    assert encoded.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_numbers_that_are_all_equal_in_train_are_not_divided_by_their_rounding():
    cells = np.array(["0.1", "0.1", "0.1", "0.2"])
    encoded = fit_coding({"spacing": cells}, np.arange(4) < 3).encode({"spacing": cells})
    assert encoded[:, 0] == pytest.approx([0, 0, 0, 0.1], abs=1e-6)


def test_cells_outside_train_do_not_change_the_coding():
    changed = {"age": np.where(TRAIN, AGES, "7"), "sex": np.where(TRAIN, SEXES, "Q")}
    assert fit_coding(changed, TRAIN) == fit_coding(CELLS, TRAIN)


def test_a_coding_survives_its_description():
    coding = fit_coding(CELLS, TRAIN)
    assert read_coding(coding.describe()) == coding and coding.num_inputs == 5


def test_a_column_that_identifies_images_is_refused_by_name():
    with pytest.raises(DataError, match="'name' has 60 different texts") as error:
        fit_coding({"name": np.array([f"n{row}" for row in range(60)])}, np.ones(60, bool))
    assert error.value.code == "inputs"


def test_a_missing_column_is_refused_by_name():
    with pytest.raises(DataError, match="no column 'sex'"):
        fit_coding(CELLS, TRAIN).encode({"age": AGES})


def test_the_size_of_an_input_counts_its_metadata():
    pixels = as_pixels(torch.zeros((2, 8, 8, 3), dtype=torch.uint8), (0, 255), (0.5,), (0.5,), "cpu")
    assert pixels.input_bytes == 4 * 3 * 64
    assert replace(pixels, metadata=torch.zeros(2, 100)).input_bytes == 4 * 103 * 64


# --- new images ------------------------------------------------------------------------------------------------------
def cells_of_new(tmp_path, rows, *names):
    table = tmp_path / "ages.csv"
    table.write_text("\n".join(["image,age", *rows]), encoding="utf-8")
    card = SimpleNamespace(coding=fit_coding({"age": AGES}, TRAIN), name="set/net")
    return [each.cells for each in attach_metadata([NewImage(name=name, file=name) for name in names], card, table)]


def test_a_row_is_found_by_the_path_or_the_name_of_the_file(tmp_path):
    rows = ["a/1.png,30", "2.png,40", "2.png,40"]
    assert cells_of_new(tmp_path, rows, "a/1.png", "b/2.png") == [{"age": "30"}, {"age": "40"}]


@pytest.mark.parametrize(
    ("rows", "names"), [(["1.png,30", "1.png,40"], ["1.png"]), (["1.png,30"], ["a/1.png", "b/1.png"])]
)
def test_rows_that_do_not_tell_whose_cells_they_have_are_refused(tmp_path, rows, names):
    with pytest.raises(UsageError, match=r"1\.png") as error:
        cells_of_new(tmp_path, rows, *names)
    assert error.value.code == "inputs"


# --- networks --------------------------------------------------------------------------------------------------------
def pack(images, values):
    return torch.cat([images, values[:, :, None, None].expand(-1, -1, *images.shape[2:])], dim=1)


def test_the_head_is_linear_in_the_features_and_the_metadata():
    module = build_model(TINY_NETWORK, REQUEST).eval()
    images, values = torch.randn(4, 1, 16, 16), torch.randn(4, 3)
    features = feature_extractor(TINY_NETWORK, build_model(TINY_NETWORK, replace(REQUEST, metadata=0)).eval())
    with torch.no_grad():
        expected = module.classifier(torch.cat([features(images), values], dim=1))
        assert torch.allclose(module(pack(images, values)), expected)
        assert torch.allclose(module(images), module(pack(images, torch.zeros(4, 3))))


def test_without_metadata_a_network_has_the_weights_it_always_had():
    plain = build_model(TINY_NETWORK, replace(REQUEST, metadata=0), seed=3).state_dict()
    joined = build_model(TINY_NETWORK, REQUEST, seed=3).state_dict()
    assert torch.equal(plain["conv.weight"], joined["backbone.conv.weight"])
    assert not torch.equal(
        joined["classifier.weight"], build_model(TINY_NETWORK, REQUEST, seed=4).state_dict()["classifier.weight"]
    )


def conv_then_head(module):
    return [list(module.conv.parameters()), list(module.fc.parameters())]


def test_layer_groups_are_those_of_the_backbone_and_the_new_head():
    spec = spec_with_metadata(replace(TINY_NETWORK, layer_groups=conv_then_head))
    module = build_model(TINY_NETWORK, REQUEST)
    sizes = [sum(parameter.numel() for parameter in group) for group in layer_groups(spec, module)]
    assert sizes == [40, (4 + 3) * 2 + 2]


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", *(pytest.param(each, marks=pytest.mark.slow) for each in ("resnet18", "vit_b_16"))]
)
def test_networks_of_torchvision_take_metadata(name):
    from zoo_torchvision import register_models

    spec = next(each for each in register_models() if each.name == name)
    size = spec.image_size if spec.fixed_size else 64
    module = build_model(spec, BuildRequest(num_outputs=3, channels=1, image_size=size, metadata=2)).eval()
    images = torch.randn(2, 1, size, size)
    with torch.no_grad():
        one, other = (module(pack(images, torch.full((2, 2), value))) for value in (0.0, 5.0))
    assert one.shape == (2, 3) and not torch.allclose(one, other)


def fold_with_inputs(targets, split_of, **columns):
    return make_fold(
        targets,
        split_of=split_of,
        inputs={name: np.asarray(cells).astype(str) for name, cells in columns.items()},
    )


def test_features_of_a_frozen_network_end_with_the_metadata():
    dataset = fold_with_inputs(np.arange(10) % 2, np.repeat(["train", "test"], 5), age=np.arange(10) * 10)
    images = torch.randint(0, 256, (10, 16, 16, 1), dtype=torch.uint8)
    pixels = with_metadata(as_pixels(images, (0.0, 255.0), (0.5,), (0.2,), "cpu"), dataset)
    module = build_model(TINY_NETWORK, replace(REQUEST, metadata=2)).eval()
    features = extract_features(feature_extractor(spec_with_metadata(TINY_NETWORK), module), pixels, "fp32").values
    assert features.shape == (10, 4 + 2)
    assert features[:, 4:].numpy() == pytest.approx(dataset.coding.encode(dataset.inputs))


def test_fine_tuning_learns_a_label_that_only_the_metadata_tell():
    protocol = replace(FINETUNE, metadata=True, learning_rate=0.1, clip_norm=None)
    request = short_training(protocol)
    dataset, pixels = request.dataset, request.pixels
    dataset = replace(dataset, inputs={"age": np.where(dataset.targets == 1, "70", "30")})
    module = build_model(TINY_NETWORK, replace(REQUEST, metadata=2))
    fitted = fit(
        replace(
            request,
            spec=spec_with_metadata(TINY_NETWORK),
            module=module,
            dataset=dataset,
            pixels=with_metadata(pixels, dataset),
        )
    )
    val = fitted.predict(dataset, with_metadata(pixels, dataset), "val", "fp32")
    assert (val.probabilities.argmax(axis=1) == val.targets).all()


# --- planning --------------------------------------------------------------------------------------------------------
def open_with(cache, inputs, **columns):
    samples = make_samples(draw_images(np.arange(12) % 2), np.arange(12) % 2)
    for name, cells in columns.items():
        samples.table[name] = cells
    return open_dataset(make_dataset_spec(samples, channels=1, inputs=inputs), cache)


WITH_METADATA = replace(LINEAR_PROBE, metadata=True)


def test_the_identity_has_the_columns_and_their_cells_where_they_are_used(tmp_path):
    one = identify_inputs(WITH_METADATA, open_with(tmp_path, ("age",), age=range(12), sex="F"))
    other = identify_inputs(WITH_METADATA, open_with(tmp_path, ("age",), age=range(1, 13), sex="F"))
    unused = identify_inputs(WITH_METADATA, open_with(tmp_path, ("age",), age=range(12), sex="M"))
    assert one.startswith("age ") and one == unused != other
    assert not any("metadata" in resolved_fields(protocol) for protocol in PROTOCOLS)
    assert resolved_fields(WITH_METADATA)["metadata"] is True


def test_the_cells_are_hashed_once_per_dataset(tmp_path, monkeypatch):
    source, calls = open_with(tmp_path, ("age",), age=range(12)), []
    monkeypatch.setattr("zoo.data.opening.select_inputs", lambda *made: calls.append(made) or select_inputs(*made))
    assert identify_inputs(WITH_METADATA, source) == identify_inputs(WITH_METADATA, source)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("inputs", "protocol", "code"),
    [((), WITH_METADATA, "inputs"), (("age",), replace(ZERO_SHOT, metadata=True), "wrong-task")],
)
def test_metadata_that_cannot_be_given_are_refused(tmp_path, inputs, protocol, code):
    with pytest.raises(UsageError) as error:
        identify_inputs(protocol, open_with(tmp_path, inputs, age=range(12)))
    assert error.value.code == code


def test_a_declared_column_that_the_table_lacks_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(DataError, match="no column 'aeg'") as error:
        identify_inputs(WITH_METADATA, open_with(tmp_path, ("aeg",), age=range(12)))
    assert error.value.code == "inputs" and "'age'" in error.value.fix


# --- commands --------------------------------------------------------------------------------------------------------
def example_of_docs():
    page = (Path(__file__).parents[1] / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    return re.search(r"### Metadata beside the image.*?```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture(scope="module")
def set_with_ages(tmp_path_factory):
    """The age tells the label, the image does not."""
    folder = tmp_path_factory.mktemp("ages") / "ages"
    random = np.random.default_rng(0)
    targets, splits = np.arange(60) % 2, np.repeat(["train", "val", "test"], [36, 12, 12])
    rows = [
        f"{label},{30 + 40 * label + random.integers(0, 20)},{split}"
        for label, split in zip(targets, splits, strict=True)
    ]
    rows[0] = f"0,,{splits[0]}"
    write_table(folder, "file,label,age,split", rows, random.integers(0, 256, (60, 16, 16), np.uint8))
    (folder / "dataset.toml").write_text(
        'schema = 1\nname = "ages"\ntask = "binary"\nlabels = ["0", "1"]\nimages = "*.png"\ntable = "table.csv"\n'
        'join = {column = "file"}\nlabel = {column = "label"}\nsplit = {column = "split"}\n'
        'metadata = ["age"]\ninputs = ["age"]\n',
        encoding="utf-8",
    )
    return folder


@pytest.mark.integration
def test_new_images_with_their_metadata_are_predicted_as_in_the_bench(zoo, bench, set_with_ages, tmp_path):
    (tmp_path / "film.py").write_text(example_of_docs(), encoding="utf-8")
    words = ("--plugin", "film.py", "--datasets", set_with_ages, "--seeds", "1", "--set", "image_size=16")
    words += ("--set", "metadata=true", "--weights", "none")
    status, _, said = bench(*words, "--models", "tiny_cnn", "--protocol", "linear-probe", cwd=tmp_path)
    assert status == 0, said
    budget = ("--set", "steps=20", "--set", "learning_rate=0.01")
    status, _, said = bench(*words, *budget, "--models", "film", "--protocol", "scratch", cwd=tmp_path)
    assert status == 0, said
    for name in ("tiny_cnn", "film"):
        images = sorted(set_with_ages.glob("*.png"))[48:]
        done = zoo("predict", "--plugin", "film.py", f"ages/{name}", *images, cwd=tmp_path)
        assert done.returncode == 2 and "error[inputs]" in done.stderr and "image,age" in done.stderr
        table = tmp_path / "ages.csv"
        table.write_text((set_with_ages / "table.csv").read_text().replace("file,", "image,"), encoding="utf-8")
        done = zoo("predict", "--plugin", "film.py", f"ages/{name}", *images, "--metadata", table, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        new = [float(row["probability: 1"]) for row in csv.DictReader(io.StringIO(done.stdout))]
        zoo("report", "--predictions", f"{name}.csv", cwd=tmp_path)
        with open(tmp_path / f"{name}.csv", encoding="utf-8", newline="") as stream:
            stored = [row for row in csv.DictReader(stream) if row["model"].startswith(name)]
        column = next(each for each in stored[0] if each.endswith("probability: 1") or each == "probability: 1")
        assert new == pytest.approx([float(row[column]) for row in stored], abs=1e-4)
    assert np.mean((np.array(new) > 0.5) == (np.arange(12) % 2)) > 0.9  # by the age: the images are noise
