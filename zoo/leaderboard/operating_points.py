"""Operating points: thresholds chosen on val, and their results on test.

All counts are of the scored unit; in multi-label tasks each label is a separate binary question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.intervals import MetricInterval, draw_patients, resample
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import LazyRun, Predictions, SplitPredictions
from zoo.evaluation.reasons import Reason, reason_for_interval
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import (
    DecidedTest,
    ThresholdRule,
    ThresholdTarget,
    choose_thresholds,
    decide,
    scale_of,
    youden_threshold,
)
from zoo.evaluation.values import Runs, Score, mean_of_means, score_seeds
from zoo.leaderboard.calibration import merge_units
from zoo.leaderboard.tables import Cell, ScoredRow, SectionRequest
from zoo.results.memo import RunsMemo
from zoo.results.store import parse_score
from zoo.specs.metric import ScoringContext, positive_index
from zoo.specs.section import Section
from zoo.statistics.intervals import add_seed_variance, percentile_interval
from zoo.statistics.predictive import predictive_intervals, predictive_values
from zoo.tasks.kinds import default_task

NAMES = ("sensitivity", "specificity", "ppv", "npv")
POINT_METRICS = {spec.name: spec for spec in METRICS if spec.name in NAMES}
COMPACT_ROWS = 12  # on a terminal, for multi-label tasks; a model's labels stay together


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One row's runs as a binary task on the scored unit: the positive class, or one label of several."""

    row: ScoredRow
    label: str
    runs: Runs
    card: ScoringContext


