"""Repeat a function efficiently: capture and replay it, and halve its batch size when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable

from zoo.system.devices import Answer, CaptureError, Device, open_device


def within_memory(attempt: Callable[[int], Answer], size: int, device: str) -> tuple[Answer, int]:
    """Return `attempt(size)` and the size, which is halved each time the device runs out of memory.

    Before halving, wait until no other run uses the device: other runs must not change what this one computes.
    """
    import torch

    own = open_device(device)
    while True:
        try:
            return attempt(size), size
        except torch.OutOfMemoryError:
            if own.is_capturing() or (size == 1 and not own.can_wait):
                raise
        # After the except block, because the exception references everything that the attempt allocated.
        if not own.wait_alone():
            size = math.ceil(size / 2)
            own.release_memory()


WARM_UP_STEPS = 3  # calls before a capture: the first ones allocate, choose algorithms and initialize libraries


class Repeated:
    """A function without arguments, captured after `WARM_UP_STEPS` normal calls if the device supports it.

    `watch` returns the Python state that the function may change. If a call changes it, the function is not captured,
    because a replay does not execute Python code. If a capture is not possible, the function is called normally and
    `obstacle` gives the reason. `undo` resets the Python objects after a failed capture.
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
        """Call the function and check for operations that a capture forbids or a replay would miss."""
        before = self.watch()
        with self.device.counting_waits() as waits:
            self.function()
        if self.watch() != before:
            self.obstacle = "it changes Python state or draws Python's random numbers"
        elif waits and self.waits:  # a single wait may come from a library's initialization
            self.obstacle = f"it makes the host wait for the device ({waits[0]})"
        self.waits = waits

    @property
    def is_captured(self) -> bool:
        return self.device.captures and self.replay is not None
