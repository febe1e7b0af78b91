"""How the runs of a board were carried out: every protocol field, versions, machines, and the runs that are missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.results.store import Result

Distinct = Mapping[str, tuple[Any, ...]]  # name -> its distinct values over the runs
SETUP = ("image_size", "precision", "device_kind", "threads", "num_train")


@dataclass(frozen=True, kw_only=True)
class RunsRecord:
    """What the runs of a board have in common; a name has several values where they differ."""

    protocol: Distinct = field(default_factory=dict)  # every field of the recipe
    setup: Distinct = field(default_factory=dict)
    system: Distinct = field(default_factory=dict)
    versions: Distinct = field(default_factory=dict)  # of every distribution, plugins among them


@dataclass(frozen=True, kw_only=True)
class MissingRun:
    """A run of a row that did not finish, or that was never started."""

    seed: int
    fold: int
    status: str  # of the stored result; "not run" without one
    message: str = ""


def record_runs(results: Sequence[Result], baselines: Sequence[Result]) -> RunsRecord:
    """Summarize the runs of a board. The recipe and the setup are the models'; versions include the baselines'."""
    runs = [result.run for result in results or baselines]
    every = [*results, *baselines]
    return RunsRecord(
        protocol=distinct(run["protocol"] for run in runs),
        setup=distinct({name: run[name] for name in SETUP if name in run} for run in runs),
        system=distinct(result.system for result in results or baselines),
        versions=distinct(result.versions for result in every),
    )


def distinct(mappings: Iterable[Mapping[str, Any]]) -> Distinct:
    """The distinct values of each name, in a fixed order."""
    values: dict[str, dict[str, Any]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            values.setdefault(name, {})[json.dumps(value, sort_keys=True, default=str)] = value
    return {name: tuple(each[key] for key in sorted(each)) for name, each in values.items()}


def list_missing(results: Sequence[Result], seeds: Sequence[int], num_folds: int) -> tuple[MissingRun, ...]:
    """The expected runs of a row that have no finished result, by seed and fold."""
    stored = {(r.run["seed"], r.run["fold"]): r for r in sorted(results, key=lambda r: r.ok)}
    missing = []
    for seed in seeds:
        for fold in range(num_folds):
            result = stored.get((seed, fold))
            if result is None:
                missing.append(MissingRun(seed=seed, fold=fold, status="not run"))
            elif not result.ok:
                message = result.error["message"] if result.error else ""
                missing.append(MissingRun(seed=seed, fold=fold, status=result.status, message=message))
    return tuple(missing)
