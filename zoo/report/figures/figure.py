"""`Figure`: a drawing with its data and words, from which the page and the files of `--figures` follow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from zoo.leaderboard.formatting import disarm
from zoo.report.charts import escape_svg
from zoo.report.html import render_style

SVG_RULE = re.compile(r"svg[. ][.a-z][^{}]*\{[^}]*\}")  # of a style sheet, for parts of a drawing
SIZES = re.compile(r'width="([\d.]+)" height="([\d.]+)"')  # of a drawing
MAX_NAME_LENGTH = 100
PADDING = 8  # of a file, in pixels
SVG = "http://www.w3.org/2000/svg"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a board."""

    name: str  # unique on its board, a-z, 0-9 and "-"
    title: str
    text: str  # a sentence for a reader who does not see it
    columns: tuple[str, ...]  # of its data
    rows: tuple[tuple[Any, ...], ...]
    svg: str  # styled by the style sheet of the page
    note: str = ""  # how to read it
    group: str = ""  # the label that it is about
    wide: bool = False  # wider than a phone
    tabled: bool = False  # the page offers its data as a table too


def figure_name(*parts: str) -> str:
    """A name for files from the parts of a name: lower case, a-z, 0-9 and "-", short enough for every file system."""
    name = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return name[:MAX_NAME_LENGTH].strip("-")


def table_rows(*columns: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The rows of a table from its columns; undefined numbers become None."""
    return [tuple(map(plain_cell, cells)) for cells in zip(*columns, strict=True)]


def plain_cell(cell: Any) -> Any:
    if isinstance(cell, np.generic):
        cell = cell.item()
    return None if isinstance(cell, float) and not np.isfinite(cell) else cell


def to_csv_file(figure: Figure) -> str:
    """The data of a figure as CSV; text that a spreadsheet would read as a formula gets a leading quote."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([disarm(column) for column in figure.columns])
    writer.writerows([disarm(cell) for cell in row] for row in figure.rows)
    return stream.getvalue()


def to_svg_file(figure: Figure) -> str:
    """The figure as a file of its own: on white, with its own style and its title."""
    width, height = (float(size) + 2 * PADDING for size in SIZES.findall(figure.svg)[0])
    title = f"<title>{escape_svg(figure.title)}</title><desc>{escape_svg(figure.text)}</desc>"
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    drawing = figure.svg.replace("<svg", f'<svg x="{PADDING}" y="{PADDING}"', 1)
    return (
        f'<svg xmlns="{SVG}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">'
        f"{title}<style>{file_style()}</style>{paper}{drawing}</svg>\n"
    )


@cache
def file_style() -> str:
    """The page's rules for drawings, with the light colors as literals: few programs but browsers know variables."""
    colors: dict[str, str] = {}
    page = render_style()
    for name, color in re.findall(r"--([\w-]+):\s*(#\w+)", page):
        colors.setdefault(name, color)  # the light theme comes first
    rules = "".join(SVG_RULE.findall(page))
    return re.sub(r"var\(--([\w-]+)\)", lambda match: colors[match[1]], rules)
