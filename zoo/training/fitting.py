"""Fit a module to a dataset by a protocol: fine-tuning, a linear probe, or nearest neighbors."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.evaluation.predict import predict
from zoo.evaluation.predictions import Predictions, predictions_from_logits
from zoo.models.building import feature_extractor
from zoo.models.features import Features, GetFeatures, extract_features
from zoo.models.layout import place
from zoo.specs.choice import Choice
from zoo.specs.deviation import Deviation
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import Protocol
from zoo.system.devices import open_device
from zoo.system.machine import seed_children
from zoo.training.atlas import fit_mask_baseline
from zoo.training.batches import Batches, Feed, plan_steps
from zoo.training.checkpoints import Checkpoints
from zoo.training.loop import Training
from zoo.training.losses import open_loss
from zoo.training.optimizer import build_optimizer
from zoo.training.probes import fit_knn, fit_probe, join_head
from zoo.training.sampling import DEFAULT_CHOICES, BatchSource
from zoo.training.selection import BestRound, ValScore, describe_val, selects_last
from zoo.training.volume_batches import VolumeBatches

if TYPE_CHECKING:
    from torch import nn

NotifyStep = Callable[[dict[str, Any]], None]

# Uses of a seed, each with its own random stream: new ones come last.
USES = ("init", "order", "augmentation", "dropout", "patches", "transforms", "mixup")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A module that is ready to predict, with the record of its training."""

    module: nn.Module
    history: tuple[dict[str, Any], ...]  # one row per round: step, loss, val_loss, val_score, seconds
    selected_step: int | None
    details: dict[str, Any]
    train_seconds: float
    images_per_second: float | None
    deviations: tuple[Deviation, ...] = ()  # from the protocol, which arose during fitting
    on_features: tuple[nn.Module, Features] | None = None  # of a frozen network: its head and the head's input

    def predict(self, dataset: DecodedFold, pixels: Pixels | VolumePixels, split: str, precision: str) -> Predictions:
        """Predict a split; with a frozen network, apply only the head to the stored features."""
        if self.on_features:
            head, features = self.on_features
            return predict(head, dataset, features, split, precision="fp32")
        return predict(self.module, dataset, pixels, split, precision=precision)


@dataclass(frozen=True, kw_only=True, eq=False)
class FitRequest:
    """The module to fit, its data and the protocol. All random numbers of the training derive from `seed`."""

    spec: ModelSpec
    module: nn.Module
    dataset: DecodedFold
    pixels: Pixels | VolumePixels
    protocol: Protocol
    seed: int
    precision: str
    val_score: ValScore
    notify: NotifyStep
    get_features: GetFeatures = extract_features  # of a frozen network
    counts_only: bool = False  # whether `val_score` needs only the statistics of masks in `COUNTED`
    choices: Mapping[str, Sequence[Choice]] = field(default_factory=dict)  # those that are not the default, by field
    checkpoints: Checkpoints | None = None  # to continue an interrupted fine-tuning, to the same weights


def fit(request: FitRequest) -> Fitted:
    """Fit a module by the protocol's method."""
    dataset, protocol = request.dataset, request.protocol
    module = request.module.to(request.pixels.device)
    start = time.perf_counter()
    if protocol.method == "finetune":
        return finetune(request)
    module.eval()
    if dataset.task.targets.spatial:
        details = fit_mask_baseline(request.spec, module, dataset, request.pixels)
        return unfitted(module, details=details, train_seconds=time.perf_counter() - start)
    assert isinstance(request.pixels, Pixels)
    extract = feature_extractor(request.spec, module)
    features = request.get_features(extract, request.pixels, request.precision)
    details = {}
    if protocol.method == "probe":
        head, details = fit_probe(features, dataset, protocol, logits_scorer(dataset, request.val_score))
    else:
        head = fit_knn(features, dataset, protocol)
    return Fitted(
        module=join_head(extract, module, head),
        on_features=(head, features),
        history=(),
        selected_step=None,
        details=details,
        train_seconds=time.perf_counter() - start,
        images_per_second=None,
    )


