"""An audit as lines of text."""

from __future__ import annotations

import shlex

from zoo.audit.examine import Fixed
from zoo.audit.leaks import Audit, Finding, Suspect
from zoo.errors import clean

NAMED_SUSPECTS = 10  # on a terminal; --json and --html have all


def audit_lines(audited: Audit) -> list[str]:
    """Format an audit: the verdict, one line per finding, the worst first, and the checks without findings.

    An audit without findings is one line.
    """
    scope, head = audited.scope, f"{clean(audited.dataset)}: {audited.verdict}"
    if scope is None:
        return [head, *(line for finding in audited.findings for line in finding_lines(finding))]
    head, nothing = f"{head}: {clean(scope.counted())}", clean(scope.clean(audited.found))
    shown = [finding for finding in audited.findings if finding.check not in scope.not_made]
    if not shown:
        return [f"{head}; {nothing}"]
    lines = [line for finding in shown for line in finding_lines(finding)]
    return [head, *lines, f"  {'ok':6}  {nothing}"] if nothing else [head, *lines]


def finding_lines(finding: Finding) -> list[str]:
    where = f" [{', '.join(finding.splits)}]" if finding.splits else ""
    fix = f"; fix: {clean(finding.fix)}" if finding.fix else ""
    lines = [f"  {finding.verdict:6}  {finding.check}{where}: {clean(finding.message)}{fix}"]
    lines += [f"          {suspect_line(suspect)}" for suspect in finding.suspects[:NAMED_SUSPECTS]]
    if len(finding.suspects) > NAMED_SUSPECTS:
        lines.append(f"          ... and {len(finding.suspects) - NAMED_SUSPECTS} more: --html FILE or --json")
    return lines


def suspect_line(suspect: Suspect) -> str:
    what = f"{suspect.label}: " if suspect.label else ""
    return clean(f"{suspect.score:.2f}  {suspect.sample}: {what}{suspect.given}, rather {suspect.suggested}")


def fixed_lines(fixed: Fixed) -> list[str]:
    """Format the result of `--fix`: what was excluded, and how to use the written card."""
    if fixed.path is None:
        return ["nothing to leave out: no card was written"]
    lines = [clean(note) for note in fixed.exclusions.notes]
    path, count = clean(fixed.path), len(fixed.exclusions.sample_ids)
    lines.append(f"{path}: {count} images left out; no file of the data was touched")
    lines += ["audited again, it is", *(f"  {line}" for line in audit_lines(fixed.audit))]
    if fixed.audit.verdict != "refuse":
        lines.append(f"use it: zoo bench --datasets {shlex.quote(path)}")
    return lines
