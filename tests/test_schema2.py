"""Results and bundles of schema 2, in which overrides, reasons and errors were texts."""

from pathlib import Path

import pytest

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import NUM_REASON_DETAILS, Reason
from zoo.registry.lookup import Registry
from zoo.report.reasons import reason_text
from zoo.results.runs import read_run
from zoo.results.schema2 import upgrade_from_2
from zoo.results.schemas import find_fault_of_score
from zoo.results.verifying import open_bundle, verify

METRICS_BY_NAME = {spec.name: spec for spec in METRICS}


@pytest.fixture(scope="module")
def outcome():
    path = Path(__file__).with_name("bundles") / "schema2-facts.zip"
    return verify(open_bundle(path), path.stem, Registry(metrics=METRICS_BY_NAME), lambda done, total: None)


def test_a_bundle_of_schema_2_verifies(outcome):
    assert (outcome.differences, outcome.not_recomputed, len(outcome.results)) == ([], {}, 5)


def test_the_overrides_of_schema_2_are_read_from_their_texts(outcome):
    overrides = {result.run["purpose"]: read_run(result.run).protocol.overrides for result in outcome.results}
    assert overrides == {"score": (("steps", "4"),), "shuffle": (("steps", "4"), ("shuffled", ""))}


def test_the_reasons_of_schema_2_keep_their_code_and_sentence(outcome):
    scores = {result.run["shown"]: result.scores() for result in outcome.results if result.ok}
    small = scores["small"]["auroc"].reason
    assert (small.code, reason_text(small)) == ("too-few", "too few: 8 positives (patients), 10 are needed")
    assert {reason_text(each["rmse"].reason) for each in scores.values()} == {"not a metric of binary tasks"}


def test_the_message_and_the_fix_of_an_error_of_schema_2_are_separated():
    error = {"code": "data", "message": "no images; fix: add some"}
    expected = {"code": "data", "message": "no images", "fix": "add some"}
    assert upgrade_from_2({"schema": 2, "error": error})["error"] == expected


def test_a_document_of_the_current_schema_is_not_changed():
    document = {"schema": 3, "error": {"code": "data", "message": "a; fix: b", "fix": "c"}}
    assert upgrade_from_2(document) == document


def test_every_stored_reason_has_a_sentence_with_all_its_details():
    for code, count in NUM_REASON_DETAILS.items():
        details = tuple(f"part{number}" for number in range(count))
        text = reason_text(Reason(code, details))
        assert text and all(part in text for part in details)


def test_a_reason_with_missing_details_is_refused():
    score = {"value": None, "reason": {"code": "too-few", "detail": [3]}}
    assert "too-few has 1 details, expected 5" in find_fault_of_score(score)
    assert find_fault_of_score({"value": None, "reason": {"code": "several", "detail": []}})
