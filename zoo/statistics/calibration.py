"""Temperature scaling of probabilities, and bins of equal mass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined

NUM_BINS = 15
TEMPERATURES = (0.01, 100.0)  # bounds of the search; a minimum at a bound is not accepted


def equal_mass_bins(confidence: Array, num_bins: int = NUM_BINS) -> Array:
    """Assign n probabilities (n,) to bins cut at quantiles (Nixon et al. 2019): int (n,), 0 to `num_bins` - 1.

    Equal probabilities share a bin. Most bins of equal width would be empty, because a network's probabilities cluster
    near 0 and 1.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins: Array = np.searchsorted(edges, confidence, side="left")
    return bins


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Find the temperature T with the smallest `loss(T)`, mean log loss on val (Guo et al. 2017, ICML, section 4.2).

    The loss is convex in 1/T, so it has one minimum in log T. Raises `Undefined` where the minimum is not inside
    `TEMPERATURES`: if every answer is correct, the loss decreases down to T = 0; if the answers are no better than
    chance, it decreases up to T = infinity.
    """
    from scipy.optimize import minimize_scalar

    low, high = np.log(TEMPERATURES)
    ends = loss(TEMPERATURES[0]), loss(TEMPERATURES[1])
    minimum = minimize_scalar(lambda x: loss(float(np.exp(x))), bounds=(low, high), method="bounded", options=OPTIONS)
    best = float(minimum.fun)
    if max(ends) - best < FLAT:
        raise Undefined("every temperature is equally good on val: its probabilities are all equal")
    if ends[0] - best < FLAT:
        raise Undefined("every answer on val is correct, so a lower temperature always has a lower log loss")
    if ends[1] - best < FLAT:
        raise Undefined(
            "the answers on val are no better than chance, so a higher temperature always has a lower log loss"
        )
    return float(np.exp(minimum.x))


OPTIONS = {"xatol": 1e-8}  # tolerance of log T
FLAT = 1e-7  # smaller decreases of the log loss are rounding errors
