"""Metrics of masks: the mean, over patients and then over labels, of a statistic of each predicted mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo.arrays import Array
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.tasks.kinds import MASK_TASKS
from zoo.tasks.overlaps import statistic


def values_of(request: MetricRequest, name: str) -> Array:
    """The statistic of each unit and label, (N, L); NaN where it is undefined."""
    return statistic(request.probabilities, name)


def count_undefined(request: MetricRequest, name: str) -> str:
    """How many units have no value, by label: their masks lack the label, and so do the references."""
    import numpy as np

    undefined = np.isnan(values_of(request, name)).sum(axis=0)
    counts = [f"{label} {n}" for label, n in zip(request.labels, undefined.tolist(), strict=True) if n]
    return f"undefined in {', '.join(counts)} of {len(request.targets)}" if counts else ""


def mask_metric(name: str, of: str, doc: str, **fields: Any) -> MetricSpec:
    per_unit: Callable[[MetricRequest], Array] = partial(values_of, name=of)
    per_unit.__doc__ = doc
    return MetricSpec(name=name, tasks=MASK_TASKS, per_unit=per_unit, note=partial(count_undefined, name=of), **fields)


DISTANCE: dict[str, Any] = {"higher_is_better": False, "bounds": (0.0, None)}
OVERLAPS = (
    mask_metric(
        "dice",
        "dice",
        "2 |P and R| / (|P| + |R|) of the predicted and the reference mask (Dice 1945); undefined if both are empty.",
        title="Dice",
    ),
    mask_metric("iou", "iou", "|P and R| / |P or R| (Jaccard 1912); undefined if both masks are empty.", title="IoU"),
    mask_metric(
        "nsd",
        "nsd",
        "Normalized surface distance: the share of both boundaries within the tolerance of the other one, boundary "
        "pixels (Nikolov et al. 2021, JMIR 23:e26151); 0 if one mask is empty, undefined if both are.",
        title="NSD",
    ),
    mask_metric(
        "hd95",
        "hd95",
        "The larger 95th percentile of the distances from one boundary to the other, in mm, or in pixels if their size "
        "is unknown; the image's diagonal if one mask is empty, undefined if both are.",
        title="HD95",
        **DISTANCE,
    ),
    mask_metric(
        "assd",
        "assd",
        "The mean distance between the two boundaries, in mm or pixels; the image's diagonal if one mask is empty, "
        "undefined if both are.",
        title="ASSD",
        **DISTANCE,
    ),
    mask_metric(
        "volume_error",
        "volume_error",
        "| |P| - |R| | / |R|, undefined if the reference is empty.",
        title="volume error",
        **DISTANCE,
    ),
    mask_metric(
        "mask_sensitivity",
        "sensitivity",
        "|P and R| / |R|, undefined if the reference is empty.",
        title="pixel sensitivity",
    ),
    mask_metric(
        "mask_precision",
        "precision",
        "|P and R| / |P|, undefined if the prediction is empty.",
        title="pixel precision",
    ),
    mask_metric(
        "missed",
        "missed",
        "The share of references of which the prediction has no pixel.",
        title="missed",
        higher_is_better=False,
    ),
)
