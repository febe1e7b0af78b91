"""What is going on, to a line that renews itself on a terminal, or to plain lines elsewhere; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from zoo.errors import clean

QUIET_SECONDS = 1.0  # what takes less says nothing
PLAIN_SECONDS = 10.0  # between two plain lines on the same thing
REFRESH_SECONDS = 0.2
MIN_SHARE = 0.02  # of all work done before an estimate means anything


def duration(seconds: float) -> str:
    """`38 s`, `4 min 10 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


@dataclass(eq=False)
class Console:
    """Writes messages and progress. It starts no thread: one would be lost, with its locks held, in a forked child."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    live: str = ""
    last: float = 0.0

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, message: str) -> None:
        """One line that stays."""
        self.erase()
        self.stream.write(clean(message) + "\n")
        self.stream.flush()
        self.draw()

    def warn(self, message: str) -> None:
        self.say(f"zoo: warning: {message}")

    def show(self, line: str) -> None:
        """A line that the next one replaces; not shown where the stream is no terminal."""
        if not self.is_terminal:
            return
        now = time.monotonic()
        self.live, stale = clean(line), now - self.last >= REFRESH_SECONDS
        if stale:
            self.last = now
            self.erase()
            self.draw()

    def erase(self) -> None:
        if self.is_terminal:
            self.stream.write("\r\x1b[K")

    def draw(self) -> None:
        if self.live and self.is_terminal:
            import shutil

            width = shutil.get_terminal_size().columns - 1
            self.stream.write(self.live[:width])
            self.stream.flush()

    def done(self) -> None:
        """Drop the line that renews itself."""
        self.erase()
        self.live = ""
        self.stream.flush()

    @contextmanager
    def counting(self, what: str, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
        """Yield `progress(done, total)`: silent for the first second, then a bar, or a plain line every ten."""
        start = time.monotonic()
        said = start

        def progress(done: int, total: int | None) -> None:
            nonlocal said
            now = time.monotonic()
            if now - start < QUIET_SECONDS:
                return
            amount = describe_amount(done, total, unit)
            left = f", {duration((now - start) * (total - done) / done)} left" if total and done else ""
            if self.is_terminal:
                self.show(f"{what}: {amount}{left}")
            elif now - said >= PLAIN_SECONDS:
                said = now
                self.say(f"{what}: {amount}{left}")

        try:
            yield progress
        finally:
            self.done()


def describe_amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        text = f"{done / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB"
    else:
        text = f"{done:,}" + (f" of {total:,}" if total else "") + (f" {unit}" if unit else "")
    if not total:
        return text
    filled = min(20, 20 * done // total)
    return f"[{'#' * filled}{'.' * (20 - filled)}] {text}"


@dataclass(eq=False)
class BenchProgress:
    """Runs in flight and ended, as one line: run k of n, step, loss, val score, time left."""

    console: Console
    num_runs: int
    decoded_bytes: int = 0
    start: float = field(default_factory=time.monotonic)
    ended: int = 0
    estimated: bool = False
    flying: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)

    def started(self, name: str) -> None:
        self.flying[name] = (time.monotonic(), {})
        self.redraw()

    def progressed(self, name: str, details: dict[str, Any]) -> None:
        begun, known = self.flying.get(name, (time.monotonic(), {}))
        self.flying[name] = (begun, {**known, **details})
        self.estimate()
        self.redraw()

    def finished(self, name: str, outcome: str) -> None:
        self.flying.pop(name, None)
        self.ended += 1
        self.console.say(f"[{self.ended} of {self.num_runs}] {name}: {outcome}{self.left()}")

    def left(self) -> str:
        """How long the rest takes, at the pace so far of runs and of steps within them."""
        shares = [known["step"] / known["num_steps"] for _, known in self.flying.values() if "num_steps" in known]
        done = self.ended + sum(shares)
        elapsed = time.monotonic() - self.start
        if self.ended == self.num_runs or elapsed < QUIET_SECONDS or done / self.num_runs < MIN_SHARE:
            return ""
        return f"; about {duration(elapsed / done * (self.num_runs - done))} left"

    def estimate(self) -> None:
        """Once, after the first steps, say how long all of it will take, and how much of the disk at most."""
        if not self.estimated and (left := self.left()):
            self.estimated = True
            known = [details["stored_bytes"] for _, details in self.flying.values() if "stored_bytes" in details]
            disk = self.decoded_bytes + self.num_runs * max(known, default=0)
            self.console.say(f"{self.num_runs} runs{left}; disk: up to {disk / 1e6:,.0f} MB")

    def redraw(self) -> None:
        parts = []
        for name, (_, details) in self.flying.items():
            text = name
            if "num_steps" in details:
                text += f" step {details['step']}/{details['num_steps']}"
            if details.get("loss") is not None:
                text += f" loss {details['loss']:.3f}"
            if details.get("val_score") is not None:
                text += f" val {details['val_score']:.3f}"
            parts.append(text)
        # What matters most comes first: a narrow terminal cuts the rest.
        self.console.show(f"run {self.ended + 1} of {self.num_runs}{self.left()}: {' | '.join(parts)}")
