"""Correctly rounded means: independent of the order of the values, and the mean of equal values is that value.

`sum / n` rounds twice: ten patients whose images all have probability .1 get means of .1, .09999999999999999 and
.10000000000000002, which a rank statistic would order. These functions round once. They are used wherever a mean is
ranked, compared, or tested against a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from zoo.arrays import Array

ROUNDING = 1e-12  # scores in 0..1 that differ by less are equal; the order of summation makes such differences


def rounded(scores: Array | float) -> Array:
    """Round scores to `ROUNDING`, so that equal ones are tied."""
    result: Array = np.round(scores, 12)
    return result


def exact_mean(values: Iterable[float]) -> float:
    """Correctly rounded mean of finite numbers, at least one; the mean of equal numbers is that number."""
    column = list(map(float, values))
    total = math.fsum(column)
    error = math.fsum([*column, -total])  # what the correctly rounded sum lacks
    return float(divide(np.array(total), np.array(error), np.array(float(len(column)))))


def mean_of_arrays(arrays: Sequence[Array]) -> Array:
    """Correctly rounded elementwise mean of arrays of one shape."""
    stacked = np.stack(arrays).astype(np.float64)
    size = stacked[0].size
    means = mean_by_group(stacked.ravel(), np.tile(np.arange(size), len(stacked)), size)
    return means.reshape(stacked.shape[1:])


def mean_by_group(values: Array, owner: Array, num_groups: int) -> Array:
    """Correctly rounded mean (G, ...) of each group of values (N, ...); `owner`, int (N,), is the group of each value.

    A sum is kept as two floats, the rounded sum and its rounding error (Knuth 1997, The Art of Computer Programming 2,
    section 4.2.2, theorem B), so only the quotient is rounded. Every group needs at least one value.
    """
    shape = (num_groups, *np.shape(values)[1:])
    counts = np.bincount(owner, minlength=num_groups)
    order = np.argsort(owner, kind="stable")
    columns = np.asarray(values, dtype=np.float64)[order].reshape(len(order), -1)
    most = int(counts.max(initial=1))
    if most == 1:
        return columns.reshape(shape)
    starts = np.cumsum(counts) - counts
    sums, errors = columns[starts].copy(), np.zeros((num_groups, columns.shape[1]))
    for position in range(1, most):
        groups = np.flatnonzero(counts > position)
        old, more = sums[groups], columns[starts[groups] + position]
        total = old + more
        added = total - old
        sums[groups] = total
        errors[groups] += (old - (total - added)) + (more - added)
    return divide(sums, errors, counts[:, None].astype(np.float64)).reshape(shape)


def divide(sums: Array, errors: Array, counts: Array) -> Array:
    """(sum + error) / count, rounded once: the remainder is computed exactly from the quotient's two halves."""
    quotient = sums / counts
    upper = quotient * (2.0**27 + 1)
    upper = upper - (upper - quotient)  # Dekker 1971: 26 bits, so the product with a count is exact
    remainder = (sums - upper * counts) - (quotient - upper) * counts + errors
    means: Array = quotient + remainder / counts
    return means


def mean_of_known(values: Array, owner: Array, num_groups: int) -> Array:
    """`mean_by_group` of values (N, C) without those that are NaN; NaN for a group that has no others."""
    unknown = np.isnan(values)
    if not unknown.any():
        return mean_by_group(values, owner, num_groups)
    means = np.full((num_groups, values.shape[1]), np.nan)
    for column, missing in enumerate(unknown.T):
        if missing.all():
            continue
        groups, own = np.unique(owner[~missing], return_inverse=True)
        means[groups, column] = mean_by_group(values[~missing, column], own, len(groups))
    return means
