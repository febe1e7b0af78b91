"""Observer specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EVENTS = ("bench_started", "run_started", "round_finished", "run_finished", "bench_finished")


@dataclass(frozen=True, kw_only=True)
class ObserverSpec:
    """A receiver of the events of a bench, such as a logger. `zoo bench --observers NAME` uses it.

    `start()` returns an object with a method for each event of `EVENTS` that it needs. Each method takes the event as
    a dict of JSON values. The observer runs in a process of its own; one that raises or hangs is dropped.
    """

    name: str
    start: Callable[[], Any]
    title: str = ""
