"""`zoo predict`: new files are read as in training, and the answers are those of the bench."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import UsageError
from zoo.results.store import load_results
from zoo.system.files import json_text, seal, unseal
from zoo.trained.opening import find_models
from zoo.trained.outside import make_reference

pytestmark = pytest.mark.integration

SETS = ("folders", "table", "multilabel", "ordinal", "regression")
PROBES = ("linear-probe@1", "knn@1")
QUICK = "quick@2+rounds=1+steps=6"


@pytest.fixture(scope="module")
def trained(zoo, tiny_data, tmp_path_factory):
    """Results of every task by fine-tuning with two seeds, and of one task by frozen networks."""
    folder = tmp_path_factory.mktemp("trained")
    data = ",".join(str(tiny_data / name) for name in SETS)
    budget = ("--set", "steps=6", "--set", "rounds=1")
    common = ("--models", "tiny_cnn", "--weights", "none", "--results", folder)
    tuned = zoo(
        "bench", *common, "--datasets", data, "--protocol", "quick", *budget, "--seeds", "0,1", "--keep-weights", "all"
    )
    assert tuned.returncode == 0, tuned.stderr
    for protocol in PROBES:
        words = ("--datasets", tiny_data / "table", "--protocol", protocol.partition("@")[0], "--seeds", "1")
        done = zoo("bench", *common, *words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(trained):
    return load_results(trained)[0]


@pytest.fixture
def predict(zoo, trained, tmp_path):
    """Run `zoo predict` and return its process and its rows by image name."""

    def run(model, *inputs, **settings):
        output = tmp_path / "out.csv"
        done = zoo("predict", model, *inputs, "-o", output, "--results", trained, **settings)
        if not output.exists():
            return done, {}
        with output.open(encoding="utf-8") as stream:
            return done, {row["image"]: row for row in csv.DictReader(stream)}

    return run


def numbers(row):
    return [float(value) for name, value in row.items() if name.startswith(("probability", "prediction"))]


def stored_test(results, dataset, protocol):
    """The sample ids of test, and the mean answer of the runs that kept their weights."""
    runs = [r for r in results if (r.run["dataset"], r.run["protocol_label"]) == (dataset, protocol)]
    parts = [r.predictions()["test"] for r in runs if (r.folder / "model.safetensors").exists()]
    return parts[0].sample_ids, np.mean([part.probabilities for part in parts], axis=0)


@pytest.mark.parametrize("dataset", SETS)
def test_new_files_get_the_probabilities_of_the_bench(predict, results, tiny_data, dataset):
    done, rows = predict(f"{dataset}/tiny_cnn/{QUICK}", tiny_data / dataset)
    assert done.returncode == 0, done.stderr
    names, expected = stored_test(results, dataset, QUICK)
    answered = [numbers(rows[str(tiny_data / dataset / name)]) for name in names]
    np.testing.assert_allclose(answered, expected, atol=1e-6)


@pytest.mark.parametrize("protocol", PROBES)
def test_a_frozen_network_answers_as_in_the_bench(predict, results, tiny_data, protocol):
    done, rows = predict(f"table/tiny_cnn/{protocol}", tiny_data / "table")
    assert done.returncode == 0, done.stderr
    names, expected = stored_test(results, "table", protocol)
    answered = [numbers(rows[str(tiny_data / "table" / name)]) for name in names]
    np.testing.assert_allclose(answered, expected, atol=1e-5)


def test_a_linear_probe_is_stored_with_the_keys_of_the_architecture(trained):
    from safetensors import safe_open

    (path,) = trained.glob("table/tiny_cnn*/linear-probe*/model.safetensors")
    with safe_open(path, framework="pt") as stream:
        assert set(stream.keys()) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
        assert stream.metadata()["card"] == "card.json"


def test_what_training_would_refuse_is_refused_by_name_and_the_rest_goes_on(predict, tiny_data, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    good = next((tiny_data / "folders").rglob("*.png"))
    (folder / "good.png").write_bytes(good.read_bytes())
    (folder / "cut.png").write_bytes(good.read_bytes()[:60])
    size = Image.open(good).size
    Image.fromarray(np.zeros(size, np.uint16)).save(folder / "deep.png")
    color = np.zeros((*size, 3), np.uint8)
    color[..., 0] = 200
    Image.fromarray(color).save(folder / "color.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "bad\nname\x1b[31m.png").write_bytes(good.read_bytes())
    (folder / "gone.png").symlink_to("nowhere.png")
    done, rows = predict("folders/tiny_cnn", folder, folder / "notes.txt")
    assert done.returncode == 3
    refused = {name.rpartition("/")[2] for name, row in rows.items() if row["status"] == "refused"}
    assert refused == {"cut.png", "deep.png", "color.png", "notes.txt", "bad\\x0aname\\x1b[31m.png", "gone.png"}
    assert "\x1b" not in done.stderr and len(done.stderr.splitlines()) == 8  # 6 refused, the counts, the notice
    assert "uint16" in rows[str(folder / "deep.png")]["problem"]
    assert rows[str(folder / "good.png")]["decision"] in ("clear", "nodule")


def test_a_folder_without_images_is_refused_by_name(predict, tmp_path):
    (tmp_path / "empty").mkdir()
    done, rows = predict("folders/tiny_cnn", tmp_path / "empty")
    assert done.returncode == 4
    assert rows[str(tmp_path / "empty")]["status"] == "refused"
    assert f"refused: {tmp_path / 'empty'}: no images in it" in done.stderr


@pytest.fixture(scope="module")
def relative(zoo, tiny_data, tmp_path_factory):
    """Results of a network whose outputs for flat images are not finite."""
    results = tmp_path_factory.mktemp("relative")
    done = zoo(
        *("bench", "--models", "relative", "--weights", "none", "--datasets", tiny_data / "folders", "--seeds", "2"),
        *("--protocol", "quick", "--set", "steps=6", "--set", "rounds=1", "--keep-weights", "all"),
        *("--metrics", "auroc", "--results", results),
    )
    assert done.returncode == 0, done.stderr
    return results


@pytest.fixture
def mixed(tiny_data, tmp_path):
    """A folder with a flat image among others."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, path in enumerate(sorted((tiny_data / "folders" / "test").rglob("*.png"))[:3]):
        shutil.copyfile(path, folder / f"{number}.png")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(folder / "1flat.png")
    return folder


