"""What is found in a stranger's bundle, and what is said where nothing can be found."""

import json
import re
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.errors import ResultsError, VerifyError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import load_predictions, save_predictions
from zoo.leaderboard.boards import build_leaderboard
from zoo.registry.lookup import Registry
from zoo.report.verification import verification_lines
from zoo.results.bundles import MANIFEST, files_below, make_bundle, write_zip
from zoo.results.store import load_results
from zoo.results.verifying import compare_data, describe_verification, load_bundle, mark_reproduced, open_bundle, verify
from zoo.sources.opening import find_source
from zoo.specs.protocol import QUICK, SCRATCH, override
from zoo.system.files import SEAL, hash_bytes, hash_file, write_sealed

METRICS_BY_NAME = {spec.name: spec for spec in METRICS}
REGISTRY = Registry(metrics=METRICS_BY_NAME)
OLD_BUNDLES = sorted((Path(__file__).parent / "bundles").glob("*.zip"))


def silent(done, total):
    pass


def bundle(root, output, key=b"k" * 32):
    make_bundle(load_results(root)[0], root, output, key, REGISTRY, silent)
    return output


def check(folder, registry=REGISTRY):
    return verify(folder, folder.name, registry, silent)


def told(found):
    return "\n".join(f"{file}: {what}" for file, what in found.differences)


def with_right_checksums(folder):
    """Put the checksums right, as one would who wants to deceive."""
    for path in folder.glob("*/*/*/result.json"):
        change_json(
            path, lambda d, at=path.parent: d.update(checksums={name: hash_file(at / name) for name in d["checksums"]})
        )
    files = {p.relative_to(folder).as_posix(): hash_file(p) for p in files_below(folder) if p.name != MANIFEST}
    change_json(folder / MANIFEST, lambda d: d.update(files=files))


def change_json(path, change):
    """Change a document, and seal it again."""
    document = json.loads(path.read_text())
    document.pop(SEAL)
    change(document)
    write_sealed(path, document)


@pytest.fixture
def shared(tmp_path, store):
    """A bundle of two seeds and a baseline."""
    for seed in range(2):
        store(tmp_path / "results", seed=seed)
    store(tmp_path / "results", model="constant", noise=0.0)
    store(tmp_path / "results", seed=2, status="failed")
    return bundle(tmp_path / "results", tmp_path / "out")


@pytest.fixture
def first(shared):
    """The folder of its first network's run."""
    return next(shared.glob("dots/net.random/*seed0*"))


def test_a_bundle_as_it_was_made_has_no_difference(shared):
    found = check(shared)
    assert not found.differences and not found.not_recomputed
    assert (len(found.results), found.num_scores) == (4, 6)
    assert 0 < found.num_intervals <= 6


@pytest.mark.parametrize("path", OLD_BUNDLES, ids=lambda path: path.stem)
def test_every_bundle_ever_made_can_be_read_and_its_values_hold(path):
    found = check(open_bundle(path))
    assert not found.differences
    assert found.num_scores == 18
    boards = build_leaderboard(found.results, METRICS_BY_NAME)
    assert [row.model for row in boards[0].rows] == ["net", "constant"]


def test_there_is_an_old_bundle():
    assert OLD_BUNDLES and sum(path.stat().st_size for path in OLD_BUNDLES) < 100_000


@pytest.mark.parametrize("part", ["value", "low", "high"])
def test_a_number_changed_by_a_hundred_thousandth_is_found_though_all_checksums_are_right(shared, first, part):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update({part: d["scores"]["auroc"][part] + 1e-5}))
    with_right_checksums(shared)
    assert f"auroc {part}: " in told(check(shared))


def test_a_number_changed_by_less_than_a_millionth_is_not(shared, first):
    change_json(
        first / "scores.json", lambda d: d["scores"]["auroc"].update(value=d["scores"]["auroc"]["value"] + 5e-7)
    )
    with_right_checksums(shared)
    assert not check(shared).differences


