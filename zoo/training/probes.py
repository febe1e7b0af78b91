"""Fit a head on the features of a frozen network: a linear probe or a nearest-neighbor vote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.errors import RunError
from zoo.models.features import Extract, Features
from zoo.specs.protocol import Protocol
from zoo.tasks.kinds import REGRESSION, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

Select = Callable[[Array], float]  # logits of val (N, outputs) -> score; higher is better


def fit_probe(
    features: Features, dataset: DecodedFold, protocol: Protocol, select: Select
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit a linear head on frozen features (N, D), with the L2 penalty of the best val score; ties go to the larger.

    Raises RunError if the protocol lists no penalties.
    """
    from threadpoolctl import threadpool_limits

    train, val = features.of(dataset.index("train")), features.of(dataset.index("val"))
    center, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread < 1e-8] = 1.0
    train, val = (train - center) / spread, (val - center) / spread
    targets = encode(dataset, "train")
    best: tuple[float, float, Array, Array] | None = None
    # perf: 3 s against 104 s, because scikit-learn's BLAS and torch compete for the cores
    with threadpool_limits(1):
        for penalty in sorted(protocol.regularizations, reverse=True):
            weight, bias = solve_linear(dataset.task, train, targets, penalty, len(dataset.labels))
            quality = select(val @ weight.T + bias)
            if best is None or quality > best[0]:
                best = (quality, penalty, weight, bias)
    if best is None:
        raise RunError("the protocol lists no regularizations", fix="list at least one, or omit the field")
    quality, penalty, weight, bias = best
    weight = weight / spread
    head = linear_layer(weight, bias - weight @ center).to(features.device)
    return head, {"regularization": penalty, "val_score": quality}


def encode(dataset: DecodedFold, split: str) -> Array:
    """The targets of a split as the loss uses them: standardized for regression, otherwise unchanged."""
    mean, std = dataset.target_scale
    targets = dataset.targets[dataset.index(split)]
    return (targets - mean) / std if dataset.task == REGRESSION else targets


def solve_linear(task: Task, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
    """Minimize mean loss + penalty / 2 * |W|^2 over W (outputs, D) and an unpenalized bias (outputs,).

    Softmax regression for classes; one logistic regression per label (over its known targets) or per ordinal threshold;
    ridge regression for numbers. Absent classes get a bias of -30, so they are never predicted.
    """
    from sklearn.linear_model import Ridge

    if task == REGRESSION:
        ridge = Ridge(alpha=penalty * len(features)).fit(features, targets)
        return ridge.coef_.reshape(1, -1), np.atleast_1d(ridge.intercept_)
    if task.name == "ordinal":
        events = [(targets > threshold).astype(int) for threshold in range(num_labels - 1)]
        solved = [solve_binary(features, event, penalty) for event in events]
    elif task.name == "multilabel":
        known = ~np.isnan(targets)
        solved = [
            solve_binary(features[known[:, label]], targets[known[:, label], label].astype(int), penalty)
            for label in range(num_labels)
        ]
    else:
        return solve_softmax(features, targets, penalty, num_labels)
    return np.stack([weight for weight, _ in solved]), np.array([bias for _, bias in solved])


def solve_binary(features: Array, events: Array, penalty: float) -> tuple[Array, float]:
    """Fit a logistic regression; if only one outcome occurs, use its smoothed prior alone."""
    count, positives = len(events), int(events.sum())
    if positives in (0, count):
        return np.zeros(features.shape[1]), float(np.log((positives + 0.5) / (count - positives + 0.5)))
    model = logistic_regression(penalty, count).fit(features, events)
    return model.coef_[0], float(model.intercept_[0])


def solve_softmax(features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
    weight, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, -30.0)
    model = logistic_regression(penalty, len(targets)).fit(features, targets)
    if len(model.classes_) == 2:  # scikit-learn returns the second class's logit only
        bias[model.classes_] = 0.0
        weight[model.classes_[1]], bias[model.classes_[1]] = model.coef_[0], model.intercept_[0]
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias


def logistic_regression(penalty: float, count: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0 / max(penalty * count, 1e-12), max_iter=500, tol=1e-4)


def linear_layer(weight: Array, bias: Array) -> nn.Module:
    import torch
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def fit_knn(features: Features, dataset: DecodedFold, protocol: Protocol) -> nn.Module:
    """Build a weighted nearest-neighbor vote on L2-normalized features (Wu et al. 2018; DINO, Caron et al. 2021).

    Each of the k nearest training images votes for its target with weight exp(cosine similarity / temperature).
    """
    import torch
    from torch import nn
    from torch.nn.functional import normalize

    bank = normalize(features.batch(torch.from_numpy(dataset.index("train"))), dim=1)
    votes = torch.from_numpy(one_hot(dataset)).float().to(features.device)
    known = ~votes.isnan()
    k, temperature, task = min(protocol.neighbors, len(bank)), protocol.temperature, dataset.task

    class NeighborVote(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            similarity, nearest = (normalize(features, dim=1) @ bank.T).topk(k, dim=1)
            weight = (similarity / temperature).softmax(dim=1)[:, :, None] * known[nearest]
            share = (weight * votes.nan_to_num()[nearest]).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
            return torch.from_numpy(to_logits(task, share.double().cpu().numpy())).float()

    return NeighborVote()


def join_head(extract: Extract, backbone: nn.Module, head: nn.Module) -> nn.Module:
    """Join the frozen network and the head to one module that maps images to logits."""
    import torch
    from torch import nn

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.head = head

        def forward(self, images: Tensor) -> Tensor:
            features = extract(images)  # under the caller's autocast, as in fitting
            with torch.autocast(images.device.type, enabled=False):  # bf16 similarities would change the neighbors
                return self.head(features.float())  # type: ignore[no-any-return]

    return Frozen()


def one_hot(dataset: DecodedFold) -> Array:
    """The training targets as votes (N, C): one column per class or label, or the standardized value."""
    targets = encode(dataset, "train")
    return np.eye(len(dataset.labels))[targets] if dataset.task.classes else targets.reshape(len(targets), -1)


def to_logits(task: Task, probabilities: Array, floor: float = 1e-4) -> Array:
    """Invert `task.to_probabilities` for probabilities (N, C), which are clipped to `floor` and 1 - `floor`."""
    logits: Array = probabilities
    if task.name == "multilabel":
        inside = probabilities.clip(floor, 1 - floor)
        logits = np.log(inside / (1 - inside))
    elif task.name == "ordinal":
        above = (1 - probabilities.cumsum(axis=1)[:, :-1]).clip(floor, 1 - floor)
        logits = np.log(above / (1 - above))
    elif task.classes:
        logits = np.log(probabilities.clip(floor, None))
    return logits
