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
    targets = dataset.targets[rows]
    if dataset.task.classes:
        counts = np.bincount(targets, minlength=len(dataset.labels))
        present = counts[counts > 0]
        return bool(min(present.min(), len(targets) - present.max()) < MIN_TO_SELECT)
    if targets.ndim == 2:
        positives, negatives = np.nansum(targets, axis=0), np.nansum(1 - targets, axis=0)
        return bool(np.minimum(positives, negatives).max() < MIN_TO_SELECT)
    return len(targets) < MIN_TO_SELECT


def describe_val(val: Predictions, dataset: DecodedFold, val_score: ValScore) -> dict[str, float | None]:
    """The score and the loss of val, None if not finite; the loss is the mean negative log-likelihood."""
    score, loss = val_score(val), negative_log_likelihood(val, dataset)
    return {"val_score": score if math.isfinite(score) else None, "val_loss": loss if math.isfinite(loss) else None}


def negative_log_likelihood(predictions: Predictions, dataset: DecodedFold) -> float:
    """Mean of -log P(target); for regression, the mean squared error of standardized values."""
    targets, probabilities = predictions.targets, predictions.probabilities.clip(1e-9, None)
    if dataset.task.classes:
        return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())
    if targets.ndim == 2:
        of_target = np.where(targets > 0, probabilities, 1 - predictions.probabilities.clip(None, 1 - 1e-9))
        return float(-np.nanmean(np.where(np.isnan(targets), np.nan, np.log(of_target))))
    _, std = dataset.target_scale
    return float((((predictions.probabilities[:, 0] - targets) / std) ** 2).mean())


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
