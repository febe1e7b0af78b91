"""The stored statistics of a predicted mask."""

from __future__ import annotations

import math

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.cases import MaskCase, compare_case
from zoo.evaluation.masks.metrics import CASE_METRICS, is_missed
from zoo.evaluation.masks.records import to_case_scores
from zoo.evaluation.masks.rule import MaskRule
from zoo.images.placement import Spacing
from zoo.statistics.weighted import ratio
from zoo.tasks.overlaps import STATISTICS


def compare_masks(
    reference: Array, predicted: Array, num_labels: int, spacing: Spacing | None, tolerance: float
) -> Array:
    """`STATISTICS` of each label, float (L * S,), of two label maps on one grid.

    `tolerance` is that of NSD, in mm, or in pixels if the spacing is unknown.
    """
    unknown = (math.nan,) * reference.ndim
    case = MaskCase(case="", patient="", reference=reference, prediction=predicted, spacing=spacing or unknown)
    rule = MaskRule(tolerance=tolerance)
    rows = to_case_scores(compare_case(case, {str(k): k for k in range(1, num_labels + 1)}, rule), rule)
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
