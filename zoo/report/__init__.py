"""From boards, and from two models side by side, to what people and programs read."""

from zoo.report.boards import leaderboard_items, section_to_csv, to_csv, to_json, to_markdown, to_terminal
from zoo.report.pairs import pair_to_document, pair_to_terminal

__all__ = [
    "leaderboard_items",
    "pair_to_document",
    "pair_to_terminal",
    "section_to_csv",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_terminal",
]
