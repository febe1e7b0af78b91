"""A verification as lines of text."""

from __future__ import annotations

from zoo.errors import clean
from zoo.results.verifying import CANNOT_DETECT, Verification


def verification_lines(found: Verification) -> list[str]:
    """Render a verification as lines of text."""
    lines = [f"difference: {file}: {what}" for file, what in found.differences]
    lines += [f"note: {clean(note)}" for note in found.notes]
    lines += [f"not recomputed: {count} scores: {clean(why)}" for why, count in sorted(found.not_recomputed.items())]
    for part in found.datasets:
        texts = {"same": "the same content and split on this machine", "not compared": "not compared with the data"}
        hashes = f"content {part['content_hash'][:8]}, split {part['split_hash'][:8]}"
        lines.append(clean(f"dataset {part['name']}: {hashes}: {texts.get(part['here'], part['here'])}"))
    counts = f"{len(found.results)} runs, {found.num_scores} scores and {found.num_intervals} intervals recomputed"
    lines.append(f"{counts}: {len(found.differences) or 'no'} difference{'s' * (len(found.differences) != 1)}")
    lines.append(f"not detected: {CANNOT_DETECT}")
    return lines
