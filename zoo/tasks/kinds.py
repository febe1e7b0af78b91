"""The kinds of answer, one `Task` each: head size, loss, conversion to probabilities and default metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.arrays import Array


@dataclass(frozen=True, eq=False)
class Task:
    """A kind of answer, for N images and L labels.

    | task | targets | head outputs | probabilities |
    |---|---|---|---|
    | binary, multiclass | int64 (N,) | L | (N, L), rows sum to 1 |
    | ordinal | int64 (N,) | L - 1, P(y > k) | (N, L), rows sum to 1 |
    | multilabel | float (N, L), NaN = unknown | L | (N, L), each in [0, 1] |
    | regression | float (N,) | 1 | (N, 1), the predicted value |
    """

    name: str
    primary_metric: str
    metrics: tuple[str, ...]
    num_outputs: Callable[[int], int]
    loss: Callable[[Tensor, Tensor], Tensor]
    to_probabilities: Callable[[Array], Array]
    min_labels: int = 2
    max_labels: int | None = None
    classes: bool = True  # one class per image: it can be counted, stratified, decided by argmax
    spatial: bool = field(default=False)  # whether augmentation must transform the targets with the image
    to_log_odds: Callable[[Array], Array] | None = None  # log p/(1 - p) of the probabilities, to rank units by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return find_task, (self.name,)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, L) against classes int64 (N,)."""
    from torch.nn.functional import cross_entropy as torch_cross_entropy

    return torch_cross_entropy(logits, targets)


