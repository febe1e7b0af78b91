"""Stored results: written atomically, immutable, and rejected when damaged."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from zoo.errors import ResultsError
from zoo.evaluation.predictions import load_predictions
from zoo.evaluation.values import Score
from zoo.results.store import (
    RESULT_SCHEMA,
    Artifacts,
    find_done,
    find_result_folders,
    load_result,
    load_results,
    load_scored_runs,
    open_results,
    save_result,
    save_scores,
)
from zoo.system.files import write_sealed


def run_of(result):
    """Rebuild the run of a stored result from its plain data."""
    from zoo.results.runs import read_run

    return read_run(result.run)


def test_a_loaded_result_equals_the_stored_one(tmp_path, store):
    stored = store(tmp_path, seed=3)
    assert stored.ok and stored.run["seed"] == 3 and stored.id == run_of(stored).id
    assert stored.folder.relative_to(tmp_path).parts[:2] == ("dots", "net.random")
    assert stored.folder.name == f"scratch@1.seed3.{stored.id[:8]}"


def test_the_files_of_a_run(tmp_path, store):
    names = {path.name for path in store(tmp_path).folder.iterdir()}
    assert names == {"result.json", "scores.json", "predictions.npz", "history.jsonl"}


def test_predictions_load_without_pickle(tmp_path, store):
    folder = store(tmp_path).folder
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["test_probabilities"].shape == (40, 2)
        assert arrays["test_targets"].dtype == np.int64
        np.testing.assert_allclose(arrays["test_probabilities"].sum(axis=1), 1)
    assert set(load_predictions(folder / "predictions.npz")) == {"val", "test"}


def test_result_json_has_a_schema_and_checksums_of_immutable_files(tmp_path, store):
    document = json.loads((store(tmp_path).folder / "result.json").read_text())
    assert document["schema"] == RESULT_SCHEMA == 3
    assert set(document["checksums"]) == {"predictions.npz", "history.jsonl"}


def test_new_scores_do_not_change_result_json(tmp_path, store):
    stored = store(tmp_path)
    before = (stored.folder / "result.json").read_bytes()
    save_scores(stored, {"scores": {"auroc": Score(value=0.25)}})
    assert (stored.folder / "result.json").read_bytes() == before
    assert load_result(stored.folder).scores()["auroc"].value == 0.25


def test_nan_is_refused(tmp_path, store):
    stored = store(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        save_result(tmp_path / "other", run_of(stored), Artifacts(result=replace(stored, cost={"x": np.nan})))
    assert not list((tmp_path / "other").rglob("*.json"))


def damage_json(folder):
    (folder / "result.json").write_text('{"schema": 1')


def damage_predictions(folder):
    data = bytearray((folder / "predictions.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "predictions.npz").write_bytes(data)


def remove_predictions(folder):
    (folder / "predictions.npz").unlink()


def forget_fields(folder):
    (folder / "result.json").write_text('{"schema": 1, "id": "x"}')


@pytest.mark.parametrize("damage", [damage_json, damage_predictions, remove_predictions, forget_fields])
def test_a_damaged_result_is_reported_skipped_and_run_again(tmp_path, store, damage):
    good, bad = store(tmp_path, seed=0), store(tmp_path, seed=1)
    damage(bad.folder)
    results, lines = load_results(tmp_path)
    assert [result.id for result in results] == [good.id]
    assert len(lines) == 1 and bad.folder.name in lines[0]
    assert find_done(tmp_path, run_of(bad)) is None


@pytest.mark.parametrize(
    ("facts", "fix"),
    [({"task_plugin": "zoo-masks"}, "install zoo-masks"), ({}, "install the plugin that registers it")],
    ids=["recorded", "earlier result"],
)
def test_a_result_whose_task_is_not_installed_asks_for_its_plugin(tmp_path, store, facts, fix):
    path = store(tmp_path).folder / "result.json"
    document = json.loads(path.read_text())
    document["dataset"] |= {"task": "masks", **facts}
    document.pop("seal")
    write_sealed(path, document)
    with pytest.raises(ResultsError) as caught:
        load_result(path.parent)
    assert (caught.value.code, caught.value.fix) == ("unknown-task", fix)
    assert "the task 'masks' is not installed" in caught.value.message


def test_a_newer_schema_is_an_error_that_suggests_an_upgrade(tmp_path, store):
    stored = store(tmp_path)
    document = json.loads((stored.folder / "result.json").read_text())
    (stored.folder / "result.json").write_text(json.dumps({**document, "schema": RESULT_SCHEMA + 1}))
    with pytest.raises(ResultsError, match="has schema 4; this version of zoo reads up to 3") as caught:
        load_results(tmp_path)
    assert caught.value.exit_status == 5
    with pytest.raises(ResultsError, match="upgrade"):
        find_done(tmp_path, run_of(stored))


def test_damaged_scores_are_an_error_that_suggests_zoo_score(tmp_path, store):
    stored = store(tmp_path)
    (stored.folder / "scores.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"scores.json: cannot be read; .*`zoo score`"):
        stored.scores()


def test_only_ok_is_done(tmp_path, store):
    ok, failed = store(tmp_path, seed=0), store(tmp_path, seed=1, status="failed")
    assert find_done(tmp_path, run_of(ok)).id == ok.id
    assert find_done(tmp_path, run_of(failed)) is None
    assert failed.error == {"code": "diverged", "message": "the loss is nan"}


def test_a_run_of_another_seed_is_not_done(tmp_path, store):
    stored = store(tmp_path, seed=0)
    other = store(tmp_path / "other", seed=1)
    assert find_done(tmp_path, run_of(other)) is None
    assert stored.id != other.id


def test_a_result_in_the_folder_of_another_run_is_not_done(tmp_path, store):
    stored = store(tmp_path / "a", seed=0)
    other = store(tmp_path / "b", seed=1)
    shutil.copy(stored.folder / "result.json", other.folder / "result.json")
    shutil.copy(stored.folder / "predictions.npz", other.folder / "predictions.npz")
    assert find_done(tmp_path / "b", run_of(other)) is None


def test_leftovers_of_a_killed_writer_are_no_result(tmp_path, store):
    stored = store(tmp_path)
    shutil.copytree(stored.folder, stored.folder.with_name(f".{stored.folder.name}.12345678.tmp"))
    assert [result.id for result in load_results(tmp_path)[0]] == [stored.id]


def test_a_missing_model_file_is_no_damage(tmp_path, store):
    stored = store(tmp_path)
    artifacts = Artifacts(result=stored, predictions=stored.predictions(), files={"model.safetensors": b"weights"})
    save_result(tmp_path, run_of(stored), artifacts)
    assert (stored.folder / "model.safetensors").exists()
    (stored.folder / "model.safetensors").unlink()
    assert load_result(stored.folder).ok


def test_a_file_in_place_of_the_results_folder_is_an_error(tmp_path):
    (tmp_path / "results").write_text("")
    with (
        pytest.raises(ResultsError, match="--results FOLDER"),
        open_results(tmp_path / "results"),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_results_folder_is_an_error(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir(mode=0o500)
    with pytest.raises(ResultsError, match="Permission denied"), open_results(folder):
        pass


def test_a_results_folder_that_becomes_unwritable_is_an_error(tmp_path, store):
    stored = store(tmp_path / "good")
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(ResultsError, match=r"results folder .*blocked: Not a directory") as caught:
        save_result(blocked, run_of(stored), Artifacts(result=stored))
    assert caught.value.exit_status == 5


def test_scores_of_another_run_are_an_error(tmp_path, store):
    one, other = store(tmp_path, seed=0), store(tmp_path, seed=1)
    shutil.copy(other.folder / "scores.json", one.folder / "scores.json")
    with pytest.raises(ResultsError, match=r"scores\.json: cannot be read"):
        load_result(one.folder).scores()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cost", "train_seconds"), "x"),
        (("cost", "train_seconds"), 1e300),
        (("versions",), []),
        (("system",), None),
        (("deviations",), [7]),
        (("details",), []),
        (("run", "shown"), {}),
        (("run", "num_folds"), 10**30),
        (("run", "fold"), "x"),
        (("dataset", "notes"), 7),
        (("dataset", "labels"), "ab"),
        (("status",), 7),
        (("id",), None),
    ],
)
def test_an_invalid_field_is_named(tmp_path, store, place, value):
    folder = store(tmp_path).folder
    document = json.loads((folder / "result.json").read_text())
    document.pop("seal")  # an editor would remove the seal
    *above, last = place
    part = document
    for name in above:
        part = part[name]
    part[last] = value
    (folder / "result.json").write_text(json.dumps(document))
    with pytest.raises(ResultsError, match=rf"result.json: {'.'.join(place)}"):
        load_result(folder)
    assert load_scored_runs(tmp_path) == []


# --- permissions, links and duplicates -------------------------------------------------------------------------------
MAY_NOT = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # root without its capability to read all files
READ = "import sys; from pathlib import Path; from zoo.results.store import *; "
mortal = pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")


@pytest.mark.integration
@mortal
@pytest.mark.parametrize("place", ["dots", "dots/net.random"])
def test_an_unreadable_folder_is_named(tmp_path, store, place):
    store(tmp_path)
    (tmp_path / place).chmod(0)
    code = READ + "print(load_results(Path(sys.argv[1])))"
    done = subprocess.run([*MAY_NOT, sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    (tmp_path / place).chmod(0o700)
    assert f"{tmp_path / place}/result.json: permission denied; fix: make it readable" in done.stdout, done.stderr


@mortal
@pytest.mark.parametrize(
    "command",
    [
        "report",
        "bench --dry-run -m constant -d {data}",
        *(pytest.param(command, marks=pytest.mark.slow) for command in ("score", "bundle out")),
    ],
)
def test_an_unreadable_results_folder_is_status_5(tmp_path, environment, tiny_data, command):
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(0)
    shutil.copy(tiny_data / "binary.npz", tmp_path)
    words = [*MAY_NOT, sys.executable, "-m", "zoo", *command.format(data="./binary.npz").split()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment())
    results.chmod(0o700)
    assert done.returncode == 5, done.stderr
    assert "results/" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.integration
@mortal
@pytest.mark.parametrize("name", ["result.json", "predictions.npz"])
def test_an_unreadable_run_is_neither_damaged_nor_run_again(tmp_path, store, name):
    stored = store(tmp_path)
    (stored.folder / name).chmod(0)
    (tmp_path / "run").write_bytes(pickle.dumps(run_of(stored)))
    for code in ("load_result(Path(sys.argv[2]))", "find_done(Path(sys.argv[1]), pickle.load(open('run', 'rb')))"):
        command = [*MAY_NOT, sys.executable, "-c", "import pickle; " + READ + code, tmp_path, stored.folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert f"{name}: permission denied; fix: make it readable" in done.stderr, done.stdout


def test_a_duplicate_run_counts_once_and_is_reported(tmp_path, store):
    stored = store(tmp_path)
    shutil.copytree(stored.folder.parent, stored.folder.parent.with_name("copy.random"))
    results, damaged = load_results(tmp_path)
    assert len(results) == 1 and len(damaged) == 1
    assert ": duplicate of " in damaged[0] and "; fix: delete one of them" in damaged[0]


def test_a_missing_or_just_deleted_folder_has_no_runs(tmp_path, store):
    assert list(find_result_folders(tmp_path / "none")) == []
    first, second = store(tmp_path, model="a"), store(tmp_path, model="b")
    folders = find_result_folders(tmp_path)
    assert next(folders) == first.folder
    shutil.rmtree(second.folder.parent)
    assert list(folders) == []


def test_the_write_test_of_a_results_folder_follows_no_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    root = tmp_path / "results"
    root.mkdir()
    (root / ".writable").symlink_to(tmp_path / "victim")
    with open_results(root):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_a_full_disk_while_writing_weights_is_a_results_error(tmp_path, store):
    import resource

    stored = store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ResultsError, match="File too large") as caught:
            artifacts = Artifacts(result=stored, files={"model.safetensors": bytes(400_000)})
            save_result(tmp_path / "other", run_of(stored), artifacts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "results-unusable"
