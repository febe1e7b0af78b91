"""Every metric of every task gives the numbers of the release before `per_unit`: tests/metric_reference.json.

`python tests/test_metric_reference.py` records the numbers again, for a new metric or a new version of one.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import Undefined
from zoo.evaluation.evidence import unit_influence
from zoo.evaluation.intervals import draw_patients
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score_metric
from zoo.evaluation.thresholds import DecidedTest
from zoo.report.reasons import reason_text
from zoo.specs.metric import MetricRequest, ScoringContext
from zoo.tasks.kinds import IMAGE_TASKS, TASKS
from zoo.tasks.logits import softmax

REFERENCE = Path(__file__).with_name("metric_reference.json")
METRIC = {metric.name: metric for metric in METRICS}
NUM_UNITS = 60
CASES = {"plain": 0, "incomplete": 3, "one class": 4, "no images": 5}  # case: seed


def make_request(task: str, case: str) -> MetricRequest:
    """60 units with ties among the probabilities. Incomplete: a class is absent, or targets are unknown."""
    random = np.random.default_rng(CASES[case])
    num_labels = {"binary": 2, "regression": 1}.get(task, 4)
    probabilities = np.round(random.random((NUM_UNITS, num_labels)), 2)
    decisions = None
    if task == "regression":
        targets = np.round(probabilities[:, 0] * 5 + random.normal(size=NUM_UNITS), 1)
    elif task == "multilabel":
        targets = (random.random(probabilities.shape) < 0.2 + 0.4 * probabilities).astype(float)
        decisions = probabilities > 0.6
        if case == "incomplete":
            targets[random.random(targets.shape) < 0.2] = np.nan
            targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 0.0)
            targets[:, 3] = np.nan
    else:
        targets = random.integers(num_labels, size=NUM_UNITS)
        probabilities = softmax(np.round(2 * probabilities + np.eye(num_labels)[targets], 1))
        decisions = probabilities.argmax(axis=1)
        if case == "incomplete":
            targets = np.where(targets == num_labels - 1, 0, targets)
    if case == "one class":
        targets = np.ones_like(targets)
    request = MetricRequest(
        task=TASKS[task],
        labels=tuple("abcd"[:num_labels]),
        targets=targets,
        probabilities=probabilities,
        decisions=decisions,
        positive=1 if task == "binary" else None,
    )
    return request.take(np.arange(0)) if case == "no images" else request


def measure(task: str, case: str, name: str) -> dict:
    """The value, 4 weighted resamples, the interval over 30 patients, and influence values: 4, and a sum of all."""
    metric, request = METRIC[name], make_request(task, case)
    try:
        numbers = {"value": metric.compute(request)}
    except Undefined as reason:
        return {"undefined": str(reason)}
    random = np.random.default_rng(9)
    weights = np.concatenate([random.integers(0, 3, (3, NUM_UNITS)), random.random((1, NUM_UNITS))]).astype(float)
    weights[2, request.targets.reshape(NUM_UNITS, -1)[:, 0] == request.targets.flat[0]] = 0  # drop a class
    numbers["resample"] = list(metric.resample(request, weights))
    numbers["note"] = metric.note(request)
    if name != "ece":
        influence = unit_influence(metric, DecidedTest(request, np.arange(NUM_UNITS)))
        numbers["influence"] = [*influence[:4], influence @ random.normal(size=NUM_UNITS)]
    tested = [[DecidedTest(request, np.arange(NUM_UNITS) // 2)]]
    card = ScoringContext(task=request.task, labels=request.labels, positive=request.positive, has_patients=True)
    score = score_metric(metric, tested, card, draw_patients(tested), None)
    numbers["interval"] = [
        score.low,
        score.high,
        score.method.text if score.method else "",
        reason_text(score.reason) if score.reason else None,
    ]
    return numbers


def measure_all() -> dict:
    return {
        f"{task}, {case}, {name}": measure(task, case, name)
        for task in IMAGE_TASKS
        for case in CASES
        for name, metric in METRIC.items()
        if task in metric.tasks
    }


@cache
def read_reference() -> dict:
    return json.loads(REFERENCE.read_text())


def close(actual, expected, tolerance) -> bool:
    if isinstance(expected, float) and isinstance(actual, float):
        return actual == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(
            close(*pair, tolerance) for pair in zip(actual, expected, strict=True)
        )
    return actual == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_metrics_give_the_recorded_numbers(task, case):
    names = [name for name, metric in METRIC.items() if task in metric.tasks]
    for name in names:
        actual, expected = measure(task, case, name), read_reference()[f"{task}, {case}, {name}"]
        assert actual.keys() == expected.keys(), name
        for key in expected:
            # A numerical derivative magnifies rounding errors, which differ between processors.
            tolerance = 1e-9 if key == "influence" and METRIC[name].per_unit is None else 1e-12
            assert close(actual[key], expected[key], tolerance), (name, key, actual[key], expected[key])


def test_the_reference_has_every_metric_of_every_task():
    supported = {(task, name) for name, metric in METRIC.items() for task in metric.tasks if task in IMAGE_TASKS}
    assert {tuple(key.split(", ")[::2]) for key in read_reference()} == supported


if __name__ == "__main__":
    rows = (f"{json.dumps(key)}: {json.dumps(numbers, default=float)}" for key, numbers in measure_all().items())
    REFERENCE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
