"""Run checks in child processes, so that one that hangs or crashes fails alone."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec, Inapplicable
from zoo.errors import UsageError, with_fix
from zoo.registry.finding import canonical
from zoo.registry.loading import CORE
from zoo.registry.lookup import Kind, Plugin, Registry
from zoo.registry.opening import open_registry
from zoo.specs.hooks import KINDS
from zoo.system.machine import can_fork, num_cores
from zoo.system.workers import Notify, execute

MAX_SPECS = 20  # of one kind, if a whole plugin is checked
MAX_MESSAGE = 2_000  # characters
CheckOutcome = Literal["passed", "failed", "skipped"]
PRELOADED = ("torch", "pandas", "PIL.Image", "sklearn.metrics", "torch._dynamo")


@dataclass(frozen=True, kw_only=True)
class CheckTask:
    """One check of one spec, as plain data that a spawned process can receive."""

    plugin: str
    kind: Kind
    name: str  # of the spec
    check: str
    claim: str
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The outcome of a check. `ended` is how its process ended: "ok", "failed", "crashed", "timeout" or "oom"."""

    task: CheckTask
    outcome: CheckOutcome
    ended: str = "ok"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """The checks to run; `left_out` counts the specs of large plugins that are not checked, by plugin and kind."""

    tasks: tuple[CheckTask, ...]
    results: tuple[CheckResult, ...] = ()  # of plugins that do not load: known before any process starts
    left_out: Mapping[tuple[str, Kind], int]


def plan_checks(requested: str, registry: Registry, folder: Path | None = None) -> CheckPlan:
    """List the checks of a plugin, of `PLUGIN:NAME` (a glob), or of every plugin but the core if `requested` is empty.

    Raises UsageError for an unknown plugin or name.
    """
    wanted, _, pattern = requested.partition(":")
    plugins = [plugin for plugin in registry.plugins if plugin.name == (canonical(wanted) or plugin.name)]
    if not plugins:
        registry.require_plugin(canonical(wanted))
    tasks: list[CheckTask] = []
    results: list[CheckResult] = []
    left_out: dict[tuple[str, Kind], int] = {}
    for plugin in plugins:
        if not wanted and plugin.name == CORE:
            continue
        results.append(check_loading(plugin))
        first = ""  # spec, with which the checks of the plugin are run
        for kind in KINDS:
            owners = registry.owners.get(kind, {})
            own = sorted(name for name in owners if plugin.name in owners[name])
            names = fnmatch.filter(own, pattern or "*")
            chosen = names if pattern else names[:MAX_SPECS]
            first = first or next(iter(chosen), "")
            if len(chosen) < len(names):
                left_out[plugin.name, kind] = len(names) - len(chosen)
            tasks += [
                CheckTask(plugin=plugin.name, kind=kind, name=name, check=check.id, claim=check.claim, folder=folder)
                for name in chosen
                for check in checks_of(kind)
                if not check.of_plugin or name == first
            ]
    if pattern and not tasks:
        raise UsageError(f"{wanted} registers nothing called {pattern!r}", fix="zoo plugin list", code="unknown-plugin")
    return CheckPlan(tasks=tuple(tasks), results=tuple(results), left_out=left_out)


def check_loading(plugin: Plugin) -> CheckResult:
    task = CheckTask(
        plugin=plugin.name, kind="plugin", name=plugin.name, check="loads", claim="It loads, with every spec"
    )
    return CheckResult(task=task, outcome="passed" if plugin.status == "ok" else "failed", reason=plugin.reason)


def run_checks(
    tasks: Sequence[CheckTask], registry: Registry, timeout: float, report: Callable[[int], None] = lambda _: None
) -> list[CheckResult]:
    """Run each check in a process of its own, and call `report` with the number that ended; in the order of `tasks`."""
    for module in PRELOADED:  # forked processes inherit them
        importlib.import_module(module)
    carry_out = partial(carry_out_check, registry=registry if can_fork() else None)
    results: dict[CheckTask, CheckResult] = {}
    answers: dict[CheckTask, CheckResult] = {}  # of checks that end by themselves
    for event in execute(tasks, carry_out, devices=["cpu"] * num_cores(), reuse=False, timeout=timeout):
        if event.details.get("outcome"):
            outcome, reason = event.details["outcome"], event.details["reason"][:MAX_MESSAGE]
            ended = "failed" if outcome == "failed" else "ok"
            answers[event.work] = CheckResult(task=event.work, outcome=outcome, ended=ended, reason=reason)
        if event.kind != "ended":
            continue
        result = CheckResult(task=event.work, outcome="passed")
        if event.status != "ok":
            reason = with_fix(event.message, event.fix)[:MAX_MESSAGE]
            result = CheckResult(task=event.work, outcome="failed", ended=event.status or "", reason=reason)
        elif event.work in answers:
            result = answers[event.work]
        results[event.work] = result
        report(len(results))
    return [results[task] for task in tasks]


def carry_out_check(task: CheckTask, _: str, notify: Notify, *, registry: Registry | None) -> None:
    """Run one check in this process; notify of a false claim or of nothing to check, with the reason."""
    import torch

    torch.set_num_threads(1)
    registry = registry or open_registry()
    spec = registry.find(task.kind, f"{task.plugin}:{task.name}")
    module = next((plugin.module for plugin in registry.plugins if plugin.name == task.plugin), "")
    check = next(check for check in checks_of(task.kind) if check.id == task.check)
    try:
        check.run(CheckedSpec(spec=spec, folder=task.folder, module=module))
    except Inapplicable as reason:
        notify({"outcome": "skipped", "reason": str(reason) or "nothing to check"})
    except AssertionError as error:
        notify({"outcome": "failed", "reason": str(error)})
