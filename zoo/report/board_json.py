"""Boards as JSON: the document of `zoo report --format json`, and the rows of `zoo bench --json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.multi_dataset import Across, find_across
from zoo.leaderboard.tables import Section
from zoo.report.cells import recipe_of
from zoo.report.deviations import deviation_text
from zoo.report.formats import Layout
from zoo.report.reasons import describe_score, reason_text, section_notes, text_or_none
from zoo.report.statements import statements, title


def to_json(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """The whole document: boards with every statement and section, orders across datasets, and all rows."""
    document = {
        "schema": 1,
        "command": "report",
        "boards": [
            {
                "title": title(board),
                "statements": statements(board),
                "dataset": dict(board.facts),
                "configurations": board.num_configurations,
                "is_control": board.is_control,
                "controls": [{**asdict(verdict), "text": reason_text(verdict.text)} for verdict in board.controls],
                "comparisons": describe_comparisons(board),
                "sections": {section.name: describe_section(section) for section in board.sections},
            }
            for board in boards
        ],
        "across": [describe_across(across) for across in find_across(boards)],
        "leaderboard": leaderboard_items(boards),
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def leaderboard_items(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """All rows as plain data. `rank` is null if `unranked` has a reason."""
    items = []
    for board in boards:
        for position, row in enumerate(board.rows):
            score = row.scores.get(board.primary_metric)
            items.append(
                {
                    "dataset": board.dataset,
                    **recipe_of(board, row),
                    "model": row.model,
                    "label": row.label,
                    "qualified": row.qualified,
                    "weights": row.weights,
                    "baseline": row.baseline,
                    "rank": board.rank(position),
                    "tied_with": board.tied_with(position),
                    "unranked": text_or_none(board.comparisons.unranked[position]),
                    "metric": board.primary_metric,
                    "value": score.value if score else None,
                    "low": score.low if score else None,
                    "high": score.high if score else None,
                    "reason": text_or_none(score.reason if score else Reason("not-run")),
                    "seeds": len(row.seeds),
                    "seed_sd": row.seed_sd.get(board.primary_metric),
                    "deterministic": row.deterministic,
                    "coverage": f"{row.coverage[0]}/{row.coverage[1]}",
                    "scores": {name: describe_score(each) for name, each in row.scores.items()},
                    "cost": dict(row.cost),
                    "deviations": list(map(deviation_text, row.deviations)),
                    "runs": list(row.run_ids),
                    "degenerate": list(row.degenerate),
                    "tuned": row.tuned,
                    "provenance": row.provenance or None,
                    "bundle": board.bundle or None,
                    "content_hash": board.facts["content_hash"],
                    "split_hash": board.facts["split_hash"],
                }
            )
    return items


def describe_comparisons(board: Board) -> dict[str, Any]:
    """The tests of a board as plain data, with rows by label."""
    comparisons = asdict(board.comparisons)
    for pair in comparisons["pairs"]:
        for side in ("first", "second", "winner"):
            pair[side] = None if pair[side] is None else board.rows[pair[side]].label
    winner = board.comparisons.winner
    names = ("num_patients", "detectable", "patients_change_winner", "seeds_change_winner", "pairs")
    return {
        "winner": None if winner is None else board.rows[winner].label,
        **{name: comparisons[name] for name in names},
    }


def describe_section(section: Section) -> dict[str, Any]:
    """A section as plain data, each row a dict by column."""
    rows = [
        {
            column: describe_score(cell) if isinstance(cell, Score) else cell
            for column, cell in zip(section.columns, cells, strict=True)
        }
        for cells in section.rows
    ]
    notes = list(section_notes(section))
    described = {"title": section.title, "columns": list(section.columns), "rows": rows, "notes": notes}
    return described | ({"details": dict(section.details)} if section.details else {})


def describe_across(across: Across) -> dict[str, Any]:
    """One order over datasets as plain data."""
    return {
        "protocol": across.protocol,
        "init": across.init,
        "over": across.over,
        "datasets": list(across.datasets),
        **describe_section(across.section),
        "pairs": [{"first": first, "second": second, "p_holm": p} for first, second, p in across.pairs],
    }
