"""The hooks that return a plugin's specs, and their pluggy markers."""

from __future__ import annotations

import pluggy

from zoo.specs.dataset import DatasetSpec
from zoo.specs.executor import ExecutorSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import Protocol

PROJECT = "zoo"
CONTRACT = 1  # version of the plugin contract: entry points are in the group zoo.v1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_models() -> list[ModelSpec]:
    """Return the models this plugin offers."""
    raise AssertionError("a hook specification is never called")


@hookspec
def register_datasets() -> list[DatasetSpec]:
    """Return the datasets this plugin offers."""
    raise AssertionError("a hook specification is never called")


@hookspec
def register_metrics() -> list[MetricSpec]:
    """Return the metrics this plugin offers."""
    raise AssertionError("a hook specification is never called")


@hookspec
def register_protocols() -> list[Protocol]:
    """Return the protocols this plugin offers: values, not code."""
    raise AssertionError("a hook specification is never called")


@hookspec
def register_executors() -> list[ExecutorSpec]:
    """Return the executors this plugin offers. Provisional until a second one ships."""
    raise AssertionError("a hook specification is never called")
