"""An executor that carries out every run as a Slurm job, through submitit."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import Event, ExecutorSpec, RemoteWork, ZooError, hookimpl

MAX_JOBS = 3  # for one run, whose jobs vanish
POLL_SECONDS = 1.0
SAVE_SECONDS = 30.0  # for a run to save its state before its job ends
DEFAULTS: dict[str, Any] = {
    "fits": lambda work, device: True,  # noqa: ARG005
    "more": lambda: None,
    "timeout": None,
    "fail_fast": False,
}


class Command:
    """What a job runs: a command. Before the job's time limit or preemption it saves its state and is queued again."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> int:
        self.process = subprocess.Popen(self.words)
        return self.process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit in the job, when Slurm signals its end."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()  # training saves its state
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVE_SECONDS)
        return DelayedSubmission(Command(self.words))


@dataclass(eq=False)
class Entry:
    """A run, its current job, and the number of jobs that it has had."""

    remote: RemoteWork[Any]
    job: Any
    num_jobs: int = 1
    began: float = 0.0  # when its worker began, in seconds of the monotonic clock; 0: it waits


def read_parameters(text: str) -> dict[str, Any]:
    """Parse `$ZOO_SLURM`: parameters of submitit, separated by spaces: `slurm_partition=gpu timeout_min=240`."""
    parameters: dict[str, Any] = {"timeout_min": 60}
    for word in shlex.split(text):
        name, sign, value = word.partition("=")
        if not sign:
            raise ZooError(f"ZOO_SLURM: {word!r} is not NAME=VALUE", fix="export ZOO_SLURM='slurm_partition=gpu'")
        parameters[name] = int(value) if value.isdecimal() else value
    return parameters


def in_job(device: str) -> str:
    """The name of a device in a job, which sees its own GPU only: `cuda:3` is `cuda:0` there."""
    kind, colon, _ = device.partition(":")
    return f"{kind}:0" if colon else kind


def execute(
    works: Sequence[Any], carry_out: Callable[..., None], *, folder: Path, devices: Sequence[str], **options: Any
) -> Iterator[Event[Any]]:
    """Submit a job for every work and yield the events that its worker writes to the shared folder.

    A job that ends without an end of its work is submitted again, and continues from the last saved state.
    """
    import submitit

    parameters = read_parameters(os.environ.get("ZOO_SLURM", ""))
    executor = submitit.AutoExecutor(folder / "submitit", cluster=parameters.pop("cluster", "slurm"))
    executor.update_parameters(**parameters)
    options = {**DEFAULTS, **options}
    fits, more, timeout = options["fits"], options["more"], options["timeout"]

    def submit(works: Sequence[Any]) -> list[Entry]:
        if not works:
            return []
        remotes = [
            RemoteWork(work, carry_out, in_job(next(each for each in devices if fits(work, each))), folder)
            for work in works
        ]
        with executor.batch():  # one array; it starts in this order
            jobs = [executor.submit(Command(remote.command)) for remote in remotes]
        return [Entry(remote, job) for remote, job in zip(remotes, jobs, strict=True)]

    entries, pending = submit(works), True
    try:
        while entries or pending:
            if pending:
                ready = more()
                pending = ready is not None
                entries += submit(ready or ())
            for entry in list(entries):
                is_done = entry.job.done()  # before reading: what it wrote last is then read, too
                for event in follow(entry, executor, timeout, is_done=is_done):
                    yield event
                    if event.kind == "ended":
                        entries.remove(entry)
                        entry.remote.remove()
                        if options["fail_fast"] and event.status != "ok":
                            return
            if entries:
                yield Event(work=entries[0].remote.work, kind="progress")
            time.sleep(POLL_SECONDS)
    finally:
        for entry in entries:
            entry.job.cancel(check=False)


def follow(entry: Entry, executor: Any, timeout: float | None, *, is_done: bool) -> Iterator[Event[Any]]:
    """Yield the new events of a run; submit a vanished job again."""
    work = entry.remote.work
    for event in entry.remote.events():
        if not entry.began:
            yield Event(work=work, kind="started")
        entry.began = entry.began or time.monotonic()
        yield event
    if entry.remote.has_ended:
        return
    if timeout is not None and entry.began and time.monotonic() - entry.began > timeout:
        entry.job.cancel(check=False)
        message = f"took longer than {timeout:g} s"
        yield Event(work=work, kind="ended", status="timeout", code="timeout", message=message)
    elif is_done and entry.num_jobs == MAX_JOBS:
        message = (
            f"{MAX_JOBS} Slurm jobs ended without a result; the output of the last one is {entry.job.paths.stderr}"
        )
        yield Event(work=work, kind="ended", status="crashed", code="crashed", message=message)
    elif is_done:
        entry.num_jobs += 1
        entry.began = 0.0
        entry.job = executor.submit(Command(entry.remote.command))


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    return [ExecutorSpec(name="slurm", execute=execute, title="a Slurm job for every run", remote=True)]
