"""Sections as tables of texts."""

from __future__ import annotations

from typing import Any

from zoo.evaluation.values import Score
from zoo.leaderboard.formatting import section_cell
from zoo.leaderboard.tables import Cell, Section


def describe_table(section: Section) -> dict[str, Any]:
    """A section below a board as a table of texts."""
    return {
        "name": section.name,
        "title": section.title,
        "columns": list(section.columns),
        "rows": [[format_cell(cell) for cell in cells] for cells in section.rows],
        "notes": list(section.notes),
    }


def format_cell(cell: Cell) -> str:
    """A cell as text; an interval stays on one line."""
    text = section_cell(cell)
    return text.replace(" ", "\N{NO-BREAK SPACE}") if isinstance(cell, Score) else text
