"""Repeat a function at a device's speed: capture and replay it, and halve its size where memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable

from zoo.system.devices import Answer, CaptureError, Device, open_device


def within_memory(attempt: Callable[[int], Answer], size: int, device: str) -> tuple[Answer, int]:
    """Return `attempt(size)` and the size, which is halved each time the memory of the device runs out.

    Before that, wait until no other run shares the device: whether they did must not change what a run computes.
    """
    import torch

    own = open_device(device)
    while True:
        try:
            return attempt(size), size
        except torch.OutOfMemoryError:
            if own.is_capturing() or (size == 1 and not own.can_wait):
                raise
        # Outside of the block: the exception held all that the attempt had allocated.
        if not own.wait_alone():
            size = math.ceil(size / 2)
            own.release_memory()


WARM_UP_STEPS = 3  # calls before a capture: the first ones allocate, choose algorithms and initialize libraries


class Repeated:
    """A function without arguments, captured after `WARM_UP` ordinary calls where the device can do that.

    `watch` returns what Python code in the function may change: if a call changes it, a replay, which executes no
    Python, would be another function. Whatever prevents a capture, calls go on as ordinary ones; `obstacle` says what
    it is. `undo` resets what a capture that failed midway has left in Python objects.
    """

    def __init__(
        self,
        function: Callable[[], None],
        device: Device,
        *,
        watch: Callable[[], object] = lambda: None,
        undo: Callable[[], None] = lambda: None,
        obstacle: str = "",
    ) -> None:
        self.function = function
        self.device = device
        self.watch = watch
        self.undo = undo
        self.obstacle = obstacle
        self.calls = 0
        self.waits: list[str] = []  # during the last call
        self.replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.replay:
            self.replay()
            return
        if 1 < self.calls <= WARM_UP_STEPS and not self.obstacle:
            self.examine()
            return
        if self.calls > WARM_UP_STEPS and not self.obstacle:
            try:
                self.replay = self.device.capture(self.function)
            except CaptureError as error:
                self.obstacle = str(error)
                self.undo()
            else:
                self.replay()
                return
        self.function()

    def examine(self) -> None:
        """Call the function and look for what a capture would forbid or a replay leave out."""
        before = self.watch()
        with self.device.counting_waits() as waits:
            self.function()
        if self.watch() != before:
            self.obstacle = "it changes Python state or draws Python's random numbers"
        elif waits and self.waits:  # a single wait may be a library's, the first time it does something
            self.obstacle = f"it makes the host wait for the device ({waits[0]})"
        self.waits = waits

    @property
    def is_captured(self) -> bool:
        return self.device.captures and self.replay is not None
