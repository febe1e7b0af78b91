"""Metrics of probabilities: areas under curves, distances and calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.metrics.labels import (
    ERROR,
    LABELED,
    NO_POSITIVES,
    NO_TARGETS,
    ONE_CLASS,
    MeanOverLabels,
    by_column,
    by_unit,
    decided_classes,
    has_both,
    has_positives,
    metric,
    scored_columns,
)
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.statistics.calibration import NUM_BINS, equal_mass_bins
from zoo.statistics.roc import area_under_curve, auroc_influence
from zoo.statistics.units import mean_over_labels
from zoo.statistics.weighted import ratio, total_weights, weighted_auroc, weighted_average_precision
from zoo.tasks.logits import SMALLEST


def auroc(request: MetricRequest) -> Array:
    return by_column(scored_columns(request), has_both, lambda c: area_under_curve(c.positives, c.ranked))


def resampled_auroc(request: MetricRequest, weights: Array) -> Array:
    columns = scored_columns(request)
    return np.stack([weighted_auroc(c.positives, c.ranked, known_weights(c.known, weights)) for c in columns], axis=1)


def one_curve(request: MetricRequest) -> tuple[Array, Array]:
    columns = scored_columns(request)
    if len(columns) > 1:
        raise Undefined("a mean over labels is not one area")
    return columns[0].positives, columns[0].ranked


def influence_on_auroc(request: MetricRequest) -> Array:
    """Influence values (N,) of the mean AUROC, from placements: see `zoo.statistics.roc.auroc_influence`."""
    num, by_label = len(request.targets), []
    for column in filter(has_both, scored_columns(request)):
        values = np.zeros(num)
        values[column.known] = auroc_influence(column.positives, column.ranked) * (num / len(column.positives))
        by_label.append(values)
    return np.asarray(np.mean(by_label, axis=0))


def average_precision(request: MetricRequest) -> Array:
    """Average precision of each label; NaN without a positive, where scikit-learn returns 0.0."""
    from sklearn.metrics import average_precision_score

    return by_column(scored_columns(request), has_positives, lambda c: average_precision_score(c.positives, c.ranked))


def resampled_average_precision(request: MetricRequest, weights: Array) -> Array:
    columns = scored_columns(request)
    drawn = [weighted_average_precision(c.positives, c.ranked, known_weights(c.known, weights)) for c in columns]
    return np.stack(drawn, axis=1)


def known_weights(known: Array, weights: Array) -> Array:
    # perf: no copy if all targets are known; it would take half the time of a ten-class AUROC
    return weights if known.all() else weights.T[known].T


def squared_distances(request: MetricRequest) -> Array:
    """Mean over images of sum_k (p_k - [y = k])^2 over the classes, from 0 to 2 (Brier 1950).

    Binary: (p - y)^2 of the positive class, from 0 to 1, as scikit-learn's `brier_score_loss`; multi-label: the same
    for each label, averaged.
    """
    columns = scored_columns(request)
    if request.task.yes_no:
        return by_unit(columns, lambda c: (c.probabilities - c.positives) ** 2)
    return np.asarray(np.sum([(c.probabilities - c.positives) ** 2 for c in columns], axis=0))


def log_losses(request: MetricRequest) -> Array:
    """Mean over images of -log p of the target class, in nats; multi-label: of each label, averaged."""
    if request.task.yes_no:
        of_target = by_unit(
            scored_columns(request), lambda c: np.where(c.positives, c.probabilities, 1 - c.probabilities)
        )
    else:
        of_target = np.take_along_axis(request.probabilities, request.targets[:, None], axis=1)
    losses: Array = -np.log(np.maximum(of_target, SMALLEST))
    return losses


class Confidence(NamedTuple):
    """A model's confidence for the n images with a known target, and whether the predicted event occurred."""

    known: Array  # (N,) bool
    probability: Array  # (n,)
    occurred: Array  # (n,) bool


