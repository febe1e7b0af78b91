"""What the checks of every kind share: conditions, named steps, and the fields of a spec."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.errors import PluginError, ZooError, nearest
from zoo.registry.loading import check_fields, check_spec_name
from zoo.registry.lookup import Kind
from zoo.specs.choice import ChoiceSpec
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec
from zoo.tasks.kinds import TASKS


def expect(condition: object, sentence: str) -> None:
    """Like `assert`, but not removed by `python -O`."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Turn any exception of a plugin's callable into an AssertionError that names the step."""
    try:
        yield
    except AssertionError:
        raise
    except ZooError as error:
        raise AssertionError(f"{what}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error


def check_spec_fields(kind: Kind, spec: Any) -> None:
    """Check that the name is valid in commands and paths, every field is valid, and every callable can be pickled."""
    check_plain_fields(kind, spec)
    pickle_callables(kind, spec)


def check_plain_fields(kind: Kind, spec: Any) -> None:
    try:
        check_spec_name(kind, spec.name)
        check_fields(kind, spec)
    except PluginError as error:
        raise AssertionError(str(error)) from error


def pickle_callables(kind: Kind, spec: Any) -> bytes:
    """The pickled callables of a spec. Raises AssertionError if one cannot be pickled."""
    functions = []
    for name, function in callables_of(spec):
        try:
            pickle.dumps(function)
        except Exception as error:
            raise AssertionError(
                f"{kind} {spec.name!r}: `{name}` cannot be pickled, so it cannot be sent to a worker process "
                f"({error}); use a module-level function or functools.partial of one, not a lambda or nested function"
            ) from error
        functions.append(function)
    return pickle.dumps(functions)


def callables_of(spec: Any) -> list[tuple[str, Any]]:
    """The callables of a spec by the name of their field."""
    fields = [(part.name, getattr(spec, part.name)) for part in dataclasses.fields(spec)]
    return [(name, value) for name, value in fields if callable(value)]


def check_tasks(kind: str, spec: ModelSpec | MetricSpec | EstimatorSpec | ChoiceSpec) -> None:
    for name in spec.tasks:
        expect(name in TASKS, f"{kind} {spec.name!r}: no task {name!r}. {nearest(name, TASKS) or ', '.join(TASKS)}")
    expect(spec.tasks, f"{kind} {spec.name!r}: `tasks` is empty, so it could never be used")
