"""What is found in a stranger's bundle, and what is said where nothing can be found."""

import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.bundles import MANIFEST, files_below, make_bundle, write_zip
from zoo.errors import ResultsError, VerifyError
from zoo.files import SEAL, hash_bytes, hash_file, write_sealed
from zoo.fingerprints import take_fingerprints
from zoo.inference import load_predictions, save_predictions
from zoo.leaderboard import build_leaderboard
from zoo.metrics import METRICS
from zoo.registry import Registry
from zoo.results import load_results
from zoo.samples import open_source
from zoo.sources import find_source
from zoo.verifying import (
    compare_data,
    describe_verification,
    load_bundle,
    mark_reproduced,
    open_bundle,
    to_lines,
    verify,
)

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
    assert "dataset dots: content 00000000, split" in "\n".join(to_lines(found))
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
    source = open_source(find_source(path), cache)
    return source, take_fingerprints(source, cache)


def test_data_that_the_bundle_does_not_hold_cannot_be_compared(shared, tiny_data, tmp_path):
    found = check(shared)
    with pytest.raises(ResultsError, match="holds no dataset 'multiclass'; fix: it holds dots"):
        compare_data(found, *opened(tiny_data / "multiclass.npz", tmp_path / "cache"))


def test_data_of_another_content_are_a_difference(shared, tiny_data, tmp_path):
    found = check(shared)
    source, prints = opened(tiny_data / "binary.npz", tmp_path / "cache")
    compare_data(found, replace(source, spec=replace(source.spec, name="dots")), prints)
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
    assert "zoo: names that go along: " in done.stderr
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
