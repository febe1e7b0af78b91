"""Checks of metrics, on drawn predictions of every task that the metric names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.metrics import (
    NUM_UNITS,
    check_per_unit,
    check_resample,
    check_undefined,
    check_weighted_counts,
    make_read_only,
    outputs_close,
    request_for,
    value_of,
)
from zoo.conformance.steps import check_plain_fields, check_tasks, expect, step
from zoo.errors import Undefined
from zoo.evaluation.values import compute
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.tasks.kinds import TASKS

SWAPPED = [1, 0]  # the order of two classes


def without_bounds(spec: MetricSpec) -> MetricSpec:
    """The metric with any value: `metric-bounds` alone compares values with the bounds."""
    return replace(spec, bounds=(None, None))


def requests(subject: CheckedSpec, quality: str = "random") -> Iterator[tuple[str, MetricRequest]]:
    """The predictions of each task, with the name of the metric and the task."""
    for name in subject.spec.tasks:
        if name not in TASKS:
            raise Inapplicable(f"there is no task {name!r}")
        where = f"metric {subject.spec.name!r}, {name} task"
        yield where, make_read_only(request_for(subject.spec, TASKS[name], quality=quality))


def value_or_skip(subject: CheckedSpec, request: MetricRequest) -> float:
    """The value. Raises Inapplicable if there is none, which `metric-value` reports."""
    try:
        return compute(without_bounds(subject.spec), request)
    except Exception as error:
        raise Inapplicable(f"it has no value: {error}") from error


def stable_value(subject: CheckedSpec, request: MetricRequest) -> float:
    value = value_or_skip(subject, request)
    if value != value_or_skip(subject, request):
        raise Inapplicable("its values are random")
    return value


def check_metric_fields(subject: CheckedSpec) -> None:
    check_plain_fields("metric", subject.spec)
    check_tasks("metric", subject.spec)


def check_value(subject: CheckedSpec) -> None:
    for where, request in requests(subject):
        value_of(where, without_bounds(subject.spec), request)


def check_repeated_value(subject: CheckedSpec) -> None:
    for where, request in requests(subject):
        first, second = (value_or_skip(subject, request) for _ in range(2))
        expect(first == second, f"{where}: the same predictions give two different values")


def check_direction(subject: CheckedSpec) -> None:
    spec = subject.spec
    pairs = zip(requests(subject), requests(subject, "perfect"), strict=True)
    for (where, random), (_, perfect) in pairs:
        value, best = stable_value(subject, random), value_or_skip(subject, perfect)
        expect(
            best > value if spec.higher_is_better else best < value,
            f"{where}: perfect predictions give {best:.4g}, random ones {value:.4g}, but higher_is_better is "
            f"{spec.higher_is_better}",
        )


def check_bounds_of_values(subject: CheckedSpec) -> None:
    low, high = subject.spec.bounds
    for quality in ("random", "perfect"):
        for where, request in requests(subject, quality):
            value = value_or_skip(subject, request)
            inside = (low is None or value >= low - 1e-9) and (high is None or value <= high + 1e-9)
            expect(inside, f"{where}: the value {value:.6g} is outside its `bounds` {subject.spec.bounds}")


def check_row_order(subject: CheckedSpec) -> None:
    order = np.random.default_rng(2).permutation(NUM_UNITS)
    for where, request in requests(subject):
        value = stable_value(subject, request)
        expect(
            outputs_close(value, value_or_skip(subject, make_read_only(request.take(order)))),
            f"{where}: the value depends on the order of the rows",
        )


def check_positive_class(subject: CheckedSpec) -> None:
    """Exchange the two classes of a task with a positive one: the value must be the same."""
    tried = False
    for where, request in requests(subject):
        if not request.task.targets.has_positive:
            continue
        tried = True
        swapped = replace(
            request,
            labels=tuple(request.labels[index] for index in SWAPPED),
            targets=1 - request.targets,
            probabilities=request.probabilities[:, SWAPPED],
            decisions=None if request.decisions is None else 1 - request.decisions,
            positive=0,
            log_odds=None if request.log_odds is None else request.log_odds[:, SWAPPED],
        )
        value, other = stable_value(subject, request), value_or_skip(subject, make_read_only(swapped))
        expect(
            outputs_close(value, other),
            f"{where}: {value:.6g} if the positive class is the second, {other:.6g} if it is the first; use "
            "`request.positive`",
        )
    if not tried:
        raise Inapplicable("none of its tasks has a positive class")


def check_unknown_targets(subject: CheckedSpec) -> None:
    """Change the probabilities where the target is NaN: the value must be the same."""
    tried = False
    for where, request in requests(subject):
        targets = request.targets
        if targets.dtype.kind != "f" or not np.isnan(targets).any():
            continue
        tried = True
        value = stable_value(subject, request)
        unknown = np.isnan(targets)
        changed = replace(
            request,
            probabilities=np.where(unknown, 1 - request.probabilities, request.probabilities),
            decisions=None if request.decisions is None else np.where(unknown, ~request.decisions, request.decisions),
            log_odds=None if request.log_odds is None else np.where(unknown, -request.log_odds, request.log_odds),
        )
        other = value_or_skip(subject, make_read_only(changed))
        expect(outputs_close(value, other), f"{where}: the value depends on predictions whose target is unknown (NaN)")
    if not tried:
        raise Inapplicable("none of its tasks has unknown targets")


def check_patient_numbers(subject: CheckedSpec) -> None:
    """Give the patients other numbers: the value must be the same."""
    if not subject.spec.patients:
        raise Inapplicable("it does not read patients")
    for where, request in requests(subject):
        value = stable_value(subject, request)
        assert request.patients is not None
        numbers = np.random.default_rng(4).permutation(NUM_UNITS) + 1
        other = value_or_skip(subject, make_read_only(replace(request, patients=numbers[request.patients])))
        expect(outputs_close(value, other), f"{where}: the value depends on the numbers of the patients")


def check_unit_values(subject: CheckedSpec) -> None:
    if subject.spec.per_unit is None:
        raise Inapplicable("it has no `per_unit`")
    for where, request in requests(subject):
        check_per_unit(where, subject.spec, request, stable_value(subject, request))


def check_resampled(subject: CheckedSpec) -> None:
    if subject.spec.resample is None or subject.spec.per_unit is not None:
        raise Inapplicable("it has no `resample` of its own")
    for where, request in requests(subject):
        check_resample(where, without_bounds(subject.spec), request, stable_value(subject, request))


def check_counted(subject: CheckedSpec) -> None:
    if subject.spec.counts is None:
        raise Inapplicable("it has no `counts`")
    for where, request in requests(subject):
        check_weighted_counts(where, subject.spec, request, stable_value(subject, request))


def check_note(subject: CheckedSpec) -> None:
    if subject.spec.note is None:
        raise Inapplicable("it has no `note`")
    for where, request in requests(subject):
        value_or_skip(subject, request)
        with step(f"{where}: note"):
            expect(isinstance(subject.spec.note(request), str), f"{where}: `note` must return a str")


def check_degenerate(subject: CheckedSpec) -> None:
    for where, request in requests(subject):
        stable_value(subject, request)
        check_undefined(where, without_bounds(subject.spec), request)


def check_no_stand_in(subject: CheckedSpec) -> None:
    """Perfect predictions of equal targets must not get the worst value in place of Undefined."""
    spec = subject.spec
    worst = spec.bounds[0] if spec.higher_is_better else spec.bounds[1]
    if worst is None:
        raise Inapplicable("its `bounds` name no worst value")
    for where, perfect in requests(subject, "perfect"):
        same = np.zeros(NUM_UNITS, dtype=np.int64)
        try:
            value = compute(without_bounds(spec), make_read_only(perfect.take(same)))
        except Undefined:
            continue
        except Exception as error:
            raise Inapplicable(f"it fails for targets that are all equal: {error}") from error
        expect(
            not outputs_close(value, worst),
            f"{where}: perfect predictions of targets that are all equal get the worst value, {value:g}; raise "
            "Undefined(reason) if there is no value",
        )


METRIC_CHECKS = (
    Check(id="metric-fields", claim="Its fields are valid", run=check_metric_fields),
    Check(id="metric-value", claim="It has a value for ordinary predictions", run=check_value),
    Check(id="metric-deterministic", claim="The same predictions give the same value", run=check_repeated_value),
    Check(id="metric-direction", claim="Perfect predictions are better than random ones", run=check_direction),
    Check(id="metric-bounds", claim="Values are within its bounds", run=check_bounds_of_values),
    Check(id="metric-order", claim="The value does not depend on the order of rows", run=check_row_order),
    Check(id="metric-positive", claim="Either class can be the positive one", run=check_positive_class),
    Check(id="metric-unknown", claim="Predictions with unknown targets do not count", run=check_unknown_targets),
    Check(id="metric-patients", claim="The numbers of patients only tell them apart", run=check_patient_numbers),
    Check(id="metric-per-unit", claim="`per_unit` gives each unit a value of its own", run=check_unit_values),
    Check(id="metric-resample", claim="Resampling equals computing", run=check_resampled),
    Check(id="metric-counts", claim="`counts` are those of the value", run=check_counted),
    Check(id="metric-note", claim="`note` returns a text", run=check_note),
    Check(
        id="metric-degenerate", claim="With one class or one row it has a value or is Undefined", run=check_degenerate
    ),
    Check(id="metric-stand-in", claim="A value that is undefined is not the worst value", run=check_no_stand_in),
)
