"""Carry out planned runs in worker processes, or wait for another bench that does."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zoo.errors import ResultsError
from zoo.registry.isolation import run_executor
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.results.store import Result, claim, find_done, load_result, now, save_result
from zoo.runner.assignments import Assignment, assign_runs, longest_first, name_work
from zoo.runner.decoding import Ahead, decoding_ahead, split_by_dataset
from zoo.runner.planning import Plan
from zoo.runner.run import claim_and_execute
from zoo.runner.trials import import_all, imports_of
from zoo.system.devices import count_sharing, device_kind, list_devices
from zoo.system.machine import can_fork, num_cores, versions
from zoo.system.progress import BenchProgress, Console, duration
from zoo.system.settings import Settings
from zoo.system.workers import Event


def worker_devices(settings: Settings, device: str, kinds: Sequence[str]) -> list[str]:
    """The device of each worker: as many as `settings` say, else one per `threads` cores, or a few per GPU.

    `kinds` has the kind of device of each run. `cuda` without a number means all GPUs of the machine, each with runs of
    its own. Beside a GPU, one worker takes the runs that are made on the CPU.
    """
    devices, kind = list_devices(device), device_kind(device)
    own = sum(each == kind for each in kinds)
    count = settings.workers
    if count is None and kind == "cuda":
        count = len(devices) * count_sharing(device)
    elif count is None:
        count = num_cores() // settings.threads if kind == "cpu" else 1
    count = max(1, min(own, count)) if own else 0
    return [devices[number % len(devices)] for number in range(count)] + ["cpu"] * (own < len(kinds))


NO_DISK = {"results-unusable", "no-room"}  # codes of errors that meet every run to come, too
WAIT_SECONDS = 0.5  # between two looks at what another bench carries out


def carry_out(
    runs: Sequence[Run],
    done: Mapping[str, Result],
    plan: Plan,
    registry: Registry,
    settings: Settings,
    console: Console,
) -> dict[str, Result]:
    """Results of all runs by id: those done already, and the others carried out in worker processes now."""
    waiting = [run for run in runs if run.id not in done]
    results = {run.id: done[run.id] for run in runs if run.id in done}
    if not waiting:
        return results
    with console.counting("importing what the runs need"):
        preload(waiting, registry, settings)
    groups = split_by_dataset(waiting, plan) if trains_beside(plan.device) and can_fork() else [waiting]
    assignments, refused = assign_runs(groups[0], plan, settings, console)
    results |= refused
    decoded = {a.dataset.images for a in assignments}
    progress = BenchProgress(
        console, len(assignments) + sum(map(len, groups[1:])), sum(path.stat().st_size for path in decoded)
    )
    with decoding_ahead(groups[1:], plan, settings) as ahead:
        later = Later(groups[1:], ahead, partial(assign_runs, plan=plan, settings=settings, console=console), progress)
        while assignments or later.groups:
            concluded, assignments = execute_all(assignments, later, progress, plan, registry, settings)
            results |= concluded | later.refused
            if settings.fail_fast and not all(result.ok for result in concluded.values()):
                break
            if assignments:
                wait_for_others(assignments, console)
    console.done()
    return results


def trains_beside(device: str) -> bool:
    """Whether cores are free while runs train."""
    return device_kind(device) != "cpu"


@dataclass(eq=False)
class Later:
    """Runs whose images are being decoded, assigned dataset by dataset when they are."""

    groups: list[list[Run]]
    ahead: Ahead | None
    assign: Callable[[Sequence[Run]], tuple[list[Assignment], dict[str, Result]]]
    progress: BenchProgress
    refused: dict[str, Result] = field(default_factory=dict)
    number: int = 0  # of groups assigned

    def __call__(self) -> list[Assignment] | None:
        """The assignments that are ready now; None where there will be no more."""
        if not self.groups:
            return None
        if self.ahead and not self.ahead.is_ready(self.number):
            return []
        runs = self.groups.pop(0)
        self.number += 1
        assignments, refused = self.assign(runs)
        self.refused |= refused
        self.progress.num_runs += len(assignments) - len(runs)
        return longest_first(assignments)


def execute_all(
    assignments: Sequence[Assignment],
    later: Later,
    progress: BenchProgress,
    plan: Plan,
    registry: Registry,
    settings: Settings,
) -> tuple[dict[str, Result], list[Assignment]]:
    """Results by run id of what was carried out, and what was not, because another bench is at it."""
    kinds = [run.device_kind for run in (*(a.run for a in assignments), *itertools.chain(*later.groups))]
    events: Generator[Event[Assignment], None, None] = run_executor(
        registry.find("executor", settings.executor),
        longest_first(assignments),
        partial(claim_and_execute, registry=registry if can_fork() else None),
        devices=worker_devices(settings, plan.device, kinds),
        reuse=device_kind(plan.device) != "cpu",
        timeout=settings.run_timeout,
        fail_fast=settings.fail_fast,
        fits=fits_memory,
        more=later,
    )
    results: dict[str, Result] = {}
    taken: dict[str, Assignment] = {}
    with contextlib.closing(events):  # whatever goes wrong here, no worker outlives it
        for event in events:
            name = name_work(event.work)
            if event.kind == "started":
                progress.started(name)
            elif event.details.get("taken"):
                taken[event.work.run.id] = event.work
            elif event.kind == "progress":
                progress.progressed(name, event.details)
            elif event.work.run.id in taken:
                progress.put_off(name)
            else:
                found = conclude_all(event, settings)
                results |= {result.id: result for result in found}
                progress.finished(name, "; ".join(map(describe_result, found)))
    return results, list(taken.values())


def fits_memory(assignment: Assignment, device: str) -> bool:
    return assignment.run.device_kind == device_kind(device)


def wait_for_others(assignments: Sequence[Assignment], console: Console) -> None:
    """Wait until another bench is no longer at one of these runs: it finished it, failed, or is no more."""
    count = len(assignments)
    with console.counting(f"waiting for {count} run{'s' * (count > 1)} that another bench carries out"):
        while True:
            for assignment in assignments:
                with claim(assignment.results, assignment.run) as is_free:
                    if is_free:
                        return
            time.sleep(WAIT_SECONDS)


def preload(runs: Sequence[Run], registry: Registry, settings: Settings) -> None:
    """Import once what every worker needs; a forked child inherits it.

    Nothing is computed here: the threads that torch starts for that do not survive a fork.
    """
    names = imports_of({run.model for run in runs}, registry, settings.cache)
    if any(run.protocol.method == "finetune" for run in runs):
        names.add("torch._dynamo")  # perf: the first optimizer imports it, 2 s in every child
    core = (
        "torch",
        "filelock",
        "torch.utils.flop_counter",
        "safetensors.torch",
        "sklearn.linear_model",
        "sklearn.metrics",
    )
    for name in core:
        importlib.import_module(name)
    import_all(names)


def conclude_all(event: Event[Assignment], settings: Settings) -> list[Result]:
    """What came of the run of an assignment, where it was not done before, and of its tests elsewhere."""
    work = event.work
    own = [] if work.done else [conclude(event, settings)]
    return own + [conclude_run(event, test.run, test.facts, settings) for test in work.elsewhere]


def conclude(event: Event[Assignment], settings: Settings) -> Result:
    return conclude_run(event, event.work.run, event.work.dataset_facts, settings)


def conclude_run(event: Event[Assignment], run: Run, facts: Mapping[str, Any], settings: Settings) -> Result:
    """The result of work that ended: as its worker saved it, or a record of how it failed.

    A finished result that `--fresh` was to repeat is not replaced by a failure. Of several runs in one piece of work
    those stand that were saved before it failed.
    """
    if event.status == "ok":
        return load_result(settings.results / run.folder)
    if event.code in NO_DISK:
        message, _, fix = event.message.partition("; fix: ")
        raise ResultsError(message, fix=fix, code=event.code)
    saved = find_done(settings.results, run)
    if saved and event.work.elsewhere and not settings.fresh:
        return saved
    failed = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status=event.status or "failed",
        error={"code": event.code, "message": event.message},
        dataset=facts,
        deviations=run.deviations,
        versions=versions(*event.work.libraries),
        created=now(),
    )
    with claim(settings.results, event.work.run) as is_ours:
        if is_ours and find_done(settings.results, run) is None:
            save_result(settings.results, run, failed)
    return failed


def describe_result(result: Result) -> str:
    """The end of the line that says a run is over."""
    if result.error:
        return f"{result.status.upper()}: {result.error['message']}"
    seconds = duration(result.cost["train_seconds"])
    name = result.details["primary_metric"]
    found = result.scores().get(name)
    if found is None:
        return f"done in {seconds}, val {result.details['val_score']}"
    shown = f"{name} {found.value:.3f}" if found.value is not None else f"{name} undefined ({found.reason})"
    if result.run["tested_on"]:
        return f"{shown} on {result.run['tested_on']}"
    return f"{shown}, trained in {seconds}"
