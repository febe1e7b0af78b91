"""Recomputing scores from stored predictions without other changes."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.values import Score
from zoo.registry.lookup import Registry
from zoo.report.reasons import reason_text
from zoo.results.rescoring import rescore
from zoo.results.store import load_result, save_scores
from zoo.specs.metric import MetricSpec

BY_NAME = {spec.name: spec for spec in METRICS}


def mean_probability(request):
    return float(request.probabilities[:, 1].mean())


def write_on_the_targets(request):
    request.targets[:] = 0
    return 0.5


NEW = MetricSpec(name="mean_probability", compute=mean_probability, tasks=("binary",))
RUDE = MetricSpec(name="rude", compute=write_on_the_targets, tasks=("binary",))
REGISTRY = Registry(metrics={**BY_NAME, "mean_probability": NEW, "rude": RUDE})


def rescored(result, *added, registry=REGISTRY):
    calls = []
    undefined = rescore([result], added, registry, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 1)]
    return load_result(result.folder).scores(), undefined


def test_a_new_metric_is_computed_from_stored_predictions(tmp_path, store):
    stored = store(tmp_path)
    scores, undefined = rescored(stored, "mean_probability", "average_precision")
    test = stored.predictions()["test"]
    assert scores["mean_probability"].value == pytest.approx(test.probabilities[:, 1].mean())
    assert scores["average_precision"].value == pytest.approx(
        average_precision_score(test.targets, test.probabilities[:, 1]), abs=1e-12
    )
    assert undefined == 0


def test_existing_metrics_keep_their_values(tmp_path, store):
    stored = store(tmp_path)
    before = stored.scores()
    scores, _ = rescored(stored, "mean_probability")
    assert list(scores) == [*before, "mean_probability"]
    assert scores["auroc"] == before["auroc"]


def test_wrong_scores_are_corrected(tmp_path, store):
    stored = store(tmp_path)
    save_scores(stored, {"scores": {"auroc": Score(value=0.01)}})
    test = stored.predictions()["test"]
    scores, _ = rescored(stored)
    assert scores["auroc"].value == pytest.approx(roc_auc_score(test.targets, test.probabilities[:, 1]))


def test_damaged_scores_are_recomputed_with_the_metrics_of_the_task(tmp_path, store):
    stored = store(tmp_path)
    (stored.folder / "scores.json").write_text("{")
    assert set(rescored(stored)[0]) == set(stored.card().task.metrics)


def test_a_metric_without_its_plugin_keeps_its_score(tmp_path, store):
    stored = store(tmp_path)
    rescored(stored, "mean_probability")
    scores, _ = rescored(stored, registry=Registry(metrics=BY_NAME))
    assert scores["mean_probability"].value == pytest.approx(stored.predictions()["test"].probabilities[:, 1].mean())


def test_a_metric_of_another_task_is_null_with_a_reason_and_counted(tmp_path, store):
    scores, undefined = rescored(store(tmp_path), "rmse")
    assert (scores["rmse"].value, reason_text(scores["rmse"].reason)) == (None, "not a metric of binary tasks")
    assert undefined == 1


def test_a_metric_cannot_modify_the_input_of_the_next(tmp_path, store):
    stored = store(tmp_path)
    scores, _ = rescored(stored, "rude")
    assert scores["rude"].value is None
    assert scores["auroc"] == stored.scores()["auroc"]


def test_neither_predictions_nor_result_json_change(tmp_path, store):
    stored = store(tmp_path)
    names = ("predictions.npz", "result.json", "history.jsonl")
    before = [(stored.folder / name).read_bytes() for name in names]
    rescored(stored, "mean_probability")
    assert [(stored.folder / name).read_bytes() for name in names] == before


def test_image_scores_are_stored_if_the_unit_is_the_patient(tmp_path, store):
    facts = {"unit": "patient", "has_patients": True, "patient": "patient"}
    stored = store(tmp_path, facts=facts)
    rescored(stored)
    images = load_result(stored.folder).read_scores("image_scores")
    assert np.isclose(images["auroc"].value, stored.scores()["auroc"].value)
