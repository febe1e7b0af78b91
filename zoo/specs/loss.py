"""Loss specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.specs.choice import ChoiceSpec
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]  # logits and targets of a batch, as `Head.loss` takes them -> a scalar


@dataclass(frozen=True, kw_only=True, eq=False)
class LossRequest:
    """What to build a loss for."""

    task: Task
    num_labels: int
    device: str  # of the logits and targets
    options: Mapping[str, float]
    class_weights: Tensor | None = None  # float32 (L,) on the device, as `Targets.inverse_frequencies`; None: equal
    label_smoothing: float = 0.0  # share of each target that is spread evenly over its labels


@dataclass(frozen=True, kw_only=True)
class LossSpec(ChoiceSpec):
    """A loss that networks are trained with: `Protocol.loss`.

    `build(request)` returns a function of logits, float32 (B, outputs, ...), and standardized targets (B, ...), which
    returns the mean loss of the batch. A GPU captures the function once and replays it: it may not read a value back
    (`.item()`, `if tensor:`), and the shapes of its tensors may not depend on values (`losses[mask]`).
    """

    build: Callable[[LossRequest], Callable[..., Any]]
    class_weights: bool = False  # whether it uses those of the request; else a protocol with class weights is refused
    label_smoothing: bool = False  # the same for label smoothing