def confidences(request: MetricRequest) -> list[Confidence]:
    """Confidences: of the positive class (binary), of each label (multi-label), else of the decided class."""
    columns = scored_columns(request)
    if request.task.yes_no:
        return [Confidence(column.known, column.probabilities, column.positives) for column in columns]
    decided = decided_classes(request)
    probability = np.take_along_axis(request.probabilities, decided[:, None], axis=1)[:, 0]
    return [Confidence(columns[0].known, probability, decided == request.targets)]


def calibration_gaps(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, gaps by bin (n, 15)) of each label: see `ece`."""
    gaps = []
    for known, probability, occurred in confidences(request):
        if len(probability) == 0:
            gaps.append((known, np.zeros((0, NUM_BINS))))
            continue
        inside = equal_mass_bins(probability)[:, None] == np.arange(NUM_BINS)
        gaps.append((known, inside * (probability - occurred)[:, None]))
    return gaps


def ece(request: MetricRequest) -> Array:
    return np.array(
        [np.abs(gap.mean(axis=0)).sum() if len(gap) else np.nan for _, gap in request.compute_once(calibration_gaps)]
    )


def resampled_gaps(request: MetricRequest, weights: Array) -> list[tuple[Array, Array]]:
    """Gaps by bin of the whole split (15,) and of the resamples (B, 15), for each label, as shares of its images."""
    gaps = []
    for known, gap in request.compute_once(calibration_gaps):
        drawn = known_weights(known, weights)
        gaps.append((gap.sum(axis=0) / max(len(gap), 1), ratio(drawn @ gap, total_weights(drawn))))
    return gaps


def resampled_ece(request: MetricRequest, weights: Array) -> Array:
    gaps = request.resample_once(resampled_gaps, weights)
    return np.stack([np.abs(drawn).sum(axis=1) for _, drawn in gaps], axis=1)


def noise_of_ece(request: MetricRequest, weights: Array) -> Array:
    """The ECE that chance alone gives in each resample: the summed deviations of its gaps from the split's, (B,).

    |gap| <= |true gap| + |deviation| in each bin, so the ECE is at most the true one plus this noise.
    """
    gaps = request.resample_once(resampled_gaps, weights)
    return mean_over_labels(np.stack([np.abs(drawn - whole).sum(axis=1) for whole, drawn in gaps], axis=1))


def refuse_influence(_: MetricRequest) -> Array:
    raise Undefined("ECE is not a smooth function of the predictions: its differences are not tested")


# --- the specs -----------------------------------------------------------------------------------------------------
OF_GAPS = {
    "higher_is_better": False,
    "influence": refuse_influence,
    "noise": noise_of_ece,
}

CURVES = (
    metric(
        MeanOverLabels(
            auroc,
            resampled_auroc,
            ONE_CLASS,
            "Area under the ROC curve of each label against the others; needs a positive and a negative.",
        ),
        name="auroc",
        title="AUROC",
        tasks=LABELED,
        curve=one_curve,
        influence=influence_on_auroc,
    ),
    metric(
        MeanOverLabels(
            average_precision,
            resampled_average_precision,
            NO_POSITIVES,
            "Area under the precision-recall steps of each label; needs a positive.",
        ),
        name="average_precision",
        title="average precision",
        tasks=LABELED,
    ),
)
DISTANCES = (
    MetricSpec(
        name="brier",
        title="Brier score",
        tasks=LABELED,
        per_unit=squared_distances,
        higher_is_better=False,
        bounds=(0.0, 2.0),
    ),
    MetricSpec(name="log_loss", title="log loss", tasks=LABELED, per_unit=log_losses, **ERROR),
    metric(
        MeanOverLabels(
            ece,
            resampled_ece,
            NO_TARGETS,
            "Expected calibration error: sum over bins of n_bin/n |mean confidence - share correct|, 15 bins of "
            "equal mass. The confidence is the probability of the positive class (binary) or of each label "
            "(multi-label, averaged), else the largest probability (Guo et al. 2017, with the bins of Nixon et al. "
            "2019). Equal probabilities share a bin. Resamples keep the bins of the whole test split.",
        ),
        name="ece",
        title="ECE",
        tasks=LABELED,
        **OF_GAPS,
    ),
)
