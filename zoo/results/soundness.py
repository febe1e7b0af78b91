"""Check stored predictions for invalid shapes, types and values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zoo.errors import clean
from zoo.evaluation.predictions import STORED_SPLITS, Predictions
from zoo.specs.metric import ScoringContext
from zoo.tasks.logits import PROBABILITY_TOLERANCE, sigmoid
from zoo.tasks.overlaps import statistic

SPLITS_OF_PURPOSE = {"tune": ("val",), "imported": ("test",)}


def expected_splits(purpose: str) -> tuple[str, ...]:
    """The splits whose predictions a finished run stores."""
    return SPLITS_OF_PURPOSE.get(purpose, STORED_SPLITS)


def find_faults_of_run(
    card: ScoringContext, purpose: str, dataset: Mapping[str, Any], predictions: Mapping[str, Predictions]
) -> Iterator[str]:
    """Yield the faults in a finished run's predictions, split by split.

    `dataset` is the result's record of the dataset: image counts by split, and whether targets may be missing.
    """
    counts, has_targets = dataset.get("splits", {}), dataset.get("share_targets", True)
    for split in STORED_SPLITS:
        part = predictions.get(split)
        if part is None:
            if split in expected_splits(purpose):
                yield f"predictions of {split} are missing"
        elif part.sample_ids.ndim != 1 or not part.sample_ids.size:
            yield f"{split}: no samples"
        else:
            if has_targets and not len(part.targets):
                yield f"{split}: targets are missing"
            yield from find_faults(card, split, part)
            if split in counts and len(part) != counts[split]["images"]:
                yield f"{split}: {len(part)} images, expected {counts[split]['images']} by the dataset's record"
    yield from find_shared_samples(purpose, predictions)


def find_shared_samples(purpose: str, predictions: Mapping[str, Predictions]) -> Iterator[str]:
    """Yield the fault of samples in both val and test, unless they are of different datasets (external validation)."""
    if purpose == "external" or not {"val", "test"} <= predictions.keys():
        return
    shared = np.intersect1d(predictions["val"].sample_ids, predictions["test"].sample_ids)
    if shared.size:
        yield f"{shared.size} samples are in val and in test: {clean(shared[0])}"


def find_faults(card: ScoringContext, split: str, part: Predictions) -> Iterator[str]:
    """Yield the mismatches of a split's arrays with each other and with the task.

    Check this before counting: one target of 200,000,000 would allocate as many counts.
    """
    task, num_labels, rows = card.task, len(card.labels), len(part)
    targets, probabilities = part.targets, part.probabilities
    if not all(names.shape == (rows,) and names.dtype.kind == "U" for names in (part.sample_ids, part.patients)):
        yield f"{split}: sample and patient ids must be one string per row"
    elif (num_samples := len(np.unique(part.sample_ids))) < rows:
        yield f"{split}: {rows} rows for {num_samples} samples, expected one per sample"
    if len(probabilities) != rows:
        yield f"{split}: {probabilities.dtype} {probabilities.shape} probabilities for {rows} samples"
    elif fault := (
        task.answers.find_fault(probabilities, num_labels)
        or find_fault_of_log_odds(part)
        or find_fault_of_masks(part, num_labels, has_masks=task.targets.spatial)
    ):
        yield f"{split}: {fault}"
    fits = len(targets) in (0, rows) and task.targets.fits(targets.shape[1:], num_labels)
    if not fits or targets.dtype.kind not in task.targets.kinds:
        yield f"{split}: {targets.dtype} {targets.shape} targets for {rows} samples of a {task.name} task"
    elif fault := task.targets.find_stored_fault(targets, num_labels):
        yield f"{split}: {fault}"


def find_fault_of_log_odds(part: Predictions) -> str:
    """Return the fault in log odds, given valid probabilities, or ""."""
    if part.log_odds is None:
        return ""
    if part.log_odds.shape != part.probabilities.shape or part.log_odds.dtype.kind != "f":
        return f"{part.log_odds.dtype} {part.log_odds.shape} log odds for {part.probabilities.shape} probabilities"
    if not np.isfinite(part.log_odds).all():
        return "log odds contain NaN or infinity"
    if np.abs(sigmoid(part.log_odds) - part.probabilities).max(initial=0.0) > PROBABILITY_TOLERANCE:
        return "log odds do not match the probabilities"
    return ""


def find_fault_of_masks(part: Predictions, num_labels: int, *, has_masks: bool = True) -> str:
    """Return the fault in stored masks, or "": the pixels of each label must be those that the statistics count.

    `has_masks` is whether the answers of the task are masks.
    """
    maps = part.label_maps
    if maps is None:
        return ""
    if not has_masks:
        return "there are masks, but the answers of the task are no masks"
    if fault := maps.find_fault(len(part)):
        return fault
    positives = statistic(part.probabilities, "true_positive") + statistic(part.probabilities, "false_positive")
    for row, sample_id in enumerate(part.sample_ids):
        try:
            mask = maps[row]
        except (ValueError, zlib.error):
            return f"the mask of {clean(sample_id)} cannot be read"
        counts = np.bincount(mask.ravel(), minlength=num_labels + 1)[1:]
        if not np.array_equal(counts, positives[row]):
            return f"the statistics of {clean(sample_id)} do not match its mask"
    return ""
