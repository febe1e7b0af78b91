"""Results and bundles of schema 2, in which overrides, reasons and errors were texts."""

from pathlib import Path

import pytest

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.registry.lookup import Registry
from zoo.results.runs import read_run
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
