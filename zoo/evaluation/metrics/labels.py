"""Build metrics from values by label, and average them over labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.statistics.weighted import jackknife_influence, ratio, ratio_influence

ByLabel = Callable[[MetricRequest], Array]  # -> (K,)
WeightedByLabel = Callable[[MetricRequest, Array], Array]  # weights (B, N) -> (B, K)

CLASSES = ("binary", "multiclass", "ordinal", "multilabel")
YES_NO = ("binary", "multilabel")  # each label is present or absent

# Reasons why a metric is undefined, and bounds.
ONE_CLASS = "one class only in the targets"
NO_POSITIVES = "no positives in the targets"
NO_TARGETS = "no known targets"
PLUS_MINUS = {"bounds": (-1.0, 1.0)}
ERROR = {"higher_is_better": False, "bounds": (0.0, None)}


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


def positive_row(request: MetricRequest) -> int:
    """The index of the positive class of a binary task; the last class by default."""
    return 1 if request.positive is None else request.positive


def decided_classes(request: MetricRequest) -> Array:
    if request.decisions is None:
        raise ValueError(f"{request.task} has no labels to decide for")
    return request.decisions


def label_columns(request: MetricRequest) -> list[Column]:
    """One column per class, or per label of a multi-label task without the images whose target is unknown (NaN)."""
    num_labels = request.probabilities.shape[1]
    decided = decided_classes(request)
    if is_multilabel(request):
        known, positives = ~np.isnan(request.targets), request.targets == 1
    else:
        known = np.ones((len(request.targets), num_labels), dtype=bool)
        positives = request.targets[:, None] == np.arange(num_labels)
        decided = decided[:, None] == np.arange(num_labels)
    ranked = request.probabilities if request.log_odds is None else request.log_odds
    return [
        Column(keep, positives[keep, i], request.probabilities[keep, i], decided[keep, i], ranked[keep, i])
        for i, keep in enumerate(known.T)
    ]


def scored_columns(request: MetricRequest) -> list[Column]:
    """The columns for metrics of probabilities: the positive class of a binary task, all columns of other tasks."""
    columns = label_columns(request)
    return [columns[positive_row(request)]] if request.task.name == "binary" else columns


def decided_columns(request: MetricRequest) -> list[Column]:
    """The columns for positive and negative decisions: the positive class of a binary task, or all labels.

    Raises ValueError for tasks without positive decisions.
    """
    if request.task.name not in YES_NO:
        raise ValueError(f"{request.task} has no positive class")
    return scored_columns(request)


def is_multilabel(request: MetricRequest) -> bool:
    return request.task.name == "multilabel"


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
    """Compute the mean over the labels for which a metric is defined; raise `Undefined` if there are none."""

    values: ByLabel
    undefined: str  # the reason to give
    formula: str  # shown by `zoo info`

    def __call__(self, request: MetricRequest) -> float:
        if len(request.targets) == 0:
            raise Undefined("no images")
        values = self.values(request)
        if np.isnan(values).all():
            raise Undefined(self.undefined)
        return float(np.nanmean(values))


def resampled_mean_over_labels(request: MetricRequest, weights: Array, *, values: WeightedByLabel) -> Array:
    by_label = values(request, weights)
    defined = ~np.isnan(by_label)
    return ratio(np.where(defined, by_label, 0.0).sum(axis=1), defined.sum(axis=1))


def labels_note(request: MetricRequest, *, values: ByLabel) -> str:
    """Note how many labels were averaged ("macro over 6 of 7 labels"); "" if all were."""
    by_label = values(request)
    num_defined = int((~np.isnan(by_label)).sum())
    return f"macro over {num_defined} of {len(by_label)} labels" if num_defined < len(by_label) else ""


def describe_formula(metric: MetricSpec) -> str:
    """The formula of a built-in metric, or the docstring of a plugin's `compute` on one line."""
    compute: Any = metric.compute
    if isinstance(compute, MeanOverLabels):
        return compute.formula
    while isinstance(compute, partial):
        compute = compute.func
    return " ".join((compute.__doc__ or "").split())


def metric(
    name: str,
    title: str,
    tasks: tuple[str, ...],
    values: ByLabel,
    resampled: WeightedByLabel,
    undefined: str,
    *,
    formula: str,
    **fields: Any,
) -> MetricSpec:
    """Build the spec of a metric from its values by label, (K,), and those of B resamples, (B, K)."""
    return MetricSpec(
        name=name,
        title=title,
        tasks=tasks,
        compute=MeanOverLabels(values, undefined, formula),
        resample=partial(resampled_mean_over_labels, values=resampled),
        note=partial(labels_note, values=values),
        **fields,
    )


def decision_influence(request: MetricRequest, *, resampled: WeightedByLabel) -> Array:
    """Influence values (N,) of a metric of targets and decisions: units with the same target and decision share one."""
    pairs = np.column_stack([request.targets, decided_classes(request)])
    kinds = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)  # NaN (unknown) equals NaN here
    weighted = partial(resampled_mean_over_labels, request, values=resampled)
    return jackknife_influence(weighted, len(request.targets), kinds)


def decided_metric(name: str, title: str, tasks: tuple[str, ...], *functions: Any, **fields: Any) -> MetricSpec:
    """Build the spec of a metric that depends on targets and decisions alone."""
    return metric(
        name, title, tasks, *functions, influence=partial(decision_influence, resampled=functions[1]), **fields
    )


def mean_influence(request: MetricRequest, *, errors: Callable[[MetricRequest], list[tuple[Array, Array]]]) -> Array:
    """Influence values (N,) of a mean of errors; `errors` returns (known (N,), values (n,)) for each column."""
    columns = errors(request)
    sums, counts = np.zeros((2, len(request.targets), len(columns)))
    for i, (known, values) in enumerate(columns):
        sums[known, i], counts[known, i] = values, 1.0
    return ratio_influence(sums, counts)
