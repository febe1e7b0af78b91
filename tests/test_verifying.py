"""Verification of bundles: detected manipulations, notes, and provenance of rows."""

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
from zoo.report.verification import describe_verification, list_notes, verification_lines
from zoo.results.bundles import MANIFEST, BundleRequest, files_below, make_bundle, write_zip
from zoo.results.store import load_results
from zoo.results.verifying import compare_data, load_bundle, mark_reproduced, open_bundle, verify
from zoo.sources.opening import find_source
from zoo.specs.deviation import Deviation
from zoo.specs.protocol import QUICK, SCRATCH, override
from zoo.system.files import SEAL, hash_bytes, hash_file, write_sealed

METRICS_BY_NAME = {spec.name: spec for spec in METRICS}
REGISTRY = Registry(metrics=METRICS_BY_NAME)
OLD_BUNDLES = sorted((Path(__file__).parent / "bundles").glob("schema?.zip"))


def silent(done, total):
    pass


def bundle(root, output, key=b"k" * 32):
    request = BundleRequest(results=load_results(root)[0], root=root, output=output, key=key, registry=REGISTRY)
    make_bundle(request, silent)
    return output


def check(folder, registry=REGISTRY):
    return verify(folder, folder.name, registry, silent)


def differences(outcome):
    return "\n".join(f"{file}: {what}" for file, what in outcome.differences)


def with_right_checksums(folder):
    """Update all checksums, as an attacker would."""
    for path in folder.glob("*/*/*/result.json"):
        change_json(
            path, lambda d, at=path.parent: d.update(checksums={name: hash_file(at / name) for name in d["checksums"]})
        )
    files = {p.relative_to(folder).as_posix(): hash_file(p) for p in files_below(folder) if p.name != MANIFEST}
    change_json(folder / MANIFEST, lambda d: d.update(files=files))


def change_json(path, change):
    """Change a document and seal it again."""
    document = json.loads(path.read_text())
    document.pop(SEAL)
    change(document)
    write_sealed(path, document)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory, store):
    root = tmp_path_factory.mktemp("made")
    for seed in range(2):
        store(root / "results", seed=seed)
    store(root / "results", model="constant", noise=0.0)
    store(root / "results", seed=2, status="failed")
    bundle(root / "results", root / "out")
    return root


