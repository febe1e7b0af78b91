"""Fit a head on the features of a frozen network: a linear probe, a nearest-neighbor vote, or an estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.errors import RunError
from zoo.models.features import Extract, Features
from zoo.specs.estimator import EstimatorRequest, EstimatorSpec, Predict
from zoo.specs.protocol import Protocol
from zoo.tasks.logits import SMALLEST
from zoo.tasks.task import Answers, Task

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
            weight, bias = dataset.task.head.solve(train, targets, penalty, len(dataset.labels))
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
    """The targets of a split as the loss uses them."""
    return dataset.task.targets.standardize(dataset.targets[dataset.index(split)], dataset.target_scale)


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
    from torch.nn.functional import normalize

    bank = normalize(features.batch(torch.from_numpy(dataset.index("train"))), dim=1)
    votes = torch.from_numpy(dataset.task.targets.votes(encode(dataset, "train"), len(dataset.labels)))
    return make_vote(
        bank, votes.float().to(features.device), protocol.neighbors, protocol.temperature, dataset.task.answers
    )


def make_vote(bank: Tensor, votes: Tensor, neighbors: int, temperature: float, answers: Answers) -> nn.Module:
    """The head of `fit_knn` over training features (N, D), normalized, and votes (N, C), NaN where unknown."""
    import torch
    from torch import nn
    from torch.nn.functional import normalize

    class NeighborVote(nn.Module):
        bank: Tensor
        votes: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", bank)
            self.register_buffer("votes", votes)

        def forward(self, features: Tensor) -> Tensor:
            known, k = ~self.votes.isnan(), min(neighbors, len(self.bank))
            similarity, nearest = (normalize(features, dim=1) @ self.bank.T).topk(k, dim=1)
            weight = (similarity / temperature).softmax(dim=1)[:, :, None] * known[nearest]
            share = (weight * self.votes.nan_to_num()[nearest]).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
            return torch.from_numpy(answers.to_logits(share.detach().cpu().double().numpy())).float()

    return NeighborVote()


def fit_estimator(
    features: Features, dataset: DecodedFold, spec: EstimatorSpec, select: Select, *, seed: int
) -> nn.Module:
    """Fit an estimator to the features of train. Raises RunError if its answers are not those of the task."""
    from threadpoolctl import threadpool_limits

    train, val = dataset.index("train"), dataset.index("val")
    num_labels = len(dataset.labels)

    def val_score(predict: Predict) -> float:
        return select(answers_to_logits(spec.name, predict(features.of(val)), dataset.task, num_labels))

    request = EstimatorRequest(
        inputs=features.of(train),
        targets=encode(dataset, "train"),
        patients=dataset.patients[train],
        task=dataset.task,
        num_labels=num_labels,
        seed=seed,
        val_score=val_score,
    )
    with threadpool_limits(1):  # perf: as in `fit_probe`
        predict = spec.fit(request)
    arrays = spec.state(predict) if spec.state else {}
    return make_estimator_head(spec.name, predict, arrays, task=dataset.task, num_labels=num_labels)


def answers_to_logits(name: str, answers: Any, task: Task, num_labels: int) -> Array:
    """Convert an estimator's answers (N, C) to logits. Raises RunError if they are not those of the task."""
    values = np.asarray(answers)
    fault = task.answers.find_fault(values, num_labels)
    if fault:
        raise RunError(
            f"estimator {name!r} returned wrong answers: {fault}",
            fix="make its `fit` return a function from inputs (N, D) to the probabilities of zoo.Task",
            code="wrong-output",
        )
    return task.answers.to_logits(values.astype(np.float64), floor=SMALLEST)


def make_estimator_head(
    name: str, predict: Predict, arrays: Mapping[str, Any], *, task: Task, num_labels: int
) -> nn.Module:
    """The head of `fit_estimator`: features (N, D) to logits. Its state dict has `arrays`; it computes on the host."""
    import torch
    from torch import nn

    class Arrays(nn.Module):
        def _apply(self, *_: Any, **__: Any) -> nn.Module:
            return self  # kept on the host and in float64 wherever the network goes

    class EstimatorHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arrays = Arrays()
            for key, value in arrays.items():
                self.arrays.register_buffer(key, torch.from_numpy(np.asarray(value, order="C")))

        def forward(self, features: Tensor) -> Tensor:
            answers = predict(features.detach().cpu().double().numpy())  # MPS has no float64
            return torch.from_numpy(answers_to_logits(name, answers, task, num_labels)).float()

    return EstimatorHead()


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
