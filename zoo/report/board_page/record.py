"""How a board was made."""

from __future__ import annotations

from zoo.errors import clean
from zoo.leaderboard.boards import Board
from zoo.report.statements import case_name


def describe_making(board: Board) -> list[tuple[str, str]]:
    """How the board was made: hashes, splits, protocol, versions, dates."""
    facts, test = board.facts, board.facts["splits"]["test"]
    first, last = board.dates
    counts = ", ".join(f"{name} {facts['splits'][name]['images']}" for name in ("train", "val", "test"))
    found = [
        ("dataset", f"{board.dataset} ({facts['content_hash'][:16]})"),
        ("split", f"{facts['split_origin']} ({facts['split_hash'][:16]}): {counts} images"),
        ("unit", f"{case_name(board)}" + (f", {test['patients']} in test" if facts["has_patients"] else "")),
        ("protocol", board.protocol),
        ("license of the data", facts.get("license") or "not stated"),
        ("citation", facts.get("citation") or "not stated"),
        ("device", board.device),
        ("dates", first if first == last else f"{first} to {last}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(board.versions.items()))),
    ]
    return [(name, clean(text)) for name, text in found if text]
