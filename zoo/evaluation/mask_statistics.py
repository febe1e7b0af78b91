"""The statistics of a predicted mask against its reference."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.images.placement import Spacing
from zoo.tasks.overlaps import STATISTICS

BOUNDARY_TOLERANCE = 2.0


def compare_masks(reference: Array, predicted: Array, num_labels: int, spacing: Spacing | None) -> Array:
    """`STATISTICS` of each label, float (L * S,), of two label maps (H, W) on one grid."""
    step = spacing or (1.0, 1.0)
    rows = [compare_label(reference == k, predicted == k, step) for k in range(1, num_labels + 1)]
    return np.array([row[name] for row in rows for name in STATISTICS])


def compare_label(reference: Array, predicted: Array, spacing: Spacing) -> dict[str, float]:
    tp = float((reference & predicted).sum())
    fp, fn = float(predicted.sum()) - tp, float(reference.sum()) - tp
    worst = float(np.hypot(*(np.array(reference.shape) * spacing)))
    nan = float("nan")
    has, drawn = tp + fn > 0, tp + fp > 0
    hd95, assd, nsd = nan, nan, nan
    if has and drawn:
        hd95, assd, nsd = distances(reference, predicted, spacing)
    elif has or drawn:
        hd95, assd, nsd = worst, worst, 0.0
    return {
        "dice": 2 * tp / (2 * tp + fp + fn) if has or drawn else nan,
        "iou": tp / (tp + fp + fn) if has or drawn else nan,
        "sensitivity": tp / (tp + fn) if has else nan,
        "precision": tp / (tp + fp) if drawn else nan,
        "nsd": nsd,
        "hd95": hd95,
        "assd": assd,
        "volume_error": abs(fp - fn) / (tp + fn) if has else nan,
        "missed": float(not drawn) if has else nan,
        "true_positive": tp,
        "false_positive": fp,
        "false_negative": fn,
    }


def distances(reference: Array, predicted: Array, spacing: Spacing) -> tuple[float, float, float]:
    from scipy import ndimage

    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, predicted)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    between = away[1][edges[0]], away[0][edges[1]]
    both = np.concatenate(between)
    hd95 = max(float(np.percentile(each, 95)) for each in between)
    return hd95, float(both.mean()), float((both <= BOUNDARY_TOLERANCE).mean())
