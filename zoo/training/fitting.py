"""From a built module, a dataset and a protocol to a fitted module: one loop, and the recipe is data."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data import Dataset, Pixels
from zoo.devices import WARM_UP, Repeated, open_device, within_memory
from zoo.errors import RunError
from zoo.features import Features, GetFeatures, extract_features
from zoo.inference import Predictions, of_logits, owners_of, predict
from zoo.models import PURE_HOOKS, feature_extractor, has_batch_norm, layer_groups, place
from zoo.protocol import Protocol
from zoo.specs import ModelSpec
from zoo.system import seed_children, torch_generator
from zoo.tasks import Task
from zoo.training.augmentation import Augmentation, augment, draw
from zoo.training.checkpoints import Checkpoints, State
from zoo.training.probes import encode, fit_knn, fit_probe, join

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Array = np.ndarray[Any, Any]
Notify = Callable[[dict[str, Any]], None]
ValScore = Callable[[Predictions], float]  # higher is better; NaN where undefined

USES = ("init", "order", "augmentation", "dropout")  # of a seed, each with a stream of its own
AT_ONCE = 64  # steps that are planned at a time
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
        module=place(module, pixels.device, precision, pixels.image_size),
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
    device = open_device(pixels.device)
    with device.stream():
        module = place(module, pixels.device, precision, pixels.image_size)
        num_steps, every = plan_steps(protocol, len(dataset.index("train")))
        seeds = seed_children(seed, *USES)
        optimizer = build_optimizer(spec, module, protocol)
        training = Training(
            module=module,
            task=dataset.task,
            protocol=protocol,
            precision=precision,
            optimizer=optimizer,
            feed=Feed(Batches(dataset, pixels, protocol, seeds), optimizer, protocol, num_steps),
            keeper=Keeper(module, select_last=selects_last(dataset, protocol)),
            num_steps=num_steps,
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
                    val = predict(module, dataset, pixels, "val", precision=precision)
                    row |= {"loss": loss, **describe_val(val, dataset, val_score)}
                    training.history.append({**row, "train_seconds": training.seconds})
                    training.keeper.offer(training.step, row["val_score"], row["val_loss"])
                    module.train()
                    training.since = time.perf_counter()
                notify(row)
                if checkpoints:
                    checkpoints.keep(training.state)
        return training.to_fitted(resumed_at)


class Training:
    """A training in progress: everything that changes from one step to the next.

    `compute_step` reads and writes tensors that keep their addresses and asks the device for nothing, so that a GPU
    captures it once and replays it.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        task: Task,
        protocol: Protocol,
        precision: str,
        optimizer: torch.optim.Optimizer,
        feed: Feed,
        keeper: Keeper,
        num_steps: int,
    ) -> None:
        import torch

        self.module, self.task, self.protocol, self.precision = module, task, protocol, precision
        self.optimizer, self.feed, self.keeper, self.num_steps = optimizer, feed, keeper, num_steps
        self.device = feed.device
        self.total_loss = torch.zeros((), device=self.device.name)  # of this round's steps
        self.scaler = torch.amp.GradScaler(self.device.kind, enabled=precision == "fp16")  # type: ignore[attr-defined]
        self.part = feed.batches.size  # images that go through the network at once: fewer once memory ran out
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0  # of training, before `since`
        self.since = time.perf_counter()
        self.first_steps = (0, 0.0)  # steps until all were alike, and their seconds: they do not count for the speed
        self.pace = self.device.pace()
        self.repeated = Repeated(
            self.compute_step, self.device, watch=lambda: python_state(module), obstacle=describe_hooks(module)
        )

    def take_step(self) -> None:
        """Update the weights by one batch."""
        self.feed.prepare(self.step)
        self.repeated()
        self.pace()
        self.step += 1
        if self.device.captures and self.repeated.calls == WARM_UP + 1 and self.step < self.num_steps:
            self.device.synchronize()
            self.first_steps = (self.step, self.seconds + time.perf_counter() - self.since)

    def compute_step(self) -> None:
        """The whole step on the device: batch, gradients, clipping, update."""
        import torch

        images, targets = self.feed.read()
        loss, self.part = within_memory(
            lambda part: self.find_gradients(images, targets, part), self.part, self.device.name
        )
        self.scaler.unscale_(self.optimizer)
        if self.protocol.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.protocol.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.total_loss += loss

    def find_gradients(self, images: Tensor, targets: Tensor, part: int) -> Tensor:
        """The batch's loss and scaled gradients, `part` images at a time."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self.add_gradients(some, theirs, len(some) / len(images))
            for some, theirs in zip(torch.split(images, part), torch.split(targets, part), strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def add_gradients(self, images: Tensor, targets: Tensor, share: float) -> Tensor:
        """Add the gradients of some images, a `share` of their batch, and return their part of its loss."""
        with self.device.autocast(self.precision), two_values_needed():
            logits = self.module(images)
        loss = self.task.loss(logits.float(), targets)
        if share < 1:
            loss = loss * share
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def end_round(self, count: int) -> float:
        """The mean loss of the round's `count` steps. The clock stops until `since` is set again.

        Raises RunError where the loss is not finite.
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
        """Everything that the next step follows from, and everything reported about the steps before."""
        return {
            "step": self.step,
            "part": self.part,
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self.since,
            "first_steps": list(self.first_steps),
            "total_loss": self.total_loss,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "feed": self.feed.state(),
            "keeper": self.keeper.state(),
            "random": self.device.random_state(),
        }

    def resume(self, state: State | None) -> int:
        """Restore a state, if there is one; returns the step it was saved after, 0 where training begins."""
        if state:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.feed.restore(state["feed"], state["step"])
            self.keeper.restore(state["keeper"])
            self.total_loss.copy_(state["total_loss"])
            self.device.set_random_state(state["random"])
            self.step, self.part, self.history = state["step"], state["part"], state["history"]
            self.first_steps = tuple(state["first_steps"])
            self.seconds, self.since = state["seconds"], time.perf_counter()
        return self.step

    def to_fitted(self, resumed_at: int) -> Fitted:
        """The module as it was in the round that val selected."""
        self.keeper.put_back()
        size = self.feed.batches.size
        steps, seconds = self.first_steps
        return Fitted(
            module=self.module,
            history=tuple(self.history),
            selected_step=self.keeper.step,
            details={
                "steps": self.num_steps,
                "selected_by": "last step" if self.keeper.select_last else "best val score",
                **({"resumed_at": resumed_at} if resumed_at else {}),
                **(self.describe_step() if self.device.captures else {}),
            },
            train_seconds=self.seconds,
            images_per_second=(self.num_steps - steps) * size / (self.seconds - seconds),
            deviations=(f"out of memory: batches of {size} in parts of {self.part}",) * (self.part < size),
        )

    def describe_step(self) -> dict[str, Any]:
        """How a device that can capture executed the steps, and what it spent before they were all alike."""
        steps, seconds = self.first_steps
        obstacle = self.repeated.obstacle or ("" if self.repeated.is_captured else "too few steps")
        return {
            "step": "captured" if self.repeated.is_captured else "eager",
            **({"eager_reason": obstacle} if obstacle else {}),
            **({"first_steps_seconds": round(seconds, 3)} if steps else {}),
        }


