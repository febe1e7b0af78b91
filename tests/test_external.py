"""External validation with the installed command: train once, test on both datasets, one result each."""

import json
import shutil

import numpy as np
import pytest
from factories import draw_images
from PIL import Image
from sklearn.metrics import roc_auc_score

from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.system.files import hash_file, write_sealed

SETTINGS = ["-m", "tiny_cnn", "--protocol", "scratch", "--set", "steps=6", "--set", "image_size=16", "--seeds", 2]
SETTINGS += ["--metrics", "auroc"]  # perf: all metrics cost a third of a bench


def write(root, labels, count, seed, splits=("train", "val", "test")):
    """Class folders of images whose brightness depends mostly on the label."""
    random = np.random.default_rng(seed)
    numbers = random.integers(0, len(labels), count)
    for row, (number, image) in enumerate(zip(numbers, draw_images(numbers / (len(labels) - 1), seed), strict=True)):
        folder = root / (splits[row % len(splits)] if splits else "") / labels[number]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row}.png")
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospitals")
    write(root / "here", ("clear", "nodule"), 240, 0)
    write(root / "there", ("Clear", "nodule", "other"), 120, 1, splits=())
    return root


@pytest.fixture(scope="module")
def tested(sets, bench, tmp_path_factory):
    """A bench on `here` with external validation on `there`; tests must not change its results folder."""
    results = tmp_path_factory.mktemp("external") / "results"
    status, document, stderr = bench(*SETTINGS, "-d", "here", "--test-on", "there", "--results", results, cwd=sets)
    assert status == 0, stderr
    return results, document, stderr


def stored(results, tested_on="there"):
    return [r for r in load_results(results)[0] if r.run["tested_on"] == tested_on and r.run["shown"] == "tiny_cnn"]


def test_each_model_seed_and_baseline_has_an_external_validation(tested):
    _, document, stderr = tested
    runs = [(run["model"], run["seed"]) for run in document["runs"] if run["tested_on"] == "there"]
    assert sorted(runs) == [("constant", 0), ("thumbnails", 0), ("tiny_cnn", 0), ("tiny_cnn", 1)]
    assert {run["status"] for run in document["runs"]} == {"ok"} and len(document["runs"]) == 8
    assert "here -> there: external validation on" in stderr and "'Clear' as 'clear'" in stderr
    assert "left out: 'other'" in stderr


