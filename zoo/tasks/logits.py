"""Convert between logits, probabilities and log odds, and rescale probabilities to a temperature."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array

FAR_LOGIT = 1e300  # a finite value for the infinite log odds of a certain event
DECIMALS = 12  # of log odds: further ones are rounding errors, and equal probabilities must be tied
# A probability of 0 would give one wrong answer an infinite loss; scikit-learn's `log_loss` clips here too.
SMALLEST = float(np.finfo(np.float64).eps)

PROBABILITY_TOLERANCE = 1e-6


def find_array_fault(answers: Array, num_columns: int) -> str:
    """The fault in stored numbers (N, C), or ""."""
    if answers.shape[1:] != (num_columns,) or answers.dtype.kind != "f":
        return f"{answers.dtype} {answers.shape} probabilities for {len(answers)} samples"
    return "" if np.isfinite(answers).all() else "probabilities contain NaN or infinity"


def find_fault_of_probabilities(answers: Array, num_labels: int) -> str:
    """The fault in stored probabilities (N, L), each from 0 to 1, or ""."""
    fault = find_array_fault(answers, num_labels)
    if fault or not answers.size:
        return fault
    low, high = float(answers.min()), float(answers.max())
    if low < -PROBABILITY_TOLERANCE or high > 1 + PROBABILITY_TOLERANCE:
        return f"probability {low if low < 0 else high:.6g}, expected 0 to 1"
    return ""


def softmax(logits: Array) -> Array:
    shifted: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: Array) -> Array:
    from scipy.special import expit

    probabilities: Array = expit(logits)
    return probabilities


def cumulative_to_classes(logits: Array) -> Array:
    """Convert the logits (N, L - 1) of P(y > k) to P(y = k); they are made non-increasing so that none is negative."""
    lower, upper = grade_bounds(logits)
    # sigmoid(a) - sigmoid(b) = sigmoid(-b) - sigmoid(-a): use the form with the smaller terms, which cancels less.
    flip = lower + upper > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    return sigmoid(lower) - sigmoid(upper)


def grade_bounds(logits: Array) -> tuple[Array, Array]:
    """The logits of P(y > k - 1) and of P(y > k) for every grade k, both (N, L); FAR_LOGIT if it is certain."""
    above = np.minimum.accumulate(logits, axis=1)
    certain = np.full((len(logits), 1), FAR_LOGIT)
    return np.concatenate([certain, above], axis=1), np.concatenate([above, -certain], axis=1)


def round_log_odds(values: Array) -> Array:
    """Make log odds finite and round off the rounding errors of their sums."""
    rounded: Array = np.clip(values, -FAR_LOGIT, FAR_LOGIT)
    inside = np.abs(rounded) < 1e3  # larger numbers have fewer decimals than DECIMALS
    rounded[inside] = np.round(rounded[inside], DECIMALS)
    return rounded


def classes_to_log_odds(logits: Array) -> Array:
    """Convert softmax logits (N, L) to log odds: log p_k/(1 - p_k) = l_k - log sum_{j != k} exp(l_j)."""
    none = np.full((len(logits), 1), -np.inf)
    before = np.concatenate([none, np.logaddexp.accumulate(logits, axis=1)[:, :-1]], axis=1)
    after = np.concatenate([np.logaddexp.accumulate(logits[:, ::-1], axis=1)[:, -2::-1], none], axis=1)
    return round_log_odds(logits - np.logaddexp(before, after))


def recover_log_odds(probabilities: Array) -> Array:
    """Compute log odds from class probabilities (N, L), with 1 - p_k as the sum of the other classes."""
    with np.errstate(divide="ignore"):
        return classes_to_log_odds(np.maximum(np.log(probabilities), -FAR_LOGIT))


def grades_to_log_odds(logits: Array) -> Array:
    """Log odds of the grades: p_k = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))."""
    a, b = grade_bounds(logits)
    with np.errstate(divide="ignore", over="ignore"):
        inside = -np.logaddexp(0, -a) - np.logaddexp(0, b) + np.log(-np.expm1(b - a))
    outside = np.logaddexp(-np.logaddexp(0, a), -np.logaddexp(0, -b))
    return round_log_odds(inside - outside)


def rescale_classes(probabilities: Array, temperature: float) -> Array:
    """softmax(log p / T) of probabilities (N, C).

    Equals softmax(logits / T), because log p and the logits differ by one constant per row.
    """
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    # perf: scipy's `log_softmax` does the same in five times the time, and a temperature is found in 20 steps
    shifted = logits - logits.max(axis=1, keepdims=True)
    scaled: Array = np.exp(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    return scaled


def rescale_events(probabilities: Array, temperature: float) -> Array:
    """sigmoid(logit p / T) of probabilities of any shape; equals sigmoid(logits / T)."""
    from scipy.special import expit, logit

    scaled: Array = expit(logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST)) / temperature)
    return scaled


def rescale_grades(probabilities: Array, temperature: float) -> Array:
    """Rescale P(y > k), the events of an ordinal head's logits, and convert them back to class probabilities (N, C)."""
    above = np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]  # (N, C - 1)
    scaled = rescale_events(above, temperature)
    ones, zeros = np.ones((len(scaled), 1)), np.zeros((len(scaled), 1))
    return -np.diff(np.concatenate([ones, scaled, zeros], axis=1), axis=1)
