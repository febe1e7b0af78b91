"""Format a verification as lines of text and as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import clean
from zoo.report.deviations import deviation_text
from zoo.results.verifying import CANNOT_DETECT, Verification


def verification_lines(verification: Verification) -> list[str]:
    lines = [f"difference: {file}: {what}" for file, what in verification.differences]
    lines += [f"note: {note}" for note in list_notes(verification)]
    lines += [
        f"not recomputed: {count} scores: {clean(why)}" for why, count in sorted(verification.not_recomputed.items())
    ]
    for part in verification.datasets:
        words = {"same": "the same content and split on this machine", "not compared": "not compared with the data"}
        hashes = f"content {part['content_hash'][:8]}, split {part['split_hash'][:8]}"
        lines.append(clean(f"dataset {part['name']}: {hashes}: {words.get(part['here'], part['here'])}"))
    num_runs, num_scores, num_intervals = len(verification.results), verification.num_scores, verification.num_intervals
    counted = f"{num_runs} runs, {num_scores} scores and {num_intervals} intervals recomputed"
    lines.append(
        f"{counted}: {len(verification.differences) or 'no'} difference{'s' * (len(verification.differences) != 1)}"
    )
    lines.append(f"not detected: {CANNOT_DETECT}")
    return lines


def list_notes(outcome: Verification) -> list[str]:
    """List what a reader should know besides the differences."""
    return [clean(f"{file}: {deviation_text(deviation)}") for file, deviation in outcome.undeclared]


def describe_verification(outcome: Verification, path: Path) -> dict[str, Any]:
    """Return the document of `zoo verify --json`."""
    return {
        "schema": 1,
        "command": "verify",
        "bundle": str(path),
        "zoo": outcome.zoo,
        "runs": len(outcome.results),
        "recomputed": {"scores": outcome.num_scores, "intervals": outcome.num_intervals},
        "differences": [{"file": file, "what": what} for file, what in outcome.differences],
        "not_recomputed": [{"why": why, "scores": count} for why, count in sorted(outcome.not_recomputed.items())],
        "notes": list_notes(outcome),
        "datasets": outcome.datasets,
        "cannot_detect": CANNOT_DETECT,
    }
