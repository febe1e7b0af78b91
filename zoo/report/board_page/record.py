"""How a board was made: data, splits, every field of the protocol, machines, versions, dates, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import clean, plural_of
from zoo.leaderboard.boards import Board
from zoo.report.board_page.checklists import fill_checklists
from zoo.report.board_page.rows import override_text
from zoo.report.board_page.tables import shorten_line
from zoo.report.statements import case_name, interval_statement, not_shown_statement, statements, title
from zoo.results.runs import SHUFFLED


def describe_record(board: Board, anchor: str) -> dict[str, Any]:
    """The record of one board, at the end of the page."""
    record = board.record
    return {
        "anchor": anchor,
        "dataset": board.dataset,
        "title": title(board),
        "facts": describe_making(board),
        "protocol": describe_distinct(record.protocol),
        "versions": describe_distinct(record.versions),
        "system": describe_distinct({**record.setup, **record.system}),
        "limits": list_limits(board),
        "statements": list(map(shorten_line, statements(board))),
        "checklists": fill_checklists(board),
    }


def describe_making(board: Board) -> list[tuple[str, str]]:
    """The data and the runs: hashes, splits, protocol, dates."""
    facts = board.facts
    first, last = board.dates
    seeds = sorted({seed for row in board.rows if not row.baseline for seed in row.seeds})
    expected = sum(row.coverage[1] for row in board.rows)
    found = [
        ("dataset", f"{board.dataset}: {facts.get('title') or 'no title recorded'}"),
        ("content hash", facts["content_hash"]),
        ("split", f"{facts['split_origin'] or 'origin not recorded'}, hash {facts['split_hash']}"),
        ("images", ", ".join(describe_split(board, name) for name in facts["splits"])),
        ("unit of scoring", f"{facts['unit']}; patient key: {facts.get('patient') or 'not recorded'}"),
        ("reference standard", facts.get("reference_standard") or "not recorded"),
        ("license of the data", facts.get("license") or "not recorded"),
        ("citation of the data", facts.get("citation") or "not recorded"),
        ("protocol", describe_protocol(board)),
        ("seeds", ", ".join(map(str, seeds)) or "none finished"),
        ("runs", f"{sum(len(row.run_ids) for row in board.rows)} of {expected} count"),
        ("device", board.device),
        ("dates", " to ".join(dict.fromkeys(filter(None, (first, last)))) or "not recorded"),
        ("bundle", board.bundle),
    ]
    return [(name, clean(text)) for name, text in found if text]


def describe_protocol(board: Board) -> str:
    """The label of the protocol, its published title, and the fields that were changed."""
    titles = " / ".join(str(title) for title in board.record.protocol.get("title", ()) if title)
    changed = [override_text(part) for part in board.label_parts[2:] if part != SHUFFLED]
    published = f"{board.protocol}: {titles}" if titles else board.protocol
    return published + (f"; changed from the published protocol: {', '.join(changed)}" if changed else "")


def describe_split(board: Board, name: str) -> str:
    split = board.facts["splits"][name]
    patients = f" of {split['patients']} {plural_of(case_name(board))}" if board.facts["has_patients"] else ""
    return f"{name} {split['images']}{patients}"


def describe_distinct(values: Mapping[str, Sequence[Any]]) -> list[tuple[str, str]]:
    """Each name with its values: several where the runs differ."""
    return [(clean(name), clean(" / ".join(map(format_setting, each)))) for name, each in sorted(values.items())]


def format_setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(format_setting, value)) or "none"
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def list_limits(board: Board) -> list[str]:
    """What the board does not show."""
    lines = [not_shown_statement(board), interval_statement(board)]
    if not board.facts["has_patients"]:
        lines.append(
            "patients are unknown: images of one patient may be in train and in test, and count as independent"
        )
    if board.demonstration:
        lines.append("the protocol is for demonstration; its numbers are not for publication")
    return lines
