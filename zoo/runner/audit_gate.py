"""What an audit refuses does not run."""

from __future__ import annotations

from dataclasses import replace

from zoo.audit.external import External
from zoo.audit.leaks import Audit, audit
from zoo.audit.overlap import audit_external
from zoo.errors import ZooError
from zoo.results.runs import LEAK_ALLOWED
from zoo.runner.planning import Plan
from zoo.runner.suites import Suite
from zoo.system.progress import Console


def audit_plan(plan: Plan, suite: Suite, console: Console) -> Plan:
    """The plan without the runs on datasets that leak; where that is allowed, with every such run stamped."""
    refused, stamped = dict(plan.refused), set()
    for name, (source, split) in plan.sources.items():
        with console.counting(f"auditing {name}"):
            audited = audit(source, split, plan.fingerprints[name])
        if admit(audited, suite, refused, console):
            stamped.add(name)
    runs = [run for run in plan.runs if run.dataset not in refused]
    stamp = f"{LEAK_ALLOWED} {suite.allow_leak}"
    runs = [replace(r, deviations=(*r.deviations, stamp)) if r.dataset in stamped else r for r in runs]
    externals: dict[str, tuple[External, ...]] = {}
    for name, parts in plan.externals.items():
        for external in parts if name not in refused else ():
            audited = audit_external(name, external)
            allowed = suite.allow_leak if admit(audited, suite, refused, console) else ""
            if audited.dataset not in refused:
                externals[name] = (*externals.get(name, ()), replace(external, leak_allowed=allowed))
    return replace(plan, runs=tuple(runs), externals=externals, refused=tuple(refused.items()))


def admit(audited: Audit, suite: Suite, refused: dict[str, ZooError], console: Console) -> bool:
    """Say what an audit found, and add what it refuses to `refused`; True where that was allowed by the suite."""
    name = audited.dataset
    for finding in audited.findings:
        if finding.verdict == "warn":
            console.say(f"{name}: {finding.message}")
    error = audited.refusal()
    if error and suite.allow_leak:
        console.warn(f"{name}: leak allowed ({suite.allow_leak}): {error.message}")
    elif error:
        refused[name] = error
    return bool(error and suite.allow_leak)
