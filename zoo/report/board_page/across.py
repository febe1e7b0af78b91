"""The order of the models over several datasets, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.leaderboard.boards import Board
from zoo.leaderboard.multi_dataset import MIN_DATASETS, MIN_MODELS, find_across
from zoo.report.board_page.tables import describe_table


def describe_across_datasets(boards: Sequence[Board]) -> dict[str, Any]:
    """The tables of all orders; without one, the sentence that says what is missing."""
    tables = [describe_table(across.section) for across in find_across(boards)]
    datasets = list(dict.fromkeys(board.dataset for board in boards if not board.is_control and not board.is_external))
    counted = "1 dataset" if len(datasets) == 1 else f"{len(datasets)} datasets"
    reason = (
        f"No order across datasets: this page has {counted}, and an order needs at least {MIN_DATASETS} under one "
        f"protocol on which at least {MIN_MODELS} models are ranked. Nothing here says which model is best on "
        "other data."
    )
    return {"tables": tables, "reason": "" if tables else reason}
