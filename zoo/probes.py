"""From a frozen network to a fitted module: a linear head solved at once, or a nearest-neighbour vote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data import Dataset, Pixels
from zoo.errors import RunError
from zoo.models import feature_extractor
from zoo.protocol import Protocol
from zoo.specs import ModelSpec
from zoo.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray[Any, Any]
Select = Callable[[Array], float]  # logits of val (N, outputs) -> how good they are; higher is better


def extract_features(
    extract: Callable[[Tensor], Tensor], dataset: Dataset, pixels: Pixels, split: str, precision: str
) -> Array:
    """The features float64 (N, D) of a split, in the dataset's order."""
    import torch

    kind = pixels.device.partition(":")[0]
    parts = []
    with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
        for rows in torch.from_numpy(dataset.index(split)).split(64):  # type: ignore[no-untyped-call]
            parts.append(extract(pixels.normalize(pixels.batch(rows))).float().cpu())
    features = torch.cat(parts).numpy().astype(np.float64)
    if not np.isfinite(features).all():
        raise RunError("the frozen features are not finite", code="diverged")
    return features


def fit_probe(
    spec: ModelSpec,
    module: nn.Module,
    dataset: Dataset,
    pixels: Pixels,
    protocol: Protocol,
    select: Select,
    precision: str,
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit a linear head on frozen features, its L2 penalty chosen on val; returns the whole as one module."""
    from threadpoolctl import threadpool_limits

    module.eval()
    extract = feature_extractor(spec, module)
    train = extract_features(extract, dataset, pixels, "train", precision)
    val = extract_features(extract, dataset, pixels, "val", precision)
    center, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread < 1e-8] = 1.0
    train, val = (train - center) / spread, (val - center) / spread
    targets = encode(dataset, "train")
    best: tuple[float, float, Array, Array] | None = None
    # scikit-learn's BLAS and torch fight over the cores: 104 s against 3 s
    with threadpool_limits(1):
        for penalty in sorted(protocol.regularizations, reverse=True):  # ties go to the stronger penalty
            weight, bias = solve_linear(dataset.task, train, targets, penalty, len(dataset.labels))
            quality = select(val @ weight.T + bias)
            if best is None or quality > best[0]:
                best = (quality, penalty, weight, bias)
    if best is None:
        raise RunError("the protocol lists no regularizations")
    quality, penalty, weight, bias = best
    weight = weight / spread
    return head_on(extract, module, weight, bias - weight @ center), {"regularization": penalty, "val_score": quality}


def encode(dataset: Dataset, split: str) -> Array:
    """The targets of a split as the head sees them: standardised for regression, else as they are."""
    mean, std = dataset.target_scale
    targets = dataset.targets[dataset.index(split)]
    return (targets - mean) / std if dataset.task == REGRESSION else targets


def solve_linear(task: Task, features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
    """Minimise mean loss + penalty / 2 * |W|^2 over W (outputs, D) and an unpenalised bias (outputs,).

    Softmax regression for classes, one logistic regression a label (known targets only) or a cumulative threshold,
    ridge for regression. Absent classes get a logit no softmax will choose.
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
    """One logistic regression; where only one outcome occurs, the smoothed prior alone."""
    count, positives = len(events), int(events.sum())
    if positives in (0, count):
        return np.zeros(features.shape[1]), float(np.log((positives + 0.5) / (count - positives + 0.5)))
    model = logistic_regression(penalty, count).fit(features, events)
    return model.coef_[0], float(model.intercept_[0])


def solve_softmax(features: Array, targets: Array, penalty: float, num_labels: int) -> tuple[Array, Array]:
    weight, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, -30.0)
    model = logistic_regression(penalty, len(targets)).fit(features, targets)
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's logit alone
        bias[model.classes_] = 0.0
        weight[model.classes_[1]], bias[model.classes_[1]] = model.coef_[0], model.intercept_[0]
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias


def logistic_regression(penalty: float, count: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0 / max(penalty * count, 1e-12), max_iter=500, tol=1e-4)


def head_on(extract: Callable[[Tensor], Tensor], module: nn.Module, weight: Array, bias: Array) -> nn.Module:
    """One module that maps images to logits through frozen features and a solved linear layer."""
    import torch
    from torch import nn

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = module
            self.head = nn.Linear(weight.shape[1], weight.shape[0])

        def forward(self, images: Tensor) -> Tensor:
            features = extract(images)  # under the caller's autocast, as those the head was solved on
            with torch.autocast(images.device.type, enabled=False):
                return self.head(features.float())  # type: ignore[no-any-return]

    probe = Probe()
    with torch.no_grad():
        probe.head.weight.copy_(torch.from_numpy(weight))
        probe.head.bias.copy_(torch.from_numpy(bias))
    return probe.to(next(iter(module.parameters()), torch.zeros(0)).device)


def fit_knn(
    spec: ModelSpec, module: nn.Module, dataset: Dataset, pixels: Pixels, protocol: Protocol, precision: str
) -> nn.Module:
    """Weighted nearest-neighbour vote on L2-normalised frozen features (Wu et al. 2018; DINO, Caron et al. 2021).

    Each of the k nearest training images votes for its target with weight exp(cosine similarity / temperature).
    """
    import torch
    from torch import nn
    from torch.nn.functional import normalize

    module.eval()
    extract = feature_extractor(spec, module)
    features = extract_features(extract, dataset, pixels, "train", precision)
    bank = normalize(torch.from_numpy(features).float(), dim=1).to(pixels.device)
    votes = torch.from_numpy(one_hot(dataset)).float().to(pixels.device)
    known = ~votes.isnan()
    k, temperature, task = min(protocol.neighbors, len(bank)), protocol.temperature, dataset.task

    class Neighbours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = module

        def forward(self, images: Tensor) -> Tensor:
            features = normalize(extract(images).float(), dim=1)
            with torch.autocast(images.device.type, enabled=False):  # bf16 similarities would change who is nearest
                similarity, nearest = (features @ bank.T).topk(k, dim=1)
            weight = (similarity / temperature).softmax(dim=1)[:, :, None] * known[nearest]
            share = (weight * votes.nan_to_num()[nearest]).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
            return torch.from_numpy(to_logits(task, share.double().cpu().numpy())).float()

    return Neighbours().to(pixels.device)


def one_hot(dataset: Dataset) -> Array:
    """The training targets as votes (N, C): one column a class or label, or the standardised value."""
    targets = encode(dataset, "train")
    return np.eye(len(dataset.labels))[targets] if dataset.task.classes else targets.reshape(len(targets), -1)


def to_logits(task: Task, probabilities: Array, floor: float = 1e-4) -> Array:
    """Logits whose `task.to_probabilities` gives `probabilities` (N, C) back, kept `floor` away from 0 and 1."""
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
