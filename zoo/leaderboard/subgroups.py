"""Scores by group, and the difference of each group from the rest.

All counts are of the scored unit; thresholds are those chosen on all of val.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.arrays import Array
from zoo.data.metadata import MAX_TEXT_VALUES, blank_cells, read_numbers, says_unknown
from zoo.errors import Undefined, nearest, plural_of
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import SEVERAL, Predictions, SplitPredictions
from zoo.evaluation.reasons import Reason, reason_for
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import ThresholdRule, decide
from zoo.evaluation.values import MIN_CASES, Runs, Score, find_too_few
from zoo.leaderboard.tables import Cell, GroupBy, ScoredRow, SectionRequest, set_apart
from zoo.specs.metric import MetricSpec, ScoringContext, positive_index
from zoo.specs.section import Section
from zoo.statistics.intervals import independent_difference
from zoo.statistics.pairs import holm

MAX_CATEGORIES = 10  # more distinct numbers are cut at quartiles if no width is given
OF_DECISIONS = {spec.name: spec for spec in METRICS if spec.name in ("sensitivity", "specificity")}
UNKNOWN_GROUP = "unknown"
LESS = "less rest's"
KEPT = (
    f"results keep columns of numbers, and of at most {MAX_TEXT_VALUES} texts that images share; in a column of "
    "numbers, correct or empty each cell that is not a number, and run again with `zoo bench --fresh`"
)
NO_METADATA = f"these results hold no metadata; {KEPT}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The tested units with one value, or one range of values, of a column."""

    by: str
    name: str
    members: tuple[Array, ...]  # by fold, bool (N,)


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """One model on one group."""

    scores: Mapping[str, Score]
    differences: Mapping[str, Score]  # group minus all other units
    p: float | None  # of the primary metric's difference, unadjusted


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `subgroups` of all requested columns; None if none is requested."""
    if not request.options.by:
        return None
    request = request.over_counted_labels()
    metrics = metrics_of(request)
    rows = [row for row in request.rows if not row.baseline] or list(request.rows)
    runs = [merge_row_units(row, request.card) for row in rows]
    tests = find_metadata(runs)
    columns = group_columns(request, metrics)
    empty = Section(name="subgroups", title="Subgroups", columns=columns, rows=())
    if tests is None or not metrics:
        return replace(empty, notes=(NO_METADATA if metrics else "the primary metric is not installed",))
    groups, made = make_all_groups(request.options.by, tests, request.unit_name)
    notes: list[Reason | str] = list(made)
    card = replace(request.card, unit="image", val_unit=None)  # units are rows
    table: list[tuple[Cell, ...]] = []
    for row, stored in zip(rows, runs, strict=True):
        if not same_units(stored, tests):
            notes.append(f"{row.label}: left out, tested on other {plural_of(request.unit_name)}")
            continue
        rule = request.options.reach or request.rule_of(row)
        measured = [measure_group(stored, group, metrics, card, rule) for group in groups]
        notes += untested_notes(row.label, groups, measured)
        for group, scored, p in zip(groups, measured, adjust(measured, groups), strict=True):
            table.append((row.label, group.by, group.name, *group_cells(scored, p, group, tests, card)))
    return replace(
        empty,
        rows=tuple(table),
        compact=columns[len(rows) == 1 : columns.index("p (Holm)") + 1],
        notes=(*(group_notes(request, metrics) if table else ()), *notes),
    )


def merge_row_units(row: ScoredRow, card: ScoringContext) -> list[list[SplitPredictions]]:
    return [
        [{split: blank_unknown(part).by_unit(card.unit_of(split)) for split, part in run.items()} for run in folds]
        for folds in row.stored
    ]


def blank_unknown(part: Predictions) -> Predictions:
    """Empty the cells of numeric columns that contain `NA` or the like; text columns are unchanged.

    This runs before images are merged to units: a patient's age is that of the images that have one.
    """
    return replace(part, metadata={name: blank_cells(values) for name, values in part.metadata.items()})


def find_metadata(runs: Sequence[Runs]) -> list[Predictions] | None:
    """The tested units of each fold with their metadata, from the first row that has them; None if none has."""
    for seeds in runs:
        tests = [run["test"] for run in seeds[0]]
        if all(test.metadata for test in tests):
            return tests
    return None


def same_units(runs: Runs, tests: Sequence[Predictions]) -> bool:
    """Whether all seeds were tested, fold by fold, on the units that have the metadata."""
    return all(
        len(folds) == len(tests)
        and all(np.array_equal(run["test"].sample_ids, t.sample_ids) for run, t in zip(folds, tests, strict=True))
        for folds in runs
    )


def metrics_of(request: SectionRequest) -> dict[str, MetricSpec]:
    """The primary metric and, for binary tasks, sensitivity and specificity."""
    if request.primary is None:
        return {}
    others = OF_DECISIONS if request.card.task.targets.has_positive else {}
    return {request.primary.name: request.primary, **others}


# --- groups ----------------------------------------------------------------------------------------------------------
def make_all_groups(
    columns: Sequence[GroupBy], tests: Sequence[Predictions], unit_name: str
) -> tuple[list[Group], list[str]]:
    """Make the groups of all columns that have any, and notes on all columns."""
    groups: list[Group] = []
    notes: list[str] = []
    for by in columns:
        try:
            column_groups, column_notes = make_groups(by, tests, unit_name)
        except Undefined as reason:
            column_groups, column_notes = [], [str(reason)]
        groups += column_groups
        notes += column_notes
    return groups, notes


def make_groups(by: GroupBy, tests: Sequence[Predictions], unit_name: str) -> tuple[list[Group], list[str]]:
    """Make the groups of one column, and notes; Undefined if it has no groups."""
    metadata = tests[0].metadata
    if by.column not in metadata:
        column, _, width = by.column.rpartition(":")
        if column in metadata:
            raise Undefined(f"{by.text}: {width!r} is not a width: write {column}:10 for groups of ten")
        hint = nearest(by.column, metadata)
        raise Undefined(
            f"{by.text}: no such column. {hint + ' ' if hint else ''}There are: {', '.join(metadata)}; {KEPT}"
        )
    values = np.concatenate([part.metadata[by.column] for part in tests])
    names, order, notes = name_groups(by, values)
    ends = np.cumsum([len(part) for part in tests])[:-1]
    groups = [
        Group(by=by.text, name=name, members=tuple(np.split(names == name, ends))) for name in order if name in names
    ]
    if unknown := int((names == UNKNOWN_GROUP).sum()):
        notes.append(f"{by.column}: unknown for {unknown} of {len(names)} {plural_of(unit_name)}")
    if SEVERAL in names:
        notes.append(f"{by.text}: {SEVERAL}: the images of one {unit_name} have different values")
    if len(groups) < 2:
        raise Undefined(f"{by.text}: all of test is {groups[0].name!r}: there are no groups")
    return groups, notes


def name_groups(by: GroupBy, values: Array) -> tuple[Array, list[str], list[str]]:
    """Return the group of each value (N,), the groups in order with the unknown last, and notes."""
    numbers = read_numbers(values)
    odd = "" if numbers is not None else describe_odd(values)
    if by.width is not None and numbers is None:
        fix = "correct such cells, leave unknown ones empty, and run again with `zoo bench --fresh`"
        raise Undefined(f"{by.text}: {f'{odd}: {fix}' if odd else 'the column holds texts, which have no width'}")
    if numbers is None or (by.width is None and len(np.unique(values[values != ""])) <= MAX_CATEGORIES):
        names = np.where(values == "", UNKNOWN_GROUP, values)
        order = sorted(
            set(names.tolist()) - {UNKNOWN_GROUP}, key=(lambda v: (float(v), v)) if numbers is not None else None
        )
        return names, [*order, UNKNOWN_GROUP], [f"{by.column}: read as texts: {odd}"] if odd else []
    present = ~np.isnan(numbers)
    notes = []
    if by.width is not None:
        bins = np.floor(numbers[present] / by.width)
        labels = {float(b): f"{b * by.width:g} to <{(b + 1) * by.width:g}" for b in np.unique(bins)}
    else:
        bins = np.searchsorted(np.quantile(numbers[present], [0.25, 0.5, 0.75]), numbers[present], side="left")
        parts = {float(b): numbers[present][bins == b] for b in np.unique(bins)}
        labels = {b: f"{part.min():g} to {part.max():g}" for b, part in parts.items()}
        notes.append(f"{by.column}: cut at the quartiles of test; {by.column}:10 makes groups of 10")
    names = np.full(len(values), UNKNOWN_GROUP, dtype=object)
    names[present] = [labels[float(b)] for b in bins]
    return names.astype(np.str_), [*labels.values(), UNKNOWN_GROUP], notes


def describe_odd(values: Array) -> str:
    """The first non-numeric value of a numeric column, and their number; "" if most values are texts."""
    filled = values[~says_unknown(values) & (values != SEVERAL)]
    odd = [value for value in filled.tolist() if read_numbers(np.array([value])) is None]
    if not odd or len(odd) > len(filled) / 2:
        return ""
    return f"{odd[0]!r} is not a number ({len(odd)} of {len(values)} values)"


# --- scores ----------------------------------------------------------------------------------------------------------
def measure_group(
    runs: Runs, group: Group, metrics: Mapping[str, MetricSpec], card: ScoringContext, rule: ThresholdRule
) -> GroupScores:
    """Score a group and its differences from all other units; without values if it has too few cases."""
    inside = [[select_units(run, members) for run, members in zip(folds, group.members, strict=True)] for folds in runs]
    outside = [
        [select_units(run, ~members) for run, members in zip(folds, group.members, strict=True)] for folds in runs
    ]
    if not all(members.any() for members in group.members):
        return without_values(metrics, Reason("absent-in-fold", (len(group.members),)))
    try:
        tested, rest = ([[decide(run, card, rule) for run in folds] for folds in part] for part in (inside, outside))
    except Undefined as error:  # no threshold on val reaches the target
        return without_values(metrics, reason_for(error, "undefined"))
    if too_few := find_too_few(tested[0], card):
        return without_values(metrics, too_few)
    scores = score(inside, metrics, card, threshold=rule)
    too_few = find_too_few(rest[0], card)
    if too_few is None and any(members.all() for members in group.members):
        too_few = Reason("absent-in-fold", (len(group.members),))
    if too_few:
        differences = {name: Score(value=None, reason=of_rest(too_few)) for name in metrics}
        return GroupScores(scores=scores, differences=differences, p=None)
    rest_scores = score(outside, metrics, card, threshold=rule)
    differed = {name: differ(scores[name], rest_scores[name]) for name in metrics}
    differences = {name: difference for name, (difference, _) in differed.items()}
    return GroupScores(scores=scores, differences=differences, p=next(iter(differed.values()))[1])


def without_values(metrics: Mapping[str, MetricSpec], reason: Reason) -> GroupScores:
    scores = {name: Score(value=None, reason=reason) for name in metrics}
    return GroupScores(scores=scores, differences=scores, p=None)


def of_rest(reason: Reason | None) -> Reason:
    assert reason is not None  # a score without an interval has one
    return Reason("of", ("the rest", reason))


def select_units(run: SplitPredictions, inside: Array) -> SplitPredictions:
    """Select units of test; val is unchanged."""
    return {**run, "test": run["test"].take(inside)}


def differ(group: Score, rest: Score) -> tuple[Score, float | None]:
    """Group minus rest, with interval and p from the two intervals, assuming independence.

    Patients with units on both sides correlate the two, which makes the test conservative.
    """
    if group.value is None or rest.value is None:
        return Score(value=None, reason=group.reason if group.value is None else of_rest(rest.reason)), None
    value = group.value - rest.value
    if group.low is None or group.high is None or rest.low is None or rest.high is None:
        return Score(value=value, reason=group.reason if group.low is None else of_rest(rest.reason)), None
    low, high, p = independent_difference(group.value, rest.value, (group.low, group.high), (rest.low, rest.high))
    return Score(value=value, low=low, high=high, method=IntervalMethod(code="mover")), p


def adjust(measured: Sequence[GroupScores], groups: Sequence[Group]) -> list[float | None]:
    """Holm-adjusted p over all groups of one model; the two groups of a binary column share one test."""
    sizes = {by: sum(group.by == by for group in groups) for by in {group.by for group in groups}}
    tested = [i for i, each in enumerate(measured) if each.p is not None]
    twins: dict[str, int] = {}
    for i in tested:
        if sizes[groups[i].by] == 2:
            twins.setdefault(groups[i].by, i)
    family = [i for i in tested if twins.get(groups[i].by, i) == i]
    adjusted: list[float | None] = [None] * len(measured)
    for i, p in zip(family, holm(np.array([measured[i].p for i in family])), strict=True):
        adjusted[i] = float(p)
    for i in tested:
        adjusted[i] = adjusted[twins.get(groups[i].by, i)]
    return adjusted


def untested_notes(model: str, groups: Sequence[Group], measured: Sequence[GroupScores]) -> Iterator[Reason]:
    """Why a group with a difference has no p: its interval, or that of the rest, is missing."""
    for group, scored in zip(groups, measured, strict=True):
        difference = next(iter(scored.differences.values()))
        if scored.p is None and difference.value is not None and difference.reason:
            yield Reason("of", (f"{model}, {group.by} {group.name}: no p", difference.reason))


# --- the table ---------------------------------------------------------------------------------------------------
def group_columns(request: SectionRequest, metrics: Mapping[str, MetricSpec]) -> tuple[str, ...]:
    counted = [plural_of(request.unit_name)]
    if request.card.task.targets.has_positive:
        counted += [f"{request.case_name}s +", f"{request.case_name}s -"]
    differences = [f"{name} {LESS}" for name in metrics]
    first, p = ("model", "by", "group", *counted), "p (Holm)"
    return (*first, *set_apart(metrics, {*first, p}), *differences[:1], p, *differences[1:])


def group_cells(
    measured: GroupScores, p: float | None, group: Group, tests: Sequence[Predictions], card: ScoringContext
) -> Iterator[Cell]:
    names = list(measured.scores)
    yield int(sum(inside.sum() for inside in group.members))
    if card.task.targets.has_positive:
        positive = positive_index(card)
        inside = [test.take(members) for test, members in zip(tests, group.members, strict=True)]
        for of_positives in (True, False):
            sides = [part.patients[(part.targets == positive) == of_positives] for part in inside]
            yield sum(len(np.unique(patients)) for patients in sides)
    yield from (measured.scores[name] for name in names)
    yield measured.differences[names[0]]
    yield p
    yield from (measured.differences[name] for name in names[1:])


def group_notes(request: SectionRequest, metrics: Mapping[str, MetricSpec]) -> list[str]:
    cases = request.card.task.presentation.cases or ("",)
    few = " or ".join(f"under {MIN_CASES} {case}".rstrip() for case in cases)
    notes = [
        f"{LESS}: the group's value minus that of all other {plural_of(request.unit_name)}. The largest "
        "of several gaps would be "
        "large by chance alone",
        f"p: of the difference in {next(iter(metrics))}, after Holm over all of a model's groups",
        f"too few: {few} {request.case_name}s; such a group is not scored",
    ]
    if len(metrics) > 1:
        notes.append("sensitivity and specificity at the threshold chosen on all of val")
    return notes
