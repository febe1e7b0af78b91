"""Execute planned runs in worker processes, or wait for another bench that executes them."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zoo.errors import ResultsError, with_fix
from zoo.models.trials import import_all, imports_of
from zoo.registry.context import Context
from zoo.registry.isolation import inherited, run_executor
from zoo.results.runs import Run
from zoo.results.store import Artifacts, Result, claim, find_done, load_result, now, save_result
from zoo.runner.assignments import Assignment, assign_runs, longest_first, name_work
from zoo.runner.decoding import Ahead, decoding_ahead, split_by_dataset
from zoo.runner.observing import round_finished, run_finished, run_started
from zoo.runner.planning import Plan
from zoo.runner.run import claim_and_execute
from zoo.system.devices import count_sharing, device_kind, list_devices
from zoo.system.machine import can_fork, num_cores, versions
from zoo.system.progress import BenchProgress, Console, duration
from zoo.system.settings import Settings
from zoo.system.workers import Event


def worker_devices(settings: Settings, device: str, kinds: Sequence[str]) -> list[str]:
    """Choose the device of each worker; `kinds` are the device kinds of the runs.

    There are `settings.workers` workers, by default one per `threads` cores or a few per GPU. `cuda` without a number
    means all GPUs. In addition to a GPU's workers, one worker executes the runs that are planned for the CPU.
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


NO_DISK = {"results-unusable", "no-room"}  # codes of errors that would fail all later runs, too
WAIT_SECONDS = 0.5  # between two checks of another bench's runs


def carry_out(runs: Sequence[Run], done: Mapping[str, Result], plan: Plan, context: Context) -> dict[str, Result]:
    """Execute the runs that are not done in worker processes, and return the results of all runs by id."""
    settings, console = context.settings, context.console
    waiting = [run for run in runs if run.id not in done]
    results = {run.id: done[run.id] for run in runs if run.id in done}
    if not waiting:
        return results
    with console.counting("importing what the runs need"):
        preload(waiting, context)
    groups = split_by_dataset(waiting, plan) if trains_beside(plan.device) and can_fork() else [waiting]
    assignments, refused = assign_runs(groups[0], plan, context)
    results |= refused
    decoded = {a.dataset.images for a in assignments}
    progress = BenchProgress(
        console, len(assignments) + sum(map(len, groups[1:])), sum(path.stat().st_size for path in decoded)
    )
    with decoding_ahead(groups[1:], plan, context) as ahead:
        later = Later(groups[1:], ahead, partial(assign_runs, plan=plan, context=context), progress)
        while assignments or later.groups:
            concluded, assignments = execute_all(assignments, later, progress, plan, context)
            results |= concluded | later.refused
            if settings.fail_fast and not all(result.ok for result in concluded.values()):
                break
            if assignments:
                wait_for_others(assignments, console)
    console.done()
    return results


def trains_beside(device: str) -> bool:
    """Whether runs train on another device than the CPU, whose cores are then free to decode."""
    return device_kind(device) != "cpu"


@dataclass(eq=False)
class Later:
    """Runs whose images are still being decoded; they are assigned dataset by dataset."""

    groups: list[list[Run]]
    ahead: Ahead | None
    assign: Callable[[Sequence[Run]], tuple[list[Assignment], dict[str, Result]]]
    progress: BenchProgress
    refused: dict[str, Result] = field(default_factory=dict)
    number: int = 0  # of groups assigned

    def __call__(self) -> list[Assignment] | None:
        """The assignments that are ready now; None if there will be no more."""
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
    context: Context,
) -> tuple[dict[str, Result], list[Assignment]]:
    """Execute assignments; return the results by run id, and the assignments that another bench is executing."""
    registry, settings = context.registry, context.settings
    kinds = [run.device_kind for run in (*(a.run for a in assignments), *itertools.chain(*later.groups))]
    executor = registry.find("executor", settings.executor)
    events: Generator[Event[Assignment], None, None] = run_executor(
        executor,
        longest_first(assignments),
        partial(claim_and_execute, registry=inherited(registry, executor)),
        devices=worker_devices(settings, plan.device, kinds),
        reuse=device_kind(plan.device) != "cpu",
        timeout=settings.run_timeout,
        fail_fast=settings.fail_fast,
        fits=fits_device,
        more=later,
        results=settings.results,
    )
    results: dict[str, Result] = {}
    taken: dict[str, Assignment] = {}
    with contextlib.closing(events):  # no worker outlives an error here
        for event in events:
            name = name_work(event.work, with_protocol=len(plan.protocols) > 1)
            if event.kind == "started":
                progress.started(name)
            elif event.details.get("taken"):
                taken[event.work.run.id] = event.work
            elif event.kind == "progress":
                progress.progressed(name, event.details)
                observe_progress(event, context)
            elif event.work.run.id in taken:
                progress.put_off(name)
            else:
                concluded = conclude_all(event, settings)
                results |= {result.id: result for result in concluded}
                for result in concluded:
                    context.emit(run_finished(result))
                progress.finished(name, "; ".join(map(describe_result, concluded)))
    return results, list(taken.values())


