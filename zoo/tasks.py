"""The kinds of answer: head size, loss, logits to probabilities and default metrics, one `Task` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Task:
    """One kind of answer. L is the number of labels, C the columns of `probabilities`.

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
    classes: bool = True  # one class an image: it can be counted, stratified, decided by argmax
    spatial: bool = field(default=False)  # targets that must be moved along with the image

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
    """Mean binary cross-entropy over the known cells of targets (N, L); NaN cells count nothing."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    # Without boolean indexing: its size is data-dependent, which makes a GPU wait for the host.
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
    """Mean squared error of (N, 1) against (N,), both standardised by the training targets."""
    return (logits[:, 0] - targets.to(logits.dtype)).square().mean()


def softmax(logits: Array) -> Array:
    import numpy as np

    shifted: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: Array) -> Array:
    import numpy as np

    # tanh form: exp(-x) overflows for large negative logits
    probabilities: Array = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return probabilities


def cumulative_to_classes(logits: Array) -> Array:
    """P(y = k) from the logits (N, L - 1) of P(y > k), made non-increasing first so that no class is negative."""
    import numpy as np

    above = np.minimum.accumulate(sigmoid(logits), axis=1)
    ones, zeros = np.ones((len(logits), 1)), np.zeros((len(logits), 1))
    return -np.diff(np.concatenate([ones, above, zeros], axis=1), axis=1)


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
# Sensitivity and specificity first: the macro recall of two classes is the balanced accuracy.
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
    max_labels=2,
)
MULTICLASS = Task(
    name="multiclass",
    primary_metric="auroc",
    metrics=SEVERAL_CLASSES_METRICS,
    num_outputs=lambda num_labels: num_labels,
    loss=cross_entropy,
    to_probabilities=softmax,
)
ORDINAL = Task(
    name="ordinal",
    primary_metric="cohen_kappa",
    metrics=("cohen_kappa", *SEVERAL_CLASSES_METRICS, "mae"),
    num_outputs=lambda num_labels: num_labels - 1,
    loss=cumulative_cross_entropy,
    to_probabilities=cumulative_to_classes,
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
    """Return the task called `name`; a KeyError names the ones there are."""
    if name not in TASKS:
        raise KeyError(f"unknown task {name!r}; one of {', '.join(TASKS)}")
    return TASKS[name]
