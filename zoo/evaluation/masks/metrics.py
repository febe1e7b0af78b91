"""The metrics of masks: each is one function from the rows of a case table to their values.

A value is NaN where it is undefined, and the worst value where one of the two masks is empty and the other is not: such
a case is counted, never dropped (Maier-Hein et al. 2024, Nature Methods 21:195, "Metrics Reloaded").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.records import CaseScores
from zoo.statistics.weighted import ratio


@dataclass(frozen=True, kw_only=True)
class CaseMetric:
    """A metric of masks. `per_case` maps rows to values, float (N,), NaN where undefined.

    Means by patient, intervals, medians and counts follow from the values.
    """

    name: str
    title: str
    per_case: Callable[[CaseScores], Array]
    description: str
    higher_is_better: bool = True
    is_distance: bool = False  # in the unit of the table


def dice(rows: CaseScores) -> Array:
    return ratio(2.0 * rows["tp"], 2 * rows["tp"] + rows["fp"] + rows["fn"])


def iou(rows: CaseScores) -> Array:
    return ratio(rows["tp"].astype(np.float64), rows["tp"] + rows["fp"] + rows["fn"])


def nsd(rows: CaseScores) -> Array:
    return ratio(rows["nsd_num"], rows["nsd_den"])


def nsd_surface(rows: CaseScores) -> Array:
    return ratio(rows["nsd_surface_num"], rows["nsd_surface_den"])


def hd95(rows: CaseScores) -> Array:
    return rows["hd95"]


def assd(rows: CaseScores) -> Array:
    return rows["assd"]


def volume_error(rows: CaseScores) -> Array:
    return ratio(np.abs(rows["pred_volume"] - rows["ref_volume"]), rows["ref_volume"])


def lesion_f1(rows: CaseScores) -> Array:
    hit, missed = rows["components_hit"], rows["components_ref"] - rows["components_hit"]
    return ratio(2.0 * hit, 2 * hit + missed + rows["components_false"])


def false_lesions(rows: CaseScores) -> Array:
    return rows["components_false"].astype(np.float64)


def cldice(rows: CaseScores) -> Array:
    parts = rows["tprec"] + rows["tsens"]
    both = np.where(parts == 0, 0.0, ratio(2 * rows["tprec"] * rows["tsens"], parts))
    return np.where(is_missed(rows) | is_false(rows), 0.0, both)


CASE_METRICS = (
    CaseMetric(
        name="dice",
        title="Dice",
        per_case=dice,
        description="2 TP / (2 TP + FP + FN) of voxels (Dice 1945, Ecology 26:297).",
    ),
    CaseMetric(
        name="iou",
        title="IoU",
        per_case=iou,
        description="TP / (TP + FP + FN) of voxels (Jaccard 1912, New Phytologist 11:37).",
    ),
    CaseMetric(
        name="nsd",
        title="NSD",
        per_case=nsd,
        description=(
            "Share of the boundary voxels of both masks within the tolerance of the other's boundary voxels "
            "(normalized surface distance; Nikolov et al. 2021, J Med Internet Res 23:e26151, with voxels as in "
            "Metrics Reloaded and MONAI)."
        ),
    ),
    CaseMetric(
        name="nsd_surface",
        title="NSD surface",
        per_case=nsd_surface,
        description="The same share of the surface's size, by marching cubes, as DeepMind's surface-distance.",
    ),
    CaseMetric(
        name="hd95",
        title="HD95",
        per_case=hd95,
        description="95th percentile of the distances between boundary voxels, the larger of the two sides.",
        higher_is_better=False,
        is_distance=True,
    ),
    CaseMetric(
        name="assd",
        title="ASSD",
        per_case=assd,
        description="Mean distance between boundary voxels, of both sides together.",
        higher_is_better=False,
        is_distance=True,
    ),
    CaseMetric(
        name="volume_error",
        title="volume error",
        per_case=volume_error,
        description="|predicted - reference| / reference volume; undefined where the reference is empty.",
        higher_is_better=False,
    ),
    CaseMetric(
        name="lesion_f1",
        title="lesion F1",
        per_case=lesion_f1,
        description="2 hit / (2 hit + missed + false) of connected components.",
    ),
    CaseMetric(
        name="false_lesions",
        title="false lesions",
        per_case=false_lesions,
        description="Predicted components that match none of the reference; also counted where both masks are empty.",
        higher_is_better=False,
    ),
    CaseMetric(
        name="cldice",
        title="clDice",
        per_case=cldice,
        description="Harmonic mean of Tprec and Tsens (Shit et al. 2021, CVPR); 0 if one mask is empty.",
    ),
)


def metrics_for(rows: CaseScores) -> tuple[CaseMetric, ...]:
    """The metrics that a table has values for: without clDice if its skeletons were not computed."""
    return tuple(metric for metric in CASE_METRICS if metric.name != "cldice" or rows.rule.skeletons)


# --- kinds of empty cases ---------------------------------------------------------------------------------------------
def is_missed(rows: CaseScores) -> Array:
    """Whether the prediction of each row is empty and its reference is not."""
    missed: Array = (rows["tp"] + rows["fn"] > 0) & (rows["tp"] + rows["fp"] == 0)
    return missed


def is_false(rows: CaseScores) -> Array:
    """Whether the reference of each row is empty and its prediction is not."""
    false: Array = (rows["tp"] + rows["fn"] == 0) & (rows["fp"] > 0)
    return false


def is_undefined(rows: CaseScores) -> Array:
    """Whether both masks of each row are empty."""
    undefined: Array = rows["tp"] + rows["fp"] + rows["fn"] == 0
    return undefined
