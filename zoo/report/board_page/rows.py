"""The main table of a board, and what each row opens to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.evaluation.values import Reason, Score
from zoo.leaderboard.boards import Board, Row
from zoo.leaderboard.formatting import amount, format_rounded, milliseconds, number, with_interval
from zoo.report.charts import Axis, draw_axis, draw_interval, fit_axis
from zoo.report.statements import row_statements


def describe_rows(board: Board) -> dict[str, Any]:
    """Columns and rows of the main table; the primary metric as a dot with its interval on a common axis."""
    scores = [row.scores.get(board.primary_metric) for row in board.rows]
    values = [v for s in scores if s for v in (s.value, s.low, s.high) if v is not None]
    axis = fit_axis(values)
    references = [
        s.value for row, s in zip(board.rows, scores, strict=True) if row.baseline and s and s.value is not None
    ]
    rows = [describe_row(board, place, axis, references) for place in range(len(board.rows))]
    return {
        "metric": board.primary_metric,
        "axis": draw_axis(axis, f"axis of {board.primary_metric}"),
        "metrics": list(board.metrics[1:]),
        "rows": rows,
    }


def describe_row(board: Board, place: int, axis: Axis, references: Sequence[float]) -> dict[str, Any]:
    row = board.rows[place]
    score = row.scores.get(board.primary_metric) or Score(value=None, reason=Reason("not-run", "no finished run"))
    rank = board.rank(place)
    tied = board.tied_with(place)
    text = with_interval(score)
    return {
        "rank": "" if rank is None else str(rank),
        "tie": bool(tied),
        "label": row.label,
        "baseline": row.baseline,
        "plugin": row.qualified.partition(":")[0],
        "score": text,
        "sort": "" if score.value is None else f"{score.value:.12g}",
        "chart": draw_interval(
            score.value, (score.low, score.high), axis, references, f"{row.label}: {board.primary_metric} {text}"
        ),
        "seed_sd": number(row.seed_sd.get(board.primary_metric)),
        "metrics": [number(row.scores[m].value) if m in row.scores else "-" for m in board.metrics[1:]],
        "params": "" if row.baseline else amount(row.cost["num_parameters"]),
        "latency": "" if row.baseline else milliseconds(row.cost["latency_seconds"]),
        "seconds": "" if row.baseline else format_rounded(row.cost["train_seconds"], 0),
        "coverage": f"{row.coverage[0]} of {row.coverage[1]}",
        "incomplete": row.coverage[0] < row.coverage[1],
        "details": describe_details(board, row, tied),
    }


def describe_details(board: Board, row: Row, tied: Sequence[str]) -> list[tuple[str, str]]:
    """What a row opens to: its runs, the command that repeats it, what deviates."""
    found = [("runs", f"{row.coverage[0]} of {row.coverage[1]} count: {' '.join(run[:8] for run in row.run_ids)}")]
    if not row.baseline:
        found.append(("repeat", repeat_command(board, row)))
        found.append(("weights", row.weights if row.weights != "random init" else "random init"))
    if tied:
        found.append(("no detectable difference from", ", ".join(tied)))
    found += [("note", line.partition(": ")[2] or line) for line in row_statements(row, board)]
    return found


def repeat_command(board: Board, row: Row) -> str:
    protocol = board.protocol.partition("@")[0]
    weights = " --weights none" if row.weights == "random init" else ""
    seeds = ",".join(map(str, row.seeds)) or "0"
    return (
        f"zoo bench --models {row.qualified} --datasets {board.dataset} --protocol {protocol} --seeds {seeds}{weights}"
    )
