"""Run and time commands: ratios of two alternatives in turns, and absolute figures."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

Value = TypeVar("Value")
MAX_FOREIGN = 0.15  # share of the machine's CPU time used by other programs; above it a round is void


class MeasurementError(Exception):
    """A line, or one of its rows, that cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class Watched(Generic[Value]):
    """A measurement, and the share of the machine that other programs used meanwhile."""

    value: Value
    foreign: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An absolute figure, measured once or several times."""

    values: tuple[float, ...]
    unit: Literal["s", ""]
    foreign: float

    @property
    def value(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Two alternatives measured in turns: the median of the rounds' ratios, and the medians of both."""

    pairs: tuple[tuple[float, float], ...]  # ours and theirs, one pair per round
    gain: bool  # theirs / ours instead of ours / theirs, for seconds
    foreign: float  # share of other programs in the worst valid round

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(theirs / ours if self.gain else ours / theirs for ours, theirs in self.pairs)

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def ours(self) -> float:
        return statistics.median(ours for ours, _ in self.pairs)

    @property
    def theirs(self) -> float:
        return statistics.median(theirs for _, theirs in self.pairs)

    def without(self, ours: float, theirs: float) -> Ratio:
        """Subtract constant times from both alternatives."""
        return replace(self, pairs=tuple((a - ours, b - theirs) for a, b in self.pairs))


def take_turns(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    rounds: int,
    *,
    faster: Literal["share", "lower"],
    any_machine: bool = False,
) -> Ratio:
    """Measure ABAB, and repeat rounds that other programs disturbed, unless `any_machine`.

    The ratio is ours / theirs, or theirs / ours with `faster="lower"`, for seconds. Raises MeasurementError if all
    rounds were disturbed.
    """
    pairs: list[tuple[float, float]] = []
    worst, void = 0.0, 0
    while len(pairs) < rounds and void <= rounds:
        one, other = watched(ours), watched(theirs)
        foreign = max(one.foreign, other.foreign)
        if foreign > MAX_FOREIGN and not any_machine:
            void += 1
            print(f"    void: others used {foreign:.0%} of the machine", flush=True)
            continue
        pairs.append((one.value, other.value))
        worst = max(worst, foreign)
    if not pairs:
        raise MeasurementError("all rounds were disturbed by other programs")
    return Ratio(pairs=tuple(pairs), gain=faster == "lower", foreign=worst)


def watched(measure: Callable[[], Value]) -> Watched[Value]:
    """Measure once, with the share of the machine's CPU time that other programs used; 0 on systems without /proc."""
    busy, own, start = machine_seconds(), own_seconds(), time.perf_counter()
    value = measure()
    elapsed = time.perf_counter() - start
    if busy is None:
        return Watched(value=value, foreign=0.0)
    foreign = (machine_seconds() or 0.0) - busy - (own_seconds() - own)
    return Watched(value=value, foreign=max(0.0, foreign) / (elapsed * (os.cpu_count() or 1)))


def machine_seconds() -> float | None:
    """CPU seconds of all processes since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    return sum(
        part.ru_utime + part.ru_stime
        for part in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def complete(
    command: Sequence[object], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit status."""
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return its stdout. Raises MeasurementError if its exit status is not 0."""
    done = complete(command, environment)
    if done.returncode:
        raise failure(done)
    return done.stdout


def failure(done: subprocess.CompletedProcess[str]) -> MeasurementError:
    """The error for a command that failed: its last line of output first, then the command and the rest."""
    lines = done.stderr.strip().splitlines() or ["no message"]
    command = " ".join(map(str, done.args))
    return MeasurementError(f"{lines[-1]}\n{command}\nended with {done.returncode}:\n{done.stderr[-2000:]}")


def run_json(command: Sequence[object], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command and parse the last line of its stdout as JSON."""
    document: dict[str, Any] = json.loads(run(command, environment).strip().splitlines()[-1])
    return document


def seconds_of(command: Sequence[object], environment: Mapping[str, str] | None = None) -> float:
    start = time.perf_counter()
    run(command, environment)
    return time.perf_counter() - start
