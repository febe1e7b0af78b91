"""Tune protocol fields on val."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from zoo.registry.context import Context
from zoo.results.runs import Run, with_protocol
from zoo.runner.execution import carry_out
from zoo.runner.planning import Plan, find_all_done
from zoo.runner.suites import TUNING_SEED


def tune(plan: Plan, context: Context) -> tuple[list[Run], list[Run]]:
    """Replace each run whose protocol has a grid by the run at the grid point with the best val score.

    The points are scored on the tuning seed. Also returns the runs for which every point failed.
    """
    grids = [run for run in plan.runs if run.protocol.tune]
    if not grids:
        return list(plan.runs), []
    trials = {trial.id: trial for run in grids for trial in tuning_runs(run)}
    context.console.say(f"tuning on val: {len(trials)} runs on a separate seed")
    done = find_all_done(list(trials.values()), context)
    results = carry_out(list(trials.values()), done, plan, context)
    scores = {i: r.details["val_score"] for i, r in results.items() if r.ok and r.details["val_score"] is not None}
    settled, left_out = [], []
    for run in plan.runs:
        if not run.protocol.tune:
            settled.append(run)
            continue
        try:
            settled.append(settle(run, scores))
        except KeyError:
            left_out.append(run)
    for shown, dataset in dict.fromkeys((run.shown, run.dataset) for run in left_out):
        context.console.warn(f"{shown} on {dataset}: all tuning runs failed; it is left out")
    return settled, left_out


def tuning_runs(run: Run) -> list[Run]:
    """List the runs on the tuning seed that score the grid of `run`, one per point."""
    names = [name for name, _ in run.protocol.tune]
    return [
        with_protocol(
            run,
            replace(run.protocol, **dict(zip(names, point, strict=True)), tune=()),
            seed=TUNING_SEED,
            purpose="tune",
        )
        for point in itertools.product(*(values for _, values in run.protocol.tune))
    ]


def settle(run: Run, val_scores: Mapping[str, float]) -> Run:
    """Set the protocol of a run to the grid point with the highest val score; `val_scores` is by run id.

    Ties go to the earlier point. Raises KeyError if no tuning run has a score.
    """
    candidates = [candidate for candidate in tuning_runs(run) if candidate.id in val_scores]
    if not candidates:
        raise KeyError(run.id)
    winner = max(candidates, key=lambda candidate: val_scores[candidate.id])
    notes = []
    for name, values in run.protocol.tune:
        chosen = getattr(winner.protocol, name)
        ordered = len(values) > 1 and all(type(value) in (int, float) for value in values)
        edge = " (winner at the edge)" if ordered and chosen in (min(values), max(values)) else ""
        notes.append(f"tuned {name}: {format_value(chosen)} of {', '.join(map(format_value, values))}{edge}")
    return with_protocol(
        run,
        winner.protocol,
        tuned="; ".join(notes),
        tuned_fields=tuple(name for name, _ in run.protocol.tune),
        num_tuning_runs=len(tuning_runs(run)),
    )


def format_value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