@pytest.mark.parametrize("form", ["csv", "json"])
def test_an_image_without_a_finite_output_has_no_answer_and_says_so(zoo, relative, mixed, tmp_path, form):
    output = tmp_path / f"out.{form}"
    done = zoo("predict", "folders/relative", mixed, "-o", output, "--results", relative)
    assert done.returncode == 3, done.stderr
    flat = mixed / "1flat.png"
    assert f"refused: {flat}: the model's output is not finite" in done.stderr
    assert "3 predicted" in done.stderr and "1 refused" in done.stderr and "Warning" not in done.stderr
    text = output.read_text()
    assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE)
    rows = list(csv.DictReader(text.splitlines())) if form == "csv" else json.loads(text)["images"]
    status = {Path(row["image"]).name: (row["status"], not row["probability: nodule"]) for row in rows}
    others = {f"{number}.png": ("ok", False) for number in range(3)}
    assert status == {"1flat.png": ("refused", True), **others}


def test_without_any_finite_output_nothing_is_predicted(zoo, relative, mixed):
    done = zoo("predict", "folders/relative", mixed / "1flat.png", "--results", relative)
    assert done.returncode == 4
    assert "refused" in done.stdout and "nan" not in done.stdout


def test_an_image_without_a_finite_output_has_no_map(zoo, relative, mixed, tmp_path):
    done = zoo("explain", "folders/relative", mixed, "-o", tmp_path / "maps", "--results", relative)
    assert done.returncode == 3, done.stderr
    rows = json.loads((tmp_path / "maps" / "maps.json").read_text())["images"]
    assert [Path(row["image"]).name for row in rows if row["status"] == "refused"] == ["1flat.png"]


