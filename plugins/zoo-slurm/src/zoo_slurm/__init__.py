"""An executor that carries out every run as a Slurm job, through submitit."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import Event, ExecutorSpec, RemoteWork, ZooError, hookimpl

MAX_JOBS = 3  # for one run, whose jobs vanish
MAX_TIMEOUTS = 1_000  # of a run, which continues in the next job
POLL_SECONDS = 1.0
SAVE_SECONDS = 30.0  # for a run to save its state before its job ends
RETRY_SECONDS = (2.0, 10.0, 30.0, 60.0)  # before each further call of `sbatch` after one that failed
IN_QUEUE = frozenset({"PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED"})  # states of Slurm
DEFAULTS: dict[str, Any] = {
    "fits": lambda work, device: True,  # noqa: ARG005
    "more": lambda: None,
    "timeout": None,
    "fail_fast": False,
}


class Command:
    """What a job runs: a command. Before the job's time limit or preemption it saves its state and is queued again."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.words, self.log = list(words), log

    def __call__(self) -> int:
        self.process = subprocess.Popen(self.words, preexec_fn=PREPARE)
        # `checkpoint` interrupts this call: in `wait()` it would hold the lock that `wait` needs there
        while self.process.poll() is None:
            time.sleep(POLL_SECONDS)
        return self.process.returncode

    def checkpoint(self) -> Any:
        """Called by submitit in the job, when Slurm signals its end."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()  # training saves its state
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVE_SECONDS)
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write("\n" + json.dumps({"kind": "progress", "requeued": True}) + "\n")
        return DelayedSubmission(Command(self.words, self.log))


def ignore_warning() -> None:
    """Ignore the signal before the time limit, which Slurm sends to all processes of a job: it would end the run."""
    for name in ("SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


PREPARE = ignore_warning if os.name == "posix" else None


@dataclass(eq=False)
class Entry:
    """A run, its current job, and the number of jobs that it has had."""

    remote: RemoteWork[Any]
    job: Any
    num_jobs: int = 1
    began: float = 0.0  # when its worker began, in seconds of the monotonic clock; 0: it waits
    spent: float = 0.0  # seconds of its earlier workers
    has_started: bool = False

    @property
    def seconds(self) -> float:
        """How long its workers have run, without the time in the queue."""
        return self.spent + (time.monotonic() - self.began if self.began else 0.0)

    def pause(self) -> None:
        """Stop the clock: the run is in the queue again."""
        self.spent, self.began = self.seconds, 0.0


def read_parameters(text: str) -> dict[str, Any]:
    """Parse `$ZOO_SLURM`: parameters of submitit, separated by spaces: `slurm_partition=gpu timeout_min=240`."""
    parameters: dict[str, Any] = {"timeout_min": 60}
    for word in shlex.split(text):
        name, sign, value = word.partition("=")
        if not sign:
            raise ZooError(f"ZOO_SLURM: {word!r} is not NAME=VALUE", fix="export ZOO_SLURM='slurm_partition=gpu'")
        kind = int if value.isdecimal() else float if re.fullmatch(r"\d+\.\d+", value) else str
        parameters[name] = kind(value)
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
    executor = submitit.AutoExecutor(
        folder / "submitit", parameters.pop("cluster", "slurm"), slurm_max_num_timeout=MAX_TIMEOUTS
    )
    try:
        executor.update_parameters(**parameters)
    except (AssertionError, NameError) as error:  # a wrong type, an unknown name
        raise ZooError(f"ZOO_SLURM: {error}", fix="give parameters of submitit's `update_parameters`") from error
    options = {**DEFAULTS, **options}
    fits, more, timeout = options["fits"], options["more"], options["timeout"]

    def submit(works: Sequence[Any]) -> list[Entry]:
        if not works:
            return []
        remotes = [
            RemoteWork(work, carry_out, in_job(next(each for each in devices if fits(work, each))), folder)
            for work in works
        ]
        jobs = submit_jobs(executor, remotes)
        return [Entry(remote, job) for remote, job in zip(remotes, jobs, strict=True)]

    entries, pending = submit(works), True
    try:
        while entries or pending:
            if pending:
                ready = more()
                pending = ready is not None
                entries += submit(ready or ())
            for entry in list(entries):
                if entry not in entries:  # cancelled after another one failed
                    continue
                is_done = entry.job.done()  # before reading: what it wrote last is then read, too
                for event in follow(entry, executor, timeout, is_done=is_done):
                    yield event
                    if event.kind == "ended":
                        entries.remove(entry)
                        entry.remote.remove()
                        if options["fail_fast"] and event.status != "ok":
                            pending = False
                            entries = cancel_waiting(entries)
            if begun := [entry for entry in entries if entry.began]:
                yield Event(work=begun[0].remote.work, kind="progress")
            time.sleep(POLL_SECONDS)
    finally:
        for entry in entries:
            entry.job.cancel(check=False)
            entry.remote.remove()


def submit_jobs(executor: Any, remotes: Sequence[RemoteWork[Any]]) -> list[Any]:
    """Submit one array of jobs, which start in this order; after a failure of `sbatch` try again, some times."""
    from submitit.core.utils import FailedJobError

    for seconds in (*RETRY_SECONDS, None):
        try:
            with executor.batch():
                jobs = [executor.submit(Command(remote.command, remote.log)) for remote in remotes]
        except (FailedJobError, OSError) as error:
            if seconds is None:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise ZooError(
                    f"sbatch failed {len(RETRY_SECONDS) + 1} times: {lines[-1] if lines else type(error).__name__}",
                    fix="correct ZOO_SLURM, or wait until Slurm works, and start the bench again: it continues",
                    code="executor-failed",
                ) from error
            time.sleep(seconds)
        else:
            return jobs
    raise AssertionError


def cancel_waiting(entries: Sequence[Entry]) -> list[Entry]:
    """Cancel the jobs of runs that have not begun; return the others."""
    for entry in entries:
        if not entry.has_started:
            entry.job.cancel(check=False)
            entry.remote.remove()
    return [entry for entry in entries if entry.has_started]


def follow(entry: Entry, executor: Any, timeout: float | None, *, is_done: bool) -> Iterator[Event[Any]]:
    """Yield the new events of a run; submit a vanished job again."""
    work = entry.remote.work
    for event in entry.remote.events():
        if event.details.get("requeued"):
            entry.pause()
            continue
        if not entry.has_started:
            entry.has_started = True
            yield Event(work=work, kind="started")
        entry.began = entry.began or time.monotonic()
        yield event
    if entry.remote.has_ended:
        return
    if entry.began and is_in_queue(entry.job):  # of a node that failed, which tells nobody
        entry.pause()
    if timeout is not None and entry.seconds > timeout:
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
        entry.pause()
        (entry.job,) = submit_jobs(executor, [entry.remote])


def is_in_queue(job: Any) -> bool:
    """Whether a job waits now. submitit's states are up to a minute old: a job that has just begun seems to wait."""
    if job.state not in IN_QUEUE:
        return False
    job.get_info(mode="force")
    return job.state in IN_QUEUE


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    return [ExecutorSpec(name="slurm", execute=execute, title="a Slurm job for every run", remote=True)]
