"""A table that stands below a board, as plain data: every format shows it without knowing what it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import UsageError
from zoo.evaluation.thresholds import ThresholdRule, ThresholdTarget
from zoo.evaluation.values import Runs, Score
from zoo.specs.dataset import patient_word
from zoo.specs.metric import MetricSpec, ScoringContext

Cell = Score | str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A named table: in the terminal and in markdown below its board, in json under `sections`, in csv by `--table`."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    compact: tuple[str, ...] = ()  # the columns that a terminal has room for; empty: all
    compact_rows: int | None = None  # and how many rows
    details: Mapping[str, Any] = field(default_factory=dict)  # plain data that no table holds: curves; in json alone


@dataclass(frozen=True, kw_only=True)
class GroupBy:
    """A column of metadata whose values make groups; numbers are cut to ranges of this width."""

    column: str
    width: float | None = None

    @property
    def text(self) -> str:
        """As it is typed."""
        return self.column if self.width is None else f"{self.column}:{self.width:g}"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a reader asks of a report beside its defaults."""

    prevalence: float | None = None  # of the positive class, where the test split's is not the clinic's
    reach: ThresholdTarget | None = None  # a sensitivity or specificity that the threshold must reach on val
    ensembles: bool = False  # the mean probability of a model's seeds as a row of its own
    by: tuple[GroupBy, ...] = ()  # groups that are scored apart


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredRow:
    """One row of a board with the stored predictions that all of its numbers come from."""

    label: str
    baseline: bool
    stored: Runs
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class SectionRequest:
    """A board as a section sees it: its rows in their order, best first and baselines last."""

    rows: Sequence[ScoredRow]
    card: ScoringContext
    facts: Mapping[str, Any]  # data.describe_dataset
    primary: MetricSpec | None  # None: the plugin that offers it is not installed
    threshold: ThresholdRule
    options: ReportOptions = field(default_factory=ReportOptions)

    @property
    def case_name(self) -> str:
        """What is drawn anew, as the dataset calls it: patient, lesion, eye; the image where no key is known."""
        return patient_word(str(self.facts["patient"])) if self.card.has_patients else "image"

    @property
    def unit_name(self) -> str:
        """What is scored, as the dataset calls it."""
        return self.case_name if self.card.unit == "patient" else self.card.unit


# Builds a section, or None where the board has nothing to show in it.
SectionBuilder = Callable[[SectionRequest], Section | None]


def parse_by(texts: Sequence[str]) -> tuple[GroupBy, ...]:
    """`sex` or `age:10`; a column may hold a colon itself, so that only a number behind the last one is a width."""
    found = []
    for text in texts:
        column, colon, width = text.rpartition(":")
        try:
            by = GroupBy(column=column, width=float(width)) if colon else GroupBy(column=text)
        except ValueError:
            by = GroupBy(column=text)
        if by.width is not None and not (0 < by.width < float("inf")):
            raise UsageError(f"--by {text}: a width is a number above 0", fix="write COLUMN:WIDTH, as age:10")
        found.append(by)
    return tuple(found)