def test_a_better_prediction_is_found_by_every_score_it_changes(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    perfect = np.eye(2)[test.targets] * 0.98 + 0.01
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, probabilities=perfect)})
    with_right_checksums(shared)
    assert {"auroc value", "accuracy value"} <= {
        " ".join(what.split()[1:3]).rstrip(":") for _, what in check(shared).differences
    }


def test_a_wrong_checksum_a_missing_file_and_one_too_many_are_named(shared, first):
    with open(first / "history.jsonl", "a") as stream:
        stream.write("{}\n")
    next(shared.glob("dots/net.random/*seed1*/scores.json")).unlink()
    (shared / "virus.exe").write_text("x")
    text = told(check(shared))
    assert "history.jsonl: its checksum differs from the manifest's" in text
    assert "scores.json: is in the manifest and not in the bundle" in text
    assert "virus.exe: is not in the manifest" in text


@pytest.mark.parametrize("name", ["content_hash", "split_hash"])
def test_a_run_on_other_data_than_the_manifest_says_is_found(shared, first, name):
    def change(document):
        for part in ("run", "identity", "dataset"):
            document[part][name] = "9" * 64
        document["id"] = hash_bytes(json.dumps(document["identity"], sort_keys=True))

    change_json(first / "result.json", change)
    with_right_checksums(shared)
    assert "its dataset or split hash is not the manifest's" in told(check(shared))


def test_an_id_that_is_not_the_hash_of_the_identity_is_found(shared, first):
    change_json(first / "result.json", lambda d: d["identity"].update(seed=7))
    with_right_checksums(shared)
    text = told(check(shared))
    assert "its id is not the hash of its identity" in text and "seed: 0 in the run, 7 in its identity" in text


def test_a_run_tested_on_other_targets_than_its_neighbours_is_found(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, targets=1 - test.targets)})
    with_right_checksums(shared)
    assert "test: other targets than the other runs on the same split" in told(check(shared))


def test_fewer_images_than_the_card_says_are_found(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    kept = {name: getattr(test, name)[5:] for name in ("sample_ids", "patients", "targets", "probabilities")}
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, **kept)})
    with_right_checksums(shared)
    assert "test: 35 images, and 40 by its card" in told(check(shared))


# --- a run that contradicts its identity -----------------------------------------------------------------------------
def change_runs(shared, change, pattern="*/net*/*"):
    """Change the record of several runs alike, and put all checksums right."""
    for place in shared.glob(pattern):
        change_json(place / "result.json", change)
    with_right_checksums(shared)


def change_targets(shared, change, split="test", pattern="*/*/*"):
    """Change the targets of every finished run alike, and put all checksums right."""
    for path in shared.glob(f"{pattern}/predictions.npz"):
        predictions = load_predictions(path)
        part = predictions[split]
        save_predictions(path, {**predictions, split: replace(part, targets=change(part.targets))})
    with_right_checksums(shared)


@pytest.mark.parametrize("shown", ["convnext_large", "nets", "zoo-timm:net"])
def test_a_name_that_is_not_the_models_is_found(shared, shown):
    change_runs(shared, lambda d: d["run"].update(shown=shown))
    assert f"shown: '{shown}', which is no name of the model 'zoo-tiny:net'" in told(check(shared))


@pytest.mark.parametrize("shown", ["net", "zoo-tiny:net", "net.a1_in1k"])
def test_every_name_that_planning_makes_of_a_model_is_one_of_its_own(shared, shown):
    change_runs(shared, lambda d: d["run"].update(shown=shown))
    assert not check(shared).differences


