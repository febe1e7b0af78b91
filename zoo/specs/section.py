"""Section specs, and what a section consists of: a table below a board, a text and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class FigureSeries:
    """One line of a figure, or one dot in each of its rows.

    `x` has the numbers of a line, or the names of the rows of dots. `y` has the values, and `low` and `high` have the
    ends of their intervals, or are empty. All have the same length. None: undefined.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SectionFigure:
    """A figure as data: the page and the files of `--figures` draw it, JSON holds it.

    `lines` are drawn with their intervals as bands, `dots` in rows with their intervals as bars.
    """

    title: str
    text: str  # a sentence for a reader who does not see it
    axes: tuple[str, str]  # what x and y are; of dots only y is drawn
    series: tuple[FigureSeries, ...]
    kind: Literal["lines", "dots"] = "lines"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A named table: below its board in the terminal and in Markdown, under `sections` in JSON, by `--table` in CSV.

    A cell is a text, a number, None, a `Score`, or a value with its interval: (value, low, high).
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]  # of leaderboard.tables.Cell
    name: str = ""  # default: that of the spec; of a further table of one spec, unique among them
    title: str = ""  # default: that of the spec
    text: str = ""  # a short text between the title and the table
    notes: tuple[Any, ...] = ()  # lines below the table: texts, of the core also evaluation.reasons.Reason
    compact: tuple[str, ...] = ()  # the columns shown on a terminal; empty: all
    compact_rows: int | None = None  # the number of rows shown on a terminal; None: all
    always: bool = False  # shown on a terminal without `--details` too
    figures: tuple[SectionFigure, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # plain data for JSON only, as curves


@dataclass(frozen=True, kw_only=True)
class SectionSpec:
    """A section of every board of its tasks, computed from the board's rows and their stored predictions.

    `build` takes a `zoo.SectionRequest` and returns a `Section`, a list of them, or None if there is nothing to show.
    It computes the same from the same files, and does not change the arrays. A section that raises is left out of its
    board with one line.
    """

    name: str
    build: Callable[[Any], Any]
    title: str = ""
    tasks: tuple[str, ...] = ()  # names of the tasks whose boards have it; empty: all
