"""Match the connected components of two masks: lesions found, missed and false."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.rule import MaskRule
from zoo.images.label_maps import slabs


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
    codes, shared = count_overlaps(lesions, found, num_predicted + 1)
    first, second = codes // (num_predicted + 1), codes % (num_predicted + 1)
    sizes = count_voxels(lesions, num_reference), count_voxels(found, num_predicted)
    matched = shared / (sizes[0][first] + sizes[1][second] - shared) > rule.lesion_iou
    return LesionCounts(
        reference=num_reference,
        predicted=num_predicted,
        hit=len(np.unique(first[matched])),
        false=num_predicted - len(np.unique(second[matched])),
    )


def count_overlaps(lesions: Array, found: Array, factor: int) -> tuple[Array, Array]:
    """The pairs of components that overlap, as `lesion * factor + found`, and the number of voxels they share.

    perf: in slabs, because the pairs of all voxels as 64-bit numbers would take most of the memory of a comparison.
    """
    codes, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for one, other in zip(slabs(lesions), slabs(found), strict=True):
        both = (one > 0) & (other > 0)
        pairs, number = np.unique(one[both].astype(np.int64) * factor + other[both], return_counts=True)
        codes.append(pairs)
        counts.append(number)
    unique, place = np.unique(np.concatenate(codes), return_inverse=True)
    shared = np.zeros(len(unique), np.int64)
    np.add.at(shared, place, np.concatenate(counts))
    return unique, shared


def count_voxels(components: Array, number: int) -> Array:
    """The number of voxels of the background and of each component, (number + 1,)."""
    return sum((np.bincount(slab.ravel(), minlength=number + 1) for slab in slabs(components)), np.zeros(1, np.int64))
