"""Format a verification as lines of text."""

from __future__ import annotations

from zoo.errors import clean
from zoo.results.verifying import CANNOT_DETECT, Verification


def verification_lines(verification: Verification) -> list[str]:
    lines = [f"difference: {file}: {what}" for file, what in verification.differences]
    lines += [f"note: {clean(note)}" for note in verification.notes]
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
