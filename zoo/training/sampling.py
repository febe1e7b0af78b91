"""Draw the batches of a training: the rows of train in successive permutations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.specs.protocol import Protocol
from zoo.system.machine import torch_generator
from zoo.training.checkpoints import State

if TYPE_CHECKING:
    from torch import Tensor


def batch_size(dataset: DecodedFold, protocol: Protocol) -> int:
    return min(protocol.batch_size, len(dataset.index("train")))


class BatchSource(ABC):
    """An endless sequence of full batches of the rows of train, planned on the host and computed on the device.

    A planned batch has `tensors()`, by which it is kept on the device, and `unpack` reverses that.
    """

    pixels: Pixels | VolumePixels

    def __init__(self, dataset: DecodedFold, protocol: Protocol, seeds: Mapping[str, int]) -> None:
        import torch

        self.rows = torch.from_numpy(dataset.index("train"))
        self.size = batch_size(dataset, protocol)
        self.generators = {"order": torch_generator(seeds["order"]), "draws": torch_generator(seeds["augmentation"])}
        self.waiting = self.rows[:0]

    def choose(self, count: int) -> Tensor:
        """The next `count` batches (count, size), as indices into the rows of train."""
        import torch

        while len(self.waiting) < count * self.size:
            self.waiting = torch.cat([self.waiting, torch.randperm(len(self.rows), generator=self.generators["order"])])
        chosen = self.waiting[: count * self.size].reshape(count, self.size)
        self.waiting = self.waiting[count * self.size :]
        return chosen

    @abstractmethod
    def plan(self, count: int) -> Any:
        """Draw the next `count` batches on the host."""

    @abstractmethod
    def unpack(self, parts: Mapping[str, Tensor]) -> Any:
        """A planned batch from its tensors."""

    @abstractmethod
    def gather(self, planned: Any) -> list[Tensor]:
        """Read what is stored of one batch, on the device where it is stored."""

    @abstractmethod
    def compute(self, planned: Any, gathered: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Compute the network's input and the loss's targets of one batch, from what `gather` read."""

    def state(self) -> State:
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        return {**states, "waiting": self.waiting.clone()}  # a view would be saved with its whole storage

    def restore(self, state: State) -> None:
        for name, generator in self.generators.items():
            generator.set_state(state[name])
        self.waiting = state["waiting"]
