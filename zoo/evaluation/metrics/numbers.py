"""Metrics of predicted numbers, for regression and ordinal tasks."""

from __future__ import annotations

from functools import partial

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.metrics.labels import ERROR, NO_TARGETS, PLUS_MINUS, mean_influence, metric
from zoo.specs.metric import MetricRequest
from zoo.statistics.weighted import ratio, weighted_spearman


def predicted_values(request: MetricRequest) -> Array:
    """The predicted number (regression) or the decided grade (ordinal): float64 (N,)."""
    values = request.probabilities[:, 0] if request.decisions is None else request.decisions
    return values.astype(np.float64)


def mae(request: MetricRequest) -> Array:
    from sklearn.metrics import mean_absolute_error

    return np.array([mean_absolute_error(request.targets, predicted_values(request))])


def resampled_mae(request: MetricRequest, weights: Array) -> Array:
    return ratio(weights @ np.abs(request.targets - predicted_values(request)), weights.sum(axis=1))[:, None]


def absolute_errors(request: MetricRequest) -> list[tuple[Array, Array]]:
    return [(np.ones(len(request.targets), dtype=bool), np.abs(request.targets - predicted_values(request)))]


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
OF_ABSOLUTE = {**ERROR, "influence": partial(mean_influence, errors=absolute_errors)}

ERRORS = (
    metric(
        "mae",
        "MAE",
        ("ordinal", "regression"),
        mae,
        resampled_mae,
        NO_TARGETS,
        formula="Mean absolute error; ordinal: of the decided grade, in grades.",
        **OF_ABSOLUTE,
    ),
    metric(
        "rmse",
        "RMSE",
        ("regression",),
        rmse,
        resampled_rmse,
        NO_TARGETS,
        formula="Root of the mean squared error.",
        **ERROR,
    ),
    metric(
        "r2",
        "R2",
        ("regression",),
        r2,
        resampled_r2,
        NO_SPREAD,
        formula="1 - squared error / squared deviation of the targets from their mean; undefined if the targets are "
        "equal.",
        bounds=(None, 1.0),
    ),
    metric(
        "spearman",
        "Spearman",
        ("regression",),
        spearman,
        resampled_spearman,
        NO_SPREAD,
        formula="Spearman's rank correlation, ties at midrank; undefined if all targets or all predictions are equal.",
        **PLUS_MINUS,
    ),
)
