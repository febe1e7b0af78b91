"""Render an audit as lines of text."""

from __future__ import annotations

import shlex

from zoo.auditing.examine import FixedCard
from zoo.auditing.findings import Audit, Finding, Suspect
from zoo.errors import clean

NAMED_SUSPECTS = 10  # in the terminal; --json and --html list all


def audit_lines(audited: Audit) -> list[str]:
    """Render the verdict, one line per finding (worst first), and the checks that passed.

    Without findings this is a single line.
    """
    scope, head = audited.scope, f"{clean(audited.dataset)}: {audited.verdict}"
    if scope is None:
        return [head, *(line for finding in audited.findings for line in finding_lines(finding))]
    head, summary = f"{head}: {clean(scope.size())}", clean(scope.summary(audited.failed_checks))
    findings = [finding for finding in audited.findings if finding.check not in scope.skipped]
    if not findings:
        return [f"{head}; {summary}"]
    lines = [line for finding in findings for line in finding_lines(finding)]
    return [head, *lines, f"  {'ok':6}  {summary}"] if summary else [head, *lines]


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
    return clean(f"{suspect.score:.2f}  {suspect.sample}: {what}{suspect.given}, suggested {suspect.suggested}")


def fixed_lines(fixed: FixedCard) -> list[str]:
    """Report the images left out and how to use the written card."""
    if fixed.path is None:
        return ["nothing to leave out: no card was written"]
    lines = [clean(note) for note in fixed.exclusions.notes]
    path, count = clean(fixed.path), len(fixed.exclusions.sample_ids)
    lines.append(f"{path}: {count} images left out; the data files are unchanged")
    lines += ["audit of the new card:", *(f"  {line}" for line in audit_lines(fixed.audit))]
    if fixed.audit.verdict != "refuse":
        lines.append(f"next: zoo bench --datasets {shlex.quote(path)}")
    return lines