def reopen(module: nn.Module, pixels: Pixels | VolumePixels, precision: str) -> Fitted:
    """The module of a finished fine-tuning, with its kept weights."""
    return unfitted(place(module, pixels.device, precision, pixels.image_size))


def unfitted(module: nn.Module, *, details: dict[str, Any] | None = None, train_seconds: float = 0.0) -> Fitted:
    """A module that was not trained by gradient descent here."""
    return Fitted(
        module=module,
        history=(),
        selected_step=None,
        details=details or {},
        train_seconds=train_seconds,
        images_per_second=None,
    )


def logits_scorer(dataset: DecodedFold, val_score: ValScore) -> Callable[[Array], float]:
    """Convert a score of predictions to a score of val's logits; an undefined score becomes -infinity."""
    rows = dataset.index("val")

    def score(logits: Array) -> float:
        quality = val_score(predictions_from_logits(dataset, rows, logits))
        return quality if math.isfinite(quality) else -math.inf

    return score


def finetune(request: FitRequest) -> Fitted:
    """Train all layers for the protocol's budget, score val after each round, and keep the round that val selects."""
    dataset, pixels, protocol, precision = request.dataset, request.pixels, request.protocol, request.precision
    checkpoints = request.checkpoints
    device = open_device(pixels.device)
    with device.stream():
        module = place(request.module, pixels.device, precision, pixels.image_size)
        num_steps, every = plan_steps(protocol, len(dataset.index("train")))
        seeds = seed_children(request.seed, *USES)
        optimizer = build_optimizer(request.spec, module, protocol)
        training = Training(
            module=module,
            loss=open_loss(request.choices.get("loss", DEFAULT_CHOICES["loss"])[0], dataset, protocol, pixels.device),
            precision=precision,
            feed=Feed(open_batches(request, seeds), optimizer, protocol, num_steps),
            keeper=BestRound(module, select_last=selects_last(dataset, protocol)),
        )
        listening = checkpoints.listening() if checkpoints else contextlib.nullcontext()
        with device.own_random_numbers(seeds["dropout"]), listening:
            resumed_at = training.resume(checkpoints.load() if checkpoints else None)
            module.train()
            while training.step < num_steps:
                training.take_step()
                row: dict[str, Any] = {"step": training.step, "num_steps": num_steps}
                if training.step % every == 0 or training.step == num_steps:
                    loss = training.end_round(training.step % every or every)
                    val = predict(module, dataset, pixels, "val", precision=precision, counts_only=request.counts_only)
                    row |= {"loss": loss, **describe_val(val, dataset, request.val_score)}
                    training.history.append({**row, "train_seconds": training.seconds})
                    training.keeper.offer(training.step, row["val_score"], row["val_loss"])
                    module.train()
                    training.since = time.perf_counter()
                request.notify(row)
                if checkpoints:
                    checkpoints.keep(training.state)
        return to_fitted(training, resumed_at)


def open_batches(request: FitRequest, seeds: dict[str, int]) -> BatchSource:
    """The batches of a training: whole images, or patches of volumes."""
    dataset, pixels, protocol = request.dataset, request.pixels, request.protocol
    if isinstance(pixels, VolumePixels):
        return VolumeBatches(dataset, pixels, protocol, seeds, request.choices)
    return Batches(dataset, pixels, protocol, seeds, request.choices)


def to_fitted(training: Training, resumed_at: int) -> Fitted:
    """The module of a finished training, with the weights of the round that val selected."""
    keeper, size, part = training.keeper, training.feed.batches.size, training.part
    keeper.put_back()
    steps, seconds = training.first_steps
    return Fitted(
        module=training.module,
        history=tuple(training.history),
        selected_step=keeper.step,
        details={
            "steps": training.num_steps,
            "selected_by": "last step" if keeper.select_last else "best val score",
            **({"resumed_at": resumed_at} if resumed_at else {}),
            **(training.describe_step() if training.device.captures else {}),
        },
        train_seconds=training.seconds,
        images_per_second=(training.num_steps - steps) * size / (training.seconds - seconds),
        deviations=(Deviation("batch-parts", (size, part)),) * (part < size),
    )
