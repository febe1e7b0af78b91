"""The training loop's state and its step, which a GPU captures once and replays."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import RunError
from zoo.models.building import PURE_HOOKS
from zoo.specs.loss import Loss
from zoo.system.replay import WARM_UP_STEPS, Repeated, within_memory
from zoo.training.batches import Feed
from zoo.training.checkpoints import State
from zoo.training.losses import loss_of_mixed
from zoo.training.selection import BestRound

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Training:
    """A training in progress: all state that changes from step to step.

    `compute_step` reads and writes tensors with fixed addresses and reads nothing back from the device, so a GPU can
    capture it once and replay it.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        loss: Loss,
        precision: str,
        feed: Feed,
        keeper: BestRound,
    ) -> None:
        import torch

        self.module, self.loss, self.precision, self.feed, self.keeper = module, loss, precision, feed, keeper
        self.protocol, self.optimizer, self.num_steps = feed.protocol, feed.optimizer, feed.num_steps
        self.device = feed.device
        self.total_loss = torch.zeros((), device=self.device.name)  # of this round's steps
        self.scaler = self.new_scaler()
        self.part = feed.batches.size  # images per forward pass; reduced after running out of memory
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0  # of training, before `since`
        self.since = time.perf_counter()
        self.began = (0, 0.0)  # step and seconds when this process began
        self.first_steps = (0, 0.0)  # warm-up steps and their seconds, which are excluded from the speed
        self.pace = self.device.pace()
        self.repeated = Repeated(
            self.compute_step,
            self.device,
            watch=lambda: python_state(module),
            undo=self.renew_scaler,
            obstacle=describe_hooks(module),
        )

    def new_scaler(self) -> torch.amp.GradScaler:  # type: ignore[name-defined]
        import torch

        return torch.amp.GradScaler(self.device.kind, enabled=self.precision == "fp16")  # type: ignore[attr-defined]

    def renew_scaler(self) -> None:
        """Reset a scaler whose step ended between `unscale_` and `update`, as in a failed capture."""
        state = self.scaler.state_dict()
        self.scaler = self.new_scaler()
        self.scaler.load_state_dict(state)

    def take_step(self) -> None:
        """Train on one batch."""
        waited = self.device.waited_seconds
        self.feed.prepare(self.step)
        self.repeated()
        self.pace()
        self.step += 1
        self.since += self.device.waited_seconds - waited  # waiting for other runs is not training time
        if self.device.captures and self.repeated.calls == WARM_UP_STEPS + 1 and self.step < self.num_steps:
            self.device.synchronize()
            (steps, seconds), (start_step, start_seconds) = self.first_steps, self.began
            now_seconds = self.seconds + time.perf_counter() - self.since
            self.first_steps = (steps + self.step - start_step, seconds + now_seconds - start_seconds)

    def compute_step(self) -> None:
        """Compute a step on the device: batch, gradients, clipping, update."""
        import torch

        images, *targets = self.feed.read()
        loss, self.part = within_memory(
            lambda part: self.compute_gradients(images, targets, part), self.part, self.device.name
        )
        self.scaler.unscale_(self.optimizer)
        if self.protocol.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.protocol.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.total_loss += loss

    def compute_gradients(self, images: Tensor, targets: Sequence[Tensor], part: int) -> Tensor:
        """Compute the scaled gradients of a batch, `part` images at a time, and return its loss."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        parts = zip(*(torch.split(each, part) for each in (images, *targets)), strict=True)
        losses = [
            self.add_gradients(part_images, part_targets, len(part_images) / len(images))
            for part_images, *part_targets in parts
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def add_gradients(self, images: Tensor, targets: Sequence[Tensor], share: float) -> Tensor:
        """Add the gradients of a `share` of a batch, and return its contribution to the batch's loss."""
        with self.device.autocast(self.precision), explain_batch_of_one():
            logits = self.module(images)
        loss = loss_of_mixed(self.loss, logits.float(), targets)
        if share < 1:
            loss = loss * share
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def end_round(self, count: int) -> float:
        """Return the mean loss of the round's `count` steps, and stop the clock until `since` is set again.

        Raises RunError if the loss is not finite.
        """
        mean = self.total_loss.item() / count
        self.seconds += time.perf_counter() - self.since
        if not math.isfinite(mean):
            raise RunError(
                f"the training loss is {mean} by step {self.step} of {self.num_steps}",
                fix="use a lower --set learning_rate, or --set precision=fp32",
                code="diverged",
            )
        self.total_loss.zero_()
        return mean

    def state(self) -> State:
        """Everything that determines the next steps, and the record of the previous ones."""
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
        """Restore a state, if there is one, and return its step; 0 for a new training."""
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
            self.began = (self.step, self.seconds)
        return self.step

    def describe_step(self) -> dict[str, Any]:
        """How a device that can capture executed the steps, and the seconds of the warm-up steps."""
        steps, seconds = self.first_steps
        obstacle = self.repeated.obstacle or ("" if self.repeated.is_captured else "too few steps")
        return {
            "step": "captured" if self.repeated.is_captured else "eager",
            **({"eager_reason": obstacle} if obstacle else {}),
            **({"first_steps_seconds": round(seconds, 3)} if steps else {}),
        }


def python_state(module: nn.Module) -> object:
    """Host state that a step may change: random number generators and plain attributes of the modules."""
    import torch

    on_host = next(module.parameters()).device.type == "cpu"  # then dropout changes torch's host generator in each step
    plain = (int, float, str, bool, type(None))
    attributes = [
        (name, value if isinstance(value, plain) else len(value))
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, (*plain, list, dict, set))
    ]
    numpy_state = np.random.get_state(legacy=False)["state"]  # type: ignore[index, call-overload]
    torch_state = None if on_host else torch.get_rng_state().tolist()
    return random.getstate(), numpy_state["pos"], numpy_state["key"].tobytes(), torch_state, attributes


def describe_hooks(module: nn.Module) -> str:
    """Name a submodule with hooks other than zoo's, whose effects a replay might omit; "" if there is none."""
    for name, part in module.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values(), *part._backward_hooks.values()]
        if any(getattr(hook, "func", None) not in PURE_HOOKS for hook in hooks):
            return f"{name or type(part).__name__} has a hook"
    return ""


@contextlib.contextmanager
def explain_batch_of_one() -> Iterator[None]:
    """Convert torch's error for batch normalization of a single value per channel to a RunError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            "batch normalization needs at least two images per training batch, but there is one",
            fix="use --set batch_size=2, or add images to train",
            code="batch-of-one",
        ) from error
