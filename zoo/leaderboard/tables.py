"""The input of the sections below a board, and the options of a report."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.errors import UsageError
from zoo.evaluation.label_cases import keep_labels
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import ThresholdRule, ThresholdTarget, decide
from zoo.evaluation.values import Runs, Score
from zoo.results.memo import RunsMemo
from zoo.specs.dataset import parse_patient
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext

Cell = Score | str | int | float | None


@dataclass(frozen=True, kw_only=True)
class GroupBy:
    """A metadata column whose values form groups; numbers are binned by `width`."""

    column: str
    width: float | None = None

    @property
    def text(self) -> str:
        """The group as typed in `--by`."""
        return self.column if self.width is None else f"{self.column}:{self.width:g}"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The options of `zoo report` that add or change tables."""

    prevalence: float | None = None  # of the positive class, if the clinic's differs from the test split's
    reach: ThresholdTarget | None = None  # sensitivity or specificity that the threshold must reach on val
    ensembles: bool = False  # add the mean probability of each model's seeds as a row
    members: tuple[tuple[str, ...], ...] = ()  # add the mean probability of these models as a row, for each tuple
    by: tuple[GroupBy, ...] = ()  # groups that are scored separately
    recipes: bool = False  # one board of all protocols and initial weights on the same data
    metrics: tuple[str, ...] = ()  # shown first after the ranking one, scored if they are not stored
    rank_by: str = ""  # the metric that ranks, instead of the runs' primary one


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredRow:
    """One row of a board with the stored predictions from which its scores are computed.

    `stored[s][f]` are the predictions of seed s and fold f by split: `row.stored[0][0]["test"].probabilities`.
    """

    label: str
    baseline: bool
    stored: Runs
    seeds: tuple[int, ...]
    threshold: ThresholdRule | None = None  # None: the board's
    folders: Sequence[Sequence[Path]] = ()  # of the runs in `stored`
    names: tuple[str, ...] = ()  # by which it may be meant besides its label
    cost: Mapping[str, float | None] = field(default_factory=dict)  # mean over runs
    val_score: float | None = None  # mean over runs; higher is better
    memo: RunsMemo = field(default_factory=RunsMemo)  # of the runs in `stored`


@dataclass(frozen=True, eq=False, kw_only=True)
class SectionRequest:
    """The input of a section: the rows of a board, the best first and baselines last."""

    rows: Sequence[ScoredRow]
    card: ScoringContext
    facts: Mapping[str, Any]  # data.dataset.describe_fold
    primary: MetricSpec | None  # None: its plugin is not installed
    threshold: ThresholdRule
    options: ReportOptions = field(default_factory=ReportOptions)
    labels: tuple[int, ...] = ()  # positions of the labels that count; empty: all

    def decided_tests(self, row: ScoredRow) -> list[list[MetricRequest]]:
        """The test splits of a row by seed and fold: units with their decisions, patients and metadata."""
        decided = [[decide(run, self.card, self.rule_of(row)) for run in folds] for folds in row.stored]
        return [[part.with_columns(part.metadata) for part in folds] for folds in decided]

    def score(self, row: ScoredRow, metric: MetricSpec) -> Score:
        """The value of a metric with its interval, computed as on the board: over the labels that count."""
        runs, card = keep_labels(row.stored, self.card, self.labels)
        return score(runs, {metric.name: metric}, card, threshold=self.rule_of(row))[metric.name]

    def over_counted_labels(self) -> SectionRequest:
        """The request reduced to the labels that count: the input of a mean over labels."""
        _, card = keep_labels((), self.card, self.labels)
        rows = [replace(row, stored=keep_labels(row.stored, self.card, self.labels)[0]) for row in self.rows]
        return replace(self, rows=rows, card=card, labels=())

    def rule_of(self, row: ScoredRow) -> ThresholdRule:
        """The rule for the thresholds of a row."""
        return row.threshold or self.threshold

    @property
    def case_name(self) -> str:
        """The resampled unit in the dataset's word (patient, lesion, eye), or `image` without a patient key."""
        return parse_patient(str(self.facts["patient"])).word if self.card.has_patients else "image"

    @property
    def unit_name(self) -> str:
        """The scored unit in the dataset's word."""
        return self.case_name if self.card.unit == "patient" else self.card.unit


def set_apart(names: Iterable[str], others: Container[str], kind: str = "metric") -> tuple[str, ...]:
    """The columns of metrics in a table that has `others` too: that of a metric called `model` is `metric model`."""
    return tuple(f"{kind} {name}" if name in others else name for name in names)


@dataclass(frozen=True)
class Failure:
    """A run that failed, or predictions that cannot be used."""

    status: str  # of the run, or "damaged"
    message: str
    fix: str = ""


def parse_by(texts: Sequence[str]) -> tuple[GroupBy, ...]:
    """Parse `sex` or `age:10`. A column name may contain colons: only a number after the last one is a width."""
    groups = []
    for text in texts:
        column, colon, width = text.rpartition(":")
        try:
            by = GroupBy(column=column, width=float(width)) if colon else GroupBy(column=text)
        except ValueError:
            by = GroupBy(column=text)
        if by.width is not None and not (0 < by.width < float("inf")):
            raise UsageError(f"--by {text}: a width is a number above 0", fix="write COLUMN:WIDTH, as age:10")
        groups.append(by)
    return tuple(groups)
