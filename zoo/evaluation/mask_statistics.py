"""The stored statistics of a predicted mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.cases import CaseRow, MaskCase, compare_case, count_case
from zoo.evaluation.masks.metrics import CASE_METRICS, is_missed
from zoo.evaluation.masks.records import to_case_scores
from zoo.evaluation.masks.rule import MaskRule
from zoo.images.placement import Spacing
from zoo.statistics.weighted import ratio
from zoo.tasks.overlaps import COUNTED, STATISTICS


def compare_masks(
    reference: Array, predicted: Array, num_labels: int, spacing: Spacing | None, tolerance: float
) -> Array:
    """`STATISTICS` of each label, float (L * S,), of two label maps on one grid.

    `tolerance` is that of NSD, in mm, or in pixels if the spacing is unknown.
    """
    case, rule = as_case(reference, predicted, spacing), MaskRule(tolerance=tolerance)
    return to_statistics(compare_case(case, number_labels(num_labels), rule), rule)


def compare_pixels(reference: Array, predicted: Array, num_labels: int) -> Array:
    """`compare_masks` with NaN for the statistics that are not in `COUNTED`: a tenth of the time."""
    rows = count_case(as_case(reference, predicted, None), number_labels(num_labels))
    by_label = to_statistics(rows, MaskRule(tolerance=0)).reshape(num_labels, -1)
    by_label[:, [name not in COUNTED for name in STATISTICS]] = np.nan
    return by_label.ravel()


def as_case(reference: Array, predicted: Array, spacing: Spacing | None) -> MaskCase:
    voxel = spacing or (math.nan,) * reference.ndim
    return MaskCase(case="", patient="", reference=reference, prediction=predicted, spacing=voxel)


def number_labels(num_labels: int) -> dict[str, int]:
    return {str(label): label for label in range(1, num_labels + 1)}


def to_statistics(case_rows: Sequence[CaseRow], rule: MaskRule) -> Array:
    """The statistics of one case, float (L * S,)."""
    rows = to_case_scores(case_rows, rule)
    hits, alarms, misses = (rows[name].astype(np.float64) for name in ("tp", "fp", "fn"))
    values = {metric.name: metric.per_case(rows) for metric in CASE_METRICS}
    values |= {
        "mask_sensitivity": ratio(hits, hits + misses),
        "mask_precision": ratio(hits, hits + alarms),
        "missed": np.where(hits + misses > 0, is_missed(rows), np.nan),
        "true_positive": hits,
        "false_positive": alarms,
        "false_negative": misses,
    }
    return np.stack([values[name] for name in STATISTICS], axis=1).ravel()
