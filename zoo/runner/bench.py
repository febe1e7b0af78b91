"""Run a suite: the stages of a bench, in order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.registry.context import Context
from zoo.results.runs import Run, trained_and_tested
from zoo.results.store import DELETABLE, WEIGHTS_FILE, Result, open_results
from zoo.runner.assignments import refusal
from zoo.runner.audit_gate import audit_plan
from zoo.runner.execution import carry_out
from zoo.runner.grid import external_runs
from zoo.runner.latency import time_models
from zoo.runner.observing import observed
from zoo.runner.planning import Plan, find_all_done, plan_bench
from zoo.runner.second_reader import score_second_readers
from zoo.runner.tuning import tune
from zoo.specs.suite import Suite
from zoo.system.caches import in_use


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a bench: its runs, their results, and the refused datasets."""

    plan: Plan
    runs: tuple[Run, ...]
    results: Mapping[str, Result] = field(default_factory=dict)  # by run id, including failed and refused runs
    reused: frozenset[str] = frozenset()

    @property
    def refused(self) -> dict[str, Mapping[str, str]]:
        """Code, message and fix of the error of each dataset that was refused in planning or decoding."""
        late = {trained_and_tested(r.run): r.error for r in self.results.values() if r.status == "refused" and r.error}
        return {**{name: error.describe() for name, error in self.plan.refused}, **late}


def bench(suite: Suite, context: Context) -> Outcome:
    """Plan a suite, tune if the protocol has a grid, execute the missing runs, and time the models."""
    settings = context.settings
    with open_results(settings.results), in_use(settings.cache):
        plan = audit_plan(plan_bench(suite, context), suite, context.console)
        describe_plan(plan, context)
        with observed(plan, suite, context) as context:
            readers = score_second_readers(plan, context)
            runs, left_out = tune(plan, context)
            runs += external_runs(runs, plan.externals)
            planned = {run.id for run in plan.runs}
            done = {**plan.done, **find_all_done([run for run in runs if run.id not in planned], context)}
            results = carry_out(runs, done, plan, context)
            results = {**time_models(results, plan.device, context), **readers}
        reused = frozenset(run.id for run in runs if run.id in done)
        if settings.keep_weights == "best":
            keep_best_weights(results.values())
        return Outcome(plan=plan, runs=(*runs, *left_out), results=results, reused=reused)


def plan_only(suite: Suite, context: Context) -> Outcome:
    """Plan a suite as `bench` does, without executing anything."""
    plan = audit_plan(plan_bench(suite, context), suite, context.console)
    describe_plan(plan, context)
    external = external_runs(plan.runs, plan.externals)
    done = {**plan.done, **find_all_done(external, context)}
    return Outcome(plan=plan, runs=(*plan.runs, *external), results=done, reused=frozenset(done))


def describe_plan(plan: Plan, context: Context) -> None:
    """Print what will run."""
    console = context.console
    for source, split in plan.sources.values():
        for note in (*source.samples.notes, *split.notes):
            console.say(f"{source.spec.name}: {note}")
    for name, externals in plan.externals.items():
        for external in externals:
            for note in (*external.source.samples.notes, *external.notes):
                console.say(f"{external.name}: {note}")
            labels = ", ".join(f"{theirs!r} as {ours!r}" for theirs, ours in external.labels.items())
            console.say(f"{name} -> {external.name}: external validation on {len(external.rows)} images, {labels}")
    waiting = sum(run.id not in plan.done for run in plan.runs)
    reused = f", {len(plan.runs) - waiting} done already" if waiting < len(plan.runs) else ""
    protocols = ", ".join(protocol.label for protocol in plan.protocols)
    models, datasets = {run.shown for run in plan.runs}, {run.dataset for run in plan.runs}
    control = any(run.purpose == "shuffle" for run in plan.runs)
    counted = f"{len(models)} models" + (" on shuffled labels" if control else " with the baselines")
    console.say(
        f"{protocols}: {len(datasets)} dataset{'s' * (len(datasets) != 1)}, {counted}, "
        f"{len(plan.runs)} runs{reused}; device {plan.device}; results in {context.settings.results}"
    )
    for name, error in plan.refused:  # last, because nothing follows if all are refused
        console.say(refusal(name, error))


def keep_best_weights(results: Iterable[Result]) -> None:
    """Keep the weights of the run with the best val score for each model, dataset and protocol.

    Weights of runs with `--keep-weights all` are not deleted.
    """
    groups: dict[tuple[Path, str], list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.run["fold"], r.run["seed"])):  # ties go to the first
        if result.ok and result.folder and (result.folder / WEIGHTS_FILE).exists():
            groups.setdefault((result.folder.parent, result.run["protocol_label"]), []).append(result)
    for candidates in groups.values():
        best = max(candidates, key=lambda r: -math.inf if r.details["val_score"] is None else r.details["val_score"])
        for result in candidates:
            if result is not best and result.folder and result.details.get("keep_weights") == "best":
                for name in DELETABLE:
                    (result.folder / name).unlink(missing_ok=True)  # another bench may delete it at the same time
