"""Results and bundles of schema 1, in which facts were sentences."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import build_leaderboard
from zoo.registry.lookup import Registry
from zoo.report.deviations import DEVIATION_TEXTS, deviation_text
from zoo.results.schema1 import upgrade
from zoo.results.schemas import find_schema_fault
from zoo.results.store import load_result
from zoo.results.verifying import open_bundle, verify
from zoo.specs.deviation import NUM_DETAILS, Deviation, read_deviations
from zoo.system.files import write_sealed

METRICS_BY_NAME = {spec.name: spec for spec in METRICS}


def test_a_bundle_of_schema_1_verifies_and_shows_its_facts():
    path = Path(__file__).with_name("bundles") / "schema1-facts.zip"
    outcome = verify(open_bundle(path), path.stem, Registry(metrics=METRICS_BY_NAME), lambda done, total: None)
    assert (outcome.differences, outcome.not_recomputed) == ([], {})
    net, other, failed = sorted(
        outcome.results, key=lambda result: ["net", "other", "failed"].index(result.run["shown"])
    )
    assert net.deviations == (Deviation("image-size", (28, 32)), Deviation("leak-allowed", ("measure its effect",)))
    assert (net.run["tuned_fields"], net.scores()["rmse"].reason.code) == (["learning_rate"], "wrong-task")
    assert net.scores()["auroc"].method.code == "logit-delong" and net.scores()["ece"].method.is_bootstrap
    assert (other.deviations, failed.error["code"]) == ((Deviation("no-weights"),), "oom")
    assert len(build_leaderboard(outcome.results, METRICS_BY_NAME)) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("weights: none found, random init", "no-weights"),
        (DEVIATION_TEXTS["local-weights"], "local-weights"),
        ("image_size: 32 instead of 28", "image-size"),
        ("batch_size: 16 instead of 32", "batch-size"),
        ("out of memory: batches of 16 in parts of 4", "batch-parts"),
        ("leak allowed: 007", "leak-allowed"),
        ("weights: kept, and val predicted up to 0.012 otherwise than by the finished run", "other-predictions"),
        ("image_size: [left out]", "other"),
    ],
)
def test_a_deviation_of_schema_1_keeps_its_sentence(tmp_path, store, text, kind):
    folder = store(tmp_path).folder
    document = json.loads((folder / "result.json").read_text())
    document |= {"schema": 1, "deviations": [text], "run": {**document["run"], "deviations": [text]}}
    document.pop("seal")
    write_sealed(folder / "result.json", document)
    result = load_result(folder)
    assert [(each.kind, deviation_text(each)) for each in result.deviations] == [(kind, text)]
    assert read_deviations(result.run["deviations"]) == result.deviations


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("too few: 6 positives, 10 are needed", "too-few"),
        ("no interval: every resample gives the same value", "no-interval"),
        ("not a metric of binary tasks", "wrong-task"),
        ("one class only in the targets", "undefined"),
    ],
)
def test_a_reason_of_schema_1_keeps_its_text(tmp_path, store, text, code):
    stored = store(tmp_path)
    score = {**asdict(Score(value=0.5)), "reason": text}
    write_sealed(stored.folder / "scores.json", {"schema": 1, "run": stored.id, "scores": {"auroc": score}})
    assert stored.scores()["auroc"].reason == Reason(code, sentence=text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("wilson", "wilson"),
        ("logit-DeLong (patients + seeds)", "logit-delong"),
        ("Newcombe's method 5", "newcombe"),
        ("Newcombe's method 5 with a design effect by patient", "clustered-newcombe"),
        ("patient-cluster bootstrap, B=2000, less noise (patients + seeds)", "noise-free-bootstrap"),
        ("image bootstrap, B=2000, undefined in 12", "bootstrap"),
        ("jackknife (patients + seeds)", "other"),
    ],
)
def test_a_method_of_schema_1_keeps_its_text(tmp_path, store, text, code):
    stored = store(tmp_path)
    score = {**asdict(Score(value=0.5, low=0.4, high=0.6)), "method": text}
    write_sealed(stored.folder / "scores.json", {"schema": 1, "run": stored.id, "scores": {"auroc": score}})
    method = stored.scores()["auroc"].method
    assert (method.code, method.text) == (code, text)


def test_the_tuned_fields_of_schema_1_are_read_from_its_note():
    note = "tuned learning_rate: 0.01 of 0.001, 0.01 (winner at the edge); tuned optimizer: sgd of sgd, adam"
    assert upgrade({"schema": 1, "run": {"tuned": note}})["run"]["tuned_fields"] == ["learning_rate", "optimizer"]


def test_every_kind_of_deviation_has_a_sentence_with_all_its_details():
    for kind, count in NUM_DETAILS.items():
        details = tuple(f"part{number}" for number in range(count))
        text = deviation_text(Deviation(kind, details))
        assert all(part in text for part in details)


def test_a_deviation_with_missing_details_is_refused(store, tmp_path):
    document = json.loads((store(tmp_path).folder / "result.json").read_text())
    assert not find_schema_fault(document)
    document["deviations"] = [{"kind": "image-size", "detail": [28]}]
    assert find_schema_fault(document).startswith("deviations.0: ")


def test_a_document_of_the_current_schema_is_not_changed():
    document = {"schema": 2, "deviations": [{"kind": "no-weights", "detail": []}]}
    assert upgrade(document) == document