def test_an_image_of_another_size_is_outside(predict, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)).save(tmp_path / "large.png")
    _, rows = predict("folders/tiny_cnn", tmp_path / "large.png")
    assert "other image size" in rows[str(tmp_path / "large.png")]["outside"]


def test_pydicoms_own_files_are_answered_or_refused_each_by_its_name(predict):
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    done, rows = predict("folders/tiny_cnn", folder)
    assert done.returncode in (3, 4), done.stderr
    assert len(rows) > 100
    assert all(row["problem"] for row in rows.values() if row["status"] == "refused")
    assert "give files with levels" in rows[str(folder / "CT_small.dcm")]["problem"]  # Hounsfield units
    assert "secondary capture" in rows[str(folder / "JPEG2000.dcm")]["problem"]


def test_json_has_the_same_answers(zoo, predict, trained, tiny_data, tmp_path):
    image = next((tiny_data / "folders").rglob("*.png"))
    _, rows = predict("folders/tiny_cnn", image)
    done = zoo("predict", "folders/tiny_cnn", image, "-o", tmp_path / "out.json", "--results", trained)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(document["runs"]) == 2
    assert document["images"][0]["probability: nodule"] == float(rows[str(image)]["probability: nodule"])
    assert "not a medical device" in document["notice"]


def test_folds_with_different_val_splits_answer_together_for_each_image_of_a_patient(zoo, tiny_data, tmp_path):
    done = zoo(
        *("bench", "--models", "tiny_cnn", "--weights", "none", "--datasets", tiny_data / "patients", "--folds", "2"),
        *("--protocol", "quick", "--set", "steps=6", "--set", "rounds=1", "--seeds", "2", "--keep-weights", "all"),
        *("--results", tmp_path / "results", "--metrics", "auroc"),
    )
    assert done.returncode == 0, done.stderr
    done = zoo("predict", "patients/tiny_cnn", tiny_data / "patients", "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert len(list(csv.DictReader(done.stdout.splitlines()))) == 60
    assert "60 predicted by 4 models" in done.stderr


def test_a_name_that_fits_several_protocols_lists_them(predict, tiny_data):
    done, _ = predict("table/tiny_cnn", tiny_data / "table")
    assert done.returncode == 2
    assert "table/tiny_cnn/knn@1" in done.stderr


def test_runs_with_two_versions_of_a_loss_are_not_averaged(trained, tmp_path):
    shutil.copytree(trained / "folders", tmp_path / "folders")
    first, second = (path / "result.json" for path in find_models("folders/tiny_cnn", tmp_path))
    document = json.loads(second.read_text())
    assert unseal(document)
    document["identity"]["choices"] = ["loss=zoo-tiny:tiny_loss@2"]
    second.write_text(json_text(seal(document)))
    with pytest.raises(UsageError) as caught:
        find_models("folders/tiny_cnn", tmp_path)
    ids = [json.loads(path.read_text())["id"][:8] for path in (first, second)]
    assert caught.value.code == "ambiguous" and "2 models that differ in choices" in caught.value.message
    assert all(each in caught.value.fix for each in ids) and "tiny_loss@2" in caught.value.fix
    assert find_models(ids[1], tmp_path) == [second.parent]


def test_an_npz_is_read_row_by_row(predict, tiny_data):
    done, rows = predict("folders/tiny_cnn", tiny_data / "binary.npz")
    assert done.returncode == 0, done.stderr
    assert len(rows) == 160


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of a kept model's folder."""
    source = next(trained.glob("folders/tiny_cnn*/*/card.json")).parent
    return Path(shutil.copytree(source, tmp_path / "model"))


def edit_card(folder, change):
    """Change a card as its own program would, with a new seal."""
    path = folder / "card.json"
    document = json.loads(path.read_text())
    assert unseal(document)
    change(document)
    path.write_text(json_text(seal(document)))


@pytest.fixture
def refuse(zoo, copy, tiny_data, golden):
    """Predict with the copy, which must be refused in one line."""

    def run():
        done = zoo("predict", copy, tiny_data / "folders" / "test")
        assert done.returncode in (2, 5), done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("zoo: error")]
        golden(re.sub(r"python 3\S+.*", "...", re.sub("[0-9a-f]{8,}", "ID", line.replace(str(copy), "MODEL"))))

    return run


