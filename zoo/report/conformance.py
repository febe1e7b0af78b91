"""The outcome of the checks of plugins, as text, Markdown and plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from zoo.conformance.running import CheckPlan, CheckResult
from zoo.errors import clean, plural_of
from zoo.report.board_markdown import escape

ENDINGS = {
    "crashed": "its process crashed",
    "timeout": "it did not end in time",
    "oom": "its process was killed, most likely for lack of memory",
}


def show_reason(result: CheckResult) -> str:
    end = ENDINGS.get(result.ended, "")
    return clean(f"{end}: {result.reason}" if end else result.reason)


def count_outcomes(results: Sequence[CheckResult]) -> str:
    """`3 failed, 20 passed, 2 skipped`."""
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("failed", "passed", "skipped") if counts[outcome])


def left_out_lines(plan: CheckPlan) -> list[str]:
    return [
        f"{plugin}: {count} more {plural_of(kind)} are not checked; name one: zoo plugin check {plugin}:NAME"
        for (plugin, kind), count in plan.left_out.items()
    ]


def check_lines(results: Sequence[CheckResult], plan: CheckPlan) -> list[str]:
    """A line for each spec, with a line for each failed check below it, then the total."""
    lines = []
    for (plugin, kind, name), group in groupby(results, lambda r: (r.task.plugin, r.task.kind, r.task.name)):
        own = list(group)
        subject = plugin if kind == "plugin" else f"{plugin}: {kind} {name}"
        lines.append(f"{subject}: {count_outcomes(own)}")
        lines += [
            f"  failed {result.task.check}: {show_reason(result)}" for result in own if result.outcome == "failed"
        ]
        skipped: dict[str, list[str]] = {}
        for result in own:
            if result.outcome == "skipped":
                skipped.setdefault(show_reason(result), []).append(result.task.check)
        lines += [f"  skipped {', '.join(checks)}: {reason}" for reason, checks in skipped.items()]
    return [*lines, *left_out_lines(plan), count_outcomes(results) or "nothing to check"]


def check_markdown(results: Sequence[CheckResult], plan: CheckPlan) -> list[str]:
    """A table of all checks, for a README or an issue."""
    rows = ["| plugin | spec | check | claim | outcome |", "|---|---|---|---|---|"]
    for result in results:
        task = result.task
        spec = "" if task.kind == "plugin" else f"{task.kind} `{task.name}`"
        reason = f": {escape(show_reason(result))}" if result.reason or result.ended in ENDINGS else ""
        rows.append(f"| {task.plugin} | {spec} | `{task.check}` | {task.claim} | {result.outcome}{reason} |")
    return [*rows, "", *left_out_lines(plan), count_outcomes(results)]


def check_document(results: Sequence[CheckResult], plan: CheckPlan) -> dict[str, Any]:
    return {
        "schema": 1,
        "command": "plugin check",
        "checks": [describe_check(result) for result in results],
        "left_out": [{"plugin": plugin, "kind": kind, "count": n} for (plugin, kind), n in plan.left_out.items()],
    }


def describe_check(result: CheckResult) -> Mapping[str, Any]:
    task = result.task
    return {
        "plugin": task.plugin,
        "kind": task.kind,
        "name": task.name,
        "check": task.check,
        "claim": task.claim,
        "outcome": result.outcome,
        "ended": result.ended,
        "reason": result.reason or None,
    }
