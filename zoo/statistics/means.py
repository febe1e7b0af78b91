"""Means that depend on their values alone: not on how many times or in which order the same values stand there.

`sum / n` rounds twice, so that ten patients whose images were all given .1 get means of .1, .09999999999999999 and
.10000000000000002, and a rank statistic orders them by these. Here the mean is rounded once. It is used wherever a mean
is ranked, compared or held against a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from zoo.arrays import Array

ROUNDING = 1e-12  # scores of 0 to 1 that differ by less are equal: what differs is the order of their sums


def rounded(scores: Array | float) -> Array:
    """Scores without the digits that `ROUNDING` leaves out, so that equal ones are tied."""
    kept: Array = np.round(scores, 12)
    return kept


def exact_mean(values: Iterable[float]) -> float:
    """The mean of finite numbers (at least one), correctly rounded: that of equal numbers is that number."""
    column = np.fromiter(values, dtype=np.float64)
    return float(mean_by_group(column, np.zeros(len(column), dtype=np.int64), 1)[0])


def mean_of_arrays(arrays: Sequence[Array]) -> Array:
    """The correctly rounded mean of arrays of one shape, element by element."""
    stacked = np.stack(arrays).astype(np.float64)
    size = stacked[0].size
    means = mean_by_group(stacked.ravel(), np.tile(np.arange(size), len(stacked)), size)
    return means.reshape(stacked.shape[1:])


def mean_by_group(values: Array, owner: Array, num_groups: int) -> Array:
    """The correctly rounded mean (G, ...) of the values (N, ...) of each group; `owner` int (N,) is their group.

    Each sum is two floats, the rounded one and what rounding took away (Knuth 1997, The Art of Computer Programming 2,
    section 4.2.2, theorem B), so that only the quotient is rounded. Every group needs a value.
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
    """(sum + error) / count, rounded once: the quotient's remainder is taken exactly, from its upper and lower half."""
    quotient = sums / counts
    upper = quotient * (2.0**27 + 1)
    upper = upper - (upper - quotient)  # Dekker 1971: 26 bits, whose product with a count is exact
    remainder = (sums - upper * counts) - (quotient - upper) * counts + errors
    means: Array = quotient + remainder / counts
    return means
