"""Draw the batches of a training: the rows of train in successive passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.data.dataset import DecodedFold
from zoo.data.pixels import Pixels
from zoo.data.volumes import VolumePixels
from zoo.errors import PluginError
from zoo.specs.choice import Choice
from zoo.specs.protocol import Protocol
from zoo.specs.sampling import DrawPass, SamplingRequest
from zoo.system.machine import torch_generator
from zoo.training.checkpoints import State
from zoo.training.losses import TASK_LOSS
from zoo.training.samplings import UNIFORM

if TYPE_CHECKING:
    from torch import Tensor


# What a training uses for the fields of a protocol that have their default.
DEFAULT_CHOICES: Mapping[str, Sequence[Choice]] = MappingProxyType(
    {"loss": (Choice(spec=TASK_LOSS),), "sampling": (Choice(spec=UNIFORM),), "transforms": ()}
)


def open_sampling(choice: Choice, dataset: DecodedFold) -> DrawPass:
    """The function that draws one pass over train."""
    rows = dataset.index("train")
    flags = dataset.task.targets.to_flags(dataset.targets[rows], len(dataset.labels))
    request = SamplingRequest(flags=flags, patients=dataset.patients[rows], options=choice.options)
    drawn: DrawPass = choice.spec.build(request)
    return drawn


def batch_size(dataset: DecodedFold, protocol: Protocol) -> int:
    return min(protocol.batch_size, len(dataset.index("train")))


class BatchSource(ABC):
    """An endless sequence of full batches of the rows of train, planned on the host and computed on the device.

    A planned batch has `tensors()`, by which it is kept on the device, and `unpack` reverses that.
    """

    pixels: Pixels | VolumePixels

    def __init__(
        self,
        dataset: DecodedFold,
        protocol: Protocol,
        seeds: Mapping[str, int],
        choices: Mapping[str, Sequence[Choice]] = MappingProxyType({}),
    ) -> None:
        import torch

        self.choices = {**DEFAULT_CHOICES, **choices}

        self.rows = torch.from_numpy(dataset.index("train"))
        self.size = batch_size(dataset, protocol)
        self.generators = {"order": torch_generator(seeds["order"]), "draws": torch_generator(seeds["augmentation"])}
        self.transforms = [choice for choice in self.choices["transforms"] if choice.spec.augment]
        if self.transforms:
            self.generators["transforms"] = torch_generator(seeds["transforms"])
        self.waiting = self.rows[:0]
        (self.sampling,) = self.choices["sampling"]
        self.draw_pass = open_sampling(self.sampling, dataset)

    def choose(self, count: int) -> Tensor:
        """The next `count` batches (count, size), as indices into the rows of train."""
        import torch

        while len(self.waiting) < count * self.size:
            drawn = self.draw_pass(self.generators["order"])
            if drawn.shape != self.rows.shape:
                raise PluginError(
                    f"sampling {self.sampling.spec.name!r} drew {len(drawn)} images of {len(self.rows)} in train",
                    fix="choose another --set sampling, or report this to the plugin's author",
                    code="sampling-failed",
                )
            self.waiting = torch.cat([self.waiting, drawn])
        chosen = self.waiting[: count * self.size].reshape(count, self.size)
        self.waiting = self.waiting[count * self.size :]
        return chosen

    def draw_transforms(self, count: int) -> dict[str, Tensor]:
        """The draws of all augmenting transforms for `count` batches, float32 (count, B, K); nothing without any."""
        import torch

        if not self.transforms:
            return {}
        shape = (self.size, sum(choice.spec.num_draws for choice in self.transforms))
        drawn = [torch.rand(shape, generator=self.generators["transforms"]) for _ in range(count)]
        return {"transforms": torch.stack(drawn)}

    def transform(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply the augmenting transforms to images (B, C, ...) in 0..1, with their draws (B, K)."""
        first = 0
        for choice in self.transforms:
            last = first + choice.spec.num_draws
            images = choice.spec.augment(images, draws[:, first:last], **choice.options)
            first = last
        return images

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
    def compute(self, planned: Any, gathered: list[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Compute the network's input and the loss's targets of one batch, from what `gather` read.

        Of mixed images, the targets of their partners and the shares (B,) follow: see `loss_of_mixed`.
        """

    def state(self) -> State:
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        return {**states, "waiting": self.waiting.clone()}  # a view would be saved with its whole storage

    def restore(self, state: State) -> None:
        for name, generator in self.generators.items():
            generator.set_state(state[name])
        self.waiting = state["waiting"]
