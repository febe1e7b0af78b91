"""Sections as tables of texts."""

from __future__ import annotations

from typing import Any

from zoo.evaluation.values import Score
from zoo.leaderboard.formatting import section_cell
from zoo.leaderboard.tables import Cell
from zoo.report.reasons import section_notes
from zoo.specs.section import Section

MAX_ROWS = 30  # perf: 300 models x 6 datasets with all their tables would take 3 MB


def describe_table(section: Section) -> dict[str, Any]:
    """A section below a board as a table of texts: its first rows, and where the others are."""
    more = len(section.rows) - MAX_ROWS
    left_out = f"{more} further rows are in the CSV of this report only"
    return {
        "name": section.name,
        "title": section.title,
        "inside": f"table of {len(section.rows)} row{'s' * (len(section.rows) != 1)}",
        "text": section.text,
        "columns": list(section.columns),
        "rows": [[format_cell(cell) for cell in cells] for cells in section.rows[:MAX_ROWS]],
        "notes": [*section_notes(section), *([left_out] if more > 0 else [])],
    }


def format_cell(cell: Cell) -> str:
    """A cell as text; an interval stays on one line."""
    text = section_cell(cell)
    return text.replace(" ", "\N{NO-BREAK SPACE}") if isinstance(cell, Score) else text


MAX_LINE = 500


def shorten_line(line: str) -> str:
    """A sentence, cut where it lists the names of very many models."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} …"
