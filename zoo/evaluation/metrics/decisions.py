"""Metrics of decisions: accuracy, rates, F1, Matthews' correlation and kappa."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.metrics.labels import (
    LABELED,
    NO_POSITIVES,
    ONE_CLASS,
    ORDERED,
    PLUS_MINUS,
    YES_NO,
    Column,
    MeanOverLabels,
    WeightedByLabel,
    by_column,
    by_unit,
    decided_classes,
    decided_columns,
    decided_metric,
    has_negatives,
    has_positives,
    is_multilabel,
    label_columns,
)
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.statistics.weighted import ratio

Mask = Callable[[Column], Array]  # selects images of a label: bool (n,)


class Tally(NamedTuple):
    """Summed weights of the images by target and decision, one column per label: (B, K)."""

    hits: Array
    misses: Array
    alarms: Array
    rejections: Array


def tally(columns: list[Column], weights: Array) -> Tally:
    selections: tuple[Mask, ...] = (
        lambda c: c.positives & c.decided,
        lambda c: c.positives,
        lambda c: c.decided,
        lambda c: np.ones(len(c.positives)),
    )
    # perf: one product with all selections, which reads the weights once
    chosen = np.zeros((weights.shape[1], len(selections), len(columns)))
    for i, column in enumerate(columns):
        for k, select in enumerate(selections):
            chosen[column.known, k, i] = select(column)
    counted = weights @ chosen.reshape(len(chosen), -1)
    hits, positives, decided, total = np.split(counted, len(selections), axis=1)
    return Tally(hits, positives - hits, decided - hits, total - positives - decided + hits)


def unweighted(resampled: WeightedByLabel, request: MetricRequest) -> Array:
    """The values by label of the split itself, which is the resample with every weight 1.

    perf: scikit-learn's functions give the same numbers; f1_score takes 50 times as long.
    """
    values: Array = resampled(request, np.ones((1, len(request.targets))))[0]
    return values


def right_decisions(request: MetricRequest) -> Array:
    """Share of correct decisions; multi-label: of each label's known images, averaged (not of whole rows)."""
    if is_multilabel(request):
        return by_unit(label_columns(request), lambda c: c.positives == c.decided)
    right: Array = request.targets == request.decisions
    return right


def refuse_mean(request: MetricRequest) -> None:
    if is_multilabel(request):
        raise Undefined("a mean over labels is not a proportion")


def count_right(request: MetricRequest) -> tuple[int, int]:
    refuse_mean(request)
    return int((request.targets == request.decisions).sum()), len(request.targets)


def recall_of(request: MetricRequest) -> Array:
    return by_column(label_columns(request), has_positives, lambda c: share_of(c.positives, c.decided))


