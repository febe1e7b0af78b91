"""From a built module, a dataset and a protocol to a fitted module: one loop, and the recipe is data."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data import Dataset, Pixels
from zoo.errors import RunError
from zoo.features import Features, GetFeatures, extract_features
from zoo.inference import Predictions, of_logits, owners_of, predict
from zoo.models import feature_extractor, has_batch_norm, layer_groups, place
from zoo.protocol import Protocol
from zoo.specs import ModelSpec
from zoo.system import seed_children, send, torch_generator, within_memory
from zoo.tasks import Task
from zoo.training.augmentation import augment
from zoo.training.checkpoints import Checkpoints, State
from zoo.training.probes import encode, fit_knn, fit_probe, join

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Array = np.ndarray[Any, Any]
Notify = Callable[[dict[str, Any]], None]
ValScore = Callable[[Predictions], float]  # higher is better; NaN where undefined

USES = ("init", "order", "augmentation", "dropout")  # of a seed, each with a stream of its own
MIN_TO_SELECT = 30  # positives or negatives in val; under it the best of 20 rounds is mostly luck


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A module ready to predict, and how it came to be."""

    module: nn.Module
    history: tuple[dict[str, Any], ...]  # one row a round: step, loss, val_loss, val_score, seconds
    selected_step: int | None
    details: dict[str, Any]
    train_seconds: float
    images_per_second: float | None
    deviations: tuple[str, ...] = ()  # from the protocol, that only fitting brought about
    on_features: tuple[nn.Module, Features] | None = None  # of a frozen network: its head, and what that maps from

    def predict(self, dataset: Dataset, pixels: Pixels, split: str, precision: str) -> Predictions:
        """Predict a split; by the head alone where the features of every image are there already."""
        if self.on_features:
            head, features = self.on_features
            return predict(head, dataset, features, split, precision="fp32")
        return predict(self.module, dataset, pixels, split, precision=precision)


