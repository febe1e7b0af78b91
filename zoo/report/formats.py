"""The formats of `zoo report`. A new format is one function and one line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.leaderboard.boards import Board
    from zoo.leaderboard.unfinished import UnfinishedModel
    from zoo.report.gallery import Gallery

# Name of the format -> the function that writes it, `(boards, layout) -> str`.
# perf: named as text, because `zoo report --help` lists the formats and must not import numpy.
FORMATS: Mapping[str, str] = {
    "terminal": "zoo.report.board_terminal:to_terminal",
    "markdown": "zoo.report.board_markdown:to_markdown",
    "csv": "zoo.report.board_csv:to_csv",
    "json": "zoo.report.board_json:to_json",
    "html": "zoo.report.board_html:to_html",
    "latex": "zoo.report.board_latex:to_latex",
}
FORMAT_OF_SUFFIX = {".md": "markdown", ".csv": "csv", ".json": "json", ".html": "html", ".tex": "latex"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a terminal shows boards, and what a page shows beside them. The other formats ignore it."""

    width: int = 120  # columns
    color: bool = False
    details: bool = False  # all statements and all sections
    more: str = "zoo report --details"  # the command that shows the details
    sections: frozenset[str] = frozenset()  # names of sections that are shown without `details` too
    unfinished: tuple[UnfinishedModel, ...] = ()  # models without a board
    galleries: Sequence[Gallery] = ()  # of the boards, for their page; empty: no images


def write_boards(boards: Sequence[Board], form: str, layout: Layout | None = None) -> str:
    """Return the boards in one of FORMATS."""
    module, _, name = FORMATS[form].partition(":")
    write: Callable[[Sequence[Board], Layout | None], str] = getattr(import_module(module), name)
    return write(boards, layout)
