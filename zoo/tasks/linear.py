"""Fit linear heads on features with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.arrays import Array


def solve_softmax(features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
    weight, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, -30.0)
    model = logistic_regression(penalty, len(targets)).fit(features, targets)
    if len(model.classes_) == 2:  # scikit-learn returns the second class's logit only
        bias[model.classes_] = 0.0
        weight[model.classes_[1]], bias[model.classes_[1]] = model.coef_[0], model.intercept_[0]
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias


def solve_binaries(features: Array, events: Array, penalty: float) -> tuple[Array, Array]:
    """Fit one logistic regression per column of events (N, K), over the rows where it is not NaN."""
    solved = []
    for column in events.astype(np.float64).T:
        known = ~np.isnan(column)
        solved.append(solve_binary(features[known], column[known].astype(int), penalty))
    return np.stack([weight for weight, _ in solved]), np.array([bias for _, bias in solved])


def solve_binary(features: Array, events: Array, penalty: float) -> tuple[Array, float]:
    """Fit a logistic regression; if only one outcome occurs, use its smoothed prior alone."""
    count, positives = len(events), int(events.sum())
    if positives in (0, count):
        return np.zeros(features.shape[1]), float(np.log((positives + 0.5) / (count - positives + 0.5)))
    model = logistic_regression(penalty, count).fit(features, events)
    return model.coef_[0], float(model.intercept_[0])


def logistic_regression(penalty: float, count: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0 / max(penalty * count, 1e-12), max_iter=500, tol=1e-4)
