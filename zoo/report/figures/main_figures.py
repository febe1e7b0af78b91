"""The board itself as figures: the primary metric of every row, and quality against each cost.

The page shows them in its table and in a section of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number, with_interval
from zoo.report.board_page.cost import describe_costs
from zoo.report.charts import fit_axis
from zoo.report.figures.figure import Figure, figure_name
from zoo.report.figures.plots import Dot, DotRow, draw_dots
from zoo.report.reasons import reason_text
from zoo.report.text import join_names

MAX_DRAWN_ROWS = 40  # the data have all


def list_main_figures(board: Board) -> Iterator[Figure]:
    """The scores and the costs of a board; nothing for a board without a score."""
    found = [row.scores.get(board.primary_metric) for row in board.rows if not row.baseline]
    if any(each and each.value is not None for each in found):
        yield draw_scores(board)
        yield from draw_costs(board)


def draw_scores(board: Board) -> Figure:
    """The primary metric of every model with its interval, and the baselines as lines."""
    metric = board.primary_metric
    found = [(row, row.scores.get(metric) or Score(value=None)) for row in board.rows]
    models = [(row.label, each) for row, each in found if not row.baseline][:MAX_DRAWN_ROWS]
    baselines = [(row.label, each.value) for row, each in found if row.baseline and each.value is not None]
    rows = [
        DotRow(
            name=label,
            remark=with_interval(each),
            dots=(Dot(series=0, value=each.value, low=each.low, high=each.high),),
        )
        for label, each in models
    ]
    values = [value for _, each in models for value in (each.value, each.low, each.high) if value is not None]
    text = f"{metric} of {join_names([f'{label} {with_interval(each)}' for label, each in models])}" + "".join(
        f"; baseline {label} {number(value)}" for label, value in baselines
    )
    axis = fit_axis([*values, *(value for _, value in baselines)])
    return Figure(
        name="scores",
        title=f"{metric} of every model",
        text=f"{text}.",
        columns=("model", "baseline", "rank", metric, "low", "high", "reason"),
        rows=tuple(
            (
                row.label,
                int(row.baseline),
                board.rank(place),
                each.value,
                each.low,
                each.high,
                each.reason and reason_text(each.reason),
            )
            for place, (row, each) in enumerate(found)
        ),
        svg=draw_dots(rows, (metric,), (axis, metric), baselines, f"{text}."),
        note="Dots with 95 % intervals; dashed: the baselines.",
    )


def draw_costs(board: Board) -> Iterator[Figure]:
    for chart in describe_costs(board):
        rows = [
            (row.label, row.cost[chart["name"]], found.value, found.low, found.high)
            for row in board.rows
            if not row.baseline and row.cost.get(chart["name"]) and (found := row.scores.get(board.primary_metric))
        ]
        yield Figure(
            name=figure_name("cost", chart["name"]),
            title=f"{board.primary_metric} against {chart['label']}",
            text=f"{chart['text']}.",
            columns=("model", chart["label"], board.primary_metric, "low", "high"),
            rows=tuple(rows),
            svg=chart["chart"],
        )
