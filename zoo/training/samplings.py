"""The samplings of the core: how the images of train are drawn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.specs.sampling import DrawPass, SamplingRequest, SamplingSpec
from zoo.tasks.kinds import CORE_TASKS

if TYPE_CHECKING:
    from torch import Generator, Tensor


def draw_uniformly(generator: Generator, *, num_images: int) -> Tensor:
    """Every image once, in random order."""
    import torch

    return torch.randperm(num_images, generator=generator)


def build_uniform(request: SamplingRequest) -> DrawPass:
    return partial(draw_uniformly, num_images=request.num_images)


def draw_balanced(generator: Generator, *, members: tuple[Array, ...]) -> Tensor:
    """As many images as there are, N / L of each class: none a second time before every other one of its class.

    `members` are the images of each class that has any. The remainder of N / L goes to random classes.
    """
    import torch

    num_images = sum(map(len, members))
    least, more = divmod(num_images, len(members))
    luck = torch.randperm(len(members), generator=generator)
    parts = []
    for number, rows in enumerate(members):
        quota = least + int(luck[number] < more)
        passes = [torch.randperm(len(rows), generator=generator) for _ in range(-(-quota // len(rows)))]
        parts.append(torch.from_numpy(rows)[torch.cat(passes)[:quota]] if passes else torch.empty(0, dtype=torch.int64))
    order = torch.cat(parts)
    return order[torch.randperm(num_images, generator=generator)]


def build_balanced(request: SamplingRequest) -> DrawPass:
    assert request.flags is not None
    members = [np.flatnonzero(column == 1) for column in request.flags.T]
    return partial(draw_balanced, members=tuple(rows for rows in members if len(rows)))


UNIFORM = SamplingSpec(name="uniform", build=build_uniform, title="every image once per epoch")
BALANCED = SamplingSpec(
    name="balanced",
    build=build_balanced,
    title="equally many images of each class per epoch, as many in all as train has",
    tasks=tuple(task.name for task in CORE_TASKS if task.classes),
)
SAMPLINGS = (UNIFORM, BALANCED)
