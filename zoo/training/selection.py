"""Select the training round with the best score on val."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.evaluation.predictions import Predictions, owners_of
from zoo.specs.protocol import Protocol
from zoo.training.checkpoints import State

if TYPE_CHECKING:
    from torch import Tensor, nn

ValScore = Callable[[Predictions], float]  # higher is better; NaN where undefined

MIN_TO_SELECT = 30  # positives or negatives in val; with fewer, the best of 20 rounds is mostly chance


def selects_last(dataset: DecodedFold, protocol: Protocol) -> bool:
    """Whether to keep the last round because val is too small to select one: fewer than 30 positives or negatives.

    For several classes, the rarest class in val counts; for several labels, whose scores are averaged, the most
    frequent one. Counts are of the units that are scored (such as patients), not of images.
    """
    if protocol.select_by != "val":
        return protocol.select_by == "last"
    rows = dataset.index("val")
    if dataset.unit != "image":
        owners = owners_of(dataset.sample_ids[rows], dataset.patients[rows], dataset.unit)
        rows = rows[np.unique(owners, return_index=True)[1]]
    return dataset.task.targets.num_cases(dataset.targets[rows], len(dataset.labels)) < MIN_TO_SELECT


def describe_val(val: Predictions, dataset: DecodedFold, val_score: ValScore) -> dict[str, float | None]:
    """The score and the loss of val, None if not finite; the loss is the mean negative log-likelihood."""
    score = val_score(val)
    loss = dataset.task.answers.loss(val.probabilities, val.targets, dataset.target_scale[1])
    return {"val_score": score if math.isfinite(score) else None, "val_loss": loss if math.isfinite(loss) else None}


class BestRound:
    """The weights of the best round so far: highest val score, then lowest val loss; or always the last round."""

    def __init__(self, module: nn.Module, *, select_last: bool) -> None:
        self.module = module
        self.select_last = select_last
        self.best: tuple[float, float] | None = None
        self.step: int | None = None
        self.weights: dict[str, Tensor] | None = None

    def offer(self, step: int, score: float | None, loss: float | None) -> None:
        if self.select_last:
            self.step = step
            return
        quality = (-math.inf if score is None else score, -math.inf if loss is None else -loss)
        if self.best is None or quality > self.best:
            self.best, self.step = quality, step
            self.weights = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def put_back(self) -> None:
        """Load the kept weights into the module."""
        if self.weights is not None:
            self.module.load_state_dict(self.weights)

    def state(self) -> State:
        return {"best": self.best, "step": self.step, "weights": self.weights}

    def restore(self, state: State) -> None:
        self.best, self.step, self.weights = state["best"], state["step"], state["weights"]