def test_every_field_that_the_identity_knows_must_say_the_same_in_the_run(shared, first):
    sound = (first / "result.json").read_text()
    identity = json.loads(sound)["identity"]
    names = [("run", name) for name in identity if name not in ("id_version", "protocol")]
    names += [("protocol", name) for name in identity["protocol"]]
    assert len(names) > 35
    for kind, name in names:
        (first / "result.json").write_text(sound)
        document = json.loads(sound)
        part = document["run"] if kind == "run" else document["run"]["protocol"]
        other = {str: "other", int: 77, float: 0.123, bool: not part[name], list: [7]}.get(type(part[name]), 77)
        other = {"init": "pretrained"}.get(name, other)
        change_json(
            first / "result.json",
            lambda d, k=kind, n=name, o=other: (d["run"] if k == "run" else d["run"]["protocol"]).update({n: o}),
        )
        with_right_checksums(shared)
        assert re.search(rf"{name}: .* in the run, .* in its identity|set exactly one of steps", told(check(shared))), (
            name
        )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"protocol_label": "finetune@1"}, "protocol_label: 'finetune@1', and its protocol is scratch@1"),
        ({"weights_tag": "a1_in1k"}, "init: 'random', with weights 'a1_in1k' (no file)"),
        ({"weights_digest": "deadbeef"}, "weights_digest: 'deadbeef' in the run, '' in its identity"),
        ({"num_train": 39}, "train: 39 images of the run, and 40 by its card"),
        ({"fold": 3}, "fold: 3 of 1, counted from 0"),
        ({"deviations": ["none"]}, "deviations: other than its run's own"),
        ({"num_folds": 5}, "num_folds: 5, and 1 of other runs on the same data"),
    ],
)
def test_what_follows_from_a_run_must_be_what_it_says(shared, change, what):
    change_runs(shared, lambda d: d["run"].update(change))
    assert what in told(check(shared))


def test_overrides_in_a_label_that_the_run_was_not_carried_out_with_are_found(shared):
    def change(document):
        document["run"]["protocol"]["overrides"] = ["steps=4000"]
        document["run"]["protocol_label"] = "scratch@1+steps=4000"

    change_runs(shared, change)
    assert "protocol.overrides: steps=4000, and its protocol has 4" in told(check(shared))


def test_a_protocol_that_is_called_as_a_published_one_and_is_another_is_a_deviation_on_the_board(shared):
    registry = replace(REGISTRY, protocols={"scratch": SCRATCH})
    found = check(shared, registry)
    assert "protocol: called scratch@1, which has another epochs, steps" in "\n".join(found.notes)
    (board,) = build_leaderboard(found.results, METRICS_BY_NAME)
    assert ["epochs, steps" in " ".join(row.deviations) for row in board.rows] == [True, False]


def test_a_demonstration_that_is_not_called_one_is_found(tmp_path, store):
    store(tmp_path / "results", protocol=QUICK)
    shared = bundle(tmp_path / "results", tmp_path / "out")
    registry = replace(REGISTRY, protocols={"quick": QUICK})
    assert not check(shared, registry).differences and not check(shared, registry).notes
    change_runs(shared, lambda d: d["run"]["protocol"].update(demonstration=False))
    assert "protocol.demonstration: True by quick@2" in told(check(shared, registry))


def test_a_protocol_with_overrides_and_a_tuned_field_has_no_difference(tmp_path, store):
    grid = override(SCRATCH, {"steps": "4", "learning_rate": "0.001,0.01"})
    tuned = replace(grid, tune=(), learning_rate=0.01)
    store(tmp_path / "results", protocol=tuned, tuned="tuned learning_rate: 0.01 of 0.001, 0.01 (winner at the edge)")
    found = check(bundle(tmp_path / "results", tmp_path / "out"), replace(REGISTRY, protocols={"scratch": SCRATCH}))
    assert (found.differences, found.notes) == ([], [])


def test_another_primary_metric_than_the_identitys_is_found(tmp_path, store):
    store(tmp_path / "results", primary_metric="auroc")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_runs(shared, lambda d: d["details"].update(primary_metric="accuracy"))
    assert "primary_metric: 'accuracy', 'auroc' in its identity" in told(check(shared))


def test_a_finished_run_that_is_called_failed_is_found(shared, first):
    change_json(
        first / "result.json", lambda d: d.update(status="failed", error={"code": "diverged", "message": "nan"})
    )
    with_right_checksums(shared)
    assert "predictions.npz: its run is 'failed': a run that did not finish has none" in told(check(shared))


