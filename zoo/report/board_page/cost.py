"""Quality against cost as Pareto plots, one per cost; a reader chooses the axis."""

from __future__ import annotations

from zoo.leaderboard.boards import Board
from zoo.report.charts import Mark, draw_scatter
from zoo.report.text import join_names

COST_AXES = (
    ("num_parameters", "parameters"),
    ("flops", "FLOPs per image"),
    ("latency_seconds", "latency at batch 1 (s)"),
    ("peak_memory_bytes", "peak memory (bytes)"),
    ("train_seconds", "training (s)"),
)


def describe_costs(board: Board) -> list[dict[str, str]]:
    """Quality against each cost that was measured, the Pareto front joined."""
    figures = []
    for name, label in COST_AXES:
        marks = mark_front(board, name)
        if len(marks) < 2:
            continue
        front = [mark.name for mark in sorted(marks, key=lambda mark: mark.x) if mark.best]
        text = (
            f"{board.primary_metric} against {label} of {len(marks)} models; on the Pareto front, from cheap to "
            f"expensive: {join_names(front)}"
        )
        chart = draw_scatter(marks, (label, board.primary_metric), text, log_x=True)
        figures.append({"name": name, "label": label, "chart": chart, "text": text})
    return figures


def mark_front(board: Board, cost: str) -> list[Mark]:
    """The models that have a score and this cost; `best` if none is both cheaper and better, or equal in one."""
    sign = 1.0 if board.higher_is_better else -1.0
    points = [
        (row.label, float(x), score)
        for row in board.rows
        if not row.baseline
        and (x := row.cost.get(cost))
        and (score := row.scores.get(board.primary_metric))
        and score.value is not None
    ]
    marks, best = [], float("-inf")
    for label, x, score in sorted(points, key=lambda point: (point[1], -sign * (point[2].value or 0.0), point[0])):
        assert score.value is not None
        on_front = sign * score.value > best
        best = max(best, sign * score.value)
        marks.append(Mark(label, x, score.value, on_front, (score.low, score.high)))
    return marks
