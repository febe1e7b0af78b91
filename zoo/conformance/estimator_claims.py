"""Checks of estimators, fitted to drawn features whose label can be told from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, check_tasks, expect, step
from zoo.conformance.task_claims import num_labels_of
from zoo.errors import ZooError
from zoo.specs.estimator import EstimatorRequest, EstimatorSpec
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task
from zoo.training.probes import make_estimator_head

NUM_DRAWN_TRAIN, NUM_NEW, NUM_FEATURES = 90, 30, 6
SIGNAL = 3.0  # of a label, in standard deviations of the noise
SAME_ANSWER = 1e-9


def estimator_label(subject: CheckedSpec) -> str:
    return f"estimator {subject.spec.name!r}"


def tasks_of(spec: EstimatorSpec) -> list[Task]:
    return [TASKS[name] for name in spec.tasks if name in TASKS]


def draw_request(
    task: Task, *, seed: int = 0, absent: bool = False, alone: bool = False
) -> tuple[EstimatorRequest, Array]:
    """A request, and the inputs of new images. Arrays are read-only.

    With `absent`, the last label is not in train; with `alone`, only the first one is.
    """
    rng = np.random.default_rng(1)
    num_labels = num_labels_of(task)
    targets, perfect = task.targets.draw(rng, NUM_DRAWN_TRAIN + NUM_NEW, num_labels)
    inputs = rng.normal(size=(len(targets), NUM_FEATURES))
    inputs[:, : perfect.shape[1]] += SIGNAL * (perfect - perfect.mean(axis=0)) / (perfect.std(axis=0) + SAME_ANSWER)
    rows = np.arange(NUM_DRAWN_TRAIN)
    if absent or alone:
        flags = task.targets.to_flags(targets, num_labels)
        assert flags is not None
        rows = rows[flags[rows, 0] == 1 if alone else flags[rows, -1] != 1]
    train = np.asarray(task.targets.standardize(targets[rows], task.targets.scale(targets[rows])))
    request = EstimatorRequest(
        inputs=inputs[rows],
        targets=train,
        patients=np.array([f"p{row // 2}" for row in rows]),
        task=task,
        num_labels=num_labels,
        seed=seed,
        val_score=lambda predict: float(np.mean(predict(inputs[rows]))),
    )
    for array in (request.inputs, request.targets):
        array.flags.writeable = False
    return request, inputs[NUM_DRAWN_TRAIN:]


def fit_or_skip(subject: CheckedSpec, request: EstimatorRequest) -> Any:
    """The fitted function. Raises Inapplicable if fitting fails, which `estimator-fits` reports."""
    try:
        return subject.spec.fit(request)
    except Exception as error:
        raise Inapplicable(f"it cannot be fitted: {error}") from error


def valid_answers(predict: Any, inputs: Array, task: Task) -> Array:
    """The answers. Raises Inapplicable if they are not valid, which `estimator-answers` reports."""
    try:
        answers = np.asarray(predict(inputs))
        fault = task.answers.find_fault(answers, num_labels_of(task))
    except Exception as error:
        raise Inapplicable(f"it does not answer: {error}") from error
    if fault:
        raise Inapplicable(f"its answers are not valid: {fault}")
    return answers


def each_fit(subject: CheckedSpec, **options: Any) -> Iterator[tuple[Task, Any, Array]]:
    """Each task of the estimator, the function fitted for it, and new inputs."""
    for task in tasks_of(subject.spec):
        request, inputs = draw_request(task, **options)
        yield task, fit_or_skip(subject, request), inputs


def check_estimator_fields(subject: CheckedSpec) -> None:
    check_plain_fields("estimator", subject.spec)
    check_tasks("estimator", subject.spec)
    both = (subject.spec.state is None) == (subject.spec.restore is None)
    expect(both, f"{estimator_label(subject)}: `state` and `restore` go together")


def check_fits(subject: CheckedSpec) -> None:
    for task in tasks_of(subject.spec):
        with step(f"{estimator_label(subject)}: fitting it to a {task.name} task, with arrays that cannot be written"):
            subject.spec.fit(draw_request(task)[0])


def check_answers_of_task(subject: CheckedSpec) -> None:
    for task, predict, inputs in each_fit(subject):
        with step(f"{estimator_label(subject)}: answering about new images of a {task.name} task"):
            answers = np.asarray(predict(inputs))
            fault = task.answers.find_fault(answers, num_labels_of(task))
            fault = fault or ("" if len(answers) == len(inputs) else f"{len(answers)} for {len(inputs)} images")
        expect(not fault, f"{estimator_label(subject)}: its answers to a {task.name} task are wrong: {fault}")


def check_absent_label(subject: CheckedSpec) -> None:
    labeled = [task for task in tasks_of(subject.spec) if task.labeled and num_labels_of(task) > 2]
    if not labeled:
        raise Inapplicable("none of its tasks has more than two labels")
    for task in labeled:
        valid_answers(fit_or_skip(subject, draw_request(task)[0]), draw_request(task)[1], task)
        request, inputs = draw_request(task, absent=True)
        with step(f"{estimator_label(subject)}: a {task.name} task with a label that train lacks"):
            fault = task.answers.find_fault(np.asarray(subject.spec.fit(request)(inputs)), num_labels_of(task))
        expect(not fault, f"{estimator_label(subject)}: with a label that train lacks, its answers are wrong: {fault}")


def check_one_label(subject: CheckedSpec) -> None:
    classes = [task for task in tasks_of(subject.spec) if task.classes]
    if not classes:
        raise Inapplicable("none of its tasks has classes")
    for task in classes:
        request, inputs = draw_request(task, alone=True)
        try:
            fault = task.answers.find_fault(np.asarray(subject.spec.fit(request)(inputs)), num_labels_of(task))
        except ZooError:
            continue
        except Exception as error:
            fault = f"it raises {type(error).__name__}: {error}; answer, or raise zoo.DataError with the fix"
        if fault:  # not because it cannot be fitted at all
            request, inputs = draw_request(task)
            valid_answers(fit_or_skip(subject, request), inputs, task)
        expect(not fault, f"{estimator_label(subject)}: a {task.name} task with one label in train: {fault}")


def check_same_fit(subject: CheckedSpec) -> None:
    for task, predict, inputs in each_fit(subject):
        first = valid_answers(predict, inputs, task)
        again = valid_answers(fit_or_skip(subject, draw_request(task)[0]), inputs, task)
        expect(
            np.allclose(first, again, atol=SAME_ANSWER),
            f"{estimator_label(subject)}: two fits with one seed differ; draw random numbers from `request.seed` only",
        )


def check_seeded(subject: CheckedSpec) -> None:
    if subject.spec.seeded:
        raise Inapplicable("it says that its outcome depends on the seed")
    for task, predict, inputs in each_fit(subject):
        first = valid_answers(predict, inputs, task)
        same = valid_answers(fit_or_skip(subject, draw_request(task)[0]), inputs, task)
        if not np.allclose(first, same, atol=SAME_ANSWER):
            raise Inapplicable("two fits with one seed differ")
        other = valid_answers(fit_or_skip(subject, draw_request(task, seed=1)[0]), inputs, task)
        expect(
            np.allclose(first, other, atol=SAME_ANSWER),
            f"{estimator_label(subject)}: its outcome depends on the seed; set `seeded=True`",
        )


def check_other_images(subject: CheckedSpec) -> None:
    for task, predict, inputs in each_fit(subject):
        whole, part = valid_answers(predict, inputs, task), valid_answers(predict, inputs[:3], task)
        expect(
            np.allclose(whole[:3], part, atol=1e-6),
            f"{estimator_label(subject)}: the answer to an image depends on the other images",
        )


def check_learns(subject: CheckedSpec) -> None:
    """Compare the loss on the images of train with that of their mean answer."""
    for task, predict, _ in each_fit(subject):
        request, _ = draw_request(task)
        answers = valid_answers(predict, request.inputs, task)
        constant = np.broadcast_to(answers.mean(axis=0), answers.shape)
        own, chance = (task.answers.loss(each, request.targets, 1.0) for each in (answers, constant))
        expect(
            own < chance,
            f"{estimator_label(subject)}: on a {task.name} task its answers about train are no better than their mean",
        )


def check_state(subject: CheckedSpec) -> None:
    spec: EstimatorSpec = subject.spec
    if spec.state is None or spec.restore is None:
        raise Inapplicable("it has no `state`, so its models are not kept")
    for task, predict, inputs in each_fit(subject):
        expected = valid_answers(predict, inputs, task)
        with step(f"{estimator_label(subject)}: its state"):
            arrays = dict(spec.state(predict))
            for name, array in arrays.items():
                plain = isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and name.isidentifier()
                expect(plain, f"{estimator_label(subject)}: state {name!r} is not an array of numbers")
            head = make_estimator_head(spec.name, predict, arrays, task=task, num_labels=num_labels_of(task))
            kept = {name.removeprefix("arrays."): value.clone().numpy() for name, value in head.state_dict().items()}
            answers = np.asarray(spec.restore(kept)(inputs))
        expect(
            answers.shape == expected.shape and np.allclose(answers, expected, atol=SAME_ANSWER),
            f"{estimator_label(subject)}: restored from its state, it answers differently",
        )


ESTIMATOR_CHECKS = (
    Check(id="estimator-fields", claim="Its fields are valid", run=check_estimator_fields),
    Check(id="estimator-fits", claim="It can be fitted for each of its tasks", run=check_fits),
    Check(id="estimator-answers", claim="Its answers are those of the task", run=check_answers_of_task),
    Check(id="estimator-absent", claim="Train may lack a label", run=check_absent_label),
    Check(id="estimator-one-label", claim="With one label in train it answers, or refuses", run=check_one_label),
    Check(id="estimator-repeats", claim="Two fits with one seed are equal", run=check_same_fit),
    Check(id="estimator-seeded", claim="Its outcome depends on the seed only if it says so", run=check_seeded),
    Check(id="estimator-rows", claim="The answer to an image does not depend on the others", run=check_other_images),
    Check(id="estimator-learns", claim="It answers better than at random", run=check_learns),
    Check(id="estimator-state", claim="Its state determines its answers", run=check_state),
)
