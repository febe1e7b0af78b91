"""Predictive values at any prevalence from sensitivity and specificity, with intervals."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.statistics.roc import Bounds
from zoo.statistics.weighted import ratio


def predictive_values(sensitivity: Array, specificity: Array, prevalence: float) -> tuple[Array, Array]:
    """PPV and NPV by Bayes' rule, elementwise; NaN where there are no positive, or no negative, decisions.

    PPV = Se p / (Se p + (1 - Sp)(1 - p)), NPV = Sp (1 - p) / (Sp (1 - p) + (1 - Se) p) (Altman & Bland 1994, BMJ
    309:102).
    """
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    rejections, misses = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return ratio(hits, hits + alarms), ratio(rejections, rejections + misses)


def predictive_intervals(
    sensitivity: float, specificity: float, of_sensitivity: Bounds, of_specificity: Bounds, prevalence: float
) -> tuple[Bounds, Bounds]:
    """Intervals for PPV and NPV from those of sensitivity and specificity, which are of independent units.

    PPV is 1/(1 + (1 - p)/p x (1 - Sp)/Se) and NPV is 1/(1 + p/(1 - p) x (1 - Se)/Sp); both decrease with the ratio,
    whose interval is `ratio_interval`. With Wilson's intervals they exist at a sensitivity or specificity of 1, where
    the delta method of Mercaldo, Lau & Zhou 2007 (Statistics in Medicine 26:2170) gives none.
    """

    def complement(bounds: Bounds) -> Bounds:
        return 1 - bounds[1], 1 - bounds[0]

    alarms = ratio_interval(1 - specificity, sensitivity, complement(of_specificity), of_sensitivity)
    misses = ratio_interval(1 - sensitivity, specificity, complement(of_sensitivity), of_specificity)
    odds = prevalence / (1 - prevalence)
    return (
        (1 / (1 + alarms[1] / odds), 1 / (1 + alarms[0] / odds)),
        (1 / (1 + misses[1] * odds), 1 / (1 + misses[0] * odds)),
    )


def ratio_interval(first: float, second: float, of_first: Bounds, of_second: Bounds) -> Bounds:
    """MOVER-R interval for first/second from the intervals of two independent estimates.

    The bounds are the ratios R at which a limit of first - R second is 0, where the squared distances to the limits of
    both estimates add (Donner & Zou 2012, Statistical Methods in Medical Research 21:347; Newcombe 2016, the same
    25:1774). The upper bound is infinite if the interval of `second` includes 0.
    """
    (low_1, high_1), (low_2, high_2) = of_first, of_second
    product = first * second
    # The textbook's numerator times its conjugate, to avoid cancellation.
    below = low_1 * (2 * first - low_1)
    root = np.sqrt(max(product**2 - below * high_2 * (2 * second - high_2), 0.0))
    low = below / (product + root) if below > 0 else 0.0
    under = low_2 * (2 * second - low_2)
    root = np.sqrt(max(product**2 - high_1 * (2 * first - high_1) * under, 0.0))
    high = (product + root) / under if under > 0 else np.inf
    return float(low), float(high)
