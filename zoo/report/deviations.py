"""Format deviations of a run from its protocol as sentences."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.specs.deviation import Deviation, DeviationKind

DEVIATION_TEXTS: Mapping[DeviationKind, str] = {
    "no-weights": "weights: none found, random init",
    "local-weights": "weights: local file, mean and std not declared; normalized as its architecture's default weights",
    "image-size": "image_size: {} instead of {}",
    "batch-size": "batch_size: {} instead of {}",
    "batch-parts": "out of memory: batches of {} in parts of {}",
    "leak-allowed": "leak allowed: {}",
    # As in documents of schema 1, whose sentences are kept.
    "other-predictions": "weights: {}, and val predicted up to {} otherwise than by the finished run",
    "undeclared-fields": "protocol: named {}, but differs from it in {}",
    "imported": "imported: masks of another tool, not trained here",
    "unpredicted": "{} of {} test images have no prediction and count as empty",
    "other": "{}",
}


def deviation_text(deviation: Deviation) -> str:
    details = (f"{part:.2g}" if isinstance(part, float) else part for part in deviation.detail)
    return DEVIATION_TEXTS[deviation.kind].format(*details)
