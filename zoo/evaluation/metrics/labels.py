"""Build metrics from values by label, and average them over labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.specs.metric import MetricRequest, MetricSpec, labels_note, positive_index
from zoo.statistics.units import mean_over_labels
from zoo.statistics.weighted import jackknife_influence
from zoo.tasks.kinds import task_names

ByLabel = Callable[[MetricRequest], Array]  # -> (K,)
WeightedByLabel = Callable[[MetricRequest, Array], Array]  # weights (B, N) -> (B, K)

LABELED = task_names(lambda task: task.labeled)
ORDERED = task_names(lambda task: task.targets.ordered)
NUMBERS = task_names(lambda task: task.targets.form == "number")
YES_NO = task_names(lambda task: task.yes_no)

# Reasons why a metric is undefined, and bounds.
ONE_CLASS = "one class only in the targets"
NO_POSITIVES = "no positives in the targets"
NO_TARGETS = "no known targets"
PLUS_MINUS = {"bounds": (-1.0, 1.0)}
ERROR: dict[str, Any] = {"higher_is_better": False, "bounds": (0.0, None)}


class Column(NamedTuple):
    """One label against the others, over the n images with a known target."""

    known: Array  # (N,) bool
    positives: Array  # (n,) bool
    probabilities: Array  # (n,) of the label
    decided: Array  # (n,) bool: decided for the label
    ranked: Array  # (n,) ranking score: log odds, or the probability if log odds were not stored

    @property
    def negatives(self) -> Array:
        return ~self.positives

    @property
    def rejected(self) -> Array:
        """Decided against the label."""
        return ~self.decided


def decided_classes(request: MetricRequest) -> Array:
    if request.decisions is None:
        raise ValueError(f"{request.task} has no labels to decide for")
    return request.decisions


def label_columns(request: MetricRequest) -> list[Column]:
    """One column per class, or per label of a multi-label task without the images whose target is unknown (NaN)."""
    return request.compute_once(split_by_label)


def split_by_label(request: MetricRequest) -> list[Column]:
    return [label_column(request, i) for i in range(request.probabilities.shape[1])]


def label_column(request: MetricRequest, label: int) -> Column:
    """The column of one label."""
    decided, probabilities = decided_classes(request), request.probabilities[:, label]
    ranked = probabilities if request.log_odds is None else request.log_odds[:, label]
    if not is_multilabel(request):
        known = np.ones(len(request.targets), dtype=bool)
        parts = request.targets == label, probabilities, decided == label, ranked
        return Column(known, *map(np.ascontiguousarray, parts))
    targets = request.targets[:, label]
    known = ~np.isnan(targets)
    return Column(known, targets[known] == 1, probabilities[known], decided[known, label], ranked[known])


def scored_columns(request: MetricRequest) -> list[Column]:
    """The columns for metrics of probabilities: the positive class of a binary task, all columns of other tasks."""
    return request.compute_once(positive_column) if request.task.targets.has_positive else label_columns(request)


def positive_column(request: MetricRequest) -> list[Column]:
    return [label_column(request, positive_index(request))]


def decided_columns(request: MetricRequest) -> list[Column]:
    """The columns for positive and negative decisions: the positive class of a binary task, or all labels.

    Raises ValueError for tasks without positive decisions.
    """
    if not request.task.yes_no:
        raise ValueError(f"{request.task} has no positive class")
    return scored_columns(request)


def is_multilabel(request: MetricRequest) -> bool:
    return request.task.targets.form == "flags"


def by_column(columns: list[Column], exists: Callable[[Column], Any], value: Callable[[Column], Any]) -> Array:
    return np.array([float(value(column)) if exists(column) else np.nan for column in columns])


def has_positives(column: Column) -> bool:
    return bool(column.positives.any())


def has_negatives(column: Column) -> bool:
    return not column.positives.all()


def has_both(column: Column) -> bool:
    return has_positives(column) and has_negatives(column)


@dataclass(frozen=True)
class MeanOverLabels:
    """A metric as the mean over the labels for which it is defined."""

    values: ByLabel
    resampled: WeightedByLabel
    undefined: str  # the reason to give if it is defined for no label
    formula: str  # shown by `zoo info`

    def compute(self, request: MetricRequest) -> float:
        if len(request.targets) == 0:
            raise Undefined("no images")
        values = request.compute_once(self.values)
        if np.isnan(values).all():
            raise Undefined(self.undefined)
        return float(mean_over_labels(values[None])[0])

    def resample(self, request: MetricRequest, weights: Array) -> Array:
        return mean_over_labels(self.resampled(request, weights))

    def note(self, request: MetricRequest) -> str:
        return labels_note(request.compute_once(self.values))

    def decision_influence(self, request: MetricRequest) -> Array:
        """Influence values (N,) of a metric of targets and decisions alone: units with equal ones have equal values."""
        pairs = np.column_stack([request.targets, decided_classes(request)])
        kinds = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)  # NaN (unknown) equals NaN here
        return jackknife_influence(partial(self.resample, request), len(request.targets), kinds)


def describe_formula(metric: MetricSpec) -> str:
    """The formula of a built-in metric, or the docstring of a plugin's `per_unit` or `compute` on one line."""
    function: Any = metric.per_unit or metric.compute
    owner = getattr(function, "__self__", None)
    if isinstance(owner, MeanOverLabels):
        return owner.formula
    while isinstance(function, partial):
        function = function.func
    return " ".join((function.__doc__ or "").split())


def metric(mean: MeanOverLabels, **fields: Any) -> MetricSpec:
    """Build the spec of a metric from its values by label, (K,), and those of B resamples, (B, K)."""
    return MetricSpec(compute=mean.compute, resample=mean.resample, note=mean.note, **fields)


def decided_metric(mean: MeanOverLabels, **fields: Any) -> MetricSpec:
    """Build the spec of a metric that depends on targets and decisions alone."""
    return metric(mean, influence=mean.decision_influence, **fields)


def by_unit(columns: list[Column], value: Callable[[Column], Array]) -> Array:
    """The values (n,) of each column as one array (N, K), NaN where the target is unknown."""
    values = np.full((len(columns[0].known), len(columns)), np.nan)
    for i, column in enumerate(columns):
        values[column.known, i] = value(column)
    return values
