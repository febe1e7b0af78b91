"""The answer of a board: who wins or why nobody does, what would change it, and warnings."""

from __future__ import annotations

from typing import Any

from zoo.errors import clean
from zoo.leaderboard.boards import Board
from zoo.leaderboard.curves import ratio_of_spreads
from zoo.report.statements import ranking_statements
from zoo.report.summary import answer, outlook, warnings


def describe_answer(board: Board) -> dict[str, Any]:
    """Who wins or why nobody does, what would change it, and the warnings that change the reading."""
    models = [row for row in board.rows if not row.baseline]
    spread = ratio_of_spreads(
        {row.label: s.value for row in models if (s := row.scores.get(board.primary_metric)) and s.value is not None},
        {row.label: sd for row in models if (sd := row.seed_sd.get(board.primary_metric)) is not None},
    )
    tests = board.comparisons
    lines = ranking_statements(board)[1:] if tests.winner is not None else []
    return {
        "headline": answer(board),
        "lines": [line for line in (outlook(board), *lines[1:2], describe_spread(spread)) if line],
        "warnings": [*warnings(board), *(clean(issue) for issue in board.facts["known_issues"])],
    }


def describe_spread(ratio: float | None) -> str:
    if ratio is None:
        return ""
    verdict = (
        "the models differ more than seeds do"
        if ratio >= 2
        else "differences between models are hardly larger than chance"
    )
    return f"Spread between models is {ratio:.1f} times the spread between seeds: {verdict}."
