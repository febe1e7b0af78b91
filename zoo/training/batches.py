"""Plan and compute the batches of a training: the images of each step, their augmentation, and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.specs.protocol import Protocol
from zoo.system.devices import open_device
from zoo.system.machine import torch_generator
from zoo.training.augmentation import Augmentation, augment, draw, move
from zoo.training.checkpoints import State
from zoo.training.optimizer import schedule_factor
from zoo.training.probes import encode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zoo.training.volume_batches import VolumeBatches

STEPS_AT_ONCE = 64  # number of steps planned at a time


def plan_steps(protocol: Protocol, num_train: int) -> tuple[int, int]:
    """The number of training steps, and of steps between two scores of val.

    `max_steps` limits a budget in epochs, not one in steps.
    """
    per_epoch = max(1, math.ceil(num_train / min(protocol.batch_size, num_train)))
    steps = protocol.steps or max((protocol.epochs or 1) * per_epoch, protocol.min_steps)
    if protocol.max_steps and not protocol.steps:
        steps = min(steps, protocol.max_steps)
    every = math.ceil(steps / protocol.rounds) if protocol.rounds else per_epoch
    return steps, max(1, every)


def batch_size(dataset: DecodedFold, protocol: Protocol) -> int:
    return min(protocol.batch_size, len(dataset.index("train")))


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedBatches:
    """Batches (n, B) that are drawn but not computed."""

    rows: Tensor  # int64, indices into the dataset
    targets: Tensor  # int64, indices into train's targets
    augmentation: Augmentation

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> PlannedBatches:
        """Reverse `tensors`."""
        augmentation = Augmentation(turns=parts["turns"], kind=parts.get("kind"), parameters=parts.get("parameters"))
        return cls(rows=parts["rows"], targets=parts["targets"], augmentation=augmentation)

    def tensors(self) -> dict[str, Tensor]:
        parts = {"rows": self.rows, "targets": self.targets, "turns": self.augmentation.turns}
        if self.augmentation.kind is not None and self.augmentation.parameters is not None:
            parts |= {"kind": self.augmentation.kind, "parameters": self.augmentation.parameters}
        return parts


class Order:
    """The rows of train in an endless sequence of permutations, cut into full batches, and the draws of each batch."""

    def __init__(self, dataset: DecodedFold, protocol: Protocol, seeds: dict[str, int]) -> None:
        import torch

        self.rows = torch.from_numpy(dataset.index("train"))
        self.size = batch_size(dataset, protocol)
        self.order, self.draws = torch_generator(seeds["order"]), torch_generator(seeds["augmentation"])
        self.waiting = self.rows[:0]

    def choose(self, count: int) -> Tensor:
        """The next `count` batches (count, size), as indices into the rows of train."""
        import torch

        while len(self.waiting) < count * self.size:
            self.waiting = torch.cat([self.waiting, torch.randperm(len(self.rows), generator=self.order)])
        chosen = self.waiting[: count * self.size].reshape(count, self.size)
        self.waiting = self.waiting[count * self.size :]
        return chosen

    def state(self) -> State:
        states = {"order": self.order.get_state(), "draws": self.draws.get_state()}
        return {**states, "waiting": self.waiting.clone()}  # a view would be saved with its whole storage

    def restore(self, state: State) -> None:
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        self.waiting = state["waiting"]


class Batches(Order):
    """An endless sequence of full batches of images and encoded targets."""

    def __init__(self, dataset: DecodedFold, pixels: Pixels, protocol: Protocol, seeds: dict[str, int]) -> None:
        import torch

        super().__init__(dataset, protocol, seeds)
        self.spatial = dataset.task.targets.spatial
        encoded = dataset.decoded.common_masks(self.rows.numpy()) if self.spatial else encode(dataset, "train")
        targets = torch.from_numpy(np.ascontiguousarray(encoded))
        targets = targets.float() if targets.is_floating_point() else targets  # MPS has no float64
        self.pixels, self.targets = pixels, targets.to(pixels.device)
        self.symmetries = dataset.symmetries if protocol.symmetries else ()
        self.one_of = protocol.augmentation == "one-of"

    def plan(self, count: int) -> PlannedBatches:
        """Draw the next `count` batches on the host."""
        chosen = self.choose(count)
        augmentation = draw(count, self.size, len(self.symmetries), one_of=self.one_of, generator=self.draws)
        return PlannedBatches(rows=self.rows[chosen], targets=chosen, augmentation=augmentation)

    def gather(self, planned: Mapping[str, Tensor]) -> Tensor:
        """The stored pixels of one batch of `PlannedBatches.tensors`, on the device that holds them."""
        return self.pixels.gather(planned["rows"])

    def compute(self, parts: Mapping[str, Tensor], levels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the network's input and the loss's targets of one batch; `levels` if its pixels were gathered."""
        import torch

        planned = PlannedBatches.from_tensors(parts)
        if levels is None:
            levels = self.pixels.gather(planned.rows)
        images = augment(self.pixels.scale_levels(levels), planned.augmentation, self.symmetries)
        images = self.pixels.normalize(images).contiguous(memory_format=torch.channels_last)
        targets = self.targets.index_select(0, planned.targets)
        if self.spatial:
            targets = move(targets, planned.augmentation, self.symmetries)
        return images, targets