@dataclass(frozen=True, kw_only=True)
class Point:
    """The scores of one row at its thresholds, on test and on val."""

    thresholds: tuple[tuple[float, ...], ...]  # by seed and fold
    scores: Mapping[str, Score]
    on_val: Mapping[str, Score]
    at_prevalence: tuple[Score, Score] | None  # PPV, NPV
    fallbacks: int  # runs whose val gave no threshold, so that it is .5


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `operating`: sensitivity, specificity and predictive values of every row at its threshold."""
    if not request.card.task.yes_no or not request.rows:
        return None
    options, multilabel = request.options, not request.card.task.classes
    rows: list[tuple[Cell, ...]] = []
    described, reasons, questions = [], [], list(list_label_questions(request))
    for question, answer in answer_questions(questions, request):
        place = (question.row.label, question.label) if multilabel else (question.row.label,)
        point = None if isinstance(answer, str) else answer
        if isinstance(answer, str):
            reasons.append(f"{' '.join(place)}: no threshold: {answer}")
        rows.append((*place, *point_cells(point, options.reach, options.prevalence)))
        described.append(describe_point(question, point))
        if point and point.fallbacks:
            counted = f"{point.fallbacks} of {sum(map(len, point.thresholds))} runs"
            reasons.append(f"{' '.join(place)}: threshold .5 in {counted}: on val no threshold is better than chance")
    columns = point_columns(multilabel, options.reach, options.prevalence)
    rules = dict.fromkeys(options.reach or request.rule_of(row) for row in request.rows)
    per_model = len(request.card.labels) if multilabel else 1
    return Section(
        name="operating",
        title="Operating point: " + "; ".join(map(describe_rule, rules)),
        columns=columns,
        rows=tuple(rows),
        compact=tuple(c for c in columns if c not in ("PPV", "NPV")) if options.prevalence else (),
        compact_rows=per_model * max(COMPACT_ROWS // per_model, 1) if multilabel else None,
        notes=(*point_notes(questions, options.prevalence), *methods_of(rows), *reasons),
        details={
            "rule": {options.reach.metric: options.reach.least} if options.reach else ", ".join(map(str, rules)),
            "prevalence": options.prevalence,
            "unit": request.card.unit,
            "points": described,
        },
    )


# --- questions -------------------------------------------------------------------------------------------------------
def list_label_questions(request: SectionRequest) -> Iterator[Question]:
    """List every row and label as a binary task on the units; of several classes, each against the rest."""
    card = request.card
    for row in request.rows:
        runs = [[LazyRun(partial(merge_units, run, card)) for run in folds] for folds in row.stored]
        if card.task.targets.has_positive:
            label = card.labels[positive_index(card)]
            yield Question(row=row, label=label, runs=runs, card=replace(card, unit="image", val_unit=None))
            continue
        for number, label in enumerate(card.labels):
            alone = [[LazyRun(partial(reduce_to_label, run, number)) for run in folds] for folds in runs]
            labels, task = (f"no {label}", label), default_task("class", 2)
            yield Question(
                row=row,
                label=label,
                runs=alone,
                card=replace(card, task=task, labels=labels, positive=1, unit="image", val_unit=None),
            )


def reduce_to_label(run: SplitPredictions, label: int) -> SplitPredictions:
    return {split: one_label(part, label) for split, part in run.items()}


def one_label(part: Predictions, label: int) -> Predictions:
    """One label of several, or one class against the rest, as a binary task on the units with a known target."""
    if part.targets.ndim == 1:
        part = replace(part, targets=np.eye(part.probabilities.shape[1])[part.targets])
    labeled = ~np.isnan(part.targets[:, label])
    chance = part.probabilities[labeled, label]
    odds = None if part.log_odds is None else part.log_odds[labeled, label]
    return Predictions(
        sample_ids=part.sample_ids[labeled],
        patients=part.patients[labeled],
        targets=part.targets[labeled, label].astype(np.int64),
        probabilities=np.column_stack([1 - chance, chance]),
        log_odds=None if odds is None else np.column_stack([-odds, odds]),
    )


# --- points ----------------------------------------------------------------------------------------------------------
def answer_questions(questions: Sequence[Question], request: SectionRequest) -> Iterator[tuple[Question, Point | str]]:
    """Yield each question with its point, or with why no threshold on val reaches the target."""
    for row, of_row in groupby(questions, key=lambda question: question.row):
        with row.memo as memo:
            for question in of_row:
                rule = request.options.reach or request.rule_of(row)
                yield question, recall_point(memo, question, rule, request.options.prevalence)


def recall_point(memo: RunsMemo, question: Question, rule: ThresholdRule, prevalence: float | None) -> Point | str:

    def describe() -> dict[str, Any]:
        try:
            return asdict(find_point(question, rule, prevalence))
        except Undefined as reason:
            return {"undefined": str(reason)}

    fact = memo.find(f"operating point, {question.label}, {rule}, prevalence {prevalence}", describe)
    if "undefined" in fact:
        return str(fact["undefined"])
    both = fact["at_prevalence"]
    return Point(
        thresholds=tuple(map(tuple, fact["thresholds"])),
        scores={name: parse_score(score) for name, score in fact["scores"].items()},
        on_val={name: parse_score(score) for name, score in fact["on_val"].items()},
        at_prevalence=None if both is None else (parse_score(both[0]), parse_score(both[1])),
        fallbacks=fact["fallbacks"],
    )


def find_point(question: Question, rule: ThresholdRule, prevalence: float | None) -> Point:
    """Score a question at its thresholds; raises Undefined if no threshold on val reaches the target."""
    card, runs = question.card, question.runs
    thresholds, fallbacks = [], 0
    for folds in runs:
        chosen = [choose_thresholds(run.get("val"), card, rule) for run in folds]
        thresholds.append(tuple(float(one[0]) for one in chosen if one is not None))
        fallbacks += sum(rule == "val" and not can_choose(run, card) for run in folds)
    scores = score(runs, POINT_METRICS, card, threshold=rule)
    on_val: Mapping[str, Score] = {}
    if all("val" in run for folds in runs for run in folds):
        of_val = [[{"val": run["val"], "test": run["val"]} for run in folds] for folds in runs]
        on_val = score(of_val, POINT_METRICS, card, threshold=rule, intervals=False)
    at_prevalence = None
    if prevalence is not None:
        tested = [[decide(run, card, rule) for run in folds] for folds in runs]
        at_prevalence = predict_values(scores, tested, card, prevalence)
    return Point(
        thresholds=tuple(thresholds), scores=scores, on_val=on_val, at_prevalence=at_prevalence, fallbacks=fallbacks
    )


def can_choose(run: SplitPredictions, card: ScoringContext) -> bool:
    """Whether a threshold on val is better than chance."""
    val, positive = run.get("val"), positive_index(card)
    if val is None:
        return False
    scale, ranked = scale_of(val)
    return youden_threshold(val.targets == positive, ranked[:, positive], scale) is not None


def predict_values(
    scores: Mapping[str, Score], tested: Sequence[Sequence[DecidedTest]], card: ScoringContext, prevalence: float
) -> tuple[Score, Score]:
    """PPV and NPV at a prevalence, by Bayes' rule from sensitivity and specificity.

    Their intervals follow from Wilson's intervals of these two (MOVER-R), else from a patient bootstrap.
    """
    sensitivity, specificity = scores["sensitivity"], scores["specificity"]
    for rate in (sensitivity, specificity):
        if rate.value is None:
            none = Score(value=None, reason=rate.reason)
            return none, none
    assert sensitivity.value is not None and specificity.value is not None
    values = predictive_values(np.array(sensitivity.value), np.array(specificity.value), prevalence)
    reason = sensitivity.reason or specificity.reason
    if reason:
        intervals: list[MetricInterval | Reason] = [reason, reason]
    elif all(rate.method and rate.method.code == "wilson" for rate in (sensitivity, specificity)):
        bounds = [(rate.low or 0.0, 1.0 if rate.high is None else rate.high) for rate in (sensitivity, specificity)]
        both = predictive_intervals(sensitivity.value, specificity.value, bounds[0], bounds[1], prevalence)
        intervals = [(low, high, IntervalMethod(code="mover-r")) for low, high in both]
    else:
        intervals = resample_values(values, tested, card, prevalence)
    missing = (Reason("no-positive-decisions"), Reason("no-negative-decisions"))
    return tuple(map(make_score, values, intervals, missing))  # type: ignore[return-value]


def make_score(value: Array, interval: MetricInterval | Reason, missing: Reason) -> Score:
    if np.isnan(value):
        return Score(value=None, reason=missing)
    if isinstance(interval, Reason):
        return Score(value=float(value), reason=interval)
    return Score(value=float(value), low=interval[0], high=interval[1], method=interval[2])


def resample_values(
    values: tuple[Array, Array], tested: Sequence[Sequence[DecidedTest]], card: ScoringContext, prevalence: float
) -> list[MetricInterval | Reason]:
    """The bootstrap interval by patient of PPV and of NPV, or the reason why there is none."""
    draws = draw_patients(tested)
    drawn, by_seed = [], []
    for name in ("sensitivity", "specificity"):
        metric = POINT_METRICS[name]
        folds = [[resample(metric, part, w) for part, w in zip(parts, draws, strict=True)] for parts in tested]
        drawn.append(mean_of_means(folds))
        by_seed.append(score_seeds(metric, tested))
    resampled = predictive_values(drawn[0], drawn[1], prevalence)
    of_seeds = predictive_values(by_seed[0], by_seed[1], prevalence)
    num_patients = sum(len(np.unique(part.patients)) for part in tested[0])
    intervals: list[MetricInterval | Reason] = []
    for value, values_drawn, values_seed in zip(values, resampled, of_seeds, strict=True):
        interval = percentile_interval(values_drawn)
        if interval.low is None or interval.high is None or np.isnan(values_seed).any():
            intervals.append(reason_for_interval(interval) if interval.fault else Reason("undefined-seed"))
            continue
        low, high = interval.low, interval.high
        method = IntervalMethod(
            code="bootstrap", unit="patient" if card.has_patients else "image", with_seeds=len(tested) > 1
        )
        if len(tested) > 1:
            low, high = add_seed_variance((low, high), float(value), values_seed, num_patients)
        intervals.append((max(low, 0.0), min(high, 1.0), method))
    return intervals


# --- the table ---------------------------------------------------------------------------------------------------
def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def point_columns(multilabel: bool, reach: ThresholdTarget | None, prevalence: float | None) -> tuple[str, ...]:
    columns = ["model", *(["label"] if multilabel else []), "threshold"]
    columns += [f"{reach.metric} on val"] if reach else []
    columns += ["sensitivity", "specificity", "PPV", "NPV"]
    columns += [] if prevalence is None else [f"PPV at {percent(prevalence)}", f"NPV at {percent(prevalence)}"]
    return tuple(columns)


def point_cells(point: Point | None, reach: ThresholdTarget | None, prevalence: float | None) -> tuple[Cell, ...]:
    """The cells of `point_columns` after model and label."""
    if point is None:
        return (None,) * (5 + (reach is not None) + 2 * (prevalence is not None))
    cells: list[Cell] = [float(np.mean([number for folds in point.thresholds for number in folds]))]
    if reach:
        cells.append(point.on_val[reach.metric].value)
    cells += [point.scores[name] for name in NAMES]
    cells += [] if point.at_prevalence is None else point.at_prevalence
    return tuple(cells)


def describe_rule(rule: ThresholdRule) -> str:
    if isinstance(rule, ThresholdTarget):
        how = "highest" if rule.metric == "sensitivity" else "lowest"
        return f"the {how} threshold with a {rule.metric} of at least {percent(rule.least)} on val"
    if rule == "half":
        return "threshold .5, the protocol's"
    return "the threshold with the largest sensitivity + specificity on val"


def point_notes(questions: Sequence[Question], prevalence: float | None) -> list[str]:
    """The notes: the samples on which thresholds were chosen, and the prevalence of PPV and NPV."""
    first = questions[0]
    several = len({question.label for question in questions}) > 1
    notes = ["threshold: the mean over runs; each run uses its own, chosen on val and never on test"]
    if not several:
        counts = [count(folds[0]["val"], first.card) for folds in first.runs[:1] if "val" in folds[0]]
        for positives, negatives in counts:
            of_fold = ", in the first fold" if len(first.runs[0]) > 1 else ""
            notes.append(f"chosen on {positives} positives and {negatives} negatives of val{of_fold}")
    positives, negatives = (sum(c) for c in zip(*(count(r["test"], first.card) for r in first.runs[0]), strict=True))
    whose = "each label's prevalence in test" if several else f"{percent(positives / (positives + negatives))} of test"
    notes.append(
        f"PPV and NPV hold where the positive class is as frequent as here: {whose}"
        + ("; another prevalence gives others" if prevalence is None else "")
    )
    if prevalence is not None:
        notes.append(f"at {percent(prevalence)}: by Bayes' rule from the row's sensitivity and specificity")
    return notes


def methods_of(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """One note with every interval method."""
    methods = sorted({cell.method.text for cells in rows for cell in cells if isinstance(cell, Score) and cell.method})
    return [f"intervals: 95 %, {'; '.join(methods)}"] if methods else []


def count(part: Predictions, card: ScoringContext) -> tuple[int, int]:
    positives = int((part.targets == positive_index(card)).sum())
    return positives, len(part) - positives


def describe_point(question: Question, point: Point | None) -> dict[str, Any]:
    """The thresholds by seed and fold and the scores on val, as plain data."""
    thresholds = () if point is None else point.thresholds
    return {
        "model": question.row.label,
        "label": question.label,
        "thresholds": [
            {"seed": question.row.seeds[number], "fold": fold, "threshold": threshold}
            for number, folds in enumerate(thresholds)
            for fold, threshold in enumerate(folds)
        ],
        "on_val": {} if point is None else {name: rate.value for name, rate in point.on_val.items()},
    }