def observe_progress(event: Event[Assignment], context: Context) -> None:
    """Tell the observers that the runs of an assignment began, or that its training finished a round."""
    work = event.work
    if event.details.get("began"):
        for run in [*([] if work.done else [work.run]), *(test.run for test in work.external)]:
            context.emit(run_started(run))
    elif "val_score" in event.details and not work.done:
        context.emit(round_finished(work.run, event.details))


def fits_device(assignment: Assignment, device: str) -> bool:
    return assignment.run.device_kind == device_kind(device)


def wait_for_others(assignments: Sequence[Assignment], console: Console) -> None:
    """Wait until another bench has released one of these runs: it finished, failed, or ended."""
    count = len(assignments)
    with console.counting(f"waiting for {count} run{'s' * (count > 1)} of another bench"):
        while True:
            for assignment in assignments:
                with claim(assignment.results, assignment.run) as is_free:
                    if is_free:
                        return
            time.sleep(WAIT_SECONDS)


def preload(runs: Sequence[Run], context: Context) -> None:
    """Import the modules that all workers need; forked children inherit them.

    Nothing may be computed here, because the threads that torch starts for it do not survive a fork.
    """
    names = imports_of({run.model for run in runs}, context.registry, context.settings.cache)
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
    """The results of an assignment that ended: of its run, unless that was done before, and of its external tests."""
    work = event.work
    own = [] if work.done else [conclude_run(event, work.run, work.dataset_facts, settings)]
    return own + [conclude_run(event, test.run, test.facts, settings) for test in work.external]


def conclude_run(event: Event[Assignment], run: Run, facts: Mapping[str, Any], settings: Settings) -> Result:
    """The result of a run whose assignment ended: as its worker saved it, or a record of the failure.

    A failure does not replace a finished result that `--fresh` was to repeat, nor the results that the assignment saved
    before it failed. Raises ResultsError if the results folder cannot be written.
    """
    if event.status == "ok":
        return load_result(settings.results / run.folder)
    if event.code in NO_DISK:
        raise ResultsError(event.message, fix=event.fix, code=event.code)
    saved = find_done(settings.results, run)
    if saved and event.work.external and not settings.fresh:
        return saved
    failed = Result(
        id=run.id,
        run=run.describe(),
        identity=run.identity,
        status=event.status or "failed",
        error={"code": event.code, "message": event.message, "fix": event.fix},
        dataset=facts,
        deviations=run.deviations,
        versions=versions(*event.work.libraries),
        created=now(),
    )
    with claim(settings.results, event.work.run) as is_ours:
        if is_ours and find_done(settings.results, run) is None:
            save_result(settings.results, run, Artifacts(result=failed))
    return failed


def describe_result(result: Result) -> str:
    """Describe a result for the progress line of a finished run."""
    if result.error:
        return f"{result.status.upper()}: {with_fix(result.error['message'], result.error.get('fix', ''))}"
    seconds = duration(result.cost["train_seconds"])
    name = result.details["primary_metric"]
    score = result.scores().get(name)
    if score is None:
        return f"done in {seconds}, val {result.details['val_score']}"
    text = f"{name} {score.value:.3f}" if score.value is not None else f"{name} undefined"
    if result.run["tested_on"]:
        return f"{text} on {result.run['tested_on']}"
    return f"{text}, trained in {seconds}"
