"""Boards on a terminal: the title, the answer, the table, and with `--details` everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import amount, format_rounded, number, with_interval
from zoo.leaderboard.multi_dataset import find_across
from zoo.report.cells import BASELINE_TEXT, model_cell, primary_heading, rank_cell, seed_cell, short_metrics
from zoo.report.drawing import (
    GAP,
    MIN_NAME,
    break_name,
    keep_recipe,
    open_console,
    print_section,
    read_console,
    wrap,
    wrap_title,
)
from zoo.report.formats import Layout
from zoo.report.names import name_plainly
from zoo.report.statements import headings, statements, title
from zoo.report.summary import summarize_board

if TYPE_CHECKING:
    from rich.console import Console

SHORT_NAMES = {
    "balanced_accuracy": "bal. acc",
    "f1_macro": "f1",
    "recall_macro": "recall",
    "average_precision": "AP",
    "sensitivity": "sens.",
    "specificity": "spec.",
    "cohen_kappa": "kappa",
}
MAX_NAME = 32  # a longer name is broken into lines before a column is dropped for it


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of the table. Of those with a `drop`, the one with the lowest is dropped first."""

    name: str
    heading: str
    cells: tuple[str, ...]
    drop: int | None = None  # None: never dropped
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(cell_len(line) for text in (self.heading, *self.cells) for line in text.split("\n"))


def to_terminal(boards: Sequence[Board], layout: Layout | None = None) -> str:
    """Draw every board, then the order of the models over several datasets."""
    from rich.text import Text

    layout, boards = layout or Layout(), name_plainly(boards)
    console = open_console(layout.width, layout.color)
    for board in boards:
        if layout.details:
            print_details(board, console)
        else:
            print_summary(board, console, layout)
    for across in find_across(boards):
        print_section(across.section, console, notes=layout.details)
    if boards and not layout.details:
        console.print(Text(f"All statements, calibration and operating points: {layout.more}"), soft_wrap=True)
    return read_console(console)


def print_summary(board: Board, console: Console, layout: Layout) -> None:
    from rich.text import Text

    console.print(Text(wrap_title(title(board), console.width), style="bold"), soft_wrap=True)
    for line in summarize_board(board):
        style = "bold yellow" if line.startswith("Warning") else ""
        console.print(Text(wrap(keep_recipe(line), console.width), style=style), soft_wrap=True)
    print_table(board, console)
    console.print()
    for section in board.sections:
        if section.always or section.name in layout.sections:
            print_section(section, console)


def print_details(board: Board, console: Console) -> None:
    from rich.text import Text

    for line in headings(board):
        console.print(Text(line, style="bold yellow"), soft_wrap=True)
    console.print(Text(wrap_title(title(board), console.width), style="bold"), soft_wrap=True)
    for line in summarize_board(board):
        console.print(Text(wrap(keep_recipe(line), console.width)), soft_wrap=True)
    print_table(board, console)
    for row in board.rows:
        if row.baseline:
            console.print(Text(f"- {row.model}: {BASELINE_TEXT.get(row.model, 'baseline')}", style="dim"))
    for line in statements(board):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print()
    for section in board.sections:
        print_section(section, console)


def print_table(board: Board, console: Console) -> None:
    """Draw the rows, without the columns for which the terminal is too narrow."""
    from rich.table import Table
    from rich.text import Text

    every = list_columns(board)
    columns = fit_columns(every, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        table.add_column(Text(column.heading), justify=column.justify, no_wrap=True, vertical="top")
    for position, row in enumerate(board.rows):
        cells = (Text(column.cells[position]) for column in columns)
        table.add_row(*cells, style="dim" if row.baseline else "")
    # Rich would cut cells to make the table fit: if even a folded name does not fit, the lines are longer instead.
    width = console.width
    console.width = max(width, table_width(columns))
    console.print(table)
    console.width = width
    dropped = [column.heading for column in every if column.name not in {kept.name for kept in columns}]
    if dropped:
        line = f"not shown at this width: {', '.join(dropped)}"
        console.print(Text(wrap(keep_recipe(line), console.width), style="dim"), soft_wrap=True)


def list_columns(board: Board) -> list[TableColumn]:
    """All columns of the terminal's table, from left to right."""
    rows, primary = board.rows, board.primary_metric
    ranks = tuple(rank_cell(board, position) for position in range(len(rows)))
    columns = [
        TableColumn(name="rank", heading="rank", cells=ranks, justify="left"),
        TableColumn(name="model", heading="model", cells=tuple(map(model_cell, rows)), justify="left"),
        TableColumn(
            name=f"metric {primary}",
            heading=primary_heading(board),
            cells=tuple(with_interval(row.scores.get(primary)) for row in rows),
        ),
        TableColumn(name="seed SD", heading="seed SD", cells=tuple(seed_cell(row, primary) for row in rows), drop=99),
    ]
    for position, name in enumerate(short_metrics(board)):
        cells = tuple(number(row.scores[name].value) if name in row.scores else "-" for row in rows)
        heading = SHORT_NAMES.get(name, name)
        columns.append(TableColumn(name=f"metric {name}", heading=heading, cells=cells, drop=98 - position))
    costs = (
        ("train img/s", [amount(row.cost["images_per_second"]) for row in rows], 3),
        ("params", [amount(row.cost["num_parameters"]) for row in rows], 2),
        ("seconds", [format_rounded(row.cost["train_seconds"], 0) for row in rows], 1),
    )
    for heading, texts, drop in costs:
        shown = tuple("" if row.baseline else text for row, text in zip(rows, texts, strict=True))
        columns.append(TableColumn(name=heading, heading=heading, cells=shown, drop=drop))
    return columns


def fit_columns(columns: Sequence[TableColumn], width: int) -> list[TableColumn]:
    """Drop columns until the table fits: costs first, then metrics from the right, then the SD between seeds.

    The heading of the primary metric is broken into two lines before any column is dropped. Names take the rest of the
    width, broken into lines where necessary; they are never cut.
    """
    kept = list(columns)
    if table_width(kept) > width:
        kept = [replace(column, heading=column.heading.replace(" [", "\n[")) for column in kept]
    while needed_width(kept) > width and any(column.drop is not None for column in kept):
        kept.remove(min((column for column in kept if column.drop is not None), key=lambda column: column.drop or 0))
    others = sum(column.width + GAP for column in kept if column.name != "model")
    available = max(width - others - GAP, MIN_NAME)
    return [
        replace(column, cells=tuple(break_name(cell, available) for cell in column.cells))
        if column.name == "model"
        else column
        for column in kept
    ]


def table_width(columns: Sequence[TableColumn]) -> int:
    return sum(column.width + GAP for column in columns)


def needed_width(columns: Sequence[TableColumn]) -> int:
    """The width of the table if no name took more than MAX_NAME."""
    return sum((min(c.width, MAX_NAME) if c.name == "model" else c.width) + GAP for c in columns)
