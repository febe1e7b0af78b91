"""Checks of tasks, on drawn targets and logits."""

from __future__ import annotations

import numpy as np

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, expect, step
from zoo.registry.opening import open_registry
from zoo.tasks.task import Task

NUM_DRAWN, NUM_TASK_LABELS = 64, 3


def num_labels_of(task: Task) -> int:
    return min(NUM_TASK_LABELS, task.targets.max_labels or NUM_TASK_LABELS)


def check_task_fields(subject: CheckedSpec) -> None:
    check_plain_fields("task", subject.spec)
    expect(
        subject.spec.primary_metric in subject.spec.metrics,
        f"task {subject.spec.name!r}: `metrics` leaves out the primary metric, {subject.spec.primary_metric}",
    )


def check_drawn_targets(subject: CheckedSpec) -> None:
    task: Task = subject.spec
    labels = [f"label {index}" for index in range(num_labels_of(task))]
    with step(f"task {task.name!r}: targets"):
        targets, perfect = task.targets.draw(np.random.default_rng(0), NUM_DRAWN, len(labels))
        fault = task.targets.find_fault(targets, labels)
        expect(fault is None, f"task {task.name!r}: its own targets are faulty: {fault and fault.problem}")
        fault_of_answers = task.answers.find_fault(perfect, len(labels))
    expect(not fault_of_answers, f"task {task.name!r}: its perfect answers are faulty: {fault_of_answers}")


def check_answers(subject: CheckedSpec) -> None:
    task: Task = subject.spec
    if task.head.dense:
        raise Inapplicable("its logits are of pixels")
    num_labels = num_labels_of(task)
    logits = np.random.default_rng(0).normal(size=(NUM_DRAWN, task.head.num_outputs(num_labels)))
    with step(f"task {task.name!r}: answers of logits"):
        fault = task.answers.find_fault(task.answers.from_logits(logits), num_labels)
    expect(not fault, f"task {task.name!r}: answers of random logits are faulty: {fault}")


def check_loss(subject: CheckedSpec) -> None:
    import torch

    task: Task = subject.spec
    if task.head.dense:
        raise Inapplicable("its logits are of pixels")
    num_labels = num_labels_of(task)
    with step(f"task {task.name!r}: targets"):
        targets, _ = task.targets.draw(np.random.default_rng(0), NUM_DRAWN, num_labels)
    if task.targets.find_fault(targets, [f"label {index}" for index in range(num_labels)]):
        raise Inapplicable("the targets it draws are faulty")
    with step(f"task {task.name!r}: the loss"):
        scaled = torch.from_numpy(task.targets.standardize(targets, task.targets.scale(targets)))
        logits = torch.zeros(NUM_DRAWN, task.head.num_outputs(num_labels), requires_grad=True)
        loss = task.head.loss(logits, scaled)
        loss.backward()  # type: ignore[no-untyped-call]
    finite = loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    expect(finite, f"task {task.name!r}: loss or gradient of zero logits is not finite")
    expect(logits.grad is not None and logits.grad.any(), f"task {task.name!r}: the loss does not depend on the logits")


def check_task_metrics(subject: CheckedSpec) -> None:
    task: Task = subject.spec
    known = open_registry().metrics
    for name in task.metrics:
        expect(name in known, f"task {task.name!r}: there is no metric {name!r}")
        expect(task.name in known[name].tasks, f"task {task.name!r}: the metric {name!r} does not list it in `tasks`")


TASK_CHECKS = (
    Check(id="task-fields", claim="Its fields are valid and fit each other", run=check_task_fields),
    Check(id="task-targets", claim="The targets it draws are valid", run=check_drawn_targets),
    Check(id="task-answers", claim="Answers of random logits are valid", run=check_answers),
    Check(id="task-loss", claim="Its loss gives finite gradients", run=check_loss),
    Check(id="task-metrics", claim="Its metrics are installed and apply to it", run=check_task_metrics),
)
