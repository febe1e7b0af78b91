"""The figures of a board, under the headings of their labels."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from zoo.leaderboard.boards import Board
from zoo.report.figures.board_figures import list_figures


def describe_figures(board: Board) -> dict[str, Any]:
    """What the template shows: the figures by group, the table of labels, and what is not drawn."""
    found = list_figures(board)
    groups = [
        {"heading": heading, "figures": list(figures)}
        for heading, figures in groupby(found.figures, key=lambda figure: figure.group)
    ]
    return {"groups": groups, "notes": list(found.notes)}
