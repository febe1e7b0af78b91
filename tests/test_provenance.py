"""The provenance of a stored run: each of its numbers can be recomputed from the description."""

import json

import numpy as np
import pytest
from pytest import approx
from sklearn.metrics import recall_score

from zoo.evaluation.intervals import BOOTSTRAP_SEED
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.report.board_json import leaderboard_items
from zoo.results.provenance import trace_run
from zoo.statistics.intervals import bootstrap_weights
from zoo.statistics.weighted import weighted_average_precision
from zoo.system.files import hash_file

BY_NAME = {spec.name: spec for spec in METRICS}
ALL = ("auroc", "average_precision", "sensitivity")


def test_every_file_is_listed_with_size_and_sha256(tmp_path, store):
    stored = store(tmp_path)
    files = {file["name"]: file for file in trace_run(stored, BY_NAME)["files"]}
    assert list(files) == ["history.jsonl", "predictions.npz", "result.json", "scores.json"]
    for name in ("history.jsonl", "predictions.npz"):
        path = stored.folder / name
        assert (files[name]["sha256"], files[name]["bytes"]) == (hash_file(path), path.stat().st_size)
    assert (files["scores.json"]["sha256"], files["scores.json"]["state"]) == (None, "recomputed by `zoo score`")


def test_the_threshold_reproduces_the_sensitivity(tmp_path, store):
    stored = store(tmp_path, metrics=ALL)
    traced = trace_run(stored, BY_NAME)
    (threshold,) = traced["thresholds"]["values"].values()
    assert list(traced["thresholds"]["values"]) == ["nodule"]
    assert traced["thresholds"]["chosen_on"] == "val, 40 images" and "Youden" in traced["thresholds"]["rule"]
    test = stored.predictions()["test"]
    sensitivity = recall_score(test.targets, test.probabilities[:, 1] >= threshold)
    assert sensitivity == traced["scores"]["sensitivity"]["value"]


def test_a_bootstrap_interval_can_be_reproduced(tmp_path, store):
    stored = store(tmp_path, metrics=ALL)
    traced = trace_run(stored, BY_NAME)
    score = traced["scores"]["average_precision"]
    how = traced["intervals"][score["method"]]
    assert (how["resamples"], how["seed"]) == (2000, [BOOTSTRAP_SEED, 0])
    test = stored.predictions()["test"]
    weights = bootstrap_weights(test.patients, how["resamples"], tuple(how["seed"])).astype(float)
    drawn = weighted_average_precision(test.targets == 1, test.probabilities[:, 1], weights)
    assert np.quantile(drawn, [0.025, 0.975]).tolist() == approx([score["low"], score["high"]])


def test_scores_and_intervals_have_formulas(tmp_path, store):
    names = tuple(name for name, spec in BY_NAME.items() if "binary" in spec.tasks)
    traced = trace_run(store(tmp_path, metrics=names), BY_NAME)
    assert traced["scores"]["auroc"]["formula"].startswith("Area under the ROC curve")
    for name, score in traced["scores"].items():
        assert score["formula"] and score["version"] == score["installed_version"] == BY_NAME[name].version
        assert traced["intervals"][score["method"]]["formula"]
    assert len(traced["intervals"]) >= 4
    assert "Wilson 1927" in traced["intervals"]["wilson"]["formula"]


def test_counts_are_listed_by_label(tmp_path, store):
    facts = {"has_patients": True, "patient": "patient"}
    traced = trace_run(store(tmp_path, facts=facts, images_each=4), BY_NAME)
    assert (traced["test"]["images"], traced["test"]["patients"], traced["test"]["unit"]) == (40, 10, "image")
    assert traced["test"]["labels"]["nodule"] == {"units": 20, "patients with it": 10, "patients without it": 10}


def test_a_score_without_its_plugin_keeps_its_value(tmp_path, store):
    traced = trace_run(store(tmp_path), {})
    assert traced["scores"]["auroc"]["value"] is not None and traced["scores"]["auroc"]["formula"] is None


def test_a_failed_run_has_its_error(tmp_path, store):
    traced = trace_run(store(tmp_path, status="failed"), BY_NAME)
    assert traced["error"]["code"] == "diverged" and "scores" not in traced
    json.dumps(traced)


def test_the_board_lists_the_runs_of_a_row(tmp_path, store):
    from zoo.leaderboard.boards import build_leaderboard

    stored = [store(tmp_path, seed=seed) for seed in range(2)]
    (row,) = leaderboard_items(build_leaderboard(stored, BY_NAME))
    assert row["runs"] == [result.id for result in stored]
    values = [trace_run(result, BY_NAME)["scores"]["auroc"]["value"] for result in stored]
    assert row["value"] == approx(np.mean(values))


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_core_metric_has_a_formula(name):
    from zoo.evaluation.metrics.labels import describe_formula

    assert len(describe_formula(BY_NAME[name])) > 20
