"""What is going on, to a line that renews itself on a terminal, or to plain lines elsewhere; always on stderr."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from zoo.errors import clean

Progress = Callable[[int, int | None], None]  # done so far, of how many (None: unknown)

QUIET_SECONDS = 1.0  # what takes less says nothing
# Away from a terminal something is said every ten seconds at the latest, on a machine with five times too much to do.
PLAIN_SECONDS = 5.0
BEAT_SECONDS = 1.0
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
    """Writes messages and progress."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    live: str = ""
    last: float = 0.0
    said: float = field(default_factory=lambda: time.monotonic())  # when a line was last written that stays
    lock: threading.RLock = field(default_factory=threading.RLock)  # of the thread that `counting` may start

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, message: str) -> None:
        """One line that stays."""
        with self.lock:
            self.said = time.monotonic()
            self.erase()
            self.write(clean(message) + "\n")
            self.draw()

    def warn(self, message: str) -> None:
        self.say(f"zoo: warning: {message}")

    def show(self, line: str) -> None:
        """A line that the next one replaces. Where the stream is no terminal, one that stays, after five seconds."""
        with self.lock:
            now = time.monotonic()
            if not self.is_terminal:
                if now - self.said >= PLAIN_SECONDS:
                    self.say(line)
                return
            self.live = clean(line)
            if now - self.last >= REFRESH_SECONDS:
                self.last = now
                self.erase()
                self.draw()

    def write(self, text: str) -> None:
        """A terminal that was closed, or a reader that left, is no reason to end a bench: all goes nowhere then."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            with suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def erase(self) -> None:
        if self.is_terminal:
            self.write("\r\x1b[K")

    @property
    def width(self) -> int | None:
        """How many characters a line that renews itself may have; None where lines stay, and may be of any length."""
        if not self.is_terminal:
            return None
        import shutil

        return shutil.get_terminal_size().columns - 1

    def draw(self) -> None:
        if self.live and self.is_terminal:
            self.write(self.live[: self.width])

    def done(self) -> None:
        """Drop the line that renews itself."""
        with self.lock:
            self.erase()
            self.live = ""

    @contextmanager
    def counting(
        self, what: str, unit: str = "", *, alone: bool = True
    ) -> Iterator[Callable[[int | None, int | None], None]]:
        """Yield `progress(done, total)` and show how far it is; silent for the first second.

        `alone`: a thread repeats what is known where nothing calls `progress`, as in an import. It must be False where
        processes are forked: a fork takes no thread along, but the locks that it holds.
        """
        start = time.monotonic()
        known: tuple[int | None, int | None] = (None, None)

        def progress(done: int | None, total: int | None) -> None:
            nonlocal known
            known = (done, total)
            beat()

        def beat() -> None:
            waited = time.monotonic() - start
            if waited >= QUIET_SECONDS:
                self.show(f"{what}: {describe_wait(*known, unit, waited)}")

        def keep_beating() -> None:
            while not ended.wait(BEAT_SECONDS):
                beat()

        ended = threading.Event()
        thread = threading.Thread(target=keep_beating, daemon=True)
        if alone:
            thread.start()
        try:
            yield progress
        finally:
            ended.set()
            if alone:
                thread.join()
            self.done()


def describe_wait(done: int | None, total: int | None, unit: str, seconds: float) -> str:
    """How far something is and how long it will take, or how long it has taken where neither is known."""
    if done is None:
        return duration(seconds)
    left = f", {duration(seconds * (total - done) / done)} left" if total and done >= MIN_SHARE * total > 0 else ""
    return f"{describe_amount(done, total, unit)}{left}"


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

    def put_off(self, name: str) -> None:
        """It was started and is not ours to carry out, for now."""
        self.flying.pop(name, None)
        self.redraw()

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
        self.console.show(self.fit(self.console.width))

    def fit(self, width: int | None) -> str:
        """The line; where it is too long for a narrow terminal, without what matters least, and never without steps.

        What goes first is how the time left is worded, then the name of the dataset, loss and val score, the model.
        """
        line = self.line()
        for spared in range(len(SPARED) + 1):
            if width is None or len(clean(line)) <= width:
                break
            line = self.line(short=True, spared=spared)
        return line  # of many runs in flight not all have room: the terminal's edge cuts the last ones

    def line(self, *, short: bool = False, spared: int = 0) -> str:
        left, shown = self.left(), [k for k in PROGRESS_FIELDS if k not in SPARED[:spared]]
        parts = [" ".join(filter(None, map(tell_run(name, *known).get, shown))) for name, known in self.flying.items()]
        number = f"run {self.ended + 1}{'/' if short else ' of '}{self.num_runs}"
        left = left.replace("; about", ",") if short else left
        return f"{number}{left}: {' | '.join(parts)}"


PROGRESS_FIELDS = ("dataset", "model", "seed", "step", "loss", "val")
SPARED = ("dataset", "loss", "val", "model")  # on a narrow terminal, the first first


def tell_run(name: str, begun: float, details: Mapping[str, Any]) -> dict[str, str]:
    """What the line says of a run in flight, by SHOWN; a name that is none of a run's stands for the model."""
    found = RUN_NAME.fullmatch(name)
    told = found.groupdict() if found else {"model": name}
    if "num_steps" in details:
        told["step"] = f"step {details['step']}/{details['num_steps']}"
    elif (waited := time.monotonic() - begun) >= QUIET_SECONDS:
        told["step"] = f"starting, {duration(waited)}"
    if details.get("loss") is not None:
        told["loss"] = f"loss {details['loss']:.3f}"
    if details.get("val_score") is not None:
        told["val"] = f"val {details['val_score']:.3f}"
    return told


RUN_NAME = re.compile(r"(?P<dataset>\S+) (?P<model>.+) (?P<seed>seed \d+( fold \d+)?)")  # assignments.name_work
