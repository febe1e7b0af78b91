"""Means of values that every unit has on its own, such as its error: their value, resamples and influence.

`values` is float (N, L), one row per unit and one column per label, NaN where undefined. The mean of each label is over
its defined units; the result is the mean over the labels that have a defined unit.
"""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.statistics.weighted import ratio, ratio_influence, total_weights


def means_by_label(values: Array) -> Array:
    """The mean over the defined units of each label: (L,), NaN for a label without any."""
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([column.mean() if len(column) else np.nan for column in known])


def mean_over_labels(by_label: Array) -> Array:
    """The mean over the labels (B, L) that are defined: (B,), NaN without any."""
    if by_label.shape[1] == 1:
        return by_label[:, 0]
    defined = ~np.isnan(by_label)
    return ratio(np.where(defined, by_label, 0.0).sum(axis=1), defined.sum(axis=1))


def resampled_means(values: Array, weights: Array) -> Array:
    """The mean in each resample of weights (B, N): (B,). A label that no drawn unit defines is left out of it."""
    defined = ~np.isnan(values)
    if defined.all():  # perf: one product instead of two, and no copy
        return mean_over_labels(ratio(weights @ values, total_weights(weights)))
    return mean_over_labels(ratio(weights @ np.where(defined, values, 0.0), weights @ defined.astype(np.float64)))


def influence_on_mean(values: Array) -> Array:
    """Exact influence values (N,) on the mean: see `ratio_influence`."""
    defined = ~np.isnan(values)
    return ratio_influence(np.where(defined, values, 0.0), defined.astype(np.float64))
