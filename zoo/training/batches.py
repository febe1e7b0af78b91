"""Plan and compute the batches of a training: the images of each step, their augmentation, and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.decoded import read_placements
from zoo.data.pixels import Pixels
from zoo.specs.choice import Choice
from zoo.specs.protocol import Protocol
from zoo.system.devices import open_device
from zoo.system.machine import torch_generator
from zoo.training.augmentation import Augmentation, augment, draw, move
from zoo.training.checkpoints import State
from zoo.training.mixing import draw_partners, mix
from zoo.training.optimizer import schedule_factor
from zoo.training.patches import PatchPlan, find_foreground, locate_patches, take_patches
from zoo.training.probes import encode
from zoo.training.sampling import BatchSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedBatches:
    """Batches (n, B) that are drawn but not computed."""

    rows: Tensor  # int64, indices into the dataset
    targets: Tensor  # int64, indices into train's targets
    augmentation: Augmentation
    corners: Tensor | None = None  # int64 (n, B, D), of patches; None for whole images
    # What the named choices need: `transforms`, float32 (n, B, K), the draws of all augmenting transforms; `partners`
    # and `shares` (n, B), of mixed images.
    chosen: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        parts = {"rows": self.rows, "targets": self.targets, "turns": self.augmentation.turns, **self.chosen}
        if self.corners is not None:
            parts["corners"] = self.corners
        if self.augmentation.kind is not None and self.augmentation.parameters is not None:
            parts |= {"kind": self.augmentation.kind, "parameters": self.augmentation.parameters}
        return parts


CHOSEN_PARTS = ("transforms", "partners", "shares")  # of `PlannedBatches.chosen`


class Batches(BatchSource):
    """An endless sequence of full batches of images and encoded targets."""

    pixels: Pixels

    def __init__(
        self,
        dataset: DecodedFold,
        pixels: Pixels,
        protocol: Protocol,
        seeds: dict[str, int],
        choices: Mapping[str, Sequence[Choice]] = MappingProxyType({}),
    ) -> None:
        import torch

        super().__init__(dataset, protocol, seeds, choices)
        self.pixels, self.masks = pixels, open_masks(dataset, pixels)
        self.targets = None if self.masks is not None else open_targets(dataset, pixels.device)
        self.patches = plan_patches(dataset, pixels.patch) if pixels.patch else None
        if self.patches:
            self.generators["places"] = torch_generator(seeds["patches"])
        self.image_shape = torch.tensor(pixels.images.shape[1:-1], device=pixels.images.device)
        self.symmetries = dataset.symmetries if protocol.symmetries else ()
        self.one_of = protocol.augmentation == "one-of"
        self.mixup = protocol.mixup
        if self.mixup:
            self.generators["mixup"] = torch_generator(seeds["mixup"])

    def plan(self, count: int) -> PlannedBatches:
        """Draw the next `count` batches on the host."""
        import torch

        chosen = self.choose(count)
        augmentation = draw(
            count, self.size, len(self.symmetries), one_of=self.one_of, generator=self.generators["draws"]
        )
        corners = None
        if self.patches:
            corners = torch.stack([self.patches.draw(batch, self.generators["places"]) for batch in chosen])
        return PlannedBatches(
            rows=self.rows[chosen],
            targets=chosen,
            augmentation=augmentation,
            corners=corners,
            chosen=self.plan_chosen(count),
        )

    def plan_chosen(self, count: int) -> dict[str, Tensor]:
        """Draw what the transforms and mixup need for `count` batches."""
        parts = self.draw_transforms(count)
        if self.mixup:
            partners, shares = draw_partners(count, self.size, self.mixup, self.generators["mixup"])
            parts |= {"partners": partners, "shares": shares}
        return parts

    def unpack(self, parts: Mapping[str, Tensor]) -> PlannedBatches:
        """Reverse `PlannedBatches.tensors`."""
        augmentation = Augmentation(turns=parts["turns"], kind=parts.get("kind"), parameters=parts.get("parameters"))
        return PlannedBatches(
            rows=parts["rows"],
            targets=parts["targets"],
            augmentation=augmentation,
            corners=parts.get("corners"),
            chosen={name: parts[name] for name in CHOSEN_PARTS if name in parts},
        )

    def gather(self, planned: PlannedBatches) -> list[Tensor]:
        """Read the levels of one batch, and its masks if there are any, on the device where they are stored."""
        stored = [self.pixels.images, *([] if self.masks is None else [self.masks])]
        if planned.corners is None:
            # perf: index_select takes 13 us per batch, images[rows] 112 us
            return [each.index_select(0, planned.rows) for each in stored]
        num_axes = planned.corners.shape[1]
        shapes = self.image_shape.expand(len(planned.rows), num_axes)
        starts = planned.rows * self.pixels.images[0, ..., 0].numel()
        places = locate_patches(planned.corners, self.pixels.patch, starts, shapes)
        return [take_patches(each.flatten(0, num_axes), *places) for each in stored]

    def compute(self, planned: PlannedBatches, gathered: list[Tensor] | None = None) -> tuple[Tensor, ...]:
        import torch

        levels, *masks = gathered or self.gather(planned)
        images = augment(self.pixels.scale_levels(levels), planned.augmentation, self.symmetries)
        if self.transforms:
            images = self.transform(images, planned.chosen["transforms"])
        images = self.pixels.join(self.pixels.normalize(images), planned.rows)
        partners, shares = planned.chosen.get("partners"), planned.chosen.get("shares")
        if partners is not None and shares is not None:
            images = mix(images, partners, shares)
        images = images.contiguous(memory_format=torch.channels_last)
        if masks:
            return images, move(masks[0], planned.augmentation, self.symmetries)
        assert self.targets is not None
        targets = self.targets.index_select(0, planned.targets)
        if partners is None or shares is None:
            return images, targets
        return images, targets, targets.index_select(0, partners), shares


def open_masks(dataset: DecodedFold, pixels: Pixels) -> Tensor | None:
    """The masks (N, H, W) of a dataset that has them, on the device of its images."""
    import torch

    if not dataset.task.targets.spatial:
        return None
    return torch.from_numpy(dataset.masks).to(pixels.images.device)


def open_targets(dataset: DecodedFold, device: str) -> Tensor:
    """The encoded targets of train, on the device."""
    import torch

    targets = torch.from_numpy(np.ascontiguousarray(encode(dataset, "train")))
    targets = targets.float() if targets.is_floating_point() else targets  # MPS has no float64
    return targets.to(device)


def plan_patches(dataset: DecodedFold, patch: tuple[int, ...]) -> PatchPlan:
    """Plan patches in the images of train, without their padding."""
    import torch

    rows, placements = dataset.index("train"), read_placements(dataset.images)
    low = torch.tensor([placements[row].offset for row in rows])
    inside = torch.tensor([placements[row].resized for row in rows])
    foreground = find_foreground((dataset.masks[row] for row in rows), len(dataset.labels))
    return PatchPlan(patch, low, low + inside, foreground)


class Feed:
    """The input of each training step, planned `STEPS_AT_ONCE` steps ahead in device tensors with fixed addresses.

    A counter on the device selects the next planned step, so a replayed step needs nothing from the host. Images that
    do not fit into the device's memory are sent before each step.
    """

    def __init__(
        self, batches: BatchSource, optimizer: torch.optim.Optimizer, protocol: Protocol, num_steps: int
    ) -> None:
        import torch

        self.batches, self.optimizer, self.protocol, self.num_steps = batches, optimizer, protocol, num_steps
        self.device = open_device(batches.pixels.device)
        self.is_resident = batches.pixels.kind == self.device.kind
        self.shares = [group["share"] for group in optimizer.param_groups]
        self.rates = self.device.rates([0.0] * len(self.shares))  # (G,), one per parameter group
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.device.name)
        self.tensors: dict[str, Tensor] = {}  # by name: (STEPS_AT_ONCE, ...), on the device
        self.on_host: dict[str, Tensor] | None = None  # the planned steps, if the images are on the host
        self.sent: list[Tensor] | None = None  # what was gathered for the batch sent last
        self.beginning: State = {}  # the batches' state before the planned steps
        self.position = self.num_planned = 0

    def prepare(self, step: int) -> None:
        """Prepare the next step, after `step` steps."""
        if self.position == self.num_planned:
            self.plan(step)
        if self.on_host is not None:
            part = {name: tensor[self.position] for name, tensor in self.on_host.items()}
            sent = [self.device.send(each) for each in self.batches.gather(self.batches.unpack(part))]
            self.sent = (
                sent if self.sent is None else [old.copy_(new) for old, new in zip(self.sent, sent, strict=True)]
            )
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

    def read(self) -> tuple[Tensor, ...]:
        """Set the learning rates of the current step, compute its batch, and advance."""
        import torch

        rates = self.tensors["rates"]
        # On MPS the rates are on the host, where reading the counter would wait for the device.
        row = self.counter if rates.device == self.counter.device else torch.tensor([self.position - 1])
        self.rates.copy_(rates.index_select(0, row)[0])
        for group, rate in zip(self.optimizer.param_groups, self.rates.unbind(), strict=True):
            group["lr"] = rate
        part = {name: t.index_select(0, self.counter)[0] for name, t in self.tensors.items() if name != "rates"}
        batch = self.batches.compute(self.batches.unpack(part), self.sent)
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
