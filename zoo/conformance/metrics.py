"""Compute a metric on perfect, random and one-class predictions of every task it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.conformance.steps import check_spec_fields, check_tasks, expect, step
from zoo.errors import Undefined
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.thresholds import decide
from zoo.evaluation.values import compute, repeat_units
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext, compute_mean, unit_values
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task

NUM_UNITS = 240  # predictions to compute a metric on
KIT_RESAMPLES = 10
NUM_LABELS = 4  # of random predictions; fewer if the task has a smaller maximum


def check_metric(spec: MetricSpec) -> None:
    """Compute a metric on perfect, random and one-class predictions of every task it names."""
    name = f"metric {spec.name!r}"
    check_spec_fields("metric", spec)
    check_tasks("metric", spec)
    for task in (TASKS[task] for task in spec.tasks):
        where = f"{name}, {task} task"
        random = make_read_only(request_for(spec, task, quality="random"))
        perfect = make_read_only(request_for(spec, task, quality="perfect"))
        value, best = value_of(where, spec, random), value_of(where, spec, perfect)
        better = best > value if spec.higher_is_better else best < value
        expect(
            better,
            f"{where}: perfect predictions give {best:.4g}, random ones {value:.4g}, but higher_is_better is "
            f"{spec.higher_is_better}",
        )
        expect(value == value_of(where, spec, random), f"{where}: the same predictions give two different values")
        order = np.random.default_rng(2).permutation(NUM_UNITS)
        expect(
            outputs_close(value, value_of(where, spec, make_read_only(random.take(order)))),
            f"{where}: the value depends on the order of the rows",
        )
        check_per_unit(where, spec, random, value)
        check_resample(where, spec, random, value)
        check_weighted_counts(where, spec, random, value)
        if spec.note:
            with step(f"{where}: note"):
                expect(isinstance(spec.note(random), str), f"{where}: `note` must return a str")
        check_undefined(where, spec, random)


def request_for(spec: MetricSpec, task: Task, *, quality: str) -> MetricRequest:
    """Predictions of a known quality, with two units of each patient and the columns that the metric reads.

    For a multi-label task a tenth of the targets is missing (NaN).
    """
    rng = np.random.default_rng(1)
    num_labels = min(NUM_LABELS, task.targets.max_labels or NUM_LABELS)
    targets, perfect = task.targets.draw(rng, NUM_UNITS, num_labels)
    numbers = np.arange(NUM_UNITS)
    test = Predictions(
        sample_ids=numbers.astype(str),
        patients=(numbers // 2).astype(str),
        metadata={column: np.array(["1", "2", "3"])[numbers % 3] for column in spec.metadata},
        targets=targets,
        probabilities=perfect if quality == "perfect" else task.answers.draw(rng, NUM_UNITS, num_labels),
    )
    card = ScoringContext(
        task=task,
        labels=tuple(f"label {index}" for index in range(num_labels)),
        positive=1 if task.targets.has_positive else None,
    )
    return decide({"test": test}, card, "half").request_of(spec)


def make_read_only(request: MetricRequest) -> MetricRequest:
    """Make the arrays of a request read-only, as in a benchmark."""
    arrays = (request.targets, request.probabilities, request.decisions, request.log_odds, request.patients)
    for values in (*arrays, *request.metadata.values()):
        if values is not None:
            values.flags.writeable = False
    return request


def outputs_close(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=1e-6, atol=1e-9))


def value_of(where: str, spec: MetricSpec, request: MetricRequest) -> float:
    try:
        with step(where):
            return compute(spec, request)
    except AssertionError as error:
        if isinstance(error.__cause__, Undefined):
            reason = f"{where}: undefined ({error.__cause__}) for ordinary predictions of every class"
            raise AssertionError(reason) from error
        raise


def check_per_unit(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Check that `per_unit` gives every unit its own value, finite or NaN, and agrees with `compute`."""
    if spec.per_unit is None:
        return
    with step(f"{where}: per_unit"):
        values = unit_values(request, spec.per_unit)
        half = unit_values(make_read_only(request.take(np.arange(NUM_UNITS // 2))), spec.per_unit)
    expect(not np.isinf(values).any(), f"{where}: `per_unit` gives infinity; expected numbers, NaN where undefined")
    expect(
        half.shape[1] == values.shape[1] and np.allclose(half, values[: NUM_UNITS // 2], equal_nan=True),
        f"{where}: `per_unit` gives a unit another value if it is tested with other units; a metric that is not a "
        "mean over units needs `compute`",
    )
    mean = compute_mean(request, per_unit=spec.per_unit)
    expect(
        outputs_close(mean, value), f"{where}: the mean of `per_unit` is {mean:.6g}, and `compute` gives {value:.6g}"
    )


def check_resample(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Compare `resample` with `compute` on the same units, each repeated by its weight.

    For a metric of patients, whole patients are drawn: one that is drawn twice is two patients.
    """
    if spec.resample is None:
        return
    owners = np.arange(NUM_UNITS) if request.patients is None else np.unique(request.patients, return_inverse=True)[1]
    num = owners.max() + 1
    drawn = np.random.default_rng(3).multinomial(num, np.full(num, 1 / num), size=KIT_RESAMPLES)[:, owners]
    with step(f"{where}: resample"):
        values = np.asarray(spec.resample(request, np.concatenate([np.ones((1, NUM_UNITS)), drawn])))
    expected = (1 + KIT_RESAMPLES,)
    expect(values.shape == expected, f"{where}: `resample` returned the shape {values.shape}, expected {expected}")
    expect(
        outputs_close(float(values[0]), value),
        f"{where}: with all weights equal to 1 `resample` gives {values[0]:.6g} and `compute` {value:.6g}",
    )
    computed = np.array([value_of(where, spec, make_read_only(repeat_units(request, counts))) for counts in drawn])
    # A metric may keep the bins of the whole split, as `ece` does: then the values are close, but not equal.
    difference = np.abs(values[1:] - computed).mean()
    expect(
        difference <= 0.5 * np.abs(computed - value).mean() + 1e-9,
        f"{where}: for the same units `resample` gives {values[1]:.6g} and `compute` {computed[0]:.6g}",
    )


def check_weighted_counts(where: str, spec: MetricSpec, request: MetricRequest, value: float) -> None:
    """Check that `counts` returns the (successes, trials) of the value."""
    if spec.counts is None:
        return
    try:
        successes, trials = spec.counts(request)
    except Undefined:  # no proportion in this task
        return
    expect(0 <= successes <= trials, f"{where}: `counts` gives {successes} successes of {trials} trials")
    if request.patients is not None:
        most = len(np.unique(request.patients))
        expect(trials <= most, f"{where}: `counts` gives {trials} trials, but there are {most} patients")
    expect(
        trials and outputs_close(successes / trials, value),
        f"{where}: `counts` gives {successes} of {trials}, and `compute` {value:.6g}",
    )


def check_undefined(where: str, spec: MetricSpec, request: MetricRequest) -> None:
    """Check that the metric has a value or raises Undefined, but is never NaN, for targets of one class or value."""
    same_rows = np.zeros(NUM_UNITS, dtype=np.int64)
    one_class = replace(request, targets=request.targets[same_rows])
    for case, what in ((one_class, "targets that are all equal"), (one_class.take(same_rows[:1]), "one row")):
        try:
            compute(spec, make_read_only(case))
        except Undefined as reason:
            expect(str(reason).strip(), f"{where}: with {what} it raises Undefined without a reason")
        except Exception as error:
            raise AssertionError(
                f"{where}: with {what} it fails ({type(error).__name__}: {error}); raise Undefined(reason) if there is "
                "no value"
            ) from error
