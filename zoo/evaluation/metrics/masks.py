"""Metrics of masks: the mean, over patients and then over labels, of a statistic of each predicted mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.metrics import CASE_METRICS
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.tasks.kinds import MASK_TASKS
from zoo.tasks.overlaps import FRACTIONS, STATISTICS, statistic


def statistic_of(request: MetricRequest, name: str) -> Array:
    """The statistic of each unit and label, (N, L); NaN where it is undefined.

    A label that no reference has is undefined in every unit: else a model would be averaged over more labels than
    another because it predicted one pixel of it.
    """
    hits, misses = (statistic(request.probabilities, part) for part in ("true_positive", "false_negative"))
    in_references = (hits + misses > 0).any(axis=0)
    return np.where(in_references, statistic(request.probabilities, name), np.nan)


def count_undefined(request: MetricRequest, name: str) -> str:
    """How many units have no value, by label."""
    undefined = np.isnan(statistic_of(request, name)).sum(axis=0)
    counts = [f"{label} {n}" for label, n in zip(request.labels, undefined.tolist(), strict=True) if n]
    return f"undefined in {', '.join(counts)} of {len(request.targets)}" if counts else ""


def mask_metric(name: str, description: str, **fields: Any) -> MetricSpec:
    """The metric of a statistic of masks."""
    per_unit: Callable[[MetricRequest], Array] = partial(statistic_of, name=name)
    per_unit.__doc__ = description
    return MetricSpec(
        name=name,
        tasks=MASK_TASKS,
        per_unit=per_unit,
        note=partial(count_undefined, name=name),
        bounds=(0.0, 1.0 if name in FRACTIONS else None),
        **fields,
    )


OVERLAPS = (
    *(
        mask_metric(each.name, each.description, title=each.title, higher_is_better=each.higher_is_better)
        for each in CASE_METRICS
        if each.name in STATISTICS
    ),
    mask_metric("mask_sensitivity", "Share of the reference's pixels that were found.", title="mask sensitivity"),
    mask_metric("mask_precision", "Share of the predicted pixels that are in the reference.", title="mask precision"),
    mask_metric(
        "missed", "Share of the references of which nothing was found.", title="missed", higher_is_better=False
    ),
)