def masked_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over the cells of targets (N, L) that are not NaN."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    # No boolean indexing: its data-dependent size would make the host wait for the GPU.
    known = ~targets.isnan()
    losses = binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0).to(logits.dtype), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def cumulative_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (N, L - 1) for the events y > 0, ..., y > L - 2.

    Frank & Hall, "A simple approach to ordinal classification", ECML 2001, trained jointly.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    thresholds = torch.arange(logits.shape[1], device=logits.device)
    return binary_cross_entropy_with_logits(logits, (targets[:, None] > thresholds).to(logits.dtype))


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of (N, 1) against (N,), both standardized by the training targets."""
    return (logits[:, 0] - targets.to(logits.dtype)).square().mean()


def softmax(logits: Array) -> Array:
    import numpy as np

    shifted: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: Array) -> Array:
    from scipy.special import expit

    probabilities: Array = expit(logits)
    return probabilities


def cumulative_to_classes(logits: Array) -> Array:
    """Convert the logits (N, L - 1) of P(y > k) to P(y = k); they are made non-increasing so that none is negative."""
    import numpy as np

    lower, upper = grade_bounds(logits)
    # sigmoid(a) - sigmoid(b) = sigmoid(-b) - sigmoid(-a): use the form with the smaller terms, which cancels less.
    flip = lower + upper > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    return sigmoid(lower) - sigmoid(upper)


def grade_bounds(logits: Array) -> tuple[Array, Array]:
    """The logits of P(y > k - 1) and of P(y > k) for every grade k, both (N, L); FAR_LOGIT if it is certain."""
    import numpy as np

    above = np.minimum.accumulate(logits, axis=1)
    certain = np.full((len(logits), 1), FAR_LOGIT)
    return np.concatenate([certain, above], axis=1), np.concatenate([above, -certain], axis=1)


FAR_LOGIT = 1e300  # a finite value for the infinite log odds of a certain event
DECIMALS = 12  # of log odds: further ones are rounding errors, and equal probabilities must be tied


def round_log_odds(values: Array) -> Array:
    """Make log odds finite and round off the rounding errors of their sums."""
    import numpy as np

    rounded: Array = np.clip(values, -FAR_LOGIT, FAR_LOGIT)
    inside = np.abs(rounded) < 1e3  # larger numbers have fewer decimals than DECIMALS
    rounded[inside] = np.round(rounded[inside], DECIMALS)
    return rounded


def classes_to_log_odds(logits: Array) -> Array:
    """Convert softmax logits (N, L) to log odds: log p_k/(1 - p_k) = l_k - log sum_{j != k} exp(l_j)."""
    import numpy as np

    none = np.full((len(logits), 1), -np.inf)
    before = np.concatenate([none, np.logaddexp.accumulate(logits, axis=1)[:, :-1]], axis=1)
    after = np.concatenate([np.logaddexp.accumulate(logits[:, ::-1], axis=1)[:, -2::-1], none], axis=1)
    return round_log_odds(logits - np.logaddexp(before, after))


def recover_log_odds(probabilities: Array) -> Array:
    """Compute log odds from class probabilities (N, L), with 1 - p_k as the sum of the other classes."""
    import numpy as np

    with np.errstate(divide="ignore"):
        return classes_to_log_odds(np.maximum(np.log(probabilities), -FAR_LOGIT))


def events_to_log_odds(logits: Array) -> Array:
    return round_log_odds(logits)


def grades_to_log_odds(logits: Array) -> Array:
    """Log odds of the grades: p_k = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))."""
    import numpy as np

    a, b = grade_bounds(logits)
    with np.errstate(divide="ignore", over="ignore"):
        inside = -np.logaddexp(0, -a) - np.logaddexp(0, b) + np.log(-np.expm1(b - a))
    outside = np.logaddexp(-np.logaddexp(0, a), -np.logaddexp(0, -b))
    return round_log_odds(inside - outside)


def identity(values: Array) -> Array:
    return values


SEVERAL_CLASSES_METRICS = (
    "auroc",
    "balanced_accuracy",
    "f1_macro",
    "recall_macro",
    "accuracy",
    "average_precision",
    "mcc",
    "brier",
    "ece",
)
# Sensitivity and specificity come before the macro recall, which equals the balanced accuracy for two classes.
BINARY_METRICS = (
    "auroc",
    "balanced_accuracy",
    "f1_macro",
    "sensitivity",
    "specificity",
    "accuracy",
    "recall_macro",
    "average_precision",
    "mcc",
    "brier",
    "ece",
)

BINARY = Task(
    name="binary",
    primary_metric="auroc",
    metrics=BINARY_METRICS,
    num_outputs=lambda num_labels: num_labels,
    loss=cross_entropy,
    to_probabilities=softmax,
    to_log_odds=classes_to_log_odds,
    max_labels=2,
)
MULTICLASS = Task(
    name="multiclass",
    primary_metric="auroc",
    metrics=SEVERAL_CLASSES_METRICS,
    num_outputs=lambda num_labels: num_labels,
    loss=cross_entropy,
    to_probabilities=softmax,
    to_log_odds=classes_to_log_odds,
)
ORDINAL = Task(
    name="ordinal",
    primary_metric="cohen_kappa",
    metrics=("cohen_kappa", *SEVERAL_CLASSES_METRICS, "mae"),
    num_outputs=lambda num_labels: num_labels - 1,
    loss=cumulative_cross_entropy,
    to_probabilities=cumulative_to_classes,
    to_log_odds=grades_to_log_odds,
)
MULTILABEL = Task(
    name="multilabel",
    primary_metric="auroc",
    metrics=(
        "auroc",
        "average_precision",
        "f1_macro",
        "recall_macro",
        "balanced_accuracy",
        "specificity",
        "accuracy",
        "mcc",
        "brier",
        "ece",
    ),
    num_outputs=lambda num_labels: num_labels,
    loss=masked_binary_cross_entropy,
    to_probabilities=sigmoid,
    to_log_odds=events_to_log_odds,
    min_labels=1,
    classes=False,
)
REGRESSION = Task(
    name="regression",
    primary_metric="mae",
    metrics=("mae", "rmse", "r2", "spearman"),
    num_outputs=lambda _: 1,
    loss=squared_error,
    to_probabilities=identity,
    min_labels=1,
    max_labels=1,
    classes=False,
)

TASKS = {task.name: task for task in (BINARY, MULTICLASS, ORDINAL, MULTILABEL, REGRESSION)}


def find_task(name: str) -> Task:
    """Return the task called `name`. Raises KeyError."""
    if name not in TASKS:
        raise KeyError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