class Feed:
    """The input of each training step, planned `STEPS_AT_ONCE` steps ahead in device tensors with fixed addresses.

    A counter on the device selects the next planned step, so a replayed step needs nothing from the host. Images that
    do not fit into the device's memory are sent before each step.
    """

    def __init__(
        self, batches: Batches | VolumeBatches, optimizer: torch.optim.Optimizer, protocol: Protocol, num_steps: int
    ) -> None:
        import torch

        self.batches, self.optimizer, self.protocol, self.num_steps = batches, optimizer, protocol, num_steps
        self.device = open_device(batches.pixels.device)
        self.is_resident = batches.pixels.kind == self.device.kind
        self.shares = [group["share"] for group in optimizer.param_groups]
        self.rates = self.device.rates([0.0] * len(self.shares))  # (G,), one per parameter group
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.device.name)
        self.tensors: dict[str, Tensor] = {}  # by name: (STEPS_AT_ONCE, ...), on the device
        self.on_host: dict[str, Tensor] | None = None
        self.levels: Tensor | None = None  # pixels of the batch sent last
        self.beginning: State = {}  # the batches' state before the planned steps
        self.position = self.num_planned = 0

    def prepare(self, step: int) -> None:
        """Prepare the next step, after `step` steps."""
        if self.position == self.num_planned:
            self.plan(step)
        if self.on_host is not None:
            levels = self.device.send(self.batches.gather({name: t[self.position] for name, t in self.on_host.items()}))
            self.levels = levels if self.levels is None else self.levels.copy_(levels)
        self.position += 1

    def plan(self, step: int) -> None:
        import torch

        self.beginning = self.batches.state()
        self.position, self.num_planned = 0, min(STEPS_AT_ONCE, self.num_steps - step)
        planned = self.batches.plan(self.num_planned).tensors()
        factors = [schedule_factor(self.protocol, step + 1 + i, self.num_steps) for i in range(self.num_planned)]
        rates = [[self.protocol.learning_rate * share * factor for share in self.shares] for factor in factors]
        for name, tensor in {**planned, "rates": torch.tensor(rates, dtype=torch.float64)}.items():
            if name not in self.tensors:
                kind = self.rates.dtype if name == "rates" else tensor.dtype
                shape = (STEPS_AT_ONCE, *tensor.shape[1:])
                place = self.rates.device if name == "rates" else self.device.name
                self.tensors[name] = torch.empty(shape, dtype=kind, device=place)
            own = self.tensors[name][: self.num_planned]
            own.copy_(tensor.to(own.dtype) if own.device.type == "cpu" else self.device.send(tensor.to(own.dtype)))
        self.on_host = None if self.is_resident else planned
        self.counter.zero_()

    def read(self) -> tuple[Tensor, Tensor]:
        """Set the learning rates of the current step, compute its batch, and advance."""
        import torch

        rates = self.tensors["rates"]
        # On MPS the rates are on the host, where reading the counter would wait for the device.
        row = self.counter if rates.device == self.counter.device else torch.tensor([self.position - 1])
        self.rates.copy_(rates.index_select(0, row)[0])
        for group, rate in zip(self.optimizer.param_groups, self.rates.unbind(), strict=True):
            group["lr"] = rate
        part = {name: t.index_select(0, self.counter)[0] for name, t in self.tensors.items() if name != "rates"}
        batch = self.batches.compute(part, self.levels)
        self.counter += 1
        return batch

    def state(self) -> State:
        return {"beginning": self.beginning, "position": self.position}

    def restore(self, state: State, step: int) -> None:
        """Restore a state that was saved after `step` steps, and plan its steps again."""
        self.batches.restore(state["beginning"])
        self.plan(step - state["position"])
        self.position = state["position"]
        self.counter.fill_(self.position)
