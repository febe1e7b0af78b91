"""The report's JSON document matches the published schema."""

import json
from pathlib import Path

import pytest

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.tables import ReportOptions
from zoo.report.board_json import to_json
from zoo.report.json_records import SCHEMA_NAME, report_schema
from zoo.results.store import load_results

jsonschema = pytest.importorskip("jsonschema")
PUBLISHED = Path(__file__).parent.parent / "docs" / SCHEMA_NAME


@pytest.fixture(scope="module")
def document(tmp_path_factory, store):
    """Two datasets, a failed run, a control, a baseline and every table, ranked by a metric that can rank nothing."""
    root = tmp_path_factory.mktemp("results")
    for dataset in ("dots", "rings"):
        for model in ("one", "two"):
            for seed in range(2):
                store(root, model=model, seed=seed, dataset=dataset)
        store(root, model="constant", noise=None, dataset=dataset)
    store(root, model="three", status="failed")
    store(root, model="one", purpose="shuffle", seed=7)
    options = ReportOptions(ensembles=True, prevalence=0.1, rank_by="ece")
    return json.loads(to_json(build_leaderboard(load_results(root)[0], {s.name: s for s in METRICS}, options)))


def test_the_document_matches_the_published_schema(document):
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    assert document["$schema"] == PUBLISHED.name and document["across"] and len(document["boards"]) == 3


@pytest.mark.parametrize("change", [{"rank": "1"}, {"value": "high"}, {"scores": {"auroc": {"value": 0.5}}}])
def test_the_schema_refuses_a_row_of_another_form(document, change):
    row = {**document["leaderboard"][0], **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "leaderboard": [row]}, report_schema())