def python_state(module: nn.Module) -> object:
    """What a step may change that no device holds: random numbers drawn on the host, and plain attributes."""
    import torch

    on_host = next(module.parameters()).device.type == "cpu"  # then dropout draws them there, too

    plain = (int, float, str, bool, type(None))
    attributes = [
        (name, value if isinstance(value, plain) else len(value))
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, (*plain, list, dict, set))
    ]
    drawn = np.random.get_state(legacy=False)["state"]  # type: ignore[index, call-overload]
    torchs = None if on_host else torch.get_rng_state().tolist()
    return random.getstate(), drawn["pos"], drawn["key"].tobytes(), torchs, attributes


def describe_hooks(module: nn.Module) -> str:
    """Which submodule has hooks, which may do what a replay would leave out; empty where only zoo's own are there."""
    for name, part in module.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values(), *part._backward_hooks.values()]
        if any(getattr(hook, "func", None) not in PURE_HOOKS for hook in hooks):
            return f"{name or type(part).__name__} has a hook"
    return ""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """Batches that are decided but not computed: which images (n, B), and what happens to each."""

    rows: Tensor  # int64, of the dataset
    targets: Tensor  # int64, of train's targets
    augmentation: Augmentation

    def tensors(self) -> dict[str, Tensor]:
        parts = {"rows": self.rows, "targets": self.targets, "turns": self.augmentation.turns}
        if self.augmentation.kind is not None and self.augmentation.parameters is not None:
            parts |= {"kind": self.augmentation.kind, "parameters": self.augmentation.parameters}
        return parts


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

    def plan(self, count: int) -> Planned:
        """Draw the next `count` batches on the host."""
        import torch

        while len(self.waiting) < count * self.size:
            self.waiting = torch.cat([self.waiting, torch.randperm(len(self.rows), generator=self.order)])
        chosen = self.waiting[: count * self.size].reshape(count, self.size)
        self.waiting = self.waiting[count * self.size :]
        augmentation = draw(count, self.size, len(self.symmetries), one_of=self.one_of, generator=self.draws)
        return Planned(rows=self.rows[chosen], targets=chosen, augmentation=augmentation)

    def compute(self, planned: Planned, levels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One planned batch (B) as the network's input and the loss's targets; `levels` if it was gathered before."""
        import torch

        if levels is None:
            levels = self.pixels.gather(planned.rows)
        images = augment(self.pixels.scale_levels(levels), planned.augmentation, self.symmetries)
        images = self.pixels.normalize(images).contiguous(memory_format=torch.channels_last)
        return images, self.targets.index_select(0, planned.targets)

    def state(self) -> State:
        states = {"order": self.order.get_state(), "draws": self.draws.get_state()}
        return {**states, "waiting": self.waiting.clone()}  # a view would be kept with all it is a view of

    def restore(self, state: State) -> None:
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        self.waiting = state["waiting"]


class Feed:
    """What each step reads, planned `AT_ONCE` steps ahead and kept in tensors on the device whose addresses stay.

    A counter on the device says which planned step comes next, so that a replayed step needs nothing from the host.
    Images that do not fit into the device's memory are sent before each step.
    """

    def __init__(self, batches: Batches, optimizer: torch.optim.Optimizer, protocol: Protocol, num_steps: int) -> None:
        import torch

        self.batches, self.optimizer, self.protocol, self.num_steps = batches, optimizer, protocol, num_steps
        self.device = open_device(batches.pixels.device)
        self.is_resident = batches.pixels.images.device.type == self.device.kind
        self.shares = [group["share"] for group in optimizer.param_groups]
        self.rates = self.device.rates([0.0] * len(self.shares))  # (G,), one a parameter group
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.device.name)
        self.tensors: dict[str, Tensor] = {}  # by name (AT_ONCE, ...), on the device
        self.host_rows: Tensor | None = None
        self.levels: Tensor | None = None  # of one batch that was sent
        self.beginning: State = {}  # the batches' state before what is planned
        self.position = self.num_planned = 0

    def prepare(self, step: int) -> None:
        """Get ready for the step after `step` steps."""
        if self.position == self.num_planned:
            self.plan(step)
        if self.host_rows is not None:
            levels = self.device.send(self.batches.pixels.gather(self.host_rows[self.position]))
            self.levels = levels if self.levels is None else self.levels.copy_(levels)
        self.position += 1

    def plan(self, step: int) -> None:
        import torch

        self.beginning = self.batches.state()
        self.position, self.num_planned = 0, min(AT_ONCE, self.num_steps - step)
        planned = self.batches.plan(self.num_planned)
        factors = [schedule_factor(self.protocol, step + 1 + i, self.num_steps) for i in range(self.num_planned)]
        rates = [[self.protocol.learning_rate * share * factor for share in self.shares] for factor in factors]
        for name, tensor in {**planned.tensors(), "rates": torch.tensor(rates, dtype=torch.float64)}.items():
            if name not in self.tensors:
                kind = self.rates.dtype if name == "rates" else tensor.dtype
                shape = (AT_ONCE, *tensor.shape[1:])
                place = self.rates.device if name == "rates" else self.device.name
                self.tensors[name] = torch.empty(shape, dtype=kind, device=place)
            own = self.tensors[name][: self.num_planned]
            own.copy_(tensor.to(own.dtype) if own.device.type == "cpu" else self.device.send(tensor.to(own.dtype)))
        self.host_rows = None if self.is_resident else planned.rows
        self.counter.zero_()

    def read(self) -> tuple[Tensor, Tensor]:
        """Set the step's learning rates, compute its batch and move on to the next step."""
        import torch

        rates = self.tensors["rates"]
        # MPS keeps rates on the host, where the counter cannot be read without waiting.
        row = self.counter if rates.device == self.counter.device else torch.tensor([self.position - 1])
        self.rates.copy_(rates.index_select(0, row)[0])
        for group, rate in zip(self.optimizer.param_groups, self.rates.unbind(), strict=True):
            group["lr"] = rate
        part = {name: t.index_select(0, self.counter)[0] for name, t in self.tensors.items() if name != "rates"}
        augmentation = Augmentation(turns=part["turns"], kind=part.get("kind"), parameters=part.get("parameters"))
        planned = Planned(rows=part["rows"], targets=part["targets"], augmentation=augmentation)
        batch = self.batches.compute(planned, self.levels)
        self.counter += 1
        return batch

    def state(self) -> State:
        return {"beginning": self.beginning, "position": self.position}

    def restore(self, state: State, step: int) -> None:
        """Go on from a state that was saved after `step` steps: what was planned then is planned again."""
        self.batches.restore(state["beginning"])
        self.plan(step - state["position"])
        self.position = state["position"]
        self.counter.fill_(self.position)


# --- the optimizer ---------------------------------------------------------------------------------------------------
def build_optimizer(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """The optimizer with layer-wise rates, which `Feed` sets; norms and biases are not decayed."""
    import torch

    groups = parameter_groups(spec, module, protocol)
    if not groups:
        raise RunError(
            f"model {spec.name!r} has no parameter that requires a gradient: there is nothing to fine-tune",
            fix="have the plugin's build leave parameters trainable, or use --protocol linear-probe",
            code="nothing-to-train",
        )
    options: dict[str, Any] = open_device(str(next(module.parameters()).device)).optimizer_options()
    if protocol.optimizer == "sgd":
        options = {name: value for name, value in options.items() if name != "capturable"}  # it always is
        return torch.optim.SGD(groups, lr=protocol.learning_rate, momentum=protocol.momentum, **options)
    kind = torch.optim.AdamW if protocol.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=protocol.learning_rate, **options)


def parameter_groups(spec: ModelSpec, module: nn.Module, protocol: Protocol) -> list[dict[str, Any]]:
    """One group per rate and decay; the rate falls geometrically from the head to the stem.

    The ratio of stem to head is stated, not the decay per group: .75 a group means .075 for a resnet18 of 10 groups and
    4e-8 for a densenet121 of 60.
    """
    ratio = protocol.stem_to_head_ratio if has_batch_norm(module) else protocol.stem_to_head_ratio_no_batchnorm
    layers = layer_groups(spec, module)
    grouped = {id(parameter) for layer in layers for parameter in layer}
    layers[-1].extend(parameter for parameter in module.parameters() if id(parameter) not in grouped)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for depth, layer in enumerate(layers):
        share = ratio ** (1 - depth / (len(layers) - 1)) if len(layers) > 1 else 1.0
        for parameter in layer:
            if parameter.requires_grad:
                decay = protocol.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((share, decay), []).append(parameter)
    return [{"params": chosen, "weight_decay": decay, "share": share} for (share, decay), chosen in groups.items()]


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
