"""Cells of a board's table, as text."""

from __future__ import annotations

from zoo.errors import clean
from zoo.evaluation.methods import PATIENTS_AND_SEEDS
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number
from zoo.leaderboard.rows import Row

BASELINE_TEXT = {
    "constant": "baseline: class prior",
    "thumbnails": "baseline: a linear model on 8x8 images",
    "empty": "baseline: no mask",
    "atlas": "baseline: one mask for all images",
    "top-hat": "baseline: a filter of lines, nothing is learned",
    "second-reader": "reference: the masks of a second reader",
}

MAX_METRICS = 4  # of the task, beside the ranking metric and the requested ones


def short_metrics(board: Board) -> tuple[str, ...]:
    """The metrics beside the ranking one where space is short: the requested ones, and the first of the others."""
    return board.metrics[1 : 1 + len(board.requested) + MAX_METRICS]


def model_cell(row: Row) -> str:
    """The model with its weights tag; `*` marks a row that deviates or is incomplete."""
    mark = " *" if row.deviations or row.coverage[0] < row.coverage[1] else ""
    words = [name for name, holds in (("imported", row.is_imported), ("degenerate", row.degenerate)) if holds]
    words += [row.provenance] if row.provenance else []
    return clean(row.label) + mark + (f" ({', '.join(words)})" if words else "")


def rank_cell(board: Board, row: int) -> str:
    """The rank of the row at this position, or a dash."""
    rank = board.rank(row)
    return "-" if rank is None else str(rank)


def seed_cell(row: Row, metric: str) -> str:
    """The standard deviation between seeds, or that the outcome does not depend on the seed."""
    return "deterministic" if row.deterministic and not row.is_imported else number(row.seed_sd.get(metric))


def recipe_of(board: Board, row: Row) -> dict[str, str]:
    """The protocol and the kind of initial weights of a row: its own, or those that its board is for."""
    part = row if board.recipes else board
    return {"protocol": part.protocol, "init": part.init}


def primary_heading(board: Board) -> str:
    """The primary metric, and the sources of variation of its intervals if these are more than the patients."""
    scores = [row.scores[board.primary_metric] for row in board.rows if board.primary_metric in row.scores]
    varied = any(score.method and score.method.with_seeds for score in scores)
    return f"{board.primary_metric} [{PATIENTS_AND_SEEDS}]" if varied else board.primary_metric
