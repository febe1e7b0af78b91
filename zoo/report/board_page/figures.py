"""The figures of a board, under the headings of their labels."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number
from zoo.report.figures.board_figures import OF_THE_BOARD, list_figures
from zoo.report.figures.figure import Figure
from zoo.report.summary import list_some

MAX_OPEN_LABELS = 2


def describe_figures(board: Board) -> dict[str, Any]:
    """What the template shows: the figures by group, all but the first labels folded, and what is not drawn."""
    found = list_figures(board)
    groups = [
        {"heading": heading, "figures": [describe_figure(figure) for figure in figures], "folded": False}
        for heading, figures in groupby(found.figures, key=lambda figure: figure.group)
    ]
    for group in [group for group in groups if group["heading"] not in OF_THE_BOARD][MAX_OPEN_LABELS:]:
        group["folded"] = True
    titles = list(dict.fromkeys(figure.title for figure in found.figures))
    return {"groups": groups, "notes": list(found.notes), "inside": list_some(titles)}


def describe_figure(figure: Figure) -> dict[str, Any]:
    rows = [[number(c) if isinstance(c, float) else "" if c is None else str(c) for c in row] for row in figure.rows]
    return {
        "title": figure.title,
        "svg": figure.svg,
        "note": figure.note,
        "wide": figure.wide,
        "table": {"title": figure.title, "columns": figure.columns, "rows": rows, "notes": ()}
        if figure.tabled
        else None,
    }
