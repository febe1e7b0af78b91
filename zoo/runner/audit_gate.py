"""Audit the datasets of a plan, and remove the runs on refused ones."""

from __future__ import annotations

from dataclasses import replace

from zoo.auditing.audit import run_audit
from zoo.auditing.external import External
from zoo.auditing.findings import Audit
from zoo.auditing.overlap import audit_external
from zoo.errors import ZooError
from zoo.runner.planning import Plan
from zoo.specs.deviation import Deviation
from zoo.specs.suite import Suite
from zoo.system.progress import Console


def audit_plan(plan: Plan, suite: Suite, console: Console) -> Plan:
    """Remove the runs on datasets with leaks from a plan; with `--allow-leak`, keep and stamp them instead."""
    refused, stamped = dict(plan.refused), set()
    for name, (source, split) in plan.sources.items():
        with console.counting(f"auditing {name}"):
            report = run_audit(source, split, plan.fingerprints[name])
        if report_findings(report, suite, refused, console):
            stamped.add(name)
    runs = [run for run in plan.runs if run.dataset not in refused]
    stamp = Deviation("leak-allowed", (suite.allow_leak,))
    runs = [replace(r, deviations=(*r.deviations, stamp)) if r.dataset in stamped else r for r in runs]
    externals: dict[str, tuple[External, ...]] = {}
    for name, parts in plan.externals.items():
        for external in parts if name not in refused else ():
            report = audit_external(name, external)
            allowed = suite.allow_leak if report_findings(report, suite, refused, console) else ""
            if report.dataset not in refused:
                externals[name] = (*externals.get(name, ()), replace(external, leak_allowed=allowed))
    return replace(plan, runs=tuple(runs), externals=externals, refused=tuple(refused.items()))


def report_findings(report: Audit, suite: Suite, refused: dict[str, ZooError], console: Console) -> bool:
    """Print the findings of an audit, and add a refused dataset to `refused`.

    Returns whether the dataset has a leak that the suite allows.
    """
    name = report.dataset
    for finding in report.findings:
        if finding.verdict == "warn":
            console.say(f"{name}: {finding.message}")
    error = report.refusal()
    if error and suite.allow_leak:
        console.warn(f"{name}: leak allowed ({suite.allow_leak}): {error.message}")
    elif error:
        refused[name] = error
    return bool(error and suite.allow_leak)