def test_an_edited_card_is_refused(copy, refuse):
    card = copy / "card.json"
    card.write_text(card.read_text().replace('"nodule"', '"tumor"'))
    refuse()


def test_a_card_without_a_field_is_refused(copy, refuse):
    edit_card(copy, lambda card: card.pop("labels"))
    refuse()


def test_a_missing_label_is_refused(copy, refuse):
    edit_card(copy, lambda card: card["labels"].pop())
    refuse()


def test_another_version_of_the_architecture_is_refused(copy, refuse):
    edit_card(copy, lambda card: card.update(network="0.9-123456789abc"))
    refuse()


def test_the_weights_of_another_run_are_refused(copy, refuse, trained):
    other = next(path for path in trained.glob("folders/tiny_cnn*/*/model.safetensors") if not same(path, copy))
    shutil.copyfile(other, copy / "model.safetensors")
    refuse()


def same(weights, folder):
    return weights.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_changed_weights_are_refused(copy, refuse):
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # the last byte of the last tensor
    weights.write_bytes(bytes(data))
    refuse()


def test_cut_weights_are_refused(copy, refuse):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    refuse()


def test_missing_weights_are_refused(copy, refuse):
    (copy / "model.safetensors").unlink()
    refuse()


def test_a_bundle_has_no_weights(zoo, trained, tiny_data, tmp_path):
    done = zoo("bundle", tmp_path / "all.zip", "--results", trained)
    assert done.returncode == 0, done.stderr
    done = zoo("predict", tmp_path / "all.zip", tiny_data / "folders")
    assert done.returncode == 5
    assert "a bundle has results, but no weights" in done.stderr


def test_an_image_of_one_pixel_is_answered_as_outside(predict, tmp_path):
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "dot.png")
    done, rows = predict("folders/tiny_cnn", tmp_path / "dot.png")
    assert done.returncode == 0, done.stderr
    assert "other image size" in rows[str(tmp_path / "dot.png")]["outside"]


def test_a_model_without_kept_weights_is_named(zoo, trained, tiny_data):
    done = zoo("predict", "folders/constant", tiny_data / "folders", "--results", trained)
    assert done.returncode == 2
    assert "folders/tiny_cnn" in done.stderr


def test_the_limit_of_val_does_not_count_neighbors_of_the_same_patient():
    random = np.random.default_rng(0)
    own = random.normal(size=(30, 8))
    twice = np.concatenate([own, own])  # two equal images per patient
    patients = np.tile(np.arange(30), 2)
    reference = make_reference(twice, patients)
    alone = make_reference(twice, np.arange(60))
    assert reference.limit > alone.limit
    assert (reference.distances(own) <= reference.limit).mean() > 0.9
    assert (reference.distances(-own) > 0).all()


def test_a_network_whose_features_are_all_equal_has_finite_distances():
    reference = make_reference(np.ones((9, 1)), np.arange(9))
    assert reference.limit == 0
    assert reference.ratios(np.ones((2, 1))).tolist() == [0, 0]
    assert (reference.ratios(-np.ones((2, 1))) > 1).all()
