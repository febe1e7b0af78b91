"""Quality against cost as Pareto plots."""

from __future__ import annotations

from zoo.leaderboard.boards import Board
from zoo.report.charts import Mark, draw_scatter

COST_AXES = (
    ("num_parameters", "parameters"),
    ("flops", "FLOPs per image"),
    ("latency_seconds", "latency at batch 1 (s)"),
    ("peak_memory_bytes", "peak memory (bytes)"),
    ("train_seconds", "training (s)"),
)


def describe_costs(board: Board) -> list[dict[str, str]]:
    """Quality against each cost that was measured, the Pareto front joined."""
    sign = 1.0 if board.higher_is_better else -1.0
    figures = []
    for name, label in COST_AXES:
        points = [
            (row.label, float(cost), score.value)
            for row in board.rows
            if not row.baseline
            and (cost := row.cost.get(name))
            and (score := row.scores.get(board.primary_metric))
            and score.value is not None
        ]
        if len(points) < 2:
            continue
        marks = [
            Mark(
                shown,
                x,
                y,
                not any(
                    (other <= x and sign * value >= sign * y) and (other < x or sign * value > sign * y)
                    for _, other, value in points
                ),
            )
            for shown, x, y in points
        ]
        front = ", ".join(mark.name for mark in sorted(marks, key=lambda mark: mark.x) if mark.best)
        text = f"{board.primary_metric} against {label}; on the Pareto front: {front}"
        chart = draw_scatter(marks, (label, board.primary_metric), text, log_x=True)
        figures.append({"name": name, "label": label, "chart": chart, "text": text})
    return figures