# --- a card that contradicts the predictions -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d.update(labels=["nodule", "clear"]), "counts the labels ['clear', 'nodule'], and its card has"),
        (lambda d: d.update(unit="patient"), "unit: the patient, and its card knows no patients"),
        (lambda d: d.update(unit="patient", has_patients=True), "image_scores: 0, expected 2"),
        (lambda d: d.update(unit="clip"), "test: the unit is the clip, and no sample is a frame of one"),
        (lambda d: d.update(positive=2), "positive: label 2 of 2"),
        (lambda d: d.update(name="other"), "dataset: 'dots' of the run, 'other' of its card"),
        (lambda d: d["splits"]["train"].update(images=99_999), "train: 99999 images, of its labels 40"),
        (lambda d: d["splits"]["train"].update(patients=41), "train: 41 patients of 40 images"),
        (lambda d: d["splits"]["val"].update(images=41), "val: 40 images, and 41 by its card"),
        (lambda d: d.update(share_targets=False), "manifest.json: dataset dots: targets shared, by its card otherwise"),
    ],
)
def test_a_card_that_contradicts_the_bundle_is_found_though_all_runs_have_it(shared, change, what):
    change_runs(shared, lambda d: change(d["dataset"]), "*/*/*")
    assert what in told(check(shared))


def test_a_card_that_differs_from_that_of_the_other_runs_on_the_same_data_is_found(shared, first):
    def change(document):
        document["dataset"].update(positive=0)
        document["dataset"]["splits"]["train"].update(patients=3)

    change_json(first / "result.json", change)
    with_right_checksums(shared)
    text = told(check(shared))
    assert "positive: " in text and "of other runs on the same data" in text
    assert "train: other counts than of other runs on the same split" in text


def test_images_of_one_patient_with_different_targets_are_found_where_the_patient_is_the_unit(tmp_path, store):
    counts = {"images": 40, "patients": 20, "labels": {"clear": 20, "nodule": 20}}
    facts = {"has_patients": True, "splits": dict.fromkeys(("train", "val", "test"), counts)}
    store(tmp_path / "results", images_each=2, facts=facts)
    shared = bundle(tmp_path / "results", tmp_path / "out")
    assert not check(shared).differences
    change_runs(shared, lambda d: d["dataset"].update(unit="patient"))
    assert "the unit is the patient, and images of one have different targets" in told(check(shared))


def test_a_dataset_in_the_manifest_that_no_run_is_on_is_found(shared):
    change_json(shared / MANIFEST, lambda d: d["datasets"].append(d["datasets"][0] | {"content_hash": "0" * 64}))
    assert "manifest.json: dataset dots: the bundle holds no run on it" in told(check(shared))


@pytest.mark.parametrize(("name", "what"), [("auroc", "by which its run was selected"), ("accuracy", "task asks for")])
def test_a_score_that_one_run_lacks_is_found(shared, first, name, what):
    change_json(first / "scores.json", lambda d: d["scores"].pop(name))
    with_right_checksums(shared)
    assert re.search(rf"scores.json: has no {name}, .*{what}", told(check(shared)))


def test_a_run_that_was_removed_whole_is_not_found(shared, first):
    shutil.rmtree(first)
    with_right_checksums(shared)
    assert not check(shared).differences


# --- targets ---------------------------------------------------------------------------------------------------------
def test_missing_targets_of_val_are_a_difference_and_what_needs_no_threshold_is_computed_anyway(shared, first):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update(value=0.99))
    change_targets(shared, lambda targets: targets[:0], split="val")
    found = check(shared)
    assert "val: its targets are missing, and its card says that they are shared" in told(found)
    assert "auroc value: 0.99 in the bundle" in told(found)
    assert dict(found.not_recomputed) == {
        "accuracy: the targets of val, by which decisions are made, are missing": 3,
    }
    assert {result.provenance for result in found.results} == {"recomputed"}


