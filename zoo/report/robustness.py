"""Render the scores of a model under corruptions as lines of text and as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from zoo.errors import clean
from zoo.explaining.robustness import CorruptedScore, Robustness
from zoo.leaderboard.formatting import disarm, number, p_value, with_interval
from zoo.report.reasons import reason_text
from zoo.report.text import table_lines
from zoo.system.files import written_whole

DROP_NOTES = (
    "drop: how much worse than without a corruption; above 0 is worse",
    "interval of the drop: 95 %, paired by patient; p: adjusted by Holm over all rows",
)


def robustness_lines(robustness: Robustness) -> list[str]:
    people = f", {robustness.num_patients} patients" if robustness.has_patients else ""
    reasons = dict.fromkeys(reason_text(row.score.reason) for row in robustness.rows if row.score.reason)
    tested = any(row.drop for row in robustness.rows)
    return [
        f"{clean(robustness.model)} · {robustness.metric} · {robustness.num_inputs} test {robustness.inputs}{people}",
        "",
        *table_lines([table_row(row, robustness.metric) for row in robustness.rows]),
        "",
        *(DROP_NOTES if tested else ["no drops: a test needs more patients"]),
        *(f"missing: {reason}" for reason in reasons),
        *(f"left out: {name} does not take {robustness.inputs}" for name in robustness.left_out),
    ]


def table_row(row: CorruptedScore, metric: str) -> dict[str, Any]:
    drop = row.drop
    return {
        "corruption": row.corruption,
        "severity": str(row.severity) if row.severity else "-",
        metric: with_interval(row.score),
        "drop": f"{number(drop.value)} [{number(drop.low)} {number(drop.high)}]" if drop else "-",
        "test": p_value(drop.p) if drop else "-",
    }


def write_robustness(path: Path, robustness: Robustness) -> None:
    """Write one line per corruption and severity, with all digits; empty where there is no value."""
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(
            ["model", "metric", "corruption", "severity", "score", "low", "high", "drop", "drop_low", "drop_high", "p"]
        )
        for row in robustness.rows:
            score, drop = row.score, row.drop or ("",) * 4
            names = (robustness.model, robustness.metric, row.corruption, row.severity)
            rows.writerow([disarm(value) for value in (*names, score.value, score.low, score.high, *drop)])
