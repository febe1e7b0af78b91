"""Draw text and tables on a terminal of a given width, by rich; nothing that names a row is ever cut."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from zoo.errors import clean
from zoo.leaderboard.formatting import section_cell
from zoo.report.reasons import section_notes
from zoo.specs.section import Section

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # spaces between two columns
MIN_NAME = 12  # columns; a table is wider than the terminal before a name gets less
BREAKS = re.compile(r"[^ ._/:-]*[ ._/:-]?")  # a name may continue on the next line after one of these


def open_console(width: int, color: bool) -> Console:
    """A console that writes to a text; `read_console` returns it."""
    from rich.console import Console

    # force_jupyter: in a notebook rich would display the lines and return none of them
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        force_jupyter=False,
        no_color=not color,
        highlight=False,
    )


def read_console(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def wrap(text: str, width: int, indent: str = "  ") -> str:
    """Break a line between words; the following lines are indented."""
    lines = textwrap.wrap(
        text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\xa0", " ")


def wrap_title(title: str, width: int) -> str:
    """Break a title between its parts, if it has several; a part longer than a line also between its words."""
    parts = title.split(" · ")
    if len(parts) == 1:
        return wrap(title, width)
    return wrap(" · ".join(part.replace(" ", "\xa0") if len(part) < width - 2 else part for part in parts), width)


def keep_recipe(text: str) -> str:
    """Let a line begin, but not end, with the dot between a model and its recipe."""
    return text.replace(" · ", " ·\xa0")


def break_name(name: str, width: int) -> str:
    """Break a name that is longer than `width` cells into lines: before its recipe, else after a separator."""
    from rich.cells import cell_len, chop_cells

    name = name.replace(" *", "\xa0*")  # the mark of a deviation never stands alone
    model, dot, recipe = name.rpartition(" · ")
    if dot and cell_len(name) > width:
        return "\n".join(break_name(part, width) for part in (model, f"·\xa0{recipe}"))
    lines, line = [], ""
    for part in filter(None, BREAKS.findall(name)):
        if line and cell_len(line + part.rstrip()) > width:
            lines.append(line)
            line = ""
        *full, line = chop_cells(line + part, width) if cell_len((line + part).rstrip()) > width else [line + part]
        lines += full
    return "\n".join(part.rstrip() for part in (*lines, line) if part.strip()).replace("\xa0", " ")


def print_section(section: Section, console: Console, notes: bool = True) -> None:
    """Print a section's title, table and notes."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console.print(Text(wrap_title(section.title, console.width), style="bold"), soft_wrap=True)
    if section.text:
        console.print(Text(wrap(clean(section.text), console.width)), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    shown = [i for i, column in enumerate(section.columns) if not section.compact or column in section.compact]
    rows = [[section_cell(entries[i]) for i in shown] for entries in section.rows[: section.compact_rows]]
    if natural_width([section.columns[i] for i in shown], rows) > console.width:  # intervals below their values
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    longest = max((cell_len(row[0]) for row in rows), default=0)
    name_width = min(longest, max(MIN_NAME, console.width // 3))
    for position in shown:
        texts = position == 0 or all(isinstance(entries[position], str) for entries in section.rows)
        justify: Literal["left", "right"] = "left" if texts else "right"
        least = name_width if position == 0 else None
        table.add_column(Text(section.columns[position]), justify=justify, min_width=least, overflow="fold")
    for name, *cells in rows:
        table.add_row(Text(break_name(name, max(name_width, 1))), *map(Text, cells))
    console.print(table)
    for line in (*section_notes(section), *hidden_parts(section)) if notes else ():
        console.print(Text(clean(line), style="dim"), soft_wrap=True)
    console.print()


def natural_width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width of a table without line breaks."""
    from rich.cells import cell_len

    return sum(max(map(cell_len, column)) + GAP for column in zip(headings, *rows, strict=True))


def hidden_parts(section: Section) -> list[str]:
    """A line that names the columns and counts the rows that only the other formats have."""
    columns = [column for column in section.columns if section.compact and column not in section.compact]
    num_rows = 0 if section.compact_rows is None else max(len(section.rows) - section.compact_rows, 0)
    more = f"{num_rows} more row{'s' * (num_rows > 1)}"
    parts = [", ".join(columns)] * bool(columns) + [more] * bool(num_rows)
    return [f"in the other formats: {' and '.join(parts)}"] if parts else []
