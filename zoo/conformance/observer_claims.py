"""Checks of observers: the events of a small bench, in the process of the check."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_spec_fields, expect, step
from zoo.specs.observer import EVENTS

SIMILAR = 0.85  # by difflib: `run_finish` and `on_run_finished`, but not `finish_run`
RUN = {
    "id": "0123456789abcdef",
    "dataset": "phantom",
    "tested_on": None,
    "model": "resnet18",
    "weights": "a1_in1k",
    "init": "pretrained",
    "protocol": "finetune@1",
    "seed": 0,
    "fold": 0,
    "image_size": 224,
    "precision": "float32",
    "device_kind": "cpu",
    "purpose": "leaderboard",
    "settings": {"name": "finetune", "version": 1, "epochs": 3, "lr": 1e-3, "layers": [1, 2], "grid": None},
    "folder": "runs/phantom/resnet18-0123456789ab",
}
OTHER_RUN = {
    **RUN,
    "id": "fedcba9876543210",
    "seed": 1,
    "weights": None,
    "folder": "runs/phantom/resnet18-fedcba987654",
}
FIRST = {
    "event": "bench_started",
    "suite": "quickstart",
    "datasets": ["phantom"],
    "models": ["resnet18"],
    "protocols": ["finetune@1"],
    "device": "cpu",
    "num_runs": 2,
    "num_done": 0,
}
ROUND = {
    "event": "round_finished",
    "run": RUN,
    "step": 2,
    "num_steps": 4,
    "loss": 0.7,
    "val_score": 0.6,
    "val_loss": None,
}
FINISHED = {
    "event": "run_finished",
    "run": RUN,
    "status": "ok",
    "error": None,
    "scores": {
        "auroc": {"value": 0.81, "low": 0.74, "high": 0.87},
        "sensitivity": {"value": None, "low": None, "high": None},
    },
    "val_score": 0.8,
    "cost": {"train_seconds": 1.5},
}
DIVERGED = {"code": "diverged", "message": "the training loss is nan by step 3 of 4", "fix": "a lower learning rate"}
FAILED = {
    **FINISHED,
    "run": OTHER_RUN,
    "status": "failed",
    "error": DIVERGED,
    "scores": {},
    "val_score": None,
    "cost": {},
}
LAST = {"event": "bench_finished", "outcome": "finished", "runs": {"ok": 1}, "dropped_rounds": 0}
ORDINARY = (FIRST, {"event": "run_started", "run": RUN}, ROUND, {**ROUND, "step": 4, "val_score": None}, FINISHED, LAST)
# A run that fails, one that cannot begin, Ctrl-C while one trains, and a bench that has nothing to do.
UNHAPPY = {
    "run that fails": (FIRST, {"event": "run_started", "run": OTHER_RUN}, FAILED, {**LAST, "runs": {"failed": 1}}),
    "run that does not begin": (FIRST, FAILED, {**LAST, "runs": {"failed": 1}}),
    "bench that is interrupted": (
        *(FIRST, {"event": "run_started", "run": RUN}, ROUND),
        {**LAST, "outcome": "interrupted", "runs": {}, "dropped_rounds": 3},
    ),
    "bench without runs": ({**FIRST, "num_runs": 0, "num_done": 2}, {**LAST, "runs": {}}),
}


@contextmanager
def results_folder() -> Iterator[str]:
    """A temporary folder, which is also the working folder, so that the user's results stay as they are.

    An observer that writes to a place in its environment, such as a server, writes to that place here, too.
    """
    before = Path.cwd()
    with TemporaryDirectory(prefix="zoo-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def send(subject: CheckedSpec, events: Sequence[dict[str, Any]], what: str) -> None:
    """Start an observer and call its methods with events, as `zoo bench` does in the observer's process."""
    name = f"observer {subject.spec.name!r}"
    with results_folder() as folder:
        observer = start_observer(subject)
        for event in events:
            sent = {**event, "results": folder} if event["event"] == "bench_started" else event
            if handle := getattr(observer, event["event"], None):
                with step(f"{name}: `{event['event']}` of {what}"):
                    handle(sent)


def start_observer(subject: CheckedSpec) -> Any:
    with step(f"observer {subject.spec.name!r}: starting it"):
        return subject.spec.start()


def start_or_skip(subject: CheckedSpec) -> Any:
    """The observer. Raises Inapplicable if it cannot start, which `observer-events` reports."""
    with results_folder():
        try:
            return start_observer(subject)
        except AssertionError as error:
            raise Inapplicable(str(error)) from error


def check_observer_fields(subject: CheckedSpec) -> None:
    check_spec_fields("observer", subject.spec)


def check_methods(subject: CheckedSpec) -> None:
    """Look for a method of an event, and for a method whose name is almost that of an event."""
    observer, name = start_or_skip(subject), f"observer {subject.spec.name!r}"
    unhandled = [event for event in EVENTS if not callable(getattr(observer, event, None))]
    public = [each for each in dir(type(observer)) if not each.startswith("_") and each not in EVENTS]
    for method in public:
        for event in difflib.get_close_matches(method, unhandled, n=1, cutoff=SIMILAR):
            raise AssertionError(f"{name}: `{method}` is no event, so it is never called; did you mean `{event}`?")
    expect(
        len(unhandled) < len(EVENTS),
        f"{name}: it has no method of an event, so it receives nothing; expected one of {', '.join(EVENTS)}",
    )


def check_events(subject: CheckedSpec) -> None:
    send(subject, ORDINARY, "an ordinary bench")


def check_unhappy_events(subject: CheckedSpec) -> None:
    start_or_skip(subject)
    try:
        check_events(subject)
    except AssertionError as error:
        raise Inapplicable("it fails with an ordinary bench") from error
    for what, events in UNHAPPY.items():
        send(subject, events, f"a {what}")


OBSERVER_CHECKS = (
    Check(id="observer-fields", claim="Its fields are valid", run=check_observer_fields),
    Check(id="observer-methods", claim="It has a method for an event, and misspells none", run=check_methods),
    Check(id="observer-events", claim="It handles the events of an ordinary bench", run=check_events),
    Check(id="observer-failures", claim="It handles failed runs and interrupted benches", run=check_unhappy_events),
)
