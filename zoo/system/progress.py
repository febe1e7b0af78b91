"""Messages and progress on stderr: one updating line on a terminal, plain lines in a file or pipe."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from zoo.errors import clean

Progress = Callable[[int, int | None], None]  # done, total (None if unknown)

QUIET_SECONDS = 1.0  # no progress is shown for work that takes less
# Without a terminal a line is written every ten seconds at the latest, even on a machine with five times too much work.
PLAIN_SECONDS = 5.0
BEAT_SECONDS = 1.0
REFRESH_SECONDS = 0.2
MIN_SHARE = 0.02  # of the work must be done before the time left is estimated


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
    """Write messages and progress to a stream."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    live: str = ""  # the updating line
    last_draw: float = 0.0
    last_message: float = field(default_factory=lambda: time.monotonic())  # when the last permanent line was written
    lock: threading.RLock = field(default_factory=threading.RLock)  # `counting` may start a thread

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, message: str) -> None:
        """Write a permanent line."""
        with self.lock:
            self.last_message = time.monotonic()
            self.erase()
            self.write(clean(message) + "\n")
            self.draw()

    def warn(self, message: str) -> None:
        self.say(f"zoo: warning: {message}")

    def show(self, line: str) -> None:
        """Replace the updating line. Without a terminal, write a permanent line at most every five seconds."""
        with self.lock:
            now = time.monotonic()
            if not self.is_terminal:
                if now - self.last_message >= PLAIN_SECONDS:
                    self.say(line)
                return
            self.live = clean(line)
            if now - self.last_draw >= REFRESH_SECONDS:
                self.last_draw = now
                self.erase()
                self.draw()

    def write(self, text: str) -> None:
        """Write text. If the terminal or the reader is closed, discard all output instead of ending the bench."""
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
        """The width of the updating line in characters; None without a terminal, where lines may have any length."""
        if not self.is_terminal:
            return None
        import shutil

        return shutil.get_terminal_size().columns - 1

    def draw(self) -> None:
        if self.live and self.is_terminal:
            self.write(self.live[: self.width])

    def done(self) -> None:
        """Remove the updating line."""
        with self.lock:
            self.erase()
            self.live = ""

    @contextmanager
    def counting(
        self, what: str, unit: str = "", *, alone: bool = True
    ) -> Iterator[Callable[[int | None, int | None], None]]:
        """Yield a function `progress(done, total)` that shows the progress of `what` after the first second.

        With `alone` a thread updates the line while nothing calls `progress`, as during an import. Set it to False
        where processes are forked: a child inherits the locks of the thread, but not the thread.
        """
        start = time.monotonic()
        state: tuple[int | None, int | None] = (None, None)

        def progress(done: int | None, total: int | None) -> None:
            nonlocal state
            state = (done, total)
            beat()

        def beat() -> None:
            elapsed = time.monotonic() - start
            if elapsed >= QUIET_SECONDS:
                self.show(f"{what}: {describe_wait(*state, unit, elapsed)}")

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
    """Describe the progress and the time left, or the elapsed seconds if the progress is unknown."""
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


@dataclass(frozen=True, kw_only=True)
class RunName:
    """The parts of a run's name in the progress line."""

    dataset: str
    model: str
    seed: str  # "seed 0 fold 3"

    def __str__(self) -> str:
        return f"{self.dataset} {self.model} {self.seed}"