def test_missing_targets_of_test_are_a_difference_where_they_are_shared(shared):
    change_targets(shared, lambda targets: targets[:0])
    assert "test: its targets are missing, and its card says that they are shared" in told(check(shared))


def test_targets_that_stay_at_home_all_do(tmp_path, store):
    store(tmp_path / "results")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_json(shared / MANIFEST, lambda d: d["datasets"][0].update(targets="left out"))
    change_runs(shared, lambda d: d["dataset"].update(share_targets=False))
    change_targets(shared, lambda targets: targets[:0], split="val")
    assert "val: its targets are missing, and another split has them" in told(check(shared))


def test_a_bundle_without_predictions_of_val_is_found(shared, first):
    save_predictions(first / "predictions.npz", {"test": load_predictions(first / "predictions.npz")["test"]})
    with_right_checksums(shared)
    assert "predictions.npz: holds no predictions of val" in told(check(shared))


@pytest.mark.parametrize("value", [-1, 2, 200_000_000, 2**62])
def test_a_target_that_is_no_label_is_found_before_anything_is_counted(shared, first, value):
    change_targets(shared, lambda targets: np.where(targets == 1, value, targets), pattern="*/net*/*seed0*")
    before = time.process_time()
    found = check(shared)
    assert f"predictions.npz: test: a target of {value}, expected 0 to 1" in told(found)
    assert time.process_time() - before < 20


def change_of(task):
    """Targets that a task cannot have, and what is said of them."""
    return {
        "multiclass": (lambda t: t + 1, "a target of 2, expected 0 to 1"),
        "ordinal": (lambda t: t.astype(float), "float64 (40,) targets of 40 samples of a ordinal task"),
        "multilabel": (lambda t: np.stack([t * 3.0, np.full(40, np.nan)], 1), "a target of 3, expected 0, 1 or NaN"),
        "regression": (lambda t: np.where(t == 1, np.inf, 0.0), "targets contain NaN or infinity"),
    }[task]


@pytest.mark.parametrize("task", ["multiclass", "ordinal", "multilabel", "regression"])
def test_targets_of_every_task_are_what_they_may_be(tmp_path, store, task):
    store(tmp_path / "results")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_runs(shared, lambda d: d["dataset"].update(task=task))
    change, what = change_of(task)
    change_targets(shared, change)
    assert f"predictions.npz: test: {what}" in told(check(shared))


@pytest.mark.parametrize("folds", [10_001, 10**9])
def test_more_folds_than_a_suite_has_are_refused(shared, first, folds):
    change_json(first / "result.json", lambda d: d["run"].update(num_folds=folds))
    with_right_checksums(shared)
    assert "run.num_folds: Input should be less than or equal to 10000" in told(check(shared))


def test_more_labels_than_a_dataset_has_are_refused(shared, first):
    change_json(first / "result.json", lambda d: d["dataset"].update(labels=[str(n) for n in range(10_001)]))
    with_right_checksums(shared)
    assert "dataset.labels: List should have at most 10000 items" in told(check(shared))


def test_a_split_in_thousands_of_folds_is_not_drawn_again(shared, tiny_data, tmp_path):
    source, fingerprints = opened(tiny_data / "patients", tmp_path / "cache")
    source = replace(source, spec=replace(source.spec, name="dots", labels=("clear", "nodule")), content_hash="c" * 64)
    change_runs(shared, lambda d: d["run"].update(num_folds=9_000), "*/*/*")
    found = check(shared)
    compare_data(found, source, fingerprints)
    assert found.datasets[0]["here"].endswith("a split in 9000 folds is not drawn again")


def test_other_labels_than_those_of_the_data_here_are_a_difference(shared, tiny_data, tmp_path):
    source, fingerprints = opened(tiny_data / "patients", tmp_path / "cache")
    source = replace(source, spec=replace(source.spec, name="dots", labels=("well", "ill")), content_hash="c" * 64)
    found = check(shared)
    compare_data(found, source, fingerprints)
    assert "dataset dots: other labels than on this machine" in told(found)


