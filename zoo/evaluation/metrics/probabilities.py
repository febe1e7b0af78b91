"""Metrics of probabilities: areas under curves, distances and calibration."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.metrics.labels import (
    CLASSES,
    ERROR,
    NO_POSITIVES,
    NO_TARGETS,
    ONE_CLASS,
    YES_NO,
    by_column,
    has_both,
    has_positives,
    mean_influence,
    metric,
    resampled_mean_over_labels,
    scored_columns,
)
from zoo.specs.metric import MetricRequest
from zoo.statistics.calibration import NUM_BINS, SMALLEST, equal_mass_bins
from zoo.statistics.roc import auroc_influence
from zoo.statistics.weighted import ratio, weighted_auroc, weighted_average_precision


def auroc(request: MetricRequest) -> Array:
    from sklearn.metrics import auc, roc_curve

    # perf: what `roc_auc_score` computes, without its checks of the targets: 1.0 ms instead of 2.5 ms for 40 images
    return by_column(scored_columns(request), has_both, lambda c: auc(*roc_curve(c.positives, c.ranked)[:2]))


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


def squared_distances(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, squares) of each label: see `brier`."""
    columns = scored_columns(request)
    squares = [(column.known, (column.probabilities - column.positives) ** 2) for column in columns]
    if request.task.name in YES_NO:
        return squares
    return [(columns[0].known, np.sum([square for _, square in squares], axis=0))]


def brier(request: MetricRequest) -> Array:
    return np.array([np.mean(square) if len(square) else np.nan for _, square in squared_distances(request)])


def resampled_brier(request: MetricRequest, weights: Array) -> Array:
    return np.stack([weighted_mean(square, known, weights) for known, square in squared_distances(request)], axis=1)


def weighted_mean(values: Array, known: Array, weights: Array) -> Array:
    """Weighted mean (B,) of values (n,) of the known images."""
    spread = np.zeros(len(known))
    spread[known] = values
    return ratio(weights @ spread, weights @ known.astype(np.float64))


def log_losses(request: MetricRequest) -> list[tuple[Array, Array]]:
    """(known, losses) of each label: see `log_loss`."""
    columns = scored_columns(request)
    if request.task.name in YES_NO:
        of_target = [(c.known, np.where(c.positives, c.probabilities, 1 - c.probabilities)) for c in columns]
    else:
        probabilities = np.take_along_axis(request.probabilities, request.targets[:, None], axis=1)[:, 0]
        of_target = [(columns[0].known, probabilities)]
    return [(known, -np.log(np.maximum(probability, SMALLEST))) for known, probability in of_target]


def log_loss(request: MetricRequest) -> Array:
    return np.array([np.mean(losses) if len(losses) else np.nan for _, losses in log_losses(request)])


def resampled_log_loss(request: MetricRequest, weights: Array) -> Array:
    return np.stack([weighted_mean(losses, known, weights) for known, losses in log_losses(request)], axis=1)


class Confidence(NamedTuple):
    """A model's confidence for the n images with a known target, and whether the predicted event occurred."""

    known: Array  # (N,) bool
    probability: Array  # (n,)
    occurred: Array  # (n,) bool


def confidences(request: MetricRequest) -> list[Confidence]:
    """Confidences: of the positive class (binary), of each label (multi-label), else of the most probable class."""
    columns = scored_columns(request)
    if request.task.name in YES_NO:
        return [Confidence(column.known, column.probabilities, column.positives) for column in columns]
    right = request.probabilities.argmax(axis=1) == request.targets
    return [Confidence(columns[0].known, request.probabilities.max(axis=1), right)]


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
    return np.array([np.abs(gap.mean(axis=0)).sum() if len(gap) else np.nan for _, gap in calibration_gaps(request)])


def resampled_gaps(request: MetricRequest, weights: Array) -> list[tuple[Array, Array]]:
    """Gaps by bin of the whole split (15,) and of the resamples (B, 15), for each label, as shares of its images."""
    gaps = []
    for known, gap in calibration_gaps(request):
        drawn = known_weights(known, weights)
        gaps.append((gap.sum(axis=0) / max(len(gap), 1), ratio(drawn @ gap, drawn.sum(axis=1, keepdims=True))))
    return gaps


def resampled_ece(request: MetricRequest, weights: Array) -> Array:
    return np.stack([np.abs(drawn).sum(axis=1) for _, drawn in resampled_gaps(request, weights)], axis=1)


def noise_of_ece(request: MetricRequest, weights: Array) -> Array:
    """The ECE that chance alone gives in each resample: the summed deviations of its gaps from the split's, (B, K).

    |gap| <= |true gap| + |deviation| in each bin, so the ECE is at most the true one plus this noise.
    """
    return np.stack([np.abs(drawn - whole).sum(axis=1) for whole, drawn in resampled_gaps(request, weights)], axis=1)


def refuse_influence(_: MetricRequest) -> Array:
    raise Undefined("ECE is no smooth function of the predictions: its differences are not tested")


# --- the specs -----------------------------------------------------------------------------------------------------
OF_SQUARES = {**ERROR, "bounds": (0.0, 2.0), "influence": partial(mean_influence, errors=squared_distances)}
OF_LOSSES = {**ERROR, "influence": partial(mean_influence, errors=log_losses)}
OF_GAPS = {
    "higher_is_better": False,
    "influence": refuse_influence,
    "noise": partial(resampled_mean_over_labels, values=noise_of_ece),
}

CURVES = (
    metric(
        "auroc",
        "AUROC",
        CLASSES,
        auroc,
        resampled_auroc,
        ONE_CLASS,
        formula="Area under the ROC curve of each label against the others; needs a positive and a negative.",
        curve=one_curve,
        influence=influence_on_auroc,
    ),
    metric(
        "average_precision",
        "average precision",
        CLASSES,
        average_precision,
        resampled_average_precision,
        NO_POSITIVES,
        formula="Area under the precision-recall steps of each label; needs a positive.",
    ),
)
DISTANCES = (
    metric(
        "brier",
        "Brier score",
        CLASSES,
        brier,
        resampled_brier,
        NO_TARGETS,
        formula="Mean over images of sum_k (p_k - [y = k])^2 over the classes, from 0 to 2 (Brier 1950). Binary: (p - "
        "y)^2 of the positive class, from 0 to 1, as scikit-learn's `brier_score_loss`; multi-label: the same for "
        "each label, averaged.",
        **OF_SQUARES,
    ),
    metric(
        "log_loss",
        "log loss",
        CLASSES,
        log_loss,
        resampled_log_loss,
        NO_TARGETS,
        formula="Mean over images of -log p of the target class, in nats; multi-label: of each label, averaged.",
        **OF_LOSSES,
    ),
    metric(
        "ece",
        "ECE",
        CLASSES,
        ece,
        resampled_ece,
        NO_TARGETS,
        formula="Expected calibration error: sum over bins of n_bin/n |mean confidence - share correct|, 15 bins of "
        "equal mass. The confidence is the probability of the positive class (binary) or of each label (multi-label, "
        "averaged), else the largest probability (Guo et al. 2017, with the bins of Nixon et al. 2019). Equal "
        "probabilities share a bin. Resamples keep the bins of the whole test split.",
        **OF_GAPS,
    ),
)
