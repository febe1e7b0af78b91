"""The table of README.md: its lines, their rows in markdown, and its updates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from timing import Figure, Ratio

HEAD, FOOT = "<!-- measured -->\n", "<!-- end -->"
COLUMNS = ("", "what", "value", "lowest to highest", "target", "met", "ours, theirs", "rounds", "others used", "on")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: what was measured, and its target."""

    name: str
    what: str
    measurement: Ratio | Figure
    wanted: float
    at_most: bool = False  # the target is an upper bound

    @property
    def met(self) -> bool:
        value = self.measurement.value
        return value <= self.wanted if self.at_most else value >= self.wanted


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One line of the table that could not be measured."""

    name: str
    what: str
    reason: str


def to_row(line: Line | Failure, where: str) -> str:
    """Format a line of the table in markdown; `where` is the date and the machine."""
    if isinstance(line, Failure):
        reason = line.reason.splitlines()[0].replace("|", "/")
        return join_cells([line.name, line.what, f"failed: {reason}", *"-------"])
    measurement = line.measurement
    values = measurement.values
    spread = f"{write(min(values), measurement)} to {write(max(values), measurement)}" if len(values) > 1 else "-"
    unit = f" {measurement.unit}" if isinstance(measurement, Figure) and measurement.unit else ""
    sides = f"{measurement.ours:.4g}, {measurement.theirs:.4g}" if isinstance(measurement, Ratio) else "-"
    cells = [line.name, line.what, write(measurement.value, measurement), spread]
    cells += [f"{'at most' if line.at_most else 'at least'} {line.wanted:g}{unit}", "yes" if line.met else "NO"]
    return join_cells([*cells, sides, str(len(values)), f"{measurement.foreign:.0%}", where])


def write(value: float, measurement: Ratio | Figure) -> str:
    """A value with its unit: a ratio to two decimals, seconds to one, a count whole."""
    if isinstance(measurement, Ratio):
        return f"{value:.2f}"
    return f"{value:.1f} s" if measurement.unit == "s" else f"{value:g}"


def join_cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def heading() -> str:
    return f"|{'|'.join(f' {column} ' for column in COLUMNS)}|"


def name_of(row: str) -> str:
    """The name of the line that a row belongs to."""
    return key_of(row)[0]


def key_of(row: str) -> tuple[str, str]:
    """The name and the `what` of a row: no two rows of the table share both."""
    name, what = row.split("|")[1:3]
    return name.strip(), what.strip()


def find_rows(text: str) -> list[str]:
    """Find the rows of measured lines in the output of `speed.py`."""
    return [row for row in text.splitlines() if re.match(r"\| [SG]\d+ \|", row) and "| failed: " not in row]


def update_table(text: str, rows: Sequence[str], *, complete: bool = False) -> str:
    """Replace the rows with the same name and `what` in the table of README.md's text.

    With `complete`, other rows of these names are removed.
    """
    before, _, rest = text.partition(HEAD)
    table, _, after = rest.partition(FOOT)
    kept = {key_of(row): row for row in table.splitlines()[2:]}
    kept |= {key_of(row): row for row in rows}
    if complete:
        current, names = {key_of(row) for row in rows}, {name_of(row) for row in rows}
        kept = {key: row for key, row in kept.items() if key in current or key[0] not in names}
    ordered = sorted(kept.values(), key=lambda row: (name_of(row)[0] != "S", int(name_of(row)[1:])))
    head = [heading(), "|" + "---|" * len(COLUMNS)]
    return before + HEAD + "\n".join([*head, *ordered]) + "\n" + FOOT + after