@pytest.mark.parametrize("name", [MANIFEST, "result.json", "scores.json"])
def test_a_newer_schema_is_an_error_and_no_difference(shared, first, name):
    path = shared / MANIFEST if name == MANIFEST else first / name
    change_json(path, lambda d: d.update(schema=99))
    if name != MANIFEST:
        with_right_checksums(shared)
    with pytest.raises(ResultsError, match="written in schema 99") as caught:
        check(shared)
    assert caught.value.exit_status == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(run=[]),
        lambda d: d.update(dataset={"task": "telepathy"}),
        lambda d: d.update(surprise=1),
        lambda d: d["run"].pop("protocol"),
        lambda d: d["dataset"].update(labels=None),
        lambda d: d.update(identity="x" * 10_000),
    ],
)
def test_nonsense_in_a_result_is_a_difference_and_no_traceback(shared, first, change):
    change_json(first / "result.json", change)
    with_right_checksums(shared)
    assert any(file.startswith("dots/net.random") for file, _ in check(shared).differences)


@pytest.mark.parametrize("place", [0, 1])
def test_a_field_of_a_wrong_type_in_the_manifest_is_named(shared, place):
    sound = (shared / MANIFEST).read_text()
    for name in ("name", "content_hash", "split_hash", "targets", "license"):
        for value in (None, True, 1, {}, ["x"]):
            (shared / MANIFEST).write_text(sound)
            change_json(shared / MANIFEST, lambda d: d["datasets"].append(dict(d["datasets"][0])))
            change_json(shared / MANIFEST, lambda d, n=name, v=value: d["datasets"][place].update({n: v}))
            named = rf"not the manifest of a bundle: datasets\.{place}\.{name}: Input"
            with pytest.raises(ResultsError, match=named) as caught:
                check(shared)
            assert caught.value.exit_status == 5


def test_a_manifest_that_is_sound_is_shown(shared):
    change_json(shared / MANIFEST, lambda d: d["datasets"].append(d["datasets"][0] | {"content_hash": "0" * 64}))
    found = check(shared)
    assert "dataset dots: content 00000000, split" in "\n".join(verification_lines(found))
    assert len(describe_verification(found, shared)["datasets"]) == 2


def test_a_pickle_or_a_bomb_in_the_place_of_predictions_is_not_opened(shared, first):
    with open(first / "predictions.npz", "wb") as stream:
        np.savez(stream, test_sample_ids=np.array([{}], dtype=object))
    with_right_checksums(shared)
    assert "Python objects" in told(check(shared))
    with zipfile.ZipFile(first / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,), }"
        archive.writestr("test_targets.npy", header.ljust(127) + b"\n")
    with_right_checksums(shared)
    assert check(shared).differences


