"""The statistics of predicted masks against their references, as they are stored."""

from __future__ import annotations

from zoo.arrays import Array

# Stored for each image and label, computed from the predicted and the reference mask; NaN where undefined.
STATISTICS = (
    "dice",
    "iou",
    "nsd",
    "nsd_surface",
    "hd95",
    "assd",
    "volume_error",
    "lesion_f1",
    "false_lesions",
    "mask_sensitivity",
    "mask_precision",
    "missed",  # 1 if the label is in the reference and not in the prediction, 0 if in both, NaN without reference
    "true_positive",  # pixels
    "false_positive",
    "false_negative",
)
# Those that follow from the numbers of pixels, without distances or lesions.
COUNTED = (
    "dice",
    "iou",
    "volume_error",
    "mask_sensitivity",
    "mask_precision",
    "missed",
    "true_positive",
    "false_positive",
    "false_negative",
)
FRACTIONS = ("dice", "iou", "nsd", "nsd_surface", "lesion_f1", "mask_sensitivity", "mask_precision", "missed")  # 0 to 1


def statistic(answers: Array, name: str) -> Array:
    """One statistic of each image and label, (N, L), of stored answers."""
    by_label: Array = answers.reshape(len(answers), -1, len(STATISTICS))[:, :, STATISTICS.index(name)]
    return by_label