def test_external_predictions_are_those_of_the_kept_weights(tested, sets):
    """Rebuild the network and its input with torch alone."""
    import torch
    from safetensors.torch import load_file

    results, _, _ = tested
    (weights,) = results.glob("here/tiny_cnn*/*/model.safetensors")
    state, seed = load_file(weights), int(weights.parent.name.split(".seed")[1][0])
    (result,) = [result for result in stored(results) if result.run["seed"] == seed]
    test = result.predictions()["test"]
    images = np.stack([np.asarray(Image.open(sets / "there" / name)) for name in test.sample_ids])
    mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    tensor = torch.from_numpy((images / 255 - mean) / std).float()[:, None]
    hidden = torch.relu(torch.conv2d(tensor, state["conv.weight"], state["conv.bias"], stride=2, padding=1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
    expected = torch.softmax(pooled @ state["fc.weight"].T + state["fc.bias"], dim=1).numpy()
    tolerance = 1e-5 if result.run["precision"] == "fp32" else 0.02
    np.testing.assert_allclose(test.probabilities, expected, atol=tolerance)
    assert {name.split("/")[0] for name in test.sample_ids} == {"Clear", "nodule"}
    targets = [int(name.startswith("nodule")) for name in test.sample_ids]
    assert test.targets.tolist() == targets
    assert result.scores()["auroc"].value == pytest.approx(roc_auc_score(targets, test.probabilities[:, 1]), abs=1e-12)


def test_external_thresholds_are_chosen_on_the_training_datasets_val(tested):
    results, _, _ = tested
    own = {
        r.run["seed"]: r for r in load_results(results)[0] if r.run["shown"] == "tiny_cnn" and not r.run["tested_on"]
    }
    for result in stored(results):
        one, other = result.predictions()["val"], own[result.run["seed"]].predictions()["val"]
        np.testing.assert_array_equal(one.sample_ids, other.sample_ids)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_external_validation_has_its_own_board(tested, zoo):
    results, document, _ = tested
    rows = {row["dataset"]: row for row in document["leaderboard"] if row["model"] == "tiny_cnn"}
    assert set(rows) == {"here", "here -> there (external)"}
    external = rows["here -> there (external)"]
    mean = np.mean([result.scores()["auroc"].value for result in stored(results)])
    assert external["value"] == pytest.approx(mean) and external["value"] != rows["here"]["value"]
    text = zoo("report", "--results", results).stdout
    table = text[text.index("auroc at home (here) and there (there)") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["model", "tiny_cnn", "thumbnails", "constant"]
    text = zoo("report", "--details", "--results", results).stdout
    assert "here -> there (external) · binary · 80 train / 80 val /" in text
    assert "external: trained on here; tested on there (" in text
    assert "thresholds are those of here's val" in text


def test_a_second_bench_repeats_nothing(tested, bench, sets):
    results, document, _ = tested
    chosen = [*SETTINGS, "-d", "here", "--test-on", "there", "--results", results]
    status, again, _ = bench(*chosen, cwd=sets)
    assert status == 0 and all(run["reused"] for run in again["runs"])
    assert again["leaderboard"] == document["leaderboard"]


def test_a_finished_run_gets_its_external_validation_from_kept_or_retrained_weights(tested, bench, sets, tmp_path):
    results = shutil.copytree(tested[0], tmp_path / "results")
    own = {path: path.stat().st_mtime_ns for path in results.glob("here/**/*") if path.is_file()}
    before = {result.run["seed"]: result.predictions()["test"].probabilities for result in stored(results)}
    assert {result.details["weights"] for result in stored(results)} == {"its own"}
    shutil.rmtree(results / "here.to.there")
    chosen = [*SETTINGS, "-d", "here", "--test-on", "there", "--results", results]
    status, document, stderr = bench(*chosen, cwd=sets)
    assert status == 0
    assert {bool(run["tested_on"]): run["reused"] for run in document["runs"]} == {False: True, True: False}
    assert "1 finished runs are trained again for external validation" in stderr
    assert {path: path.stat().st_mtime_ns for path in results.glob("here/**/*") if path.is_file()} == own
    after = {result.run["seed"]: result for result in stored(results)}
    assert sorted(result.details["weights"] for result in after.values()) == ["kept", "trained again"]
    assert all(result.details["val_differs"] < 1e-6 and not result.deviations for result in after.values())
    for seed, result in after.items():
        np.testing.assert_allclose(result.predictions()["test"].probabilities, before[seed], atol=1e-6)


def test_a_leak_refuses_the_external_validation_not_the_training_dataset(bench, sets, tmp_path):
    leaky = shutil.copytree(sets / "there", tmp_path / "leaky")
    copied = next((sets / "here" / "train" / "nodule").iterdir())
    shutil.copy(copied, leaky / "nodule" / "copied.png")
    chosen = [*SETTINGS, "-d", "here", "--test-on", leaky, "--results", tmp_path / "results"]
    status, document, stderr = bench(*chosen, "--dry-run", cwd=sets)
    assert status == 3
    assert [(part["dataset"], part["code"]) for part in document["refused"]] == [("here -> leaky", "identical")]
    assert {run["tested_on"] for run in document["runs"]} == {None}
    assert "are the same image" in stderr
    status, allowed, _ = bench(*chosen, "--allow-leak", "to see", cwd=sets)
    assert status == 0
    stamps = {run["tested_on"]: run["deviations"] for run in allowed["runs"] if run["model"] == "tiny_cnn"}
    assert stamps == {None: [], "leaky": ["leak allowed: to see"]}
    unranked = {row["dataset"]: row["unranked"] for row in allowed["leaderboard"] if row["model"] == "tiny_cnn"}
    assert unranked["here -> leaky (external)"] == "a row on a dataset that leaks is not ranked"


def test_models_of_all_folds_are_tested_on_the_same_images(bench, zoo, sets, tmp_path):
    folders = write(tmp_path / "folds", ("clear", "nodule"), 90, 3, splits=())
    results = tmp_path / "results"
    chosen = ["-m", "tiny_cnn", "--protocol", "linear-probe", "--weights", "none", "--set", "image_size=16"]
    chosen += ["--seeds", 1, "--folds", 2]
    status, document, _ = bench(*chosen, "-d", folders, "--test-on", sets / "there", "--results", results)
    assert status == 0
    actual = [result.predictions()["test"] for result in stored(results)]
    assert len(actual) == 2 and len({tuple(part.sample_ids) for part in actual}) == 1
    (row,) = [r for r in document["leaderboard"] if r["model"] == "tiny_cnn" and "external" in r["dataset"]]
    each = [roc_auc_score(part.targets, part.probabilities[:, 1]) for part in actual]
    assert row["value"] == pytest.approx(np.mean(each)) and row["coverage"] == "2/2"
    text = zoo("report", "--details", "--results", results).stdout
    assert "the models of all 2 folds were tested on the same images: each counts as a seed" in text


def test_a_bundle_with_external_validations_verifies(tested, zoo, tmp_path):
    assert zoo("bundle", tmp_path / "b.zip", "--results", tested[0]).returncode == 0
    done = zoo("verify", tmp_path / "b.zip")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test-on", "here"], "--test-on here: this is the training dataset"),
        (["--test-on", "there", "--shuffle-labels"], "--shuffle-labels cannot be combined with --test-on"),
        (["--test-on", "there", "--label-map", "other"], "--label-map other: expected ITS_LABEL=OUR_LABEL"),
        (["--test-on", "there", "--label-map", "other=nodul"], "'here' has no label 'nodul'"),
        (["--test-on", "nowhere"], "nowhere"),
    ],
)
def test_invalid_external_validations_are_usage_errors(zoo, sets, tmp_path, arguments, message):
    done = zoo("bench", "-m", "tiny_cnn", "-d", "here", *arguments, "--results", tmp_path, "--dry-run", cwd=sets)
    assert done.returncode == 2 and message in done.stderr


def test_another_dataset_of_the_same_name_is_a_usage_error(zoo, sets, tmp_path):
    shutil.copytree(sets / "there", tmp_path / "here")
    words = ["-m", "tiny_cnn", "-d", "here", "--test-on", tmp_path / "here", "--results", tmp_path / "r", "--dry-run"]
    done = zoo("bench", *words, cwd=sets)
    assert done.returncode == 2 and "two datasets are named 'here'" in done.stderr


def test_a_suite_can_name_external_datasets(bench, sets, tmp_path):
    suite = tmp_path / "suite.toml"
    lines = ['schema = 1\nname = "pair"\nmodels = ["tiny_cnn"]\ndatasets = ["here"]\ntest_on = ["there"]\nseeds = 1']
    suite.write_text("\n".join([*lines, 'weights = "none"\nlabel_map = {other = "nodule"}\n']))
    _, document, stderr = bench("--suite", suite, "--dry-run", "--results", tmp_path / "results", cwd=sets)
    assert {run["tested_on"] for run in document["runs"]} == {None, "there"}
    assert "'other' as 'nodule'" in stderr


def test_zoo_why_distinguishes_external_validation_from_training(tested, zoo, sets):
    results, document, _ = tested
    run = next(run for run in document["runs"] if run["tested_on"])
    explanation = json.loads(zoo("why", run["id"][:12], "--results", results, "--json", cwd=sets).stdout)
    assert explanation["identity"]["tested_on"] == "there" and explanation["identity"]["purpose"] == "external"


def test_a_retrained_model_with_other_predictions_is_a_deviation(tested, bench, sets, tmp_path):
    """As on another machine: change the finished run's stored predictions and their checksum."""
    results = shutil.copytree(tested[0], tmp_path / "results")
    shutil.rmtree(results / "here.to.there")
    for path in results.glob("here/tiny_cnn*/*/predictions.npz"):
        arrays = dict(np.load(path))
        for name in ("val_probabilities", "val_log_odds"):
            arrays[name] = np.roll(arrays[name], 1, axis=0)
        np.savez_compressed(path, **arrays)
        document = json.loads((path.parent / "result.json").read_text())
        document["checksums"]["predictions.npz"] = hash_file(path)
        document.pop("seal")
        write_sealed(path.parent / "result.json", document)
    status, _, _ = bench(*SETTINGS, "-d", "here", "--test-on", "there", "--results", results, cwd=sets)
    assert status == 0
    for result in stored(results):
        assert result.details["val_differs"] > 0.01
        (deviation,) = result.deviations
        assert deviation == Deviation("other-predictions", (result.details["weights"], result.details["val_differs"]))
