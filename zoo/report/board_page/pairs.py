"""Pairs of models: the matrix of differences with their verdicts, and the images on which the best ones disagree."""

from __future__ import annotations

from typing import Any

from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number, p_value
from zoo.leaderboard.pairwise import contrast
from zoo.leaderboard.significance import Difference
from zoo.leaderboard.ties import index_pairs
from zoo.report.board_page.tables import describe_table
from zoo.report.pairs import difference_statements, disagreements_section, signed

MAX_MATRIX_ROWS = 12
MAX_CONTRASTS = 3  # the best model beside each of the next ones


def describe_model_pairs(board: Board) -> dict[str, Any] | None:
    """The matrix of differences after Holm, and where the best model and the next ones disagree; None for one model."""
    scored = [place for place, row in enumerate(board.rows) if row.stored and not row.baseline]
    if len(scored) < 2 or board.is_control:
        return None
    ranked = [place for place in scored if board.rank(place) is not None]
    shown = ranked[:MAX_MATRIX_ROWS]
    best = board.comparisons.winner if board.comparisons.winner is not None else scored[0]
    rivals = [place for place in scored if place != best][:MAX_CONTRASTS]
    return {
        "metric": board.primary_metric,
        "inside": describe_inside(board, len(scored)),
        "labels": [board.rows[place].label for place in shown],
        "rows": describe_matrix(board, shown) if len(shown) > 1 else [],
        "num_left_out": len(ranked) - len(shown),
        "contrasts": [describe_contrast_of(board, best, rival) for rival in rivals],
    }


def describe_inside(board: Board, num_models: int) -> str:
    """What the section holds, while it is closed."""
    tested = f"{len(board.comparisons.pairs)} tested differences between {num_models} models, and " * bool(
        board.comparisons.pairs
    )
    return f"{tested}the images on which the best models disagree"


def describe_matrix(board: Board, shown: list[int]) -> list[dict[str, Any]]:
    pairs = index_pairs(board.comparisons)
    rows = []
    for one in shown:
        cells = []
        for other in shown:
            forward, backward = pairs.get((one, other)), pairs.get((other, one))
            if forward:
                cells.append(describe_cell(forward, 1.0, one))
            elif backward:
                cells.append(describe_cell(backward, -1.0, one))
            else:
                cells.append({"text": "", "words": "", "interval": "", "kind": "self"})
        rows.append({"label": board.rows[one].label, "cells": cells})
    return rows


def describe_cell(pair: Difference, sign: float, one: int) -> dict[str, str]:
    """The difference of a pair, its verdict for the row's model, and its interval. `sign`: -1 for the other order."""
    low, high = sorted((sign * pair.low, sign * pair.high))
    kind = "tie" if pair.winner is None else "better" if pair.winner == one else "worse"
    return {
        "text": signed(sign * pair.difference) if pair.difference else number(0.0),
        "words": {"tie": "tied", "better": "better", "worse": "worse"}[kind],
        "interval": f"95 % {signed(low)} to {signed(high)}; {p_value(pair.p_holm)} after Holm",
        "kind": kind,
    }


def describe_contrast_of(board: Board, best: int, rival: int) -> dict[str, Any]:
    """Two models side by side, as `zoo compare` shows them."""
    compared = contrast(board, best, rival)
    names = [board.rows[place].label for place in (best, rival)]
    # The list shows targets by image name, which a license may forbid to share.
    may_show = board.facts.get("share_targets", True) and bool(compared.disagreements)
    return {
        "names": names,
        "lines": difference_statements(compared),
        "table": describe_table(disagreements_section(compared)) if may_show else None,
        "withheld": not board.facts.get("share_targets", True),
    }
