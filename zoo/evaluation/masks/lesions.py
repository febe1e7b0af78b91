"""Match the connected components of two masks: lesions found, missed and false."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.rule import MaskRule


@dataclass(frozen=True, kw_only=True)
class LesionCounts:
    """Connected components of a reference and of a prediction."""

    reference: int = 0
    predicted: int = 0
    hit: int = 0  # of the reference, with a match
    false: int = 0  # of the prediction, without a match


def count_lesions(reference: Array, prediction: Array, rule: MaskRule) -> LesionCounts:
    """Match components whose IoU exceeds `rule.lesion_iou`; one component may match several.

    With a threshold of 0 any overlap is a match (Metrics Reloaded, localization by any overlap).
    """
    from scipy.ndimage import generate_binary_structure, label

    rank = reference.ndim if rule.connectivity == "full" else 1
    neighbors = generate_binary_structure(reference.ndim, rank)
    lesions, num_reference = label(reference, neighbors)
    found, num_predicted = label(prediction, neighbors)
    both = reference & prediction
    pairs = lesions[both].astype(np.int64) * (num_predicted + 1) + found[both]
    codes, shared = np.unique(pairs, return_counts=True)
    first, second = codes // (num_predicted + 1), codes % (num_predicted + 1)
    sizes = np.bincount(lesions[reference], minlength=1), np.bincount(found[prediction], minlength=1)
    iou = shared / (sizes[0][first] + sizes[1][second] - shared)
    matched = iou > rule.lesion_iou
    return LesionCounts(
        reference=num_reference,
        predicted=num_predicted,
        hit=len(np.unique(first[matched])),
        false=num_predicted - len(np.unique(second[matched])),
    )
