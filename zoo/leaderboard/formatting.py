"""Format numbers for people: `.913`, `.913 [.871 .944]`, `11.2 M`, `31 %`, `p .004`."""

from __future__ import annotations

from typing import Any

from zoo.errors import clean, with_fix
from zoo.evaluation.values import Score
from zoo.leaderboard.tables import Cell, Failure


def number(value: float | None, digits: int = 3) -> str:
    """`.913`, `1.000`, `12.40`; a dash for None. Values below 1 are never rounded up to 1: .9996 becomes `.999`."""
    if value is None:
        return "-"
    if abs(value) >= 10:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    text = f"{value:.{digits}f}"
    if text.lstrip("-") == f"{1:.{digits}f}" and abs(value) < 1:
        text = text.replace("1." + "0" * digits, "0." + "9" * digits)
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def format_rounded(value: float | None, digits: int) -> str:
    """Round to a fixed number of digits first, so that a column of seconds lines up."""
    return number(None if value is None else round(value, digits), digits)


def with_interval(score: Score | None) -> str:
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return number(score.value)
    return f"{number(score.value)} [{number(score.low)} {number(score.high)}]"


def section_cell(cell: Cell) -> str:
    """A cell of a section as text."""
    if isinstance(cell, Score):
        few = cell.value is None and cell.reason is not None and cell.reason.code in ("too-few", "absent-in-fold")
        return "too few" if few else with_interval(cell)
    if isinstance(cell, float) and 0 < cell < 0.0005:  # a p value
        return "< .001"
    return number(cell) if isinstance(cell, float) or cell is None else clean(str(cell))


def failure_text(failure: Failure) -> str:
    return f"{failure.status}: {with_fix(failure.message, failure.fix)}"


def amount(value: float | None, unit: str = "") -> str:
    """A count with three digits and a prefix: `11.2 M`."""
    if value is None:
        return "-"
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:  # rounds to the next prefix
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g}{' ' + unit if unit else ''}"


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g} ms"


def disarm(cell: Any) -> Any:
    """A cell of a CSV file; text that a spreadsheet would read as a formula gets a leading quote."""
    if not isinstance(cell, str):
        return "" if cell is None else cell
    text = clean(cell)
    return "'" + text if text.startswith(("=", "+", "-", "@", "\\x09", "\\x0d")) else text


def share(value: float | None) -> str:
    """`31 %`; `under 1 %` for rare events, because 2000 draws cannot resolve them."""
    if value is None:
        return "-"
    return "under 1 %" if value < 0.01 else f"{100 * value:.0f} %"


def p_value(value: float | None) -> str:
    """`p .031`, `p < .001`; a dash for None."""
    if value is None:
        return "p -"
    return "p < .001" if value < 0.001 else f"p {number(value)}"
