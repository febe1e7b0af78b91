"""Choose thresholds on val, and apply them to the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.predictions import Predictions
from zoo.specs.metric import MetricRequest, MetricSpec, ScoringContext, positive_index
from zoo.tasks.logits import sigmoid

SCORE_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class ThresholdTarget:
    """Reach at least this sensitivity (or specificity) on val, with the highest possible value of the other."""

    metric: Literal["sensitivity", "specificity"]
    least: float


# "val": the largest sensitivity + specificity on val; "half": .5; or a target that is reached on val.
ThresholdRule = Literal["val", "half"] | ThresholdTarget


@dataclass(frozen=True, eq=False)
class DecidedTest:
    """The test split of one seed and fold with decisions: a metric's input, and the patient of each unit."""

    request: MetricRequest
    patients: Array  # (N,)
    metadata: Mapping[str, Array] = field(default_factory=dict)  # by column: (N,)

    @cached_property
    def patient_numbers(self) -> Array:
        """A number for each unit, int64 (N,), from 0 in the order of the patients' ids."""
        numbers: Array = np.unique(self.patients, return_inverse=True)[1].astype(np.int64)
        numbers.flags.writeable = False
        return numbers

    @cached_property
    def _requests(self) -> dict[tuple[bool, tuple[str, ...]], MetricRequest]:
        """The requests of metrics that read more than targets and probabilities, by what they read."""
        return {}

    def request_of(self, metric: MetricSpec) -> MetricRequest:
        """The input of a metric. Raises `Undefined` if it reads a column that the predictions lack."""
        if not metric.patients and not metric.metadata:
            return self.request
        if missing := [name for name in metric.metadata if name not in self.metadata]:
            raise Undefined(f"the stored predictions have no column {missing[0]!r}")
        key = metric.patients, metric.metadata
        if key not in self._requests:
            self._requests[key] = self.with_columns(metric.metadata, patients=metric.patients)
        return self._requests[key]

    def with_columns(self, columns: Iterable[str], *, patients: bool = True) -> MetricRequest:
        """The request with the patients and some columns of the metadata."""
        return replace(
            self.request,
            patients=self.patient_numbers if patients else None,
            metadata={name: read_only(self.metadata[name]) for name in columns},
        )


def decide(run: Mapping[str, Predictions], card: ScoringContext, threshold: ThresholdRule) -> DecidedTest:
    """Aggregate a run's test split to units, and decide them at the thresholds chosen on its val split."""
    val, test = run.get("val"), run["test"]
    val, test = val and val.by_unit(card.unit_of("val")), test.by_unit(card.unit)
    val, test = on_one_scale(val, test, card)
    # Read-only copies: a plugin's metric must not change what the next metric sees.
    request = MetricRequest(
        task=card.task,
        labels=card.labels,
        targets=read_only(test.targets),
        probabilities=read_only(test.probabilities),
        decisions=read_only(decide_classes(test, val, card, threshold)),
        positive=card.positive,
        log_odds=read_only(test.log_odds),
    )
    return DecidedTest(request, test.patients, test.metadata)


def on_one_scale(
    val: Predictions | None, test: Predictions, card: ScoringContext
) -> tuple[Predictions | None, Predictions]:
    """Give val and test both log odds, or both none.

    Older results store no log odds. If they contain probabilities of exactly 1, recover the log odds from the other
    classes' small probabilities, which keep their digits; otherwise the probabilities rank equally well.
    """
    parts = [test] if val is None else [val, test]
    if all(part.log_odds is not None for part in parts):
        return val, test
    saturated = any((part.probabilities == 1).any() for part in parts)
    recover = card.task.answers.recover_log_odds
    parts = [replace(part, log_odds=recover(part.probabilities) if saturated else None) for part in parts]
    return (None if val is None else parts[0]), parts[-1]


def read_only(values: Array | None) -> Any:
    if values is not None:
        values = values.copy()
        values.flags.writeable = False
    return values


def decide_classes(
    test: Predictions, val: Predictions | None, card: ScoringContext, rule: ThresholdRule
) -> Array | None:
    """Decide each unit as the task does, None for tasks without decisions."""
    if card.task.decisions is None:
        return None
    scale, ranked = scale_of(test)
    cuts = choose_cuts(val, card, rule, scale)
    if cuts is None:
        ranked, cuts = test.probabilities, np.empty(0)
    return card.task.decisions.decide(ranked, cuts, positive_index(card))


@dataclass(frozen=True)
class Scale:
    """The scale on which units are ranked and thresholds are chosen: probabilities or log odds."""

    to_probability: Callable[[Array], Array]
    to_cut: Callable[[Array], Array]
    lowest: float  # the lower limit of the scale

    def between(self, ranked: Array) -> Array:
        """Cuts midway between neighboring probabilities, ascending; between log odds where both round to 1."""
        distinct = np.unique(ranked)
        lower, upper = distinct[:-1], distinct[1:]
        shares = self.to_probability(distinct)
        middle, half = self.to_cut((shares[:-1] + shares[1:]) / 2), lower / 2 + upper / 2
        inside = (middle > lower) & (middle <= upper)
        return np.where(inside, middle, np.where(half > lower, half, upper))  # adjacent floats have no middle

    def above(self, ranked: Array) -> float:
        """A cut above every unit: midway from the highest probability to 1, or the next float."""
        highest = ranked.max(keepdims=True)
        cut = float(self.to_cut((self.to_probability(highest) + 1) / 2)[0])
        return cut if highest[0] < cut < np.inf else float(np.nextafter(highest[0], np.inf))


