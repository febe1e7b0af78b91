"""Score each label of a board by itself."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.evaluation.label_cases import keep_labels
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.rows import Row


def score_labels(board: Board, row: Row) -> dict[str, Mapping[str, Score]]:
    """Every metric of the board on every label, by label.

    Empty with a single label, for a task whose targets are not by label, and without stored predictions. A label with
    too few cases has values without intervals.
    """
    if not board.card.task.targets.by_label or len(board.card.labels) < 2 or not row.stored:
        return {}
    scores: dict[str, Mapping[str, Score]] = {}
    for position, label in enumerate(board.card.labels):
        runs, card = keep_labels(row.stored, board.card, (position,))
        scores[label] = score(runs, board.specs, card, threshold=board.rule_of(row))
    return scores
