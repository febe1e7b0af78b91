"""Sampling specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.arrays import Array
from zoo.specs.choice import ChoiceSpec

if TYPE_CHECKING:
    from torch import Generator, Tensor

DrawPass = Callable[["Generator"], "Tensor"]  # -> int64 (N,): the images of one pass over train, in their order


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingRequest:
    """The N images of train that are drawn from."""

    flags: Array | None  # (N, L): 1 if the image has the label, 0, or NaN for unknown; None if there are no labels
    patients: Array  # (N,) str
    options: Mapping[str, float]

    @property
    def num_images(self) -> int:
        return len(self.patients)


@dataclass(frozen=True, kw_only=True)
class SamplingSpec(ChoiceSpec):
    """A rule by which the images of train are drawn: `Protocol.sampling`.

    `build(request)` returns a function that draws one pass over train with a generator of torch on the CPU, and with no
    other random numbers: the indices (N,) of as many images as train has, in the order in which they are shown.
    """

    build: Callable[[SamplingRequest], Callable[..., Any]]
