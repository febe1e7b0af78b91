"""From a built module, a dataset and a protocol to a fitted module: one loop, and the recipe is data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.augmentation import augment
from zoo.data import Dataset, Pixels
from zoo.errors import RunError
from zoo.features import Features, GetFeatures, extract_features
from zoo.inference import Predictions, predict
from zoo.models import feature_extractor, has_batch_norm, keep_depthwise_fp32, layer_groups
from zoo.probes import encode, fit_knn, fit_probe, join
from zoo.protocol import Protocol
from zoo.specs import ModelSpec
from zoo.system import device_kind, seed_children, send, torch_generator
from zoo.tasks import Task

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
) -> Fitted:
    """Fit a module by the protocol's method; everything random follows from `seed`."""
    module = module.to(pixels.device)
    start = time.perf_counter()
    if protocol.method == "finetune":
        return finetune(
            spec, module, dataset, pixels, protocol, seed=seed, precision=precision, val_score=val_score, notify=notify
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
    import torch
    from safetensors.torch import load_file

    module.load_state_dict(load_file(weights))
    if precision == "bf16" and device_kind(pixels.device) == "cpu":
        keep_depthwise_fp32(module)
    return Fitted(
        module=module.to(pixels.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        history=(),
        selected_step=None,
        details={},
        train_seconds=0.0,
        images_per_second=None,
    )


def logits_scorer(dataset: Dataset, val_score: ValScore) -> Callable[[Array], float]:
    """Turn a score of predictions into one of val's logits; an undefined score loses against any other."""
    rows = dataset.index("val")
    mean, std = dataset.target_scale

    def score(logits: Array) -> float:
        quality = val_score(
            Predictions(
                sample_ids=dataset.sample_ids[rows],
                patients=dataset.patients[rows],
                targets=dataset.targets[rows],
                probabilities=dataset.task.to_probabilities(logits) * std + mean,
            )
        )
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
) -> Fitted:
    """Train every layer for the protocol's budget, score val every round, keep the round that val selects."""
    import torch

    if precision == "bf16" and device_kind(pixels.device) == "cpu":
        keep_depthwise_fp32(module)
    module = module.to(memory_format=torch.channels_last)
    num_steps, every = plan_steps(protocol, len(dataset.index("train")))
    optimizer = build_optimizer(spec, module, protocol)
    seeds = seed_children(seed, *USES)
    batches = draw_batches(dataset, pixels, protocol, seeds)
    size = batch_size(dataset, protocol)
    stepper = Stepper(
        module=module, optimizer=optimizer, task=dataset.task, protocol=protocol, precision=precision, part=size
    )
    keeper = Keeper(module, select_last=selects_last(dataset, protocol))
    history: list[dict[str, Any]] = []
    total_loss, train_seconds, start = torch.zeros((), device=pixels.device), 0.0, time.perf_counter()
    with torch.random.fork_rng(devices=[pixels.device] if pixels.device.startswith("cuda") else []):
        torch.manual_seed(seeds["dropout"])
        module.train()
        for step in range(1, num_steps + 1):
            set_learning_rate(optimizer, protocol, step, num_steps)
            # perf: summed on the device and read once a round; every .item() would make a GPU wait
            total_loss += stepper.step(*next(batches))
            if step % every and step != num_steps:
                notify({"step": step, "num_steps": num_steps})
                continue
            mean_loss = total_loss.item() / (step % every or every)
            train_seconds += time.perf_counter() - start
            if not math.isfinite(mean_loss):
                raise RunError(
                    f"the training loss is {mean_loss} by step {step} of {num_steps}",
                    fix="a lower --set learning_rate, or --set precision=fp32",
                    code="diverged",
                )
            val = predict(module, dataset, pixels, "val", precision=precision)
            row = {"step": step, "num_steps": num_steps, "loss": mean_loss, **describe_val(val, dataset, val_score)}
            history.append({**row, "train_seconds": train_seconds})
            keeper.offer(step, row["val_score"], row["val_loss"])
            notify(row)
            module.train()
            total_loss.zero_()
            start = time.perf_counter()
    keeper.restore()
    return Fitted(
        module=module,
        history=tuple(history),
        selected_step=keeper.step,
        details={"steps": num_steps, "selected_by": "last step" if keeper.select_last else "best val score"},
        train_seconds=train_seconds,
        images_per_second=num_steps * size / train_seconds,
        deviations=(f"out of memory: batches of {size} in parts of {stepper.part}",) * (stepper.part < size),
    )


@dataclass(kw_only=True, eq=False)
class Stepper:
    """One forward, backward and update a call. Once memory runs out, a batch goes through the network in parts."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    protocol: Protocol
    precision: str
    part: int  # images that go through the network at once

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Update the weights by one batch; returns its loss, still on the device."""
        import torch

        loss = self.try_gradients(images, targets)
        while loss is None:
            self.part = math.ceil(self.part / 2)
            if images.is_cuda:
                torch.cuda.empty_cache()
            loss = self.try_gradients(images, targets)
        if self.protocol.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.protocol.clip_norm)
        self.optimizer.step()
        return loss

    def try_gradients(self, images: Tensor, targets: Tensor) -> Tensor | None:
        """The batch's loss and gradients; None where there is not the memory for so many images at once."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        try:
            parts = [
                self.add_gradients(some, theirs, len(some) / len(images))
                for some, theirs in zip(torch.split(images, self.part), torch.split(targets, self.part), strict=True)
            ]
        except torch.OutOfMemoryError:
            if self.part == 1:
                raise
            return None
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    def add_gradients(self, images: Tensor, targets: Tensor, share: float) -> Tensor:
        import torch

        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.module(images)
        loss = self.task.loss(logits.float(), targets)
        if share < 1:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


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


def draw_batches(
    dataset: Dataset, pixels: Pixels, protocol: Protocol, seeds: dict[str, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images and encoded targets without end: one permutation after the other, every batch full."""
    import torch

    rows = torch.from_numpy(dataset.index("train"))
    targets = torch.from_numpy(np.ascontiguousarray(encode(dataset, "train")))
    targets = (targets.float() if targets.is_floating_point() else targets).to(pixels.device)  # MPS has no float64
    symmetries = dataset.symmetries if protocol.symmetries else ()
    size, one_of = batch_size(dataset, protocol), protocol.augmentation == "one-of"
    order, draws = torch_generator(seeds["order"]), torch_generator(seeds["augmentation"])
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(rows), generator=order)])
        chosen, waiting = waiting[:size], waiting[size:]
        images = pixels.batch(rows[chosen])
        if symmetries or one_of:
            images = augment(images, symmetries=symmetries, one_of=one_of, generator=draws)
        yield pixels.normalize(images), targets.index_select(0, send(chosen, pixels.device))


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
    """
    if protocol.select_by != "val":
        return protocol.select_by == "last"
    targets = dataset.targets[dataset.index("val")]
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
        self.state: dict[str, Tensor] | None = None

    def offer(self, step: int, score: float | None, loss: float | None) -> None:
        if self.select_last:
            self.step = step
            return
        quality = (-math.inf if score is None else score, -math.inf if loss is None else -loss)
        if self.best is None or quality > self.best:
            self.best, self.step = quality, step
            self.state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def restore(self) -> None:
        if self.state is not None:
            self.module.load_state_dict(self.state)
