"""Boards as Markdown for GitHub. Names from data and plugins cannot become markup, links or mentions."""

from __future__ import annotations

import html
import re
from collections.abc import Container, Sequence

from zoo.errors import clean
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import amount, format_rounded, milliseconds, number, section_cell, with_interval
from zoo.leaderboard.multi_dataset import find_across
from zoo.report.cells import model_cell, primary_heading, rank_cell, seed_cell
from zoo.report.formats import Layout
from zoo.report.names import name_plainly
from zoo.report.reasons import section_notes
from zoo.report.statements import headings, statements, title
from zoo.report.summary import summarize_board
from zoo.specs.section import Section


def to_markdown(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """One section per board: its table, its statements, and the tables below it."""
    lines, boards = [], name_plainly(boards)
    for board in boards:
        lines += [f"## {escape(title(board))}", ""]
        lines += [f"**{escape(line)}**\n" for line in headings(board)]
        lines += [f"{escape(line)}\n" for line in summarize_board(board)]
        columns = ["rank", "model", primary_heading(board), "seed SD", *board.metrics[1:]]
        columns += ["train img/s", "test img/s", "latency", "peak memory", "params", "FLOPs", "seconds"]
        lines += ["| " + " | ".join(map(escape, columns)) + " |", rule_line(columns, ("model",))]
        for position, row in enumerate(board.rows):
            cells = [rank_cell(board, position), model_cell(row) + (" (baseline)" if row.baseline else "")]
            cells += [
                with_interval(row.scores.get(board.primary_metric)),
                seed_cell(row, board.primary_metric),
            ]
            cells += [number(row.scores[name].value) if name in row.scores else "-" for name in board.metrics[1:]]
            cells += [amount(row.cost["images_per_second"]), amount(row.cost["inference_images_per_second"])]
            cells += [milliseconds(row.cost["latency_seconds"]), amount(row.cost["peak_memory_bytes"], "B")]
            cells += [amount(row.cost["num_parameters"]), amount(row.cost["flops"])]
            cells.append(format_rounded(row.cost["train_seconds"], 1))
            lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
        lines.append("")
        lines += [f"- {escape(line)}" for line in statements(board)]
        lines.append("")
        for section in board.sections:
            lines += section_lines(section, "###")
    for across in find_across(boards):
        lines += section_lines(across.section, "##")
    return "\n".join(lines)


def section_lines(section: Section, level: str) -> list[str]:
    """A table below a board, with its title at this level of heading."""
    lines = [f"{level} {escape(section.title)}", "", *([escape(section.text), ""] if section.text else [])]
    texts = [
        column for i, column in enumerate(section.columns) if any(isinstance(cells[i], str) for cells in section.rows)
    ]
    lines += ["| " + " | ".join(map(escape, section.columns)) + " |", rule_line(section.columns, texts)]
    lines += ["| " + " | ".join(escape(section_cell(cell)) for cell in cells) + " |" for cells in section.rows]
    return [*lines, "", *(f"- {escape(line)}" for line in section_notes(section)), ""]


def rule_line(columns: Sequence[str], texts: Container[str]) -> str:
    """The line below the heading: texts to the left, numbers to the right."""
    return "|" + "".join(":---|" if column in texts else "---:|" for column in columns)


MARKUP = re.compile(r"[\\`*_~\[\]|#]")
BARE_LINK = re.compile(r"(?<=\w):(?=//)|(?<=\bwww)\.", re.IGNORECASE)
# Of `@name` and of `name@host.org`, which GitHub links even if a backslash stands before the sign
MENTION = re.compile(r"(?<!\w)@(?=\w)|(?<=\w)@(?=[\w-]+\.\w)")


def escape(text: str) -> str:
    escaped = html.escape(clean(text), quote=False)
    for pattern in (MARKUP, BARE_LINK):
        escaped = pattern.sub(r"\\\g<0>", escaped)
    return MENTION.sub("@<!-- -->", escaped)