def test_a_link_in_a_bundle_is_not_followed(shared, first, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (first / "scores.json").unlink()
    try:
        (first / "scores.json").symlink_to(tmp_path / "secret")
    except OSError:
        pytest.skip("no links here")
    assert "scores.json: a link, not a file" in told(check(shared))


def test_a_zip_that_leads_out_of_its_folder_is_status_5(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with pytest.raises(ResultsError, match="leads out of the folder") as caught:
        open_bundle(tmp_path / "evil.zip")
    assert caught.value.exit_status == 5


@pytest.mark.parametrize("name", ["no.zip", "text.zip", "text.txt"])
def test_what_is_no_bundle_is_status_5(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not a zip")
    with pytest.raises(ResultsError) as caught:
        open_bundle(tmp_path / name)
    assert caught.value.exit_status == 5


def test_a_metric_without_its_plugin_or_of_another_version_is_said_and_not_compared(shared):
    registry = Registry(metrics={"auroc": replace(METRICS_BY_NAME["auroc"], version=2)})
    found = check(shared, registry)
    assert not found.differences and found.num_scores == 0
    assert dict(found.not_recomputed) == {
        "auroc: version 1 in the bundle, 2 here": 3,
        "accuracy: no plugin here gives it": 3,
    }


def test_without_targets_nothing_is_recomputed_and_that_is_said(tmp_path, store):
    stored = store(tmp_path / "results", facts={"share_targets": False})
    shared = bundle(tmp_path / "results", tmp_path / "out")
    found = check(shared)
    assert (found.differences, found.num_scores) == ([], 0)
    assert dict(found.not_recomputed) == {"dots: its targets are not in the bundle": 2}
    (board,) = build_leaderboard(found.results, METRICS_BY_NAME)
    assert board.rows[0].provenance == "stated"
    score = board.rows[0].scores["auroc"]
    assert score.value == pytest.approx(stored.scores()["auroc"].value, abs=1e-12) and score.low is None


# --- on a board ------------------------------------------------------------------------------------------------------
def test_rows_of_a_bundle_are_recomputed_and_stand_on_a_board_of_their_own(shared, tmp_path):
    own = load_results(tmp_path / "results")[0]
    boards = build_leaderboard([*own, *load_bundle(shared, REGISTRY, silent)], METRICS_BY_NAME)
    assert [{row.provenance for row in board.rows} for board in boards] == [{""}, {"recomputed"}]
    assert [board.bundle[:4] for board in boards] == ["", "out "]
    values = [[row.scores["auroc"].value for row in board.rows] for board in boards]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_a_row_is_reproduced_where_a_seed_was_run_again_with_the_same_predictions(shared, tmp_path, store):
    store(tmp_path / "here", seed=1)
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), load_results(tmp_path / "here")[0])
    (board,) = build_leaderboard(results, METRICS_BY_NAME)
    assert [(row.model, row.provenance) for row in board.rows] == [("net", "reproduced"), ("constant", "recomputed")]


def test_other_predictions_under_the_same_id_reproduce_nothing(shared, tmp_path, store):
    own = store(tmp_path / "here", seed=1, noise=1.1)
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), [own])
    assert own.id in {result.id for result in results}
    assert {result.provenance for result in results} == {"recomputed"}


def test_a_copy_of_the_bundle_reproduces_nothing(shared, tmp_path):
    shutil.copytree(shared / "dots", tmp_path / "copy" / "dots")
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), load_results(tmp_path / "copy")[0])
    assert {result.provenance for result in results} == {"recomputed"}


def opened(path, cache):
    source = open_dataset(find_source(path), cache)
    return source, take_fingerprints(source, cache)


def test_data_that_the_bundle_does_not_hold_cannot_be_compared(shared, tiny_data, tmp_path):
    found = check(shared)
    with pytest.raises(ResultsError, match="holds no dataset 'multiclass'; fix: it holds dots"):
        compare_data(found, *opened(tiny_data / "multiclass.npz", tmp_path / "cache"))


def test_data_of_another_content_are_a_difference(shared, tiny_data, tmp_path):
    found = check(shared)
    source, fingerprints = opened(tiny_data / "binary.npz", tmp_path / "cache")
    compare_data(found, replace(source, spec=replace(source.spec, name="dots")), fingerprints)
    assert told(found) == "manifest.json: dataset dots: another content than on this machine"


def test_a_bundle_that_differs_is_not_shown(shared, first):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update(value=0.99))
    with pytest.raises(VerifyError, match="checksum differs") as caught:
        load_bundle(shared, REGISTRY, silent)
    assert caught.value.exit_status == 3
    spaced = shared.rename(shared.with_name("my bundle"))
    with pytest.raises(VerifyError, match=re.escape(f"`zoo verify '{spaced}'` shows every difference")):
        load_bundle(spaced, REGISTRY, silent)