def fit(
    spec: ModelSpec,
    module: nn.Module,
    dataset: Dataset,
    pixels: Pixels,
    protocol: Protocol,
    *,
    seed: int,
    precision: str,
    val_score: ValScore,
    notify: Notify,
    get_features: GetFeatures = extract_features,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Fit a module by the protocol's method; everything random follows from `seed`.

    With `checkpoints` a fine-tuning that was interrupted goes on from the last one, to the same weights.
    """
    module = module.to(pixels.device)
    start = time.perf_counter()
    if protocol.method == "finetune":
        return finetune(
            spec,
            module,
            dataset,
            pixels,
            protocol,
            seed=seed,
            precision=precision,
            val_score=val_score,
            notify=notify,
            checkpoints=checkpoints,
        )
    module.eval()
    extract = feature_extractor(spec, module)
    features = get_features(extract, pixels, precision)
    details: dict[str, Any] = {}
    if protocol.method == "probe":
        head, details = fit_probe(features, dataset, protocol, logits_scorer(dataset, val_score))
    else:
        head = fit_knn(features, dataset, protocol)
    return Fitted(
        module=join(extract, module, head),
        on_features=(head, features),
        history=(),
        selected_step=None,
        details=details,
        train_seconds=time.perf_counter() - start,
        images_per_second=None,
    )


def reopen(module: nn.Module, weights: Path, pixels: Pixels, precision: str) -> Fitted:
    """A network that was fine-tuned before, from the weights that were kept of it."""
    from safetensors.torch import load_file

    module.load_state_dict(load_file(weights))
    return Fitted(
        module=place(module, pixels.device, precision),
        history=(),
        selected_step=None,
        details={},
        train_seconds=0.0,
        images_per_second=None,
    )


def logits_scorer(dataset: Dataset, val_score: ValScore) -> Callable[[Array], float]:
    """Turn a score of predictions into one of val's logits; an undefined score loses against any other."""
    rows = dataset.index("val")

    def score(logits: Array) -> float:
        quality = val_score(of_logits(dataset, rows, logits))
        return quality if math.isfinite(quality) else -math.inf

    return score


def finetune(
    spec: ModelSpec,
    module: nn.Module,
    dataset: Dataset,
    pixels: Pixels,
    protocol: Protocol,
    *,
    seed: int,
    precision: str,
    val_score: ValScore,
    notify: Notify,
    checkpoints: Checkpoints | None,
) -> Fitted:
    """Train every layer for the protocol's budget, score val every round, keep the round that val selects."""
    import torch

    module = place(module, pixels.device, precision)
    num_steps, every = plan_steps(protocol, len(dataset.index("train")))
    seeds = seed_children(seed, *USES)
    size = batch_size(dataset, protocol)
    training = Training(
        module=module,
        optimizer=build_optimizer(spec, module, protocol),
        batches=Batches(dataset, pixels, protocol, seeds),
        keeper=Keeper(module, select_last=selects_last(dataset, protocol)),
        total_loss=torch.zeros((), device=pixels.device),
        part=size,
        num_steps=num_steps,
    )
    on_device = [pixels.device] if pixels.device.startswith("cuda") else []
    listening = checkpoints.listening() if checkpoints else contextlib.nullcontext()
    with torch.random.fork_rng(devices=on_device), listening:
        torch.manual_seed(seeds["dropout"])
        resumed_at = training.resume(checkpoints.load() if checkpoints else None)
        module.train()
        while training.step < num_steps:
            set_learning_rate(training.optimizer, protocol, training.step + 1, num_steps)
            training.take_step(dataset.task, protocol, precision)
            told: dict[str, Any] = {"step": training.step, "num_steps": num_steps}
            if training.step % every == 0 or training.step == num_steps:
                loss = training.end_round(training.step % every or every)
                val = predict(module, dataset, pixels, "val", precision=precision)
                told |= {"loss": loss, **describe_val(val, dataset, val_score)}
                training.history.append({**told, "train_seconds": training.seconds})
                training.keeper.offer(training.step, told["val_score"], told["val_loss"])
                module.train()
                training.since = time.perf_counter()
            notify(told)
            if checkpoints:
                checkpoints.keep(training.state)
    return training.to_fitted(size, resumed_at)


@dataclass(kw_only=True, eq=False)
class Training:
    """A training that goes on: all that changes from one step to the next."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    keeper: Keeper
    total_loss: Tensor  # of this round's steps; perf: on the device, every .item() would make a GPU wait
    part: int  # images that go through the network at once: fewer than a batch once memory ran out
    num_steps: int
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # of training, before `since`
    since: float = field(default_factory=time.perf_counter)

    def take_step(self, task: Task, protocol: Protocol, precision: str) -> None:
        """Update the weights by one batch."""
        import torch

        images, targets = next(self.batches)
        loss, self.part = within_memory(
            lambda part: self.find_gradients(images, targets, part, task, precision), self.part, str(images.device)
        )
        if protocol.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), protocol.clip_norm)
        self.optimizer.step()
        self.total_loss += loss
        self.step += 1

    def find_gradients(self, images: Tensor, targets: Tensor, part: int, task: Task, precision: str) -> Tensor:
        """The batch's loss and gradients, `part` images at a time."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            add_gradients(self.module, some, theirs, task, precision, len(some) / len(images))
            for some, theirs in zip(torch.split(images, part), torch.split(targets, part), strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def end_round(self, count: int) -> float:
        """The mean loss of the round's `count` steps; what follows is no training, until `since` is set again.

        RunError where the loss is not finite.
        """
        mean = self.total_loss.item() / count
        self.seconds += time.perf_counter() - self.since
        if not math.isfinite(mean):
            raise RunError(
                f"the training loss is {mean} by step {self.step} of {self.num_steps}",
                fix="a lower --set learning_rate, or --set precision=fp32",
                code="diverged",
            )
        self.total_loss.zero_()
        return mean

    def state(self) -> State:
        """All that the next step follows from, and all that is told of those before."""
        import torch

        device = self.total_loss.device
        return {
            "step": self.step,
            "part": self.part,
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self.since,
            "total_loss": self.total_loss,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state(),
            "keeper": self.keeper.state(),
            "random": torch.get_rng_state(),
            "random_on_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def resume(self, state: State | None) -> int:
        """Go on from a state, if there is one; returns the step that it was kept after, 0 where training begins."""
        import torch

        if state:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.batches.restore(state["batches"])
            self.keeper.restore(state["keeper"])
            self.total_loss.copy_(state["total_loss"])
            torch.set_rng_state(state["random"])
            if state["random_on_device"] is not None:
                torch.cuda.set_rng_state(state["random_on_device"], self.total_loss.device)
            self.step, self.part, self.history = state["step"], state["part"], state["history"]
            self.seconds, self.since = state["seconds"], time.perf_counter()
        return self.step

    def to_fitted(self, size: int, resumed_at: int) -> Fitted:
        """The module as it was in the round that val selected; `size` is that of a whole batch."""
        self.keeper.put_back()
        return Fitted(
            module=self.module,
            history=tuple(self.history),
            selected_step=self.keeper.step,
            details={
                "steps": self.num_steps,
                "selected_by": "last step" if self.keeper.select_last else "best val score",
                **({"resumed_at": resumed_at} if resumed_at else {}),
            },
            train_seconds=self.seconds,
            images_per_second=self.num_steps * size / self.seconds,
            deviations=(f"out of memory: batches of {size} in parts of {self.part}",) * (self.part < size),
        )


def add_gradients(
    module: nn.Module, images: Tensor, targets: Tensor, task: Task, precision: str, share: float
) -> Tensor:
    """Add the gradients of some images, a `share` of their batch; returns their part of its loss, on the device."""
    import torch

    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"), two_values_needed():
        logits = module(images)
    loss = task.loss(logits.float(), targets)
    if share < 1:
        loss = loss * share
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@contextlib.contextmanager
def two_values_needed() -> Iterator[None]:
    """Make of torch's refusal to normalise a channel of one value what it is: a batch of one image."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            "batch normalisation needs two images in a batch to train on, and there is one",
            fix="--set batch_size=2, or give train more images",
            code="batch-of-one",
        ) from error


# --- the budget ------------------------------------------------------------------------------------------------------
def plan_steps(protocol: Protocol, num_train: int) -> tuple[int, int]:
    """The number of steps, and after how many of them val is scored. Only a budget in epochs is clipped."""
    per_epoch = max(1, math.ceil(num_train / min(protocol.batch_size, num_train)))
    steps = protocol.steps or max((protocol.epochs or 1) * per_epoch, protocol.min_steps)
    if protocol.max_steps and not protocol.steps:
        steps = min(steps, protocol.max_steps)
    every = math.ceil(steps / protocol.rounds) if protocol.rounds else per_epoch
    return steps, max(1, every)


def batch_size(dataset: Dataset, protocol: Protocol) -> int:
    return min(protocol.batch_size, len(dataset.index("train")))


class Batches:
    """Batches of images and encoded targets without end: one permutation after the other, every batch full."""

    def __init__(self, dataset: Dataset, pixels: Pixels, protocol: Protocol, seeds: dict[str, int]) -> None:
        import torch

        targets = torch.from_numpy(np.ascontiguousarray(encode(dataset, "train")))
        targets = targets.float() if targets.is_floating_point() else targets  # MPS has no float64
        self.pixels, self.targets = pixels, targets.to(pixels.device)
        self.rows = torch.from_numpy(dataset.index("train"))
        self.size = batch_size(dataset, protocol)
        self.symmetries = dataset.symmetries if protocol.symmetries else ()
        self.one_of = protocol.augmentation == "one-of"
        self.order, self.draws = torch_generator(seeds["order"]), torch_generator(seeds["augmentation"])
        self.waiting = self.rows[:0]

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        import torch

        while len(self.waiting) < self.size:
            self.waiting = torch.cat([self.waiting, torch.randperm(len(self.rows), generator=self.order)])
        chosen, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        images = self.pixels.batch(self.rows[chosen])
        if self.symmetries or self.one_of:
            images = augment(images, symmetries=self.symmetries, one_of=self.one_of, generator=self.draws)
        return self.pixels.normalize(images), self.targets.index_select(0, send(chosen, self.pixels.device))

    def state(self) -> State:
        states = {"order": self.order.get_state(), "draws": self.draws.get_state()}
        return {**states, "waiting": self.waiting.clone()}  # a view would be kept with all it is a view of

    def restore(self, state: State) -> None:
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        self.waiting = state["waiting"]


# --- the optimizer ---------------------------------------------------------------------------------------------------
def build_optimizer(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """The optimizer with layer-wise rates; norms and biases are not decayed. Fused: AdamW 6.3 ms against 15.8."""
    import torch

    groups = parameter_groups(spec, module, protocol)
    fused = next(module.parameters()).device.type in {"cpu", "cuda"}
    if protocol.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=protocol.learning_rate, momentum=protocol.momentum, fused=fused)
    kind = torch.optim.AdamW if protocol.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=protocol.learning_rate, fused=fused)


def parameter_groups(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> list[dict[str, Any]]:
    """One group a layer group and kind of parameter, its rate falling geometrically from the head to the stem.

    The ratio of stem to head is stated, not the decay per group: .75 a group means .075 for a resnet18 of 10 groups and
    4e-8 for a densenet121 of 60.
    """
    ratio = protocol.stem_to_head_ratio if has_batch_norm(module) else protocol.stem_to_head_ratio_no_batchnorm
    layers = layer_groups(spec, module)
    grouped = {id(parameter) for layer in layers for parameter in layer}
    layers[-1].extend(parameter for parameter in module.parameters() if id(parameter) not in grouped)
    groups = []
    for depth, layer in enumerate(layers):
        share = ratio ** (1 - depth / (len(layers) - 1)) if len(layers) > 1 else 1.0
        for decayed in (True, False):
            chosen = [p for p in layer if p.requires_grad and (p.ndim > 1) == decayed]
            if chosen:
                decay = protocol.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "share": share})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, protocol: Protocol, step: int, num_steps: int) -> None:
    factor = schedule_factor(protocol, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = protocol.learning_rate * group["share"] * factor


def schedule_factor(protocol: Protocol, step: int, num_steps: int) -> float:
    """What the peak rate is multiplied by at step 1 to num_steps: linear warm-up, then the schedule."""
    warmup = round(protocol.warmup * num_steps)
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, num_steps - warmup)
    if protocol.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if protocol.schedule == "steps":
        return float(0.1 ** sum((step - 1) / num_steps >= milestone for milestone in protocol.milestones))
    return 1.0


# --- selection on val ------------------------------------------------------------------------------------------------
def selects_last(dataset: Dataset, protocol: Protocol) -> bool:
    """Whether val is too small to choose among rounds: under 30 positives or negatives.

    Of several classes the rarest in val counts; of several labels, whose scores are averaged, the most frequent.
    Counted are the units that val is scored by, as patients, not their images.
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


def describe_val(val: Predictions, dataset: Dataset, val_score: ValScore) -> dict[str, float | None]:
    """The score and the loss of val; the loss is the mean negative log-likelihood of the stored probabilities."""
    score, loss = val_score(val), negative_log_likelihood(val, dataset)
    return {"val_score": score if math.isfinite(score) else None, "val_loss": loss if math.isfinite(loss) else None}


def negative_log_likelihood(predictions: Predictions, dataset: Dataset) -> float:
    """Mean -log P(target); for regression the mean squared error in standardised units."""
    targets, probabilities = predictions.targets, predictions.probabilities.clip(1e-9, None)
    if dataset.task.classes:
        return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())
    if targets.ndim == 2:
        of_target = np.where(targets > 0, probabilities, 1 - predictions.probabilities.clip(None, 1 - 1e-9))
        return float(-np.nanmean(np.where(np.isnan(targets), np.nan, np.log(of_target))))
    _, std = dataset.target_scale
    return float((((predictions.probabilities[:, 0] - targets) / std) ** 2).mean())


class Keeper:
    """The weights of the best round so far: highest val score, ties to lower val loss; or always the last."""

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
        """Give the module the weights that were kept."""
        if self.weights is not None:
            self.module.load_state_dict(self.weights)

    def state(self) -> State:
        return {"best": self.best, "step": self.step, "weights": self.weights}

    def restore(self, state: State) -> None:
        self.best, self.step, self.weights = state["best"], state["step"], state["weights"]