@dataclass(eq=False)
class BenchProgress:
    """The progress of all runs as one line: run k of n, step, loss, val score, time left."""

    console: Console
    num_runs: int
    decoded_bytes: int = 0
    start: float = field(default_factory=time.monotonic)
    ended: int = 0
    last_end: float = 0.0  # when a run ended last
    estimated: bool = False
    active: dict[RunName, tuple[float, dict[str, Any]]] = field(default_factory=dict)  # start and details by run name

    def started(self, name: RunName) -> None:
        self.active[name] = (time.monotonic(), {})
        self.redraw()

    def progressed(self, name: RunName, details: dict[str, Any]) -> None:
        if details or name in self.active:  # else it waits in the queue of an engine
            start, earlier = self.active.get(name, (time.monotonic(), {}))
            self.active[name] = (start, {**earlier, **details})
            self.estimate()
        self.redraw()

    def finished(self, name: RunName, outcome: str) -> None:
        self.active.pop(name, None)
        self.ended += 1
        self.last_end = time.monotonic()
        self.console.say(f"[{self.ended} of {self.num_runs}] {name}: {outcome}{self.time_left()}")

    def put_off(self, name: RunName) -> None:
        """Remove a run that started, but that another process is carrying out."""
        self.active.pop(name, None)
        self.redraw()

    def time_left(self) -> str:
        """Estimate the time left from the pace of runs so far, but no less than any active run needs at its own."""
        shares = [run["step"] / run["num_steps"] for _, run in self.active.values() if "num_steps" in run]
        done = self.ended + sum(shares)
        elapsed = time.monotonic() - self.start
        if self.ended == self.num_runs or elapsed < QUIET_SECONDS or done / self.num_runs < MIN_SHARE:
            return ""
        now = time.monotonic()
        own = [
            (now - start) * (run["num_steps"] / run["step"] - 1)
            for start, run in self.active.values()
            if run.get("step") and "num_steps" in run
        ]
        return f"; about {duration(max(elapsed / done * (self.num_runs - done), *own, 0.0))} left"

    def estimate(self) -> None:
        """After the first steps, write once how long all runs will take, and the most disk space they need."""
        if not self.estimated and (left := self.time_left()):
            self.estimated = True
            sizes = [details["stored_bytes"] for _, details in self.active.values() if "stored_bytes" in details]
            disk = self.decoded_bytes + self.num_runs * max(sizes, default=0)
            self.console.say(f"{self.num_runs} runs{left}; disk: up to {disk / 1e6:,.0f} MB")

    def redraw(self) -> None:
        self.console.show(self.fit(self.console.width))

    def fit(self, width: int | None) -> str:
        """Shorten the line for a narrow terminal: first shorten the time left, then drop fields in DROP_ORDER."""
        line = self.line()
        for num_dropped in range(len(DROP_ORDER) + 1):
            if width is None or len(clean(line)) <= width:
                break
            line = self.line(short=True, num_dropped=num_dropped)
        return line  # with many active runs the terminal cuts off the last ones

    def line(self, *, short: bool = False, num_dropped: int = 0) -> str:
        if not self.active:
            num_waiting, waited = self.num_runs - self.ended, time.monotonic() - max(self.start, self.last_end)
            return f"{num_waiting} run{'s' * (num_waiting > 1)} waiting for the executor: {duration(waited)}"
        left, fields = self.time_left(), [name for name in PROGRESS_FIELDS if name not in DROP_ORDER[:num_dropped]]
        parts = [
            " ".join(filter(None, map(describe_active(name, *run).get, fields))) for name, run in self.active.items()
        ]
        number = f"run {self.ended + 1}{'/' if short else ' of '}{self.num_runs}"
        left = left.replace("; about", ",") if short else left
        return f"{number}{left}: {' | '.join(parts)}"


PROGRESS_FIELDS = ("dataset", "model", "seed", "step", "loss", "val")
DROP_ORDER = ("dataset", "loss", "val", "model")  # fields dropped on a narrow terminal, the first one first


def describe_active(name: RunName, start: float, details: Mapping[str, Any]) -> dict[str, str]:
    """The texts of an active run by PROGRESS_FIELDS."""
    texts = asdict(name)
    if "num_steps" in details:
        texts["step"] = f"step {details['step']}/{details['num_steps']}"
    elif (waited := time.monotonic() - start) >= QUIET_SECONDS:
        texts["step"] = f"starting, {duration(waited)}"
    if details.get("loss") is not None:
        texts["loss"] = f"loss {details['loss']:.3f}"
    if details.get("val_score") is not None:
        texts["val"] = f"val {details['val_score']:.3f}"
    return texts
