"""Check the named choices of planned runs, and record them in the runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import UsageError
from zoo.registry.choices import Choices, find_choices
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.specs.protocol import CHOICE_KINDS, Protocol
from zoo.specs.transform import prepare_pixels
from zoo.training.sampling import DEFAULT_CHOICES


def record_choices(
    runs: Sequence[Run], sources: Mapping[str, tuple[OpenDataset, Split]], registry: Registry
) -> list[Run]:
    """Set `choices` of every run. Raises UsageError for a choice that does not suit a dataset."""
    recorded: dict[tuple[Protocol, str], tuple[str, ...]] = {}
    for run in runs:
        key = run.protocol, run.dataset
        if key not in recorded:
            choices = find_choices(run.protocol, registry)
            for point in grid_points(run.protocol):
                check_choices(point, choices, sources[run.dataset][0])
            recorded[key] = identify_choices(choices)
    return [replace(run, choices=recorded[run.protocol, run.dataset]) for run in runs]


def grid_points(protocol: Protocol) -> Iterator[Protocol]:
    """The protocols of the points of the grid that is tuned; without a grid, the protocol itself."""
    names = [name for name, _ in protocol.tune]
    for point in itertools.product(*(values for _, values in protocol.tune)):
        yield replace(protocol, **dict(zip(names, point, strict=True)), tune=())


def identify_choices(choices: Choices) -> tuple[str, ...]:
    return tuple(f"{name}={choice.identity}" for name, each in choices.items() for choice in each)


def check_choices(protocol: Protocol, choices: Choices, source: OpenDataset) -> None:
    """Raise UsageError for a choice, class weights, label smoothing or mixup that does not suit a dataset."""
    task, dataset = source.task, f"dataset {source.spec.name!r}"
    for name, each in choices.items():
        for choice in each:
            spec = choice.spec
            if spec.tasks and task.name not in spec.tasks:
                raise UsageError(
                    f"{CHOICE_KINDS[name]} {spec.name!r} does not support {task.name} tasks ({dataset}); "
                    f"it supports {', '.join(spec.tasks)}",
                    fix=f"leave out --set {name}, or the dataset",
                    code="wrong-task",
                )
    refuse_transforms(protocol, choices, source)
    refuse_of_loss(protocol, choices, source)
    if protocol.mixup and source.spec.dims == 3:
        raise UsageError(
            f"--set mixup: {dataset} has volumes, and mixup is for images", fix="leave it out", code="wrong-dims"
        )
    if protocol.mixup and task.targets.form not in ("class", "flags"):
        raise UsageError(
            f"--set mixup: {dataset} has no labels per image, so two images have no target between theirs "
            f"({task.name} task)",
            fix="leave it out",
            code="wrong-task",
        )


def refuse_transforms(protocol: Protocol, choices: Choices, source: OpenDataset) -> None:
    for choice in choices.get("transforms", ()):
        if source.spec.dims == 3 and (choice.spec.prepare or 3 not in choice.spec.dims):
            raise UsageError(
                f"--set transforms={choice.spec.name}: dataset {source.spec.name!r} has volumes, and it is for images",
                fix="leave it out",
                code="wrong-dims",
            )
        if choice.spec.augment and protocol.method != "finetune":
            raise UsageError(
                f"--set transforms={choice.spec.name}: it augments images of training, but the method of protocol "
                f"{protocol.name!r} is {protocol.method}",
                fix="leave it out, or choose a protocol that trains the network",
                code="bad-protocol",
            )
        if choice.spec.prepare:  # options out of range are an error before the first run
            prepare_pixels(np.arange(64, dtype=np.uint8).reshape(8, 8), [choice])


def refuse_of_loss(protocol: Protocol, choices: Choices, source: OpenDataset) -> None:
    """Refuse class weights and label smoothing that the loss or the task does not support."""
    task, (loss,) = source.task, choices.get("loss", DEFAULT_CHOICES["loss"])
    requested = {"class_weights": protocol.class_weights != "none", "label_smoothing": protocol.label_smoothing > 0}
    for name, is_requested in requested.items():
        if not is_requested:
            continue
        if not getattr(loss.spec, name):
            raise UsageError(
                f"--set {name}: loss {loss.spec.name!r} does not support it",
                fix="leave it out, or choose another loss",
                code="bad-protocol",
            )
        if not task.head.likelihood:
            raise UsageError(
                f"--set {name}: it does not suit {task.name} tasks (dataset {source.spec.name!r})",
                fix="leave it out",
                code="wrong-task",
            )
