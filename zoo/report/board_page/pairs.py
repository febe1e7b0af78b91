"""Pairs of models: the matrix of differences with their verdicts."""

from __future__ import annotations

from typing import Any

from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number, p_value

MAX_MATRIX_ROWS = 12


def describe_matrix(board: Board) -> dict[str, Any] | None:
    """The differences between ranked rows with their verdicts after Holm."""
    ranked = [place for place, row in enumerate(board.rows) if board.rank(place) is not None][:MAX_MATRIX_ROWS]
    if len(ranked) < 2:
        return None
    rows = []
    for one in ranked:
        cells: list[dict[str, str]] = []
        for other in ranked:
            pair = None if one == other else board.comparisons.find(one, other)
            if pair is None:
                cells.append({"text": "", "title": "", "kind": "self"})
                continue
            sign = "+" if pair.difference > 0 else "-" if pair.difference < 0 else ""
            kind = "tie" if pair.winner is None else "better" if pair.winner == one else "worse"
            words = {"tie": "not detectable", "better": "better", "worse": "worse"}[kind]
            cells.append(
                {
                    "text": f"{sign}{number(abs(pair.difference))}",
                    "title": f"{words}; 95 % {number(pair.low)} to {number(pair.high)}; Holm {p_value(pair.p_holm)}",
                    "kind": kind,
                }
            )
        rows.append({"label": board.rows[one].label, "cells": cells})
    return {"labels": [board.rows[place].label for place in ranked], "rows": rows, "metric": board.primary_metric}
