"""Stored results with invalid predictions but matching checksums are skipped and reported."""

import json
import os

import numpy as np
import pytest

from zoo.errors import ResultsError
from zoo.registry.opening import open_registry
from zoo.results.bundles import BundleRequest, is_sealed, load_manifest, make_bundle
from zoo.results.runs import read_run
from zoo.results.store import find_done, load_result, load_results
from zoo.system.files import hash_file, write_sealed


def rewrite(folder, change):
    """Change the stored arrays and update their checksum."""
    path = folder / "predictions.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez_compressed(path, **arrays)
    document = json.loads((folder / "result.json").read_text())
    document.pop("seal")
    document["checksums"]["predictions.npz"] = hash_file(path)
    write_sealed(folder / "result.json", document)


def put(name, value):
    return lambda arrays: arrays.update({name: value(arrays[name])})


UNSOUND = {
    "NaN": put("test_probabilities", lambda p: p * np.nan),
    "times 7": put("test_probabilities", lambda p: p * 7),
    "halved": put("val_probabilities", lambda p: p / 2),
    "negative": put("test_probabilities", lambda p: p - [[0.9, -0.9]]),
    "text": put("test_probabilities", lambda p: p.astype(str)),
    "too short": put("test_probabilities", lambda p: p[:-1]),
    "one column": put("test_probabilities", lambda p: p[:, :1]),
    "no targets fit": put("test_targets", lambda t: t[:7]),
    "no targets": put("test_targets", lambda t: t[:0]),
    "unknown class": put("test_targets", lambda t: t + 5),
    "one name": put("test_sample_ids", lambda ids: ids[0]),
    "numbers for names": put("val_patients", lambda ids: np.arange(len(ids))),
    "missing": lambda arrays: arrays.pop("test_targets"),
    "no test": lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("test_")],
    "no val": lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("val_")],
    "empty": lambda arrays: arrays.update({name: values[:0] for name, values in arrays.items()}),
    "all cut": lambda arrays: arrays.update({name: values[:30] for name, values in arrays.items()}),
    "one sample": put("test_sample_ids", lambda ids: np.repeat(ids[:1], len(ids))),
    "val in test": lambda arrays: arrays["test_sample_ids"].__setitem__(
        slice(4), arrays["val_sample_ids"].astype(arrays["test_sample_ids"].dtype)[:4]
    ),
    "wrong log odds": lambda arrays: arrays.update(test_log_odds=arrays["test_probabilities"] + 3.0),
    "log odds of NaN": lambda arrays: arrays.update(test_log_odds=arrays["test_probabilities"] * np.nan),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_result_with_invalid_predictions_is_skipped_and_reported(tmp_path, store, name):
    whole, damaged = store(tmp_path, seed=0), store(tmp_path, seed=1)
    rewrite(damaged.folder, UNSOUND[name])
    results, lines = load_results(tmp_path)
    assert [result.id for result in results] == [whole.id]
    assert len(lines) == 1 and str(damaged.folder) in lines[0]
    assert find_done(tmp_path, read_run(damaged.run)) is None


@pytest.mark.parametrize("name", ["result.json", "scores.json"])
def test_a_document_without_its_seal_is_damaged(tmp_path, store, name):
    stored = store(tmp_path)
    document = json.loads((stored.folder / name).read_text())
    document.pop("seal")
    (stored.folder / name).write_text(json.dumps(document))
    with pytest.raises(ResultsError, match=r"changed after it was written|cannot be read"):
        load_result(stored.folder).scores()


def test_a_manifest_without_its_seal_is_damaged(tmp_path, store):
    stored = store(tmp_path / "results")
    request = BundleRequest(
        results=[stored],
        root=tmp_path / "results",
        output=tmp_path / "out",
        key=b"k" * 32,
        registry=open_registry(),
    )
    make_bundle(request, lambda *_: None)
    path = tmp_path / "out" / "manifest.json"
    document = json.loads(path.read_text())
    document.pop("seal")
    path.write_text(json.dumps(document))
    with pytest.raises(ResultsError, match="its seal is missing"):
        load_manifest(tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_is_not_sealed_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    assert not is_sealed(tmp_path / "result.json")