def test_the_split_is_the_same_where_look_alikes_were_kept_together_left_out_or_the_official_one_discarded(
    zoo, tmp_path
):
    root = tmp_path / "alike"
    random, recent = np.random.default_rng(0), []
    for row in range(160):
        if row % 8 < 6:  # of eight images the last two are the first two, a little brighter
            pixels = np.asarray(Image.fromarray(random.integers(20, 220, (8, 8), np.uint8)).resize((64, 64)))
            recent = [*(recent if row % 8 else []), pixels]
        path = root / ("train" if row // 2 % 4 else "test") / "ab"[row % 2] / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if row % 8 < 6 else recent[row % 8 - 6] + 5).save(path)
    words = ("bench", "-m", "constant", "-d", root, "--protocol", "knn", "--set", "image_size=16", "--seeds", 1)
    for number, flags in enumerate((["--allow-leak", "to try"], ["--drop-leaks"], ["--resplit"])):
        results, bundle = tmp_path / f"{number}" / "results", tmp_path / f"{number}.zip"
        done = zoo(*words, *flags, "--results", results)
        assert done.returncode == 0, done.stderr
        assert zoo("bundle", bundle, "--results", results).returncode == 0
        done = zoo("verify", bundle, "--datasets", root)
        assert (done.returncode, "the same content and split on this machine" in done.stdout) == (0, True), done.stdout


# --- the command -----------------------------------------------------------------------------------------------------
def test_a_lab_shares_and_another_verifies_by_command(zoo, tiny_data, tmp_path):
    data = tiny_data / "binary.npz"
    bench = ("bench", "-m", "tiny_cnn", "-d", data, "--protocol", "knn", "--set", "image_size=28", "--weights", "none")
    done = zoo(*bench, "--seeds", 1, "--results", tmp_path / "lab" / "results")
    assert done.returncode == 0, done.stderr
    done = zoo("bundle", "--results", tmp_path / "lab" / "results", tmp_path / "out.zip")
    assert "zoo: names in the bundle: " in done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lab" / ".zoo-bundle-key").exists()
    done = zoo("verify", tmp_path / "out.zip", "--datasets", data, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["schema"], document["command"]) == (0, 1, "verify"), done.stderr
    assert document["datasets"][0]["here"] == "same" and document["recomputed"]["scores"] > 10
    text = zoo("report", "--results", tmp_path / "out.zip", cwd=tmp_path).stdout
    assert "tiny_cnn * (recomputed)" in text or "tiny_cnn (recomputed)" in text
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "open")
    (first,) = (tmp_path / "open").glob("binary/tiny_cnn*/*/scores.json")
    change_json(first, lambda d: d["scores"]["auroc"].update(value=0.999))
    with_right_checksums(tmp_path / "open")
    write_zip(tmp_path / "open", tmp_path / "forged.zip")
    forged = zoo("verify", tmp_path / "forged.zip")
    assert forged.returncode == 3 and "auroc value: 0.999 in the bundle" in forged.stdout


def test_what_the_command_makes_of_every_task_tuned_in_folds_and_shuffled_has_no_difference(zoo, tiny_data, tmp_path):
    names = ("patients", "multilabel", "ordinal", "regression")
    chosen = ("-m", "tiny_cnn", "--weights", "none", "--set", "image_size=16", "--results", tmp_path / "results")
    sets = [word for name in names for word in ("-d", tiny_data / name)]
    grid = ("--set", "steps=3", "--set", "learning_rate=0.001,0.01", "--set", "batch_size=100", "--seeds", 1)
    for words in (
        (*sets, "--protocol", "scratch", *grid),
        ("-d", tiny_data / "regression", "--protocol", "quick", "--set", "epochs=1", "--seeds", 2, "--shuffle-labels"),
    ):
        done = zoo("bench", *words, *chosen)
        assert done.returncode == 0, done.stderr
    assert zoo("bundle", "--results", tmp_path / "results", tmp_path / "out").returncode == 0
    here = [word for name in names for word in ("--datasets", tiny_data / name)]
    done = zoo("verify", tmp_path / "out", *here)
    assert done.returncode == 0, done.stdout
    assert "note:" not in done.stdout and "not recomputed" not in done.stdout
