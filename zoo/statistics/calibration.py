"""From probabilities and a loss to a temperature and rescaled probabilities; bins of equal mass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined

NUM_BINS = 15
# A probability of 0 would make one wrong answer cost without end; scikit-learn's `log_loss` clips here too.
SMALLEST = float(np.finfo(np.float64).eps)
TEMPERATURES = (0.01, 100.0)  # between which one is looked for; at an end there is none


def equal_mass_bins(confidence: Array, num_bins: int = NUM_BINS) -> Array:
    """The bin, 0 to `num_bins` - 1, of each of n probabilities, cut at quantiles (Nixon et al. 2019); equal ones share.

    Bins of equal width would leave most of them empty: a network's probabilities crowd near 0 and 1.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins: Array = np.searchsorted(edges, confidence, side="left")
    return bins


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the smallest `loss` (mean log loss on val): Guo et al. 2017, ICML, section 4.2.

    Of log T the loss has one minimum: it is convex in 1/T. Undefined where that lies at no temperature: with every
    answer right the loss falls down to T = 0, and with nothing better than chance up to T = infinity.
    """
    from scipy.optimize import minimize_scalar

    low, high = np.log(TEMPERATURES)
    ends = loss(TEMPERATURES[0]), loss(TEMPERATURES[1])
    found = minimize_scalar(lambda x: loss(float(np.exp(x))), bounds=(low, high), method="bounded", options=OPTIONS)
    best = float(found.fun)
    if max(ends) - best < FLAT:
        raise Undefined("every temperature is as good on val: its probabilities are all even")
    if ends[0] - best < FLAT:
        raise Undefined("every answer on val is right: the lower the temperature the better")
    if ends[1] - best < FLAT:
        raise Undefined("val is answered no better than by chance: the higher the temperature the better")
    return float(np.exp(found.x))


OPTIONS = {"xatol": 1e-8}
FLAT = 1e-7


def rescale_classes(probabilities: Array, temperature: float) -> Array:
    """softmax(log p / T) of (N, C): what softmax(logits / T) is, since log p is the logits less a number a row."""
    from scipy.special import log_softmax

    scaled: Array = np.exp(log_softmax(np.log(np.maximum(probabilities, SMALLEST)) / temperature, axis=1))
    return scaled


def rescale_events(probabilities: Array, temperature: float) -> Array:
    """sigmoid(logit p / T) of any shape: what sigmoid(logits / T) is."""
    from scipy.special import expit, logit

    scaled: Array = expit(logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST)) / temperature)
    return scaled


def rescale_grades(probabilities: Array, temperature: float) -> Array:
    """The same of P(y > k), the events that an ordinal head has logits of, turned back into classes (N, C)."""
    above = np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]  # (N, C - 1)
    scaled = rescale_events(above, temperature)
    ones, zeros = np.ones((len(scaled), 1)), np.zeros((len(scaled), 1))
    return -np.diff(np.concatenate([ones, scaled, zeros], axis=1), axis=1)
