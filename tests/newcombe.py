"""Newcombe's (2006) method 5 for an area under the ROC curve, by the roots of its polynomial."""

from numpy.polynomial import Polynomial
from scipy.stats import norm


def newcombe_reference(area, num_positives, num_negatives):
    """The areas T with (A - T)^2 m n = z^2 T (1 - T) (1 + (N/2 - 1) ((1 - T)/(2 - T) + T/(1 + T))).

    Both sides are multiplied by (2 - T)(1 + T).
    """
    t, z, half = Polynomial([0, 1]), norm.ppf(0.975), (num_positives + num_negatives) / 2 - 1
    denominator = (2 - t) * (1 + t)
    variance = t * (1 - t) * (denominator + half * ((1 - t) * (1 + t) + t * (2 - t)))
    equation = (area - t) ** 2 * denominator * (num_positives * num_negatives) - z**2 * variance
    roots = sorted(root.real for root in equation.roots() if abs(root.imag) < 1e-9 and -1e-9 < root.real < 1 + 1e-9)
    return roots[0], roots[-1]
