"""Bundles: no identifying data, and every score can be recomputed."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from zoo.errors import ResultsError, UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import load_predictions
from zoo.evaluation.scoring import score_run
from zoo.registry.lookup import Registry
from zoo.results.bundles import MANIFEST, BundleRequest, is_bundle, load_manifest, make_bundle
from zoo.results.runs import read_run
from zoo.results.store import Artifacts, load_results, save_result
from zoo.sources.archives import unpack
from zoo.specs.deviation import Deviation
from zoo.system.files import hash_file

REGISTRY = Registry(metrics={spec.name: spec for spec in METRICS})
PATIENTS = {"unit": "patient", "has_patients": True, "patient": "patient"}
SECRETS = {
    "notes": ["/home/eve/lungs/t.csv: 3 rows left out", "LEAK: 2 images of test (3 images) are in train or val too"],
    "known_issues": ["test0-7 has two labels"],
    "audit": {"findings": [{"check": "pixels", "samples": ["test0-7", "val0-1.png"]}]},
}


METADATA = {"sex": np.array(["F", "M"] * 20), "age": (np.arange(40) + 40).astype(str)}


def bundle(root, output, key=b"k" * 32, registry=REGISTRY, metadata=()):
    results = load_results(root)[0]
    request = BundleRequest(results=results, root=root, output=output, key=key, registry=registry, metadata=metadata)
    return make_bundle(request, lambda done, total: None)


def everything_in(folder):
    """Return all text and all strings of arrays in a bundle."""
    texts = [path.name for path in folder.rglob("*")]
    for path in folder.rglob("*.*"):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                texts += [str(name) for array in arrays.values() if array.dtype.kind == "U" for name in array.ravel()]
        elif path.is_file():
            texts.append(path.read_text())
    return "\n".join(texts)


def test_a_bundle_has_no_ids_paths_or_messages(tmp_path, store):
    store(tmp_path / "results", facts=SECRETS, deviations=(Deviation("leak-allowed", ("'Eve' said so of test0-9",)),))
    store(tmp_path / "results", seed=1, status="failed")
    bundle(tmp_path / "results", tmp_path / "out")
    text = everything_in(tmp_path / "out")
    for secret in ("test0-", "val0-", "/home", "lungs", "Eve", str(tmp_path), "the loss is nan"):
        assert secret not in text
    assert "2 images of test (3 images)" in text  # the leak is still reported
    assert "diverged" in text


def test_rows_are_sorted_by_pseudonym_and_keep_their_patients(tmp_path, store):
    stored = store(tmp_path / "results", facts=PATIENTS).predictions()["test"]
    bundle(tmp_path / "results", tmp_path / "out")
    (shared,) = load_results(tmp_path / "out")[0]
    test = shared.predictions()["test"]
    assert list(test.sample_ids) == sorted(test.sample_ids)
    order = np.argsort(stored.probabilities[:, 1])
    again = np.argsort(test.probabilities[:, 1])
    np.testing.assert_array_equal(stored.probabilities[order], test.probabilities[again])
    np.testing.assert_array_equal(stored.targets[order], test.targets[again])
    assert len(set(test.patients)) == len(set(stored.patients))


def test_pseudonyms_are_equal_for_one_key_and_differ_between_keys(tmp_path, store):
    names = {}
    for place, key in (("a", b"1" * 32), ("b", b"1" * 32), ("c", b"2" * 32)):
        store(tmp_path / place, seed=ord(place))
        bundle(tmp_path / place, tmp_path / f"{place}.out", key)
        (shared,) = load_results(tmp_path / f"{place}.out")[0]
        names[place] = set(shared.predictions()["test"].patients)
    assert names["a"] == names["b"] and not names["a"] & names["c"]


def test_scores_are_recomputed_from_the_bundles_predictions(tmp_path, store):
    store(tmp_path / "results", facts=PATIENTS, metrics=("auroc", "accuracy", "brier"))
    bundle(tmp_path / "results", tmp_path / "out")
    (shared,) = load_results(tmp_path / "out")[0]
    again = score_run(
        shared.predictions(), {n: REGISTRY.metrics[n] for n in shared.scores()}, shared.card(), threshold="val"
    )
    assert shared.scores() == again["scores"]
    assert shared.read_scores("image_scores") == again["image_scores"]


def test_frames_of_a_clip_stay_together_with_equal_scores(tmp_path, store):
    stored = store(tmp_path / "first", facts={"unit": "clip"})
    predictions = {}
    for split, part in stored.predictions().items():
        clips = np.array([f"{split}{row // 4 * 2 + row % 2}.avi" for row in range(40)])  # of two frames
        frames = np.array([f"{clip}#{row // 2 % 2 + 4711}" for row, clip in enumerate(clips)])
        predictions[split] = replace(part, sample_ids=frames, patients=clips)
    scores = score_run(predictions, {"auroc": REGISTRY.metrics["auroc"]}, stored.card(), threshold="val")
    artifacts = Artifacts(result=replace(stored, checksums={}), predictions=predictions, scores=scores)
    save_result(tmp_path / "results", read_run(stored.run), artifacts)
    bundle(tmp_path / "results", tmp_path / "out")
    (shared,) = load_results(tmp_path / "out")[0]
    for kind in ("scores", "image_scores"):
        assert shared.read_scores(kind)["auroc"].value == pytest.approx(scores[kind]["auroc"].value, abs=1e-12)
    assert scores["scores"]["auroc"].value != scores["image_scores"]["auroc"].value
    names = shared.predictions()["test"].sample_ids
    assert len(set(names)) == 40 and not any("4711" in name.partition("#")[2][:4] for name in names)


@pytest.mark.parametrize("name", ["out", "out.zip", "out.tar.xz"])
def test_the_same_results_and_key_give_the_same_bytes(tmp_path, store, name):
    store(tmp_path / "results")
    digests = set()
    for place in ("one", "two"):
        bundle(tmp_path / "results", tmp_path / place / name)
        out = tmp_path / place / name
        digests.add(hash_file(out / MANIFEST if out.is_dir() else out))
    assert len(digests) == 1


def test_the_manifest_has_the_checksum_of_every_other_file(tmp_path, store):
    store(tmp_path / "results")
    bundle(tmp_path / "results", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert set(manifest["files"]) == files - {MANIFEST}
    assert all(hash_file(tmp_path / "out" / name) == digest for name, digest in manifest["files"].items())
    assert (manifest["schema"], manifest["kind"]) == (2, "zoo-bundle")
    assert manifest["datasets"][0] | {"name": "dots", "split_hash": "5" * 64} == manifest["datasets"][0]


def test_targets_are_left_out_if_the_license_forbids_sharing(tmp_path, store):
    store(tmp_path / "results", facts={"share_targets": False})
    made = bundle(tmp_path / "results", tmp_path / "out")
    assert made.left_out == ("targets of dots: not shared because of its license",)
    (shared,) = load_results(tmp_path / "out")[0]
    with np.load(shared.folder / "predictions.npz") as arrays:
        assert len(arrays["test_targets"]) == len(arrays["val_targets"]) == 0
        assert len(arrays["test_probabilities"]) == 40
    with pytest.raises(ResultsError, match="does not include its targets"):
        shared.predictions()
    assert shared.scores()["auroc"].value is not None
    assert load_manifest(tmp_path / "out")["datasets"][0]["targets"] == "left out"


def test_metadata_are_left_out_unless_requested(tmp_path, store):
    store(tmp_path / "results", metadata=METADATA)
    made = bundle(tmp_path / "results", tmp_path / "out")
    assert made.left_out == ("metadata of dots: age, sex (include with --metadata)",)
    (shared,) = load_results(tmp_path / "out")[0]
    assert shared.predictions()["test"].metadata == {}
    with np.load(shared.folder / "predictions.npz") as arrays:
        assert not [name for name in arrays if "column" in name]
    assert "metadata" not in load_manifest(tmp_path / "out")


def test_a_requested_column_keeps_its_rows_and_is_in_the_manifest(tmp_path, store):
    stored = store(tmp_path / "results", metadata=METADATA).predictions()["test"]
    made = bundle(tmp_path / "results", tmp_path / "out", metadata=("sex",))
    assert made.left_out == ("metadata of dots: age (include with --metadata)",)
    assert load_manifest(tmp_path / "out")["metadata"] == ["sex"]
    test = load_results(tmp_path / "out")[0][0].predictions()["test"]
    assert list(test.metadata) == ["sex"]
    by_probability = (np.argsort(part.probabilities[:, 1]) for part in (stored, test))
    first, second = (part.metadata["sex"][order] for part, order in zip((stored, test), by_probability, strict=True))
    np.testing.assert_array_equal(first, second)


def test_an_unknown_column_is_refused_before_writing(tmp_path, store):
    store(tmp_path / "results", metadata=METADATA)
    with pytest.raises(UsageError, match="no result has a column 'scanner'; fix: available columns: age, sex"):
        bundle(tmp_path / "results", tmp_path / "out", metadata=("scanner",))
    assert not (tmp_path / "out").exists()


def test_dataset_names_in_a_bundle_are_reported(tmp_path, store):
    store(tmp_path / "results", dataset="hosp_ADAMS", facts={"title": "Scans of Adams"})
    assert bundle(tmp_path / "results", tmp_path / "out").names == ("Scans of Adams", "hosp_ADAMS")


def test_tuning_runs_and_weights_are_not_shared(tmp_path, store):
    store(tmp_path / "results")
    (store(tmp_path / "results", seed=1).folder / "model.safetensors").write_bytes(b"weights")
    store(tmp_path / "results", purpose="tune", seed=10_007)
    assert bundle(tmp_path / "results", tmp_path / "out").num_runs == 2
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_score_without_its_metric_is_left_out_and_reported(tmp_path, store):
    store(tmp_path / "results")
    made = bundle(
        tmp_path / "results", tmp_path / "out", registry=Registry(metrics={"auroc": REGISTRY.metrics["auroc"]})
    )
    assert made.left_out == ("scores of accuracy: no installed plugin provides it",)
    assert set(load_results(tmp_path / "out")[0][0].scores()) == {"auroc"}


def test_only_a_bundle_is_overwritten(tmp_path, store):
    store(tmp_path / "results")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        bundle(tmp_path / "results", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    bundle(tmp_path / "results", tmp_path / "out")
    store(tmp_path / "results", seed=1)
    assert bundle(tmp_path / "results", tmp_path / "out").num_runs == 2


@pytest.mark.parametrize(
    "manifest", ['{"name": "app", "icons": []}', '{"schema": 1, "kind": "else"}', "[]", "\xff{", ""]
)
def test_other_folders_and_zips_with_a_manifest_are_not_overwritten(tmp_path, store, manifest):
    store(tmp_path / "results")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / MANIFEST).write_text(manifest)
    (tmp_path / "web" / "index.html").write_text("all my work")
    with zipfile.ZipFile(tmp_path / "web.zip", "w") as archive:
        archive.write(tmp_path / "web" / MANIFEST, MANIFEST)
    before = (tmp_path / "web.zip").read_bytes()
    for name in ("web", "web.zip"):
        with pytest.raises(UsageError, match="exists and is not a bundle"):
            bundle(tmp_path / "results", tmp_path / name)
    assert (tmp_path / "web" / "index.html").exists() and (tmp_path / "web.zip").read_bytes() == before


def test_a_bundle_has_log_odds_in_place_of_probabilities(tmp_path, store):
    stored = store(tmp_path / "results")
    parts = {split: with_log_odds(part) for split, part in stored.predictions().items()}
    scores = score_run(parts, {"brier": REGISTRY.metrics["brier"]}, stored.card(), threshold="val")
    artifacts = Artifacts(result=replace(stored, checksums={}), predictions=parts, scores=scores)
    save_result(tmp_path / "results", read_run(stored.run), artifacts)
    bundle(tmp_path / "results", tmp_path / "out")
    (shared,) = load_results(tmp_path / "out")[0]
    with np.load(shared.folder / "predictions.npz") as arrays:
        assert "test_log_odds" in arrays and "test_probabilities" not in arrays
    ours, theirs = (np.sort(part.probabilities[:, 1]) for part in (parts["test"], shared.predictions()["test"]))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-11)
    assert shared.scores()["brier"].value == pytest.approx(scores["scores"]["brier"].value, abs=1e-11)


def test_log_odds_that_are_no_numbers_are_refused(tmp_path):
    arrays = {f"test_{name}": np.array(["a"]) for name in ("sample_ids", "patients", "targets", "log_odds")}
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(ResultsError, match="test: <U1 log odds"):
        load_predictions(tmp_path / "predictions.npz")


def with_log_odds(part):
    """Add the log odds that zoo stores, with 12 decimals."""
    return replace(part, log_odds=np.round(logit(np.clip(part.probabilities, 1e-9, 1 - 1e-9)), 12))


def test_a_tar_has_the_files_of_the_folder_and_is_replaced_by_a_new_one(tmp_path, store):
    for seed in range(4):
        store(tmp_path / "results", seed=seed)
    bundle(tmp_path / "results", tmp_path / "out")
    for name in ("out.zip", "out.tar.xz", "out.tar.xz"):
        assert bundle(tmp_path / "results", tmp_path / name).num_runs == 4
        assert is_bundle(tmp_path / name)
        folder = unpack(tmp_path / name, tmp_path / f"{name}.unpacked")
        assert load_manifest(folder) == load_manifest(tmp_path / "out")
        assert {path.relative_to(folder) for path in folder.rglob("*")} == {
            path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")
        }
        shutil.rmtree(folder)
    # the four runs have the same samples and targets, which the zip stores four times
    assert (tmp_path / "out.tar.xz").stat().st_size < (tmp_path / "out.zip").stat().st_size / 2


def test_a_zip_is_overwritten_only_if_it_is_a_bundle(tmp_path, store):
    store(tmp_path / "results")
    with zipfile.ZipFile(tmp_path / "mydata.zip", "w") as archive:
        archive.writestr("scan.png", b"pixels")
    before = (tmp_path / "mydata.zip").read_bytes()
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        bundle(tmp_path / "results", tmp_path / "mydata.zip")
    assert (tmp_path / "mydata.zip").read_bytes() == before
    bundle(tmp_path / "results", tmp_path / "out.zip")
    store(tmp_path / "results", seed=1)
    assert bundle(tmp_path / "results", tmp_path / "out.zip").num_runs == 2


def test_a_bundle_is_recognized_by_its_manifest(tmp_path, store):
    store(tmp_path / "results")
    bundle(tmp_path / "results", tmp_path / "out")
    assert is_bundle(tmp_path / "out") and not is_bundle(tmp_path / "results")
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"schema": 1, "kind": "else"}))
    with pytest.raises(ResultsError, match="invalid manifest"):
        load_manifest(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ResultsError, match="not a bundle"):
        load_manifest(tmp_path / "out")
