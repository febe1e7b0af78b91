"""Compute the value of a metric over seeds and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined, clean
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.reasons import Reason, reason_for
from zoo.evaluation.thresholds import SCORE_TOLERANCE, DecidedTest, ThresholdRule, decide
from zoo.registry.isolation import noted_interrupts
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext, positive_index
from zoo.statistics.means import exact_mean

Runs = Sequence[Sequence[Mapping[str, Predictions]]]

DecidedRuns = Sequence[Sequence[DecidedTest]]  # by seed and fold

MIN_CASES = 10


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its 95 % interval. `reason` states why there is no value or, if there is one, no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: IntervalMethod | None = None
    reason: Reason | None = None
    note: str = ""  # "macro over 6 of 7 labels"
    version: int = 1  # of the metric


def decide_all(runs: Runs, card: ScoringContext, threshold: ThresholdRule) -> DecidedRuns:
    return [[decide(run, card, threshold) for run in folds] for folds in runs]


def score_value(
    metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]], card: ScoringContext
) -> tuple[Score, Array]:
    """Compute the value without an interval, and the scores of the seeds (S,), whose mean it is.

    A metric that is undefined in one fold is undefined, because the mean of the other folds is another quantity.
    """
    none = np.empty(0)
    if card.task.name not in metric.tasks:
        reason = Reason("wrong-task", (card.task.name,))
        return Score(value=None, reason=reason, version=metric.version), none
    try:
        with noted_interrupts() as interrupts:
            seed_scores = score_seeds(metric, tested)
            notes = [metric.note(part.request_of(metric)) for folds in tested for part in folds] if metric.note else []
    except Undefined as error:
        return Score(value=None, reason=reason_for(error, "undefined"), version=metric.version), none
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and interrupts:
            raise
        return Score(value=None, reason=reason_for(error, "failed"), version=metric.version), none
    note = "; ".join(dict.fromkeys(clean(note) for note in notes if note))
    return Score(value=exact_mean(seed_scores), note=note, version=metric.version), seed_scores


def score_seeds(metric: MetricSpec, tested: Sequence[Sequence[DecidedTest]]) -> Array:
    """Compute the score of each seed, its mean over folds: (S,)."""
    return np.array([exact_mean(compute(metric, part.request_of(metric)) for part in folds) for folds in tested])


def compute(metric: MetricSpec, request: MetricRequest) -> float:
    """Compute a metric, and check that it is one finite number within the metric's bounds.

    Raises TypeError or ValueError if it is not.
    """
    value = metric.compute(request)
    if not isinstance(value, Real):
        raise TypeError(f"expected one number, got {type(value).__name__}")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"expected a finite number, got {number} (raise Undefined where there is none)")
    low, high = metric.bounds
    if (low is not None and number < low - SCORE_TOLERANCE) or (high is not None and number > high + SCORE_TOLERANCE):
        raise ValueError(f"{number:.6g} is outside the metric's bounds {low} to {high}")
    return number


def mean_of_means(values: Sequence[Sequence[Array]]) -> Array:
    """Average resampled values (B,) over folds, then over seeds."""
    return np.asarray(np.mean([np.mean(folds, axis=0) for folds in values], axis=0))


def find_too_few(folds: Sequence[DecidedTest], card: ScoringContext) -> Reason | None:
    """Return why the test set is too small for an interval, or None.

    An interval needs 10 patients with and 10 without the positive class, over all folds; for several classes or labels,
    this holds for each one that occurs, because a macro average depends on the rarest. Without labels, 10 patients.
    """
    sides = card.task.presentation.cases
    if not sides:
        num_patients = sum(len(np.unique(part.patients)) for part in folds)
        if num_patients >= MIN_CASES:
            return None
        return Reason("too-few", (num_patients, MIN_CASES, "patient" if card.has_patients else "image", "", ""))
    # (2, L): positives and negatives of each label
    num_labels = len(card.labels)
    each = (count_cases(part.request.targets, part.patients, num_labels) for part in folds)
    cases = sum(each, np.zeros((2, num_labels), dtype=np.int64))
    several_each = any(len(np.unique(part.patients)) < len(part.patients) for part in folds)
    is_binary = card.task.targets.has_positive
    if is_binary:
        cases = cases[:, [positive_index(card)]]
    shortages = [
        (int(cases[side, i]), side, i)
        for i in range(cases.shape[1])
        for side in (0, 1)
        if cases[side, i] < MIN_CASES and (is_binary or cases[0, i] > 0)
    ]
    if not shortages:
        return None
    num, side, i = min(shortages)
    label = "" if is_binary else card.labels[i]
    return Reason("too-few", (num, MIN_CASES, sides[side], label, "patient" if several_each else ""))


def count_cases(targets: Array, patients: Array, num_labels: int) -> Array:
    """Count the patients with an image that has each label, and with one that does not: int64 (2, L).

    Unknown targets count in neither row.
    """
    if targets.ndim == 1:
        sides = (targets[:, None] == np.arange(num_labels), targets[:, None] != np.arange(num_labels))
    else:
        sides = (targets == 1, targets == 0)
    return np.array([[len(np.unique(patients[column])) for column in side.T] for side in sides], dtype=np.int64)


def compute_or_nan(metric: MetricSpec, request: MetricRequest) -> float:
    try:
        return compute(metric, request)
    except Undefined:
        return float("nan")


def repeat_units(request: MetricRequest, drawn: Array) -> MetricRequest:
    """Repeat each unit of a request as often as it was drawn, (N,).

    A patient drawn twice is two patients: the second copies of its units have a number of their own.
    """
    drawn = drawn.astype(np.int64)
    taken = request.take(np.repeat(np.arange(len(drawn)), drawn))
    if request.patients is None:
        return taken
    copies = np.arange(drawn.sum()) - np.repeat(np.cumsum(drawn) - drawn, drawn)
    return replace(taken, patients=taken.patients + copies * (request.patients.max(initial=0) + 1))
