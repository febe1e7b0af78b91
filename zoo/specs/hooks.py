"""The kinds of specs that plugins register, and the hooks that return them."""

from __future__ import annotations

from typing import Any

import pluggy

from zoo.errors import plural_of
from zoo.specs.dataset import DatasetSpec
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.executor import ExecutorSpec
from zoo.specs.loss import LossSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec
from zoo.specs.observer import ObserverSpec
from zoo.specs.protocol import Protocol
from zoo.specs.reader import ReaderSpec
from zoo.specs.sampling import SamplingSpec
from zoo.specs.section import SectionSpec
from zoo.specs.suite import Suite
from zoo.specs.transform import TransformSpec
from zoo.tasks.task import Task

PROJECT = "zoo"
CONTRACT = 1  # version of the plugin contract: entry points are in the group zoo.v1

# Every kind of spec. The hook `register_KINDs` returns a list of the class, `zoo list KINDs` lists them. A part of a
# recipe that protocols name is a kind whose spec extends `ChoiceSpec`, and a field of `Protocol` made by `choice`.
KINDS: dict[str, type[Any]] = {
    "model": ModelSpec,
    "dataset": DatasetSpec,
    "metric": MetricSpec,
    "protocol": Protocol,
    "suite": Suite,
    "executor": ExecutorSpec,  # provisional
    "observer": ObserverSpec,
    "task": Task,
    "estimator": EstimatorSpec,
    "loss": LossSpec,
    "sampling": SamplingSpec,
    "transform": TransformSpec,
    "reader": ReaderSpec,
    "section": SectionSpec,  # provisional
}
KIND_OF = {plural_of(kind): kind for kind in KINDS}
HOOKS = {kind: f"register_{plural_of(kind)}" for kind in KINDS}

hookimpl = pluggy.HookimplMarker(PROJECT)


def hook_specifications() -> type:
    """A class with the specification of every hook, for pluggy."""
    mark = pluggy.HookspecMarker(PROJECT)
    return type("Hooks", (), {hook: mark(lambda: None) for hook in HOOKS.values()})
