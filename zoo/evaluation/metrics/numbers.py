"""Metrics of predicted numbers, for regression and ordinal tasks."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.metrics.labels import ERROR, NO_TARGETS, NUMBERS, ORDERED, PLUS_MINUS, MeanOverLabels, metric
from zoo.specs.metric import MetricRequest, MetricSpec
from zoo.statistics.weighted import ratio, weighted_spearman


def predicted_values(request: MetricRequest) -> Array:
    """The predicted number (regression) or the decided grade (ordinal): float64 (N,)."""
    values = request.probabilities[:, 0] if request.decisions is None else request.decisions
    return values.astype(np.float64)


def absolute_errors(request: MetricRequest) -> Array:
    """Mean absolute error; ordinal: of the decided grade, in grades."""
    errors: Array = np.abs(request.targets - predicted_values(request))
    return errors


def rmse(request: MetricRequest) -> Array:
    from sklearn.metrics import root_mean_squared_error

    return np.array([root_mean_squared_error(request.targets, predicted_values(request))])


def resampled_rmse(request: MetricRequest, weights: Array) -> Array:
    squares = (request.targets - predicted_values(request)) ** 2
    return np.sqrt(ratio(weights @ squares, weights.sum(axis=1)))[:, None]


def r2(request: MetricRequest) -> Array:
    from sklearn.metrics import r2_score

    if np.ptp(request.targets) == 0:
        return np.array([np.nan])
    return np.array([r2_score(request.targets, predicted_values(request))])


def resampled_r2(request: MetricRequest, weights: Array) -> Array:
    centered = request.targets - request.targets.mean()
    errors = weights @ (request.targets - predicted_values(request)) ** 2
    spread = weights @ centered**2 - ratio((weights @ centered) ** 2, weights.sum(axis=1))
    spread[spread <= 1e-12 * (weights @ centered**2)] = 0.0  # rounding error if all drawn targets are equal
    return 1 - ratio(errors, spread)[:, None]


def spearman(request: MetricRequest) -> Array:
    from scipy.stats import spearmanr

    predicted = predicted_values(request)
    if np.ptp(request.targets) == 0 or np.ptp(predicted) == 0:
        return np.array([np.nan])
    return np.array([spearmanr(request.targets, predicted).statistic])


def resampled_spearman(request: MetricRequest, weights: Array) -> Array:
    return weighted_spearman(request.targets, predicted_values(request), weights)[:, None]


# --- the specs -----------------------------------------------------------------------------------------------------
NO_SPREAD = "the targets, or the predictions, are all equal"

ERRORS = (
    MetricSpec(name="mae", title="MAE", tasks=(*ORDERED, *NUMBERS), per_unit=absolute_errors, **ERROR),
    metric(
        MeanOverLabels(
            rmse,
            resampled_rmse,
            NO_TARGETS,
            "Root of the mean squared error.",
        ),
        name="rmse",
        title="RMSE",
        tasks=NUMBERS,
        **ERROR,
    ),
    metric(
        MeanOverLabels(
            r2,
            resampled_r2,
            NO_SPREAD,
            "1 - squared error / squared deviation of the targets from their mean; undefined if the targets are equal.",
        ),
        name="r2",
        title="R2",
        tasks=NUMBERS,
        bounds=(None, 1.0),
    ),
    metric(
        MeanOverLabels(
            spearman,
            resampled_spearman,
            NO_SPREAD,
            "Spearman's rank correlation, ties at midrank; undefined if all targets or all predictions are equal.",
        ),
        name="spearman",
        title="Spearman",
        tasks=NUMBERS,
        **PLUS_MINUS,
    ),
)