def to_log_odds(probabilities: Array) -> Array:
    from scipy.special import logit

    log_odds: Array = logit(probabilities)
    return log_odds


PROBABILITIES = Scale(np.asarray, np.asarray, 0.0)
LOG_ODDS = Scale(sigmoid, to_log_odds, -np.inf)


def scale_of(part: Predictions) -> tuple[Scale, Array]:
    """The scale of a split's predictions, and their values (N, C) on it."""
    return (PROBABILITIES, part.probabilities) if part.log_odds is None else (LOG_ODDS, part.log_odds)


def choose_thresholds(val: Predictions | None, card: ScoringContext, rule: ThresholdRule) -> Array | None:
    """Choose thresholds, (1,) for a binary or (L,) for a multi-label task; units at or above them are positive.

    None for tasks without thresholds. `val` has one row per unit: image, patient or clip.
    """
    scale = PROBABILITIES if val is None else scale_of(val)[0]
    cuts = choose_cuts(val, card, rule, scale)
    return None if cuts is None else scale.to_probability(cuts)


def choose_cuts(val: Predictions | None, card: ScoringContext, rule: ThresholdRule, scale: Scale) -> Array | None:
    """Choose thresholds as `choose_thresholds` does, on `scale`, which must be that of val."""
    task, num_labels = card.task, len(card.labels)
    labels = task.decisions.cut_labels(num_labels, positive_index(card)) if task.decisions else ()
    if not labels:
        return None
    if isinstance(rule, ThresholdTarget) and val is None:
        raise Undefined("no predictions of val")
    half = scale.to_cut(np.full(len(labels), 0.5))
    if val is None or rule == "half":
        return half
    cuts = []
    ranked, flags = scale_of(val)[1], task.targets.to_flags(val.targets, num_labels)
    assert flags is not None
    for i in labels:
        known = ~np.isnan(flags[:, i])
        positives, values = flags[known, i] == 1, ranked[known, i]
        if isinstance(rule, ThresholdTarget):
            cuts.append(target_threshold(positives, values, rule, scale))
        else:
            best = youden_threshold(positives, values, scale)
            cuts.append(half[0] if best is None else best)
    return np.array(cuts)


VAL_RULE_FORMULA = (
    "The threshold with the largest Youden's J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32), midway "
    "between two neighboring scores; among equal J, the one with the fewest errors, then the one nearest to .5. If a "
    "class is missing or no threshold is better than chance (J = 0, a constant predictor), .5."
)


def youden_threshold(positives: Array, ranked: Array, scale: Scale = PROBABILITIES) -> float | None:
    """Choose the threshold of `VAL_RULE_FORMULA` from positives, bool (N,), and scores (N,) on a scale.

    None if a class is missing, or if no threshold is better than chance.
    """
    num_positives, num_negatives = int(positives.sum()), int((~positives).sum())
    if num_positives == 0 or num_negatives == 0:
        return None
    middle = scale.between(ranked)
    hits = num_positives - np.searchsorted(np.sort(ranked[positives]), middle, side="left")
    alarms = num_negatives - np.searchsorted(np.sort(ranked[~positives]), middle, side="left")
    # J times positives times negatives: in integers, equal J are exactly equal.
    youden = hits * num_negatives - alarms * num_positives
    if len(middle) == 0 or youden.max() <= 0:
        return None
    errors = num_positives - hits + alarms
    best = np.lexsort((np.abs(scale.to_probability(middle) - 0.5), errors, -youden))[0]
    return float(middle[best])


def target_threshold(positives: Array, ranked: Array, rule: ThresholdTarget, scale: Scale) -> float:
    """Choose the highest threshold that reaches a sensitivity, or the lowest that reaches a specificity.

    The candidates lie midway between neighboring scores, at the scale's lower limit (all units positive), and above all
    scores (all units negative). Raises `Undefined` without positives, or without negatives.
    """
    counted = positives if rule.metric == "sensitivity" else ~positives
    if not counted.any():
        raise Undefined(f"val has no {'positives' if rule.metric == 'sensitivity' else 'negatives'}")
    candidates = np.array([scale.lowest, *scale.between(ranked), scale.above(ranked)])
    called = counted.sum() - np.searchsorted(np.sort(ranked[counted]), candidates, side="left")
    right = called if rule.metric == "sensitivity" else counted.sum() - called
    enough = candidates[right >= rule.least * counted.sum() - SCORE_TOLERANCE]
    return float(enough[-1] if rule.metric == "sensitivity" else enough[0])
