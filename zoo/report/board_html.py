"""A leaderboard as one self-contained HTML page: the answer first, then the board, then what it rests on.

Each section of the page is a module of `zoo.report.board_page` and a template of `templates/board/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from zoo.leaderboard.boards import Board
from zoo.report.board_page.across import describe_across_datasets
from zoo.report.board_page.answer import describe_answers
from zoo.report.board_page.cost import describe_costs
from zoo.report.board_page.figures import describe_figures
from zoo.report.board_page.gallery import describe_gallery
from zoo.report.board_page.pairs import describe_model_pairs
from zoo.report.board_page.record import describe_record
from zoo.report.board_page.rows import describe_rows
from zoo.report.board_page.tables import describe_table
from zoo.report.formats import Layout
from zoo.report.html import render_page
from zoo.report.names import name_plainly
from zoo.report.statements import initial_weights, title


def to_html(boards: Sequence[Board], layout: Layout | None = None) -> str:
    """The page of some boards; equal boards and images give equal bytes."""
    unfinished, boards = layout.unfinished if layout else (), name_plainly(boards)
    anchors = [f"board-{number}" for number in range(1, len(boards) + 1)]
    galleries = layout.galleries if layout and layout.galleries else [None] * len(boards)
    names = ", ".join(dict.fromkeys(board.dataset for board in boards))
    return render_page(
        "board.html",
        script="board.js",
        title=f"Leaderboard: {names}" if names else "Leaderboard",
        cards=describe_answers(boards, anchors),
        boards=[
            {**describe_board(board, anchor, heading), "gallery": describe_gallery(gallery)}
            for board, anchor, heading, gallery in zip(boards, anchors, name_boards(boards), galleries, strict=True)
        ],
        unfinished=unfinished,
        across=describe_across_datasets(boards),
        records=[describe_record(board, anchor) for board, anchor in zip(boards, anchors, strict=True)],
    )


def name_boards(boards: Sequence[Board]) -> list[str]:
    """The heading of each board: its dataset, and its protocol and weights if the dataset has several boards."""
    counts = Counter(board.dataset for board in boards)
    return [
        board.dataset if counts[board.dataset] == 1 else f"{board.dataset}: {board.protocol}, {initial_weights(board)}"
        for board in boards
    ]


def describe_board(board: Board, anchor: str, heading: str) -> dict[str, Any]:
    """What the template shows of one board."""
    models = sum(not row.baseline for row in board.rows)
    parts = {
        "table": describe_rows(board, anchor),
        "costs": describe_costs(board),
        "figures": describe_figures(board),
        "sections": [describe_table(section) for section in board.sections],
        "pairs": describe_model_pairs(board),
    }
    held = ["board", *(name for name in ("costs", "figures", "pairs") if parts[name])]
    return {
        "anchor": anchor,
        "dataset": board.dataset,
        "heading": heading,
        "inside": f"{models} model{'s' * (models != 1)} by {board.primary_metric}: {', '.join(held)}",
        "title": title(board),
        **parts,
    }
