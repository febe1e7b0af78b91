r"""Boards as LaTeX tables for a paper: booktabs, one table per board.

A score is bold only if the board's test finds its row better than every other ranked row. The tables need
`\usepackage{booktabs}`.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import clean
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import amount, number, section_cell
from zoo.leaderboard.tables import Section
from zoo.report.formats import Layout
from zoo.report.reasons import section_notes
from zoo.report.statements import title

MAX_LATEX_METRICS = 4  # beside the primary one
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
    "·": r"$\cdot$",
}


def to_latex(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """One `table` per board and per section that every format shows; names cannot become commands."""
    tables = []
    for place, board in enumerate(boards, start=1):
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
    metrics = board.metrics[1 : 1 + MAX_LATEX_METRICS]
    columns = ["Rank", "Model", f"{board.primary_metric} [95 % CI]", *metrics, "Params"]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(title(board))}. Bold: detectably better than every other ranked model.}}",
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
        cells += [number(row.scores[name].value) if name in row.scores else "--" for name in metrics]
        cells.append("" if row.baseline else escape_latex(amount(row.cost["num_parameters"])))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def score_cell(board: Board, position: int) -> str:
    """The primary score with its interval, bold for a winner without ties."""
    score = board.rows[position].scores.get(board.primary_metric)
    if score is None or score.value is None:
        return "--"
    wins = board.comparisons.winner == position and not board.tied_with(position)
    value = rf"\textbf{{{number(score.value)}}}" if wins else number(score.value)
    return value if score.low is None else f"{value} [{number(score.low)}, {number(score.high)}]"


def escape_latex(text: str) -> str:
    """Escape the characters that LaTeX would interpret."""
    return "".join(SPECIAL.get(character, character) for character in clean(text))