def resampled_recall(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    return ratio(t.hits, t.hits + t.misses)


def balanced_accuracy(request: MetricRequest) -> Array:
    return unweighted(resampled_balanced_accuracy, request)


def resampled_balanced_accuracy(request: MetricRequest, weights: Array) -> Array:
    if not is_multilabel(request):
        return resampled_recall(request, weights)
    return (resampled_recall(request, weights) + resampled_specificity(request, weights)) / 2


def f1(request: MetricRequest) -> Array:
    return unweighted(resampled_f1, request)


def resampled_f1(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    # A label without an image in a resample is left out, even if it is among the decisions.
    return ratio(np.where(t.hits + t.misses > 0, 2 * t.hits, np.nan), 2 * t.hits + t.misses + t.alarms)


def count_rate(request: MetricRequest, of: Mask, right: Mask) -> tuple[int, int]:
    """Successes and trials of a rate: how many of the images selected by `of` are also selected by `right`."""
    refuse_mean(request)
    column = decided_columns(request)[0]
    return int((of(column) & right(column)).sum()), int(of(column).sum())


def share_of(group: Array, right: Array) -> float:
    """The share of a group, bool (n,), that is right, bool (n,); 0 for an empty group.

    perf: recall_score and precision_score take 100 times as long; they were most of the time of a multi-label board.
    """
    return float((group & right).sum() / max(group.sum(), 1))


def sensitivity(request: MetricRequest) -> Array:
    return by_column(decided_columns(request), has_positives, lambda c: share_of(c.positives, c.decided))


def resampled_sensitivity(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.hits, t.hits + t.misses)


def specificity(request: MetricRequest) -> Array:
    columns = decided_columns(request)
    return by_column(columns, has_negatives, lambda c: share_of(c.negatives, c.rejected))


def resampled_specificity(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    return ratio(t.rejections, t.rejections + t.alarms)


def ppv(request: MetricRequest) -> Array:
    exists = has_positives if is_multilabel(request) else decides_any
    return by_column(decided_columns(request), exists, lambda c: share_of(c.decided, c.positives))


def decides_any(column: Column) -> bool:
    return bool(column.decided.any())


def rejects_any(column: Column) -> bool:
    return bool(column.rejected.any())


def precision_or_zero(right: Array, decided: Array, present: Array) -> Array:
    """right/decided of each label, 0 without a decision for it, and NaN where the targets lack it: see `zero_where`."""
    return zero_where(present, ratio(right, decided), decided == 0)


def zero_where(present: Array, values: Array, constant: Array) -> Array:
    """Set the values of labels with constant decisions to 0, and those of labels that are not `present` to NaN.

    Which labels are averaged must depend on the test set alone. Otherwise a model that predicts 1 of 10 labels would be
    scored by that label only, and rank above a model that predicts all.
    """
    result: Array = np.where(present > 0, np.where(constant, 0.0, values), np.nan)
    return result


def resampled_ppv(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    decided = t.hits + t.alarms
    return precision_or_zero(t.hits, decided, t.hits + t.misses) if is_multilabel(request) else ratio(t.hits, decided)


def npv(request: MetricRequest) -> Array:
    exists = has_negatives if is_multilabel(request) else rejects_any
    return by_column(decided_columns(request), exists, lambda c: share_of(c.rejected, c.negatives))


def resampled_npv(request: MetricRequest, weights: Array) -> Array:
    t = tally(decided_columns(request), weights)
    right, decided = t.rejections, t.rejections + t.misses
    return precision_or_zero(right, decided, right + t.alarms) if is_multilabel(request) else ratio(right, decided)


def mcc(request: MetricRequest) -> Array:
    """Matthews' correlation, NaN where its denominator is 0; scikit-learn returns 0.0 there, the value of chance.

    In a multi-label task, a label with constant decisions scores 0 as in scikit-learn, because the average must include
    the same labels for each model.
    """
    return unweighted(resampled_mcc, request)


def resampled_mcc(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    total = t.hits + t.misses + t.alarms + t.rejections
    truth, decided = t.hits + t.misses, t.hits + t.alarms
    if is_multilabel(request):
        covariance = t.hits * t.rejections - t.misses * t.alarms
        of_truth, of_decided = truth * (total - truth), decided * (total - decided)
        # Rounding of non-integer weights may turn a variance of 0 into 1e-16.
        constant = of_decided <= 1e-12 * total**2
        variances = np.where(constant | (of_truth <= 1e-12 * total**2), 0.0, of_truth * of_decided)
        return zero_where(of_truth > 1e-12 * total**2, ratio(covariance, np.sqrt(variances)), constant)
    total = total[:, :1]
    covariance = t.hits.sum(axis=1, keepdims=True) * total - (truth * decided).sum(axis=1, keepdims=True)
    spread_truth = total**2 - (truth**2).sum(axis=1, keepdims=True)
    spread_decided = total**2 - (decided**2).sum(axis=1, keepdims=True)
    # Rounding of non-integer weights may turn a spread of 0 into -1e-16.
    return ratio(covariance, np.sqrt(np.maximum(spread_truth, 0) * np.maximum(spread_decided, 0)))


def cohen_kappa(request: MetricRequest) -> Array:
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(request.targets, decided_classes(request))) < 2:
        return np.array([np.nan])
    labels = np.arange(request.probabilities.shape[1])
    return np.array([cohen_kappa_score(request.targets, request.decisions, labels=labels, weights="quadratic")])


def resampled_cohen_kappa(request: MetricRequest, weights: Array) -> Array:
    t = tally(label_columns(request), weights)
    total = weights.sum(axis=1)
    grades = np.arange(request.probabilities.shape[1], dtype=np.float64)
    distances = (grades[:, None] - grades) ** 2
    observed = weights @ ((request.targets - request.decisions) ** 2).astype(np.float64)
    expected = np.einsum("bi,ij,bj->b", t.hits + t.misses, distances, t.hits + t.alarms, optimize=True) / total
    return 1 - ratio(observed, expected)[:, None]


# --- the specs -----------------------------------------------------------------------------------------------------
NO_NEGATIVES = "no negatives in the targets"
NO_DECIDED = "nothing is called positive"
NO_REJECTED = "nothing is called negative"
NO_CHOICE = "one class only in the targets or in the decisions"
NO_DISTANCE = "one and the same class in targets and decisions"

OF_POSITIVES = {"counts": partial(count_rate, of=attrgetter("positives"), right=attrgetter("decided"))}
OF_NEGATIVES = {"counts": partial(count_rate, of=attrgetter("negatives"), right=attrgetter("rejected"))}
OF_DECIDED = {"counts": partial(count_rate, of=attrgetter("decided"), right=attrgetter("positives"))}
OF_REJECTED = {"counts": partial(count_rate, of=attrgetter("rejected"), right=attrgetter("negatives"))}

RATES = (
    MetricSpec(name="accuracy", tasks=LABELED, per_unit=right_decisions, counts=count_right, title="accuracy"),
    decided_metric(
        MeanOverLabels(
            balanced_accuracy,
            resampled_balanced_accuracy,
            ONE_CLASS,
            "Mean recall of the classes; multi-label: (sensitivity + specificity)/2 of each label, averaged.",
        ),
        name="balanced_accuracy",
        title="balanced accuracy",
        tasks=LABELED,
    ),
    decided_metric(
        MeanOverLabels(
            f1,
            resampled_f1,
            NO_POSITIVES,
            "2 hits / (2 hits + misses + false alarms) of each label, averaged over the labels that have images. "
            "For a binary task too, this is the mean over the positive and the negative class, not the F1 of the "
            "positive class.",
        ),
        name="f1_macro",
        title="F1 (macro)",
        tasks=LABELED,
    ),
    decided_metric(
        MeanOverLabels(
            recall_of,
            resampled_recall,
            NO_POSITIVES,
            "Share of a label's images that are decided for it, averaged over the labels that have images.",
        ),
        name="recall_macro",
        title="recall (macro)",
        tasks=LABELED,
    ),
    decided_metric(
        MeanOverLabels(
            sensitivity,
            resampled_sensitivity,
            NO_POSITIVES,
            "Recall of the positive class; multi-label: of each label, averaged.",
        ),
        name="sensitivity",
        title="sensitivity",
        tasks=YES_NO,
        **OF_POSITIVES,
    ),
    decided_metric(
        MeanOverLabels(
            specificity,
            resampled_specificity,
            NO_NEGATIVES,
            "Recall of the negative class; multi-label: of the images without each label, averaged.",
        ),
        name="specificity",
        title="specificity",
        tasks=YES_NO,
        **OF_NEGATIVES,
    ),
    decided_metric(
        MeanOverLabels(
            ppv,
            resampled_ppv,
            NO_DECIDED,
            "Positive predictive value, the precision: the share of positives among the positive decisions. "
            "Multi-label: of each label that has positives, averaged; 0 for a label without positive decisions, as in "
            "scikit-learn.",
        ),
        name="ppv",
        title="PPV",
        tasks=YES_NO,
        version=2,
        **OF_DECIDED,
    ),
    decided_metric(
        MeanOverLabels(
            npv,
            resampled_npv,
            NO_REJECTED,
            "Negative predictive value: the share of negatives among the negative decisions. Multi-label: of each "
            "label that has negatives, averaged; 0 for a label without negative decisions.",
        ),
        name="npv",
        title="NPV",
        tasks=YES_NO,
        version=2,
        **OF_REJECTED,
    ),
    decided_metric(
        MeanOverLabels(
            mcc,
            resampled_mcc,
            NO_CHOICE,
            "Matthews' correlation of targets and decisions (Gorodkin 2004); multi-label: of each label, averaged. "
            "Undefined if targets or decisions have one class only, where the denominator is 0. In a multi-label "
            "task, a label with constant decisions scores 0, as in scikit-learn.",
        ),
        name="mcc",
        title="MCC",
        tasks=LABELED,
        version=2,
        **PLUS_MINUS,
    ),
)
AGREEMENT = (
    decided_metric(
        MeanOverLabels(
            cohen_kappa,
            resampled_cohen_kappa,
            NO_DISTANCE,
            "Cohen's kappa with quadratic weights (1968): 1 - observed/expected mean squared grade distance.",
        ),
        name="cohen_kappa",
        title="kappa (quadratic)",
        tasks=ORDERED,
        **PLUS_MINUS,
    ),
)
