"""Sections as tables of texts."""

from __future__ import annotations

from typing import Any

from zoo.leaderboard.formatting import section_cell
from zoo.leaderboard.tables import Section


def describe_table(section: Section) -> dict[str, Any]:
    """A section below a board as a table of texts."""
    return {
        "name": section.name,
        "title": section.title,
        "columns": list(section.columns),
        "rows": [[section_cell(cell) for cell in cells] for cells in section.rows],
        "notes": list(section.notes),
    }
