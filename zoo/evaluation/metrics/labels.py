"""Metrics of one label, and their macro averages over labels."""

from __future__ import annotations

from collections.abc import Callable
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
YES_NO = ("binary", "multilabel")  # each label is there or not

# Why a metric may be undefined, and what it may be.
ONE_CLASS = "one class only in the targets"
NO_POSITIVES = "no positives in the targets"
NO_TARGETS = "no known targets"
PLUS_MINUS = {"bounds": (-1.0, 1.0)}
ERROR = {"higher_is_better": False, "bounds": (0.0, None)}


class Column(NamedTuple):
    """One label against the rest, over the n images where it is known."""

    known: Array  # (N,) bool
    positives: Array  # (n,) bool
    scores: Array  # (n,) probability of the label
    decided: Array  # (n,) bool: decided for the label
    ranked: Array  # (n,) what the images are ranked by: log odds, or the probability where those were not stored

    @property
    def negatives(self) -> Array:
        return ~self.positives

    @property
    def cleared(self) -> Array:
        """Decided against."""
        return ~self.decided


def positive_row(request: MetricRequest) -> int:
    """The index of the positive class of a binary task; the last where the request does not say."""
    return 1 if request.positive is None else request.positive


def decided_classes(request: MetricRequest) -> Array:
    if request.decisions is None:
        raise ValueError(f"{request.task} has no labels to decide for")
    return request.decisions


def label_columns(request: MetricRequest) -> list[Column]:
    """Every label against the rest: all classes, or all labels of a multi-label task, unknown (NaN) images left out."""
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
    """The columns whose probabilities are ranked: of a binary task only the positive class, its rest being the same."""
    columns = label_columns(request)
    return [columns[positive_row(request)]] if request.task.name == "binary" else columns


def decided_columns(request: MetricRequest) -> list[Column]:
    """The labels that are there or not: the positive class of a binary task, every label of a multi-label one."""
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


def mean_over_labels(request: MetricRequest, *, values: ByLabel, undefined: str) -> float:
    """The mean of the values that exist; `Undefined` where none does."""
    if len(request.targets) == 0:
        raise Undefined("no images")
    found = values(request)
    if np.isnan(found).all():
        raise Undefined(undefined)
    return float(np.nanmean(found))


def resampled_mean_over_labels(request: MetricRequest, weights: Array, *, values: WeightedByLabel) -> Array:
    found = values(request, weights)
    existing = ~np.isnan(found)
    return ratio(np.where(existing, found, 0.0).sum(axis=1), existing.sum(axis=1))


def labels_note(request: MetricRequest, *, values: ByLabel) -> str:
    """ "macro over 6 of 7 labels" where labels were left out, else ""."""
    found = values(request)
    num_found = int((~np.isnan(found)).sum())
    return f"macro over {num_found} of {len(found)} labels" if num_found < len(found) else ""


def describe_formula(metric: MetricSpec) -> str:
    """What a metric says of itself: the docstring of what computes it, on one line."""
    compute: Any = metric.compute
    while isinstance(compute, partial):
        compute = compute.keywords.get("values", compute.func)
    return " ".join((compute.__doc__ or "").split())


def metric(
    name: str,
    title: str,
    tasks: tuple[str, ...],
    values: ByLabel,
    resampled: WeightedByLabel,
    undefined: str,
    **fields: Any,
) -> MetricSpec:
    """The spec of a metric from its values by label, plain and weighted; `undefined` is the reason there is none."""
    return MetricSpec(
        name=name,
        title=title,
        tasks=tasks,
        compute=partial(mean_over_labels, values=values, undefined=undefined),
        resample=partial(resampled_mean_over_labels, values=resampled),
        note=partial(labels_note, values=values),
        **fields,
    )


def decision_influence(request: MetricRequest, *, resampled: WeightedByLabel) -> Array:
    """Influence values (N,) of a metric of targets and decisions: one unit of each (target, decision) is moved."""
    pairs = np.column_stack([request.targets, decided_classes(request)])
    kinds = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)  # NaN (unknown) equals NaN here
    weighted = partial(resampled_mean_over_labels, request, values=resampled)
    return jackknife_influence(weighted, len(request.targets), kinds)


def decided_metric(name: str, title: str, tasks: tuple[str, ...], *functions: Any, **fields: Any) -> MetricSpec:
    """The spec of a metric of targets and decisions alone."""
    return metric(
        name, title, tasks, *functions, influence=partial(decision_influence, resampled=functions[1]), **fields
    )


def mean_influence(request: MetricRequest, *, errors: Callable[[MetricRequest], list[tuple[Array, Array]]]) -> Array:
    """Influence values (N,) of a mean of `errors`: (known (N,), its values) a column."""
    columns = errors(request)
    sums, counts = np.zeros((2, len(request.targets), len(columns)))
    for i, (known, values) in enumerate(columns):
        sums[known, i], counts[known, i] = values, 1.0
    return ratio_influence(sums, counts)
