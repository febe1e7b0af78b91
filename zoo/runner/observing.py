"""Send the events of a bench to observers, each in a process of its own.

The code of an observer never runs in this process, because this process forks the workers: a worker would inherit the
locks that a thread of the observer holds, but not the thread that releases them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from zoo.registry.context import Context
from zoo.registry.finding import reason_of
from zoo.results.runs import Run, read_run
from zoo.results.store import Result
from zoo.runner.planning import Plan
from zoo.specs.observer import ObserverSpec
from zoo.specs.suite import Suite
from zoo.system.machine import can_fork
from zoo.system.progress import Console
from zoo.system.workers import blocked_signals, leave_terminal

QUEUE_LENGTH = 1000  # events that wait for one observer
CLOSE_SECONDS = 10.0  # for the last events, of all observers together
BenchEvent = Mapping[str, Any]


@contextmanager
def observed(plan: Plan, suite: Suite, context: Context) -> Iterator[Context]:
    """Yield a context whose `emit` sends events to the requested observers; send the first and the last event."""
    names = context.settings.observers
    if not names:
        yield context
        return
    observers = Observers([context.registry.find("observer", name) for name in names], context.console)
    outcome = "failed"
    try:
        observers.emit(bench_started(plan, suite, context))
        yield replace(context, emit=observers.emit)
        outcome = "finished"
    except Exception:
        raise
    except BaseException:  # KeyboardInterrupt, or a signal to end
        outcome = "interrupted"
        raise
    finally:
        observers.close(outcome)


class Observers:
    """The observers of a bench."""

    def __init__(self, specs: Sequence[ObserverSpec], console: Console) -> None:
        self.console = console
        self.observers = [Observer(spec) for spec in specs]
        self.statuses: Counter[str] = Counter()  # of runs

    def emit(self, event: BenchEvent) -> None:
        """Queue an event for every observer, without waiting; report those that were dropped since the last call."""
        if event["event"] == "run_finished":
            self.statuses[event["status"]] += 1
        event = json.loads(json.dumps(event))  # plain data, whatever the caller keeps
        for observer in self.observers:
            observer.put(event)
        self.report()

    def report(self) -> None:
        for observer in [each for each in self.observers if each.fault]:
            self.observers.remove(observer)
            observer.kill()
            self.console.warn(f"observer {observer.name!r} was dropped: {observer.fault}")

    def close(self, outcome: str) -> None:
        """Send the last event and wait some seconds until every observer has handled its events."""
        end = time.monotonic() + CLOSE_SECONDS
        for observer in self.observers:
            observer.put({"event": "bench_finished", "outcome": outcome, "runs": dict(self.statuses)})
        for observer in self.observers:
            observer.wait(end)
            if observer.num_dropped and not observer.fault:
                self.console.warn(
                    f"observer {observer.name!r} was too slow: {observer.num_dropped} of its round events were left out"
                )
        self.report()
        for observer in self.observers:
            observer.kill()


class Observer:
    """One observer: its queue, a thread that sends one event after the other, and the process that handles them."""

    def __init__(self, spec: ObserverSpec) -> None:
        self.name = spec.name
        self.fault = ""  # why it is dropped
        self.num_dropped = 0  # round events that did not fit in the queue
        self.queue: deque[BenchEvent] = deque()
        self.changed = threading.Condition()
        context = multiprocessing.get_context("fork" if can_fork() else "spawn")
        self.connection, theirs = context.Pipe()
        self.process: Any = context.Process(  # type: ignore[attr-defined]
            target=serve_observer, args=(theirs, spec, os.getpid()), daemon=True
        )
        with blocked_signals():
            self.process.start()
        theirs.close()
        self.thread = threading.Thread(target=self.send_all, daemon=True)
        self.thread.start()

    def put(self, event: BenchEvent) -> None:
        """Queue an event; drop the oldest round event if the queue is full."""
        with self.changed:
            if event["event"] == "bench_finished":
                event = {**event, "dropped_rounds": self.num_dropped}
            self.queue.append(event)
            if len(self.queue) > QUEUE_LENGTH:
                rounds = (place for place, each in enumerate(self.queue) if each["event"] == "round_finished")
                oldest = next(rounds, None)
                if oldest is None:
                    self.fault = self.fault or f"{QUEUE_LENGTH} events wait for it"
                else:
                    del self.queue[oldest]
                    self.num_dropped += 1
            self.changed.notify()

    def send_all(self) -> None:
        """Send each event after the previous one was handled, until the last event or a fault."""
        event: BenchEvent = {"event": ""}
        try:
            while event["event"] != "bench_finished":
                with self.changed:
                    self.changed.wait_for(lambda: self.queue)
                    event = self.queue.popleft()
                self.connection.send(event)
                if fault := self.connection.recv():
                    self.fault = fault
                    return
        except (EOFError, OSError):
            self.fault = self.fault or "its process ended"

    def wait(self, end: float) -> None:
        """Wait until all events were handled, at most until `end`."""
        self.thread.join(max(0.0, end - time.monotonic()))
        if self.thread.is_alive():
            self.fault = self.fault or f"it did not finish within {CLOSE_SECONDS:g} s"

    def kill(self) -> None:
        """End its process, and the processes that it started."""
        if os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def serve_observer(connection: Connection, spec: ObserverSpec, parent: int) -> None:
    """Start an observer with the first event and call its methods; answer each event with "" or an error."""
    leave_terminal(parent)
    os.dup2(2, 1)  # stdout may be one JSON document for another program
    fault, observer = "", None
    with suppress(EOFError, OSError):  # the bench was killed
        while not fault:
            event = connection.recv()
            try:
                observer = spec.start() if observer is None else observer
                if handle := getattr(observer, event["event"], None):
                    handle(event)
            except BaseException as error:  # errors of extension modules may derive from it
                fault = reason_of(error)
            connection.send(fault)


# --- the events ------------------------------------------------------------------------------------------------------
def bench_started(plan: Plan, suite: Suite, context: Context) -> BenchEvent:
    return {
        "event": "bench_started",
        "suite": suite.label,
        "results": str(context.settings.results.resolve()),
        "datasets": sorted({run.dataset for run in plan.runs}),
        "models": list(dict.fromkeys(run.shown for run in plan.runs)),
        "protocols": [protocol.label for protocol in plan.protocols],
        "device": plan.device,
        "num_runs": len(plan.runs),
        "num_done": len(plan.done),
    }


def run_started(run: Run) -> BenchEvent:
    return {"event": "run_started", "run": describe_observed(run)}


def round_finished(run: Run, details: Mapping[str, Any]) -> BenchEvent:
    numbers = {name: details.get(name) for name in ("step", "num_steps", "loss", "val_score", "val_loss")}
    return {"event": "round_finished", "run": describe_observed(run), **numbers}


def run_finished(result: Result) -> BenchEvent:
    scores = result.scores() if result.ok else {}
    return {
        "event": "run_finished",
        "run": describe_observed(read_run(result.run)),
        "status": result.status,
        "error": result.error and dict(result.error),
        "scores": {name: {"value": s.value, "low": s.low, "high": s.high} for name, s in scores.items()},
        "val_score": result.details.get("val_score"),
        "cost": dict(result.cost),
    }


def describe_observed(run: Run) -> dict[str, Any]:
    """The facts about a run in its events; the names are those of `zoo bench --json`."""
    names = ("id", "dataset", "seed", "fold", "init", "image_size", "precision", "device_kind", "purpose")
    return {
        **{name: getattr(run, name) for name in names},
        "model": run.shown,
        "weights": run.weights_tag or None,
        "tested_on": run.tested_on or None,
        "protocol": run.protocol.label,
        "settings": run.identity["protocol"],
        "folder": run.folder.as_posix(),  # in the results folder
    }
