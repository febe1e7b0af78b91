r"""Boards as LaTeX tables for a paper: booktabs, one table per board.

A score is bold only if the board's test finds its row better than every other ranked row; a dagger marks the rows that
are not detectably worse than the best one. A paper that holds the tables needs `\usepackage{booktabs}` and
`\usepackage[T1]{fontenc}`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from zoo.errors import clean
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import amount, number, section_cell
from zoo.report.cells import short_metrics
from zoo.report.formats import Layout
from zoo.report.names import name_plainly
from zoo.report.reasons import section_notes
from zoo.report.statements import title
from zoo.specs.section import Section

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
}
# The other characters that pdfLaTeX prints in T1 without a further package.
PRINTED = frozenset(
    "·×±°µ§–—…‘’“”ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿ"  # noqa: RUF001
    "ĂăĄąĆćČčĎďĐđĘęĚěĞğĹĺĽľŁłŃńŇňŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽžİ"
)
LIGATURE = re.compile(r"(?<=-)-|(?<=,),")  # two hyphens become a dash, two commas a quotation mark
TIED = r"\textsuperscript{\textdagger}"


def to_latex(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """One `table` per board and per section that every format shows; names cannot become commands."""
    tables = []
    for place, board in enumerate(name_plainly(boards), start=1):
        tables.append(latex_table(board, place))
        tables += [latex_section(section, f"board-{place}") for section in board.sections if section.always]
    return "\n".join(tables)


def latex_section(section: Section, board: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex('. '.join((section.title, *section_notes(section))))}.}}",
        rf"\label{{tab:{board}-{section.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(section.columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, section.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(escape_latex(section_cell(cell)) for cell in cells) + r" \\" for cells in section.rows),
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def latex_table(board: Board, place: int) -> str:
    metrics = short_metrics(board)
    columns = ["Rank", "Model", f"{board.primary_metric} [95 % CI]", *metrics, "Params"]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption(board)}}}",
        rf"\label{{tab:board-{place}}}",
        rf"\begin{{tabular}}{{rl{'r' * (len(columns) - 2)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, columns)) + r" \\",
        r"\midrule",
    ]
    baselines = False
    for position, row in enumerate(board.rows):
        if row.baseline and not baselines and position:
            baselines = True
            lines.append(r"\midrule")
        rank = board.rank(position)
        cells = ["--" if rank is None else str(rank), escape_latex(row.label), score_cell(board, position)]
        cells += [latex_number(row.scores[name].value) if name in row.scores else "--" for name in metrics]
        cells.append("" if row.baseline else escape_latex(amount(row.cost["num_parameters"])))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def caption(board: Board) -> str:
    """The title, and what bold, daggers and a choice of labels mean where the table has them."""
    parts = [escape_latex(title(board))]
    winner = board.comparisons.winner
    if winner is not None and board.tied_with(winner):
        parts.append(rf"{TIED}The best of the ranked models and those that are not detectably worse")
    elif winner is not None:
        parts.append("Bold: detectably better than every other ranked model")
    if imported := [escape_latex(row.label) for row in board.rows if row.is_imported]:
        parts.append(f"Not trained here but imported: {', '.join(imported)}")
    if board.labels:
        parts.append(f"Means over the {len(board.labels)} of {len(board.cases)} labels that have enough cases")
    return "".join(f"{part}. " for part in parts).strip()


def score_cell(board: Board, position: int) -> str:
    """The ranking score with its interval: bold for a winner without ties, with a dagger for the best of tied rows."""
    score, winner = board.rows[position].scores.get(board.primary_metric), board.comparisons.winner
    if score is None or score.value is None:
        return "--"
    value = latex_number(score.value)
    if winner is not None:
        tied = board.comparisons.tied_with(winner)
        if position == winner and not tied:
            value = rf"\textbf{{{value}}}"
        elif position in (winner, *tied) and tied:
            value += TIED
    return value if score.low is None else f"{value} [{latex_number(score.low)}, {latex_number(score.high)}]"


def latex_number(value: float | None) -> str:
    """A number with a minus sign instead of a hyphen."""
    return "--" if value is None else number(value).replace("-", "$-$")


def escape_latex(text: str) -> str:
    """Text whose every character is printed as it is, or as its code point if pdfLaTeX cannot print it."""
    composed = unicodedata.normalize("NFC", clean(text))
    escaped = "".join(SPECIAL.get(character, print_character(character)) for character in composed)
    return LIGATURE.sub(r"{}\g<0>", escaped)


def print_character(character: str) -> str:
    return character if character.isascii() or character in PRINTED else f"U+{ord(character):04X}"