@pytest.fixture
def shared(tmp_path, made_once):
    """A bundle of two seeds and a baseline, beside the results in it."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


@pytest.fixture
def first(shared):
    """The folder of the first run of the network."""
    return next(shared.glob("dots/net.random/*seed0*"))


def test_an_unchanged_bundle_has_no_difference(shared):
    outcome = check(shared)
    assert not outcome.differences and not outcome.not_recomputed
    assert (len(outcome.results), outcome.num_scores) == (4, 6)
    assert 0 < outcome.num_intervals <= 6


@pytest.mark.parametrize("path", OLD_BUNDLES, ids=lambda path: path.stem)
def test_bundles_of_all_versions_verify(path):
    outcome = check(open_bundle(path))
    assert not outcome.differences
    assert outcome.num_scores == 18
    boards = build_leaderboard(outcome.results, METRICS_BY_NAME)
    assert [row.model for row in boards[0].rows] == ["net", "constant"]


def test_there_is_an_old_bundle():
    assert OLD_BUNDLES and sum(path.stat().st_size for path in OLD_BUNDLES) < 100_000


@pytest.mark.parametrize("part", ["value", "low", "high"])
def test_a_score_changed_by_1e_5_is_detected(shared, first, part):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update({part: d["scores"]["auroc"][part] + 1e-5}))
    with_right_checksums(shared)
    assert f"auroc {part}: " in differences(check(shared))


def test_a_score_changed_by_less_than_1e_6_is_accepted(shared, first):
    change_json(
        first / "scores.json", lambda d: d["scores"]["auroc"].update(value=d["scores"]["auroc"]["value"] + 5e-7)
    )
    with_right_checksums(shared)
    assert not check(shared).differences


def test_a_changed_prediction_is_detected_by_every_affected_score(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    perfect = np.eye(2)[test.targets] * 0.98 + 0.01
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, probabilities=perfect)})
    with_right_checksums(shared)
    assert {"auroc value", "accuracy value"} <= {
        " ".join(what.split()[1:3]).rstrip(":") for _, what in check(shared).differences
    }


def test_changed_missing_and_extra_files_are_named(shared, first):
    with open(first / "history.jsonl", "a") as stream:
        stream.write("{}\n")
    next(shared.glob("dots/net.random/*seed1*/scores.json")).unlink()
    (shared / "virus.exe").write_text("x")
    text = differences(check(shared))
    assert "history.jsonl: its checksum differs from the manifest's" in text
    assert "scores.json: is in the manifest but not in the bundle" in text
    assert "virus.exe: is not in the manifest" in text


@pytest.mark.parametrize("name", ["content_hash", "split_hash"])
def test_a_run_on_other_data_than_in_the_manifest_is_detected(shared, first, name):
    def change(document):
        for part in ("run", "identity", "dataset"):
            document[part][name] = "9" * 64
        document["id"] = hash_bytes(json.dumps(document["identity"], sort_keys=True))

    change_json(first / "result.json", change)
    with_right_checksums(shared)
    assert "content or split hash" in differences(check(shared))


def test_an_id_that_is_not_the_hash_of_the_identity_is_detected(shared, first):
    change_json(first / "result.json", lambda d: d["identity"].update(seed=7))
    with_right_checksums(shared)
    text = differences(check(shared))
    assert "its id is not the hash of its identity" in text and "seed: 0 in the run, 7 in its identity" in text


def test_other_targets_than_in_other_runs_are_detected(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, targets=1 - test.targets)})
    with_right_checksums(shared)
    assert "test: targets differ" in differences(check(shared))


def test_a_wrong_number_of_images_is_detected(shared, first):
    predictions = load_predictions(first / "predictions.npz")
    test = predictions["test"]
    kept = {name: getattr(test, name)[5:] for name in ("sample_ids", "patients", "targets", "probabilities")}
    save_predictions(first / "predictions.npz", {**predictions, "test": replace(test, **kept)})
    with_right_checksums(shared)
    assert "test: 35 images, 40 in the record" in differences(check(shared))


# --- a run that contradicts its identity -----------------------------------------------------------------------------
def change_runs(shared, change, pattern="*/net*/*"):
    """Change the record of several runs in the same way and update all checksums."""
    for place in shared.glob(pattern):
        change_json(place / "result.json", change)
    with_right_checksums(shared)


def change_targets(shared, change, split="test", pattern="*/*/*"):
    """Change the targets of every finished run in the same way and update all checksums."""
    for path in shared.glob(f"{pattern}/predictions.npz"):
        predictions = load_predictions(path)
        part = predictions[split]
        save_predictions(path, {**predictions, split: replace(part, targets=change(part.targets))})
    with_right_checksums(shared)


@pytest.mark.parametrize("shown", ["convnext_large", "nets", "zoo-timm:net"])
def test_a_name_of_another_model_is_detected(shared, shown):
    change_runs(shared, lambda d: d["run"].update(shown=shown))
    assert f"shown: '{shown}'" in differences(check(shared))


@pytest.mark.parametrize("shown", ["net", "zoo-tiny:net", "net.a1_in1k"])
def test_all_display_names_of_a_model_are_accepted(shared, shown):
    change_runs(shared, lambda d: d["run"].update(shown=shown))
    assert not check(shared).differences


@pytest.mark.integration
def test_every_field_of_the_identity_must_match_the_run(tmp_path, store):
    store(tmp_path / "results")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    (first,) = shared.glob("dots/net.random/*seed0*")
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
        assert re.search(
            rf"{name}: .* in the run, .* in its identity|set exactly one of steps", differences(check(shared))
        ), name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"protocol_label": "finetune@1"}, "protocol_label: 'finetune@1'"),
        ({"weights_tag": "a1_in1k"}, "init: 'random'"),
        ({"weights_digest": "deadbeef"}, "weights_digest: 'deadbeef'"),
        ({"num_train": 39}, "train: 39 images"),
        ({"fold": 3}, "fold: 3 of 1"),
        ({"deviations": [{"kind": "no-weights", "detail": []}]}, "deviations: "),
        ({"num_folds": 5}, "num_folds: 5"),
    ],
)
def test_derived_fields_must_match_the_run(shared, change, what):
    change_runs(shared, lambda d: d["run"].update(change))
    assert what in differences(check(shared))


def test_wrong_overrides_in_a_label_are_detected(shared):
    def change(document):
        document["run"]["protocol"]["overrides"] = [["steps", "4000"]]
        document["run"]["protocol_label"] = "scratch@1+steps=4000"

    change_runs(shared, change)
    assert "protocol.overrides: steps=4000" in differences(check(shared))


def test_a_modified_protocol_with_a_published_label_is_a_deviation(shared):
    registry = replace(REGISTRY, protocols={"scratch": SCRATCH})
    outcome = check(shared, registry)
    note = list_notes(outcome)[0]
    assert note.endswith(": protocol: named scratch@1, but differs from it in epochs, steps")
    (board,) = build_leaderboard(outcome.results, METRICS_BY_NAME)
    expected = Deviation("undeclared-fields", ("scratch@1", "epochs, steps"))
    assert [expected in row.deviations for row in board.rows] == [True, False]


def test_an_undeclared_demonstration_is_detected(tmp_path, store):
    store(tmp_path / "results", protocol=QUICK)
    shared = bundle(tmp_path / "results", tmp_path / "out")
    registry = replace(REGISTRY, protocols={"quick": QUICK})
    assert not check(shared, registry).differences and not check(shared, registry).undeclared
    change_runs(shared, lambda d: d["run"]["protocol"].update(demonstration=False))
    assert "protocol.demonstration: True by quick@2" in differences(check(shared, registry))


def test_a_protocol_with_overrides_and_a_tuned_field_has_no_difference(tmp_path, store):
    grid = override(SCRATCH, {"steps": "4", "learning_rate": "0.001,0.01"})
    tuned = replace(grid, tune=(), learning_rate=0.01)
    store(tmp_path / "results", protocol=tuned, tuned_fields=("learning_rate",))
    outcome = check(bundle(tmp_path / "results", tmp_path / "out"), replace(REGISTRY, protocols={"scratch": SCRATCH}))
    assert (outcome.differences, outcome.undeclared) == ([], [])


def test_a_changed_primary_metric_is_detected(tmp_path, store):
    store(tmp_path / "results", primary_metric="auroc")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_runs(shared, lambda d: d["details"].update(primary_metric="accuracy"))
    assert "primary_metric: 'accuracy', 'auroc' in its identity" in differences(check(shared))


def test_a_finished_run_marked_as_failed_is_detected(shared, first):
    change_json(
        first / "result.json", lambda d: d.update(status="failed", error={"code": "diverged", "message": "nan"})
    )
    with_right_checksums(shared)
    assert "predictions.npz: unexpected file" in differences(check(shared))


# --- a record that contradicts the predictions -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d.update(labels=["nodule", "clear"]), "counts the labels ['clear', 'nodule']"),
        (lambda d: d.update(unit="patient"), "unit: patient"),
        (lambda d: d.update(unit="patient", has_patients=True), "image_scores: 0, expected 2"),
        (lambda d: d.update(unit="clip"), "test: the unit is the clip"),
        (lambda d: d.update(positive=2), "positive: label 2 of 2"),
        (lambda d: d.update(name="other"), "dataset: 'dots'"),
        (lambda d: d["splits"]["train"].update(images=99_999), "train: 99999 images"),
        (lambda d: d["splits"]["train"].update(patients=41), "train: 41 patients of 40 images"),
        (lambda d: d["splits"]["val"].update(images=41), "val: 40 images"),
        (lambda d: d.update(share_targets=False), "manifest.json: dataset dots: targets shared"),
    ],
)
def test_a_contradictory_record_shared_by_all_runs_is_detected(shared, change, what):
    change_runs(shared, lambda d: change(d["dataset"]), "*/*/*")
    assert what in differences(check(shared))


def test_a_record_that_differs_from_other_runs_is_detected(shared, first):
    def change(document):
        document["dataset"].update(positive=0)
        document["dataset"]["splits"]["train"].update(patients=3)

    change_json(first / "result.json", change)
    with_right_checksums(shared)
    text = differences(check(shared))
    assert "positive: " in text and "in other runs on the same data" in text
    assert "train: counts differ" in text


def test_different_targets_within_a_patient_unit_are_detected(tmp_path, store):
    counts = {"images": 40, "patients": 20, "labels": {"clear": 20, "nodule": 20}}
    facts = {"has_patients": True, "splits": dict.fromkeys(("train", "val", "test"), counts)}
    store(tmp_path / "results", images_each=2, facts=facts)
    shared = bundle(tmp_path / "results", tmp_path / "out")
    assert not check(shared).differences
    change_runs(shared, lambda d: d["dataset"].update(unit="patient"))
    assert "the unit is the patient" in differences(check(shared))


def test_a_dataset_without_runs_in_the_manifest_is_detected(shared):
    change_json(shared / MANIFEST, lambda d: d["datasets"].append(d["datasets"][0] | {"content_hash": "0" * 64}))
    assert "manifest.json: dataset dots: " in differences(check(shared))


@pytest.mark.parametrize(
    ("name", "what"), [("auroc", "the primary metric of its run"), ("accuracy", "unlike other runs")]
)
def test_a_missing_score_is_detected(shared, first, name, what):
    change_json(first / "scores.json", lambda d: d["scores"].pop(name))
    with_right_checksums(shared)
    assert re.search(rf"scores.json: has no {name}, .*{what}", differences(check(shared)))


def test_a_removed_run_is_not_detected(shared, first):
    shutil.rmtree(first)
    with_right_checksums(shared)
    assert not check(shared).differences


# --- targets ---------------------------------------------------------------------------------------------------------
def test_without_targets_of_val_only_threshold_free_scores_are_recomputed(shared, first):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update(value=0.99))
    change_targets(shared, lambda targets: targets[:0], split="val")
    outcome = check(shared)
    assert "val: targets are missing" in differences(outcome)
    assert "auroc value: 0.99 in the bundle" in differences(outcome)
    assert dict(outcome.not_recomputed) == {
        "accuracy: the targets of val, which determine the threshold, are missing": 3,
    }
    assert {result.provenance for result in outcome.results} == {"recomputed"}


def test_missing_targets_of_test_are_a_difference_if_shared(shared):
    change_targets(shared, lambda targets: targets[:0])
    assert "test: targets are missing" in differences(check(shared))


def test_unshared_targets_must_be_missing_in_all_splits(tmp_path, store):
    store(tmp_path / "results")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_json(shared / MANIFEST, lambda d: d["datasets"][0].update(targets="left out"))
    change_runs(shared, lambda d: d["dataset"].update(share_targets=False))
    change_targets(shared, lambda targets: targets[:0], split="val")
    assert "val: targets are missing, but another split" in differences(check(shared))


def test_missing_predictions_of_val_are_detected(shared, first):
    save_predictions(first / "predictions.npz", {"test": load_predictions(first / "predictions.npz")["test"]})
    with_right_checksums(shared)
    assert "predictions.npz: predictions of val are missing" in differences(check(shared))


@pytest.mark.parametrize("value", [-1, 2, 200_000_000, 2**62])
def test_an_invalid_target_is_detected_before_counting(shared, first, value):
    change_targets(shared, lambda targets: np.where(targets == 1, value, targets), pattern="*/net*/*seed0*")
    before = time.process_time()
    outcome = check(shared)
    assert f"predictions.npz: test: target {value}, expected 0 to 1" in differences(outcome)
    assert time.process_time() - before < 20


def change_of(task):
    """Invalid targets for a task, and the reported difference."""
    return {
        "multiclass": (lambda t: t + 1, "target 2, expected 0 to 1"),
        "ordinal": (lambda t: t.astype(float), "float64 (40,) targets for 40 samples of a ordinal task"),
        "multilabel": (lambda t: np.stack([t * 3.0, np.full(40, np.nan)], 1), "target 3, expected 0, 1 or NaN"),
        "regression": (lambda t: np.where(t == 1, np.inf, 0.0), "targets contain NaN or infinity"),
    }[task]


@pytest.mark.parametrize("task", ["multiclass", "ordinal", "multilabel", "regression"])
def test_invalid_targets_of_every_task_are_detected(tmp_path, store, task):
    store(tmp_path / "results")
    shared = bundle(tmp_path / "results", tmp_path / "out")
    change_runs(shared, lambda d: d["dataset"].update(task=task))
    change, what = change_of(task)
    change_targets(shared, change)
    assert f"predictions.npz: test: {what}" in differences(check(shared))


@pytest.mark.parametrize("folds", [10_001, 10**9])
def test_too_many_folds_are_refused(shared, first, folds):
    change_json(first / "result.json", lambda d: d["run"].update(num_folds=folds))
    with_right_checksums(shared)
    assert "run.num_folds: Input should be less than or equal to 10000" in differences(check(shared))


def test_too_many_labels_are_refused(shared, first):
    change_json(first / "result.json", lambda d: d["dataset"].update(labels=[str(n) for n in range(10_001)]))
    with_right_checksums(shared)
    assert "dataset.labels: List should have at most 10000 items" in differences(check(shared))


def test_a_split_in_thousands_of_folds_is_not_redrawn(shared, tiny_data, tmp_path):
    source, fingerprints = opened(tiny_data / "patients", tmp_path / "cache")
    source = replace(source, spec=replace(source.spec, name="dots", labels=("clear", "nodule")), content_hash="c" * 64)
    change_runs(shared, lambda d: d["run"].update(num_folds=9_000), "*/*/*")
    outcome = check(shared)
    compare_data(outcome, source, fingerprints)
    assert outcome.datasets[0]["here"].endswith("a split in 9000 folds was not redrawn")


def test_other_labels_than_on_this_machine_are_a_difference(shared, tiny_data, tmp_path):
    source, fingerprints = opened(tiny_data / "patients", tmp_path / "cache")
    source = replace(source, spec=replace(source.spec, name="dots", labels=("well", "ill")), content_hash="c" * 64)
    outcome = check(shared)
    compare_data(outcome, source, fingerprints)
    assert "dataset dots: other labels than on this machine" in differences(outcome)


@pytest.mark.parametrize("name", [MANIFEST, "result.json", "scores.json"])
def test_a_newer_schema_is_an_error(shared, first, name):
    path = shared / MANIFEST if name == MANIFEST else first / name
    change_json(path, lambda d: d.update(schema=99))
    if name != MANIFEST:
        with_right_checksums(shared)
    with pytest.raises(ResultsError, match="has schema 99") as caught:
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
def test_invalid_values_in_a_result_are_a_difference(shared, first, change):
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
            named = rf"invalid manifest: datasets\.{place}\.{name}: Input"
            with pytest.raises(ResultsError, match=named) as caught:
                check(shared)
            assert caught.value.exit_status == 5


def test_a_valid_manifest_is_shown(shared):
    change_json(shared / MANIFEST, lambda d: d["datasets"].append(d["datasets"][0] | {"content_hash": "0" * 64}))
    outcome = check(shared)
    assert "dataset dots: content 00000000, split" in "\n".join(verification_lines(outcome))
    assert len(describe_verification(outcome, shared)["datasets"]) == 2


def test_a_pickle_or_zip_bomb_is_not_opened(shared, first):
    with open(first / "predictions.npz", "wb") as stream:
        np.savez(stream, test_sample_ids=np.array([{}], dtype=object))
    with_right_checksums(shared)
    assert "Python objects" in differences(check(shared))
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
    assert "scores.json: a link, not a file" in differences(check(shared))


def test_a_zip_with_path_traversal_is_status_5(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with pytest.raises(ResultsError, match="leads out of the folder") as caught:
        open_bundle(tmp_path / "evil.zip")
    assert caught.value.exit_status == 5


@pytest.mark.parametrize("name", ["no.zip", "text.zip", "text.txt"])
def test_an_invalid_bundle_is_status_5(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not a zip")
    with pytest.raises(ResultsError) as caught:
        open_bundle(tmp_path / name)
    assert caught.value.exit_status == 5


def test_a_metric_without_plugin_or_of_another_version_is_not_compared(shared):
    registry = Registry(metrics={"auroc": replace(METRICS_BY_NAME["auroc"], version=2)})
    outcome = check(shared, registry)
    assert not outcome.differences and outcome.num_scores == 0
    assert dict(outcome.not_recomputed) == {
        "auroc: version 1 in the bundle, 2 here": 3,
        "accuracy: no installed plugin provides it": 3,
    }


def test_without_targets_nothing_is_recomputed(tmp_path, store):
    stored = store(tmp_path / "results", facts={"share_targets": False})
    shared = bundle(tmp_path / "results", tmp_path / "out")
    outcome = check(shared)
    assert (outcome.differences, outcome.num_scores) == ([], 0)
    assert dict(outcome.not_recomputed) == {"dots: its targets are not in the bundle": 2}
    (board,) = build_leaderboard(outcome.results, METRICS_BY_NAME)
    assert board.rows[0].provenance == "stated"
    score = board.rows[0].scores["auroc"]
    assert score.value == pytest.approx(stored.scores()["auroc"].value, abs=1e-12) and score.low is None


# --- on a board ------------------------------------------------------------------------------------------------------
def test_recomputed_rows_of_a_bundle_are_on_their_own_board(shared, tmp_path):
    own = load_results(tmp_path / "results")[0]
    boards = build_leaderboard([*own, *load_bundle(shared, REGISTRY, silent)], METRICS_BY_NAME)
    assert [{row.provenance for row in board.rows} for board in boards] == [{""}, {"recomputed"}]
    assert [board.bundle[:4] for board in boards] == ["", "out "]
    values = [[row.scores["auroc"].value for row in board.rows] for board in boards]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_a_row_is_reproduced_if_a_repeated_run_has_the_same_predictions(shared, tmp_path, store):
    store(tmp_path / "here", seed=1)
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), load_results(tmp_path / "here")[0])
    (board,) = build_leaderboard(results, METRICS_BY_NAME)
    assert [(row.model, row.provenance) for row in board.rows] == [("net", "reproduced"), ("constant", "recomputed")]


def test_other_predictions_with_the_same_id_are_not_reproduced(shared, tmp_path, store):
    own = store(tmp_path / "here", seed=1, noise=1.1)
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), [own])
    assert own.id in {result.id for result in results}
    assert {result.provenance for result in results} == {"recomputed"}


def test_a_copy_of_the_bundle_is_not_reproduced(shared, tmp_path):
    shutil.copytree(shared / "dots", tmp_path / "copy" / "dots")
    results = mark_reproduced(load_bundle(shared, REGISTRY, silent), load_results(tmp_path / "copy")[0])
    assert {result.provenance for result in results} == {"recomputed"}


def opened(path, cache):
    source = open_dataset(find_source(path), cache)
    return source, take_fingerprints(source, cache)


def test_data_missing_from_the_bundle_cannot_be_compared(shared, tiny_data, tmp_path):
    outcome = check(shared)
    with pytest.raises(ResultsError, match="has no dataset 'multiclass'; fix: its datasets: dots"):
        compare_data(outcome, *opened(tiny_data / "multiclass.npz", tmp_path / "cache"))


def test_other_content_is_a_difference(shared, tiny_data, tmp_path):
    outcome = check(shared)
    source, fingerprints = opened(tiny_data / "binary.npz", tmp_path / "cache")
    compare_data(outcome, replace(source, spec=replace(source.spec, name="dots")), fingerprints)
    assert differences(outcome) == "manifest.json: dataset dots: another content than on this machine"


def test_a_bundle_with_differences_is_not_shown(shared, first):
    change_json(first / "scores.json", lambda d: d["scores"]["auroc"].update(value=0.99))
    with pytest.raises(VerifyError, match="checksum differs") as caught:
        load_bundle(shared, REGISTRY, silent)
    assert caught.value.exit_status == 3
    spaced = shared.rename(shared.with_name("my bundle"))
    with pytest.raises(VerifyError, match=re.escape(f"`zoo verify '{spaced}'` shows every difference")):
        load_bundle(spaced, REGISTRY, silent)


def test_splits_with_allowed_or_dropped_leaks_or_resplit_are_recognized(zoo, tmp_path):
    root = tmp_path / "alike"
    random, recent = np.random.default_rng(0), []
    for row in range(160):
        if row % 8 < 6:  # the last two of eight images are brighter copies of the first two
            pixels = np.asarray(Image.fromarray(random.integers(20, 220, (8, 8), np.uint8)).resize((64, 64)))
            recent = [*(recent if row % 8 else []), pixels]
        path = root / ("train" if row // 2 % 4 else "test") / "ab"[row % 2] / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if row % 8 < 6 else recent[row % 8 - 6] + 5).save(path)
    words = ("bench", "-m", "constant", "-d", root, "--protocol", "knn", "--set", "image_size=16", "--seeds", 1)
    words += ("--metrics", "auroc")
    for flags in (["--allow-leak", "to try"], ["--drop-leaks"], ["--resplit"]):
        done = zoo(*words, *flags, "--results", tmp_path / "results")
        assert done.returncode == 0, done.stderr
    assert zoo("bundle", tmp_path / "out.zip", "--results", tmp_path / "results").returncode == 0
    done = zoo("verify", tmp_path / "out.zip", "--datasets", root)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the same content and split on this machine") == 3


# --- the command -----------------------------------------------------------------------------------------------------
def test_bundle_and_verify_commands(zoo, tiny_data, tmp_path):
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


@pytest.mark.slow
def test_bundles_of_all_tasks_with_tuning_folds_and_shuffling_verify(zoo, tiny_data, tmp_path):
    names = ("patients", "multilabel", "ordinal", "regression")
    chosen = ("-m", "tiny_cnn", "--weights", "none", "--set", "image_size=16", "--results", tmp_path / "results")
    sets = [word for name in names[1:] for word in ("-d", tiny_data / name)]
    grid = ("--set", "steps=3", "--set", "learning_rate=0.001,0.01", "--set", "batch_size=100", "--seeds", 1)
    for words in (
        (*sets, "--protocol", "scratch", *grid),
        ("-d", tiny_data / "patients", "--folds", 2, "--protocol", "scratch", *grid),
        ("-d", tiny_data / "regression", "--protocol", "quick", "--set", "epochs=1", "--seeds", 2, "--shuffle-labels"),
    ):
        done = zoo("bench", *words, *chosen)
        assert done.returncode == 0, done.stderr
    assert zoo("bundle", "--results", tmp_path / "results", tmp_path / "out").returncode == 0
    here = [word for name in names for word in ("--datasets", tiny_data / name)]
    done = zoo("verify", tmp_path / "out", *here)
    assert done.returncode == 0, done.stdout
    assert "note:" not in done.stdout and "not recomputed" not in done.stdout
