"""An executor that carries out every run as a Slurm job, through submitit."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo import Engine, Event, ExecutorSpec, JobState, RemoteWork, ZooError, execute_on, hookimpl

MAX_TIMEOUTS = 1_000  # of a run, which continues in the next job
POLL_SECONDS = 1.0
SAVE_SECONDS = 30.0  # for a run to save its state before its job ends
SUBMIT_SECONDS = 120.0  # for one call of `sbatch`
RETRY_SECONDS = (2.0, 10.0, 30.0, 60.0)  # before each further call of `sbatch` after one that failed
IN_QUEUE = frozenset({"PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED"})  # states of Slurm
QUERY_SECONDS = 30.0  # between two queries of Slurm while jobs wait


class Command:
    """What a job runs: a command. Before the job's time limit or preemption it saves its state and is queued again."""

    process: subprocess.Popen[bytes] | None = None

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

        if self.process:  # else the signal came while it was started
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


class Slurm(Engine):
    """Jobs of Slurm, or of another cluster of submitit. Works that are submitted together are one array."""

    max_jobs = 1_000  # Slurm refuses a larger array, unless its MaxArraySize is raised from 1,001

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.last_query = float("-inf")  # for the states of waiting jobs, of the monotonic clock

    def submit(self, works: Sequence[RemoteWork[Any]]) -> list[Any]:
        """Submit an array of jobs, which start in this order; after a failure of `sbatch` try again, some times."""
        from submitit.core.utils import FailedJobError

        for seconds in (*RETRY_SECONDS, None):
            try:
                with limit_time(SUBMIT_SECONDS), self.executor.batch():
                    jobs = [self.executor.submit(Command(work.command, work.log)) for work in works]
            except (FailedJobError, OSError) as error:
                if seconds is None:
                    cause = error.__cause__ if isinstance(error.__cause__, TimeoutError) else error
                    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
                    raise ZooError(
                        f"sbatch failed {len(RETRY_SECONDS) + 1} times: {lines[-1] if lines else type(error).__name__}",
                        fix="correct ZOO_SLURM, or wait until Slurm works, and start the bench again: it continues",
                        code="executor-failed",
                    ) from error
                time.sleep(seconds)
            else:
                return jobs
        raise AssertionError

    def states(self, handles: Sequence[Any]) -> list[JobState]:
        """submitit's states are up to ten minutes old. While jobs wait, Slurm is asked more often."""
        is_old = time.monotonic() - self.last_query > QUERY_SECONDS
        if is_old and any(job.state in IN_QUEUE for job in handles):
            handles[0].get_info(mode="force")  # of all jobs at once
            self.last_query = time.monotonic()
        return ["ended" if job.done() else "waiting" if job.state in IN_QUEUE else "running" for job in handles]

    def cancel(self, handles: Sequence[Any]) -> None:
        for job in handles:
            job.cancel(check=False)

    def describe_end(self, handle: Any) -> str:
        return f"its output is {handle.paths.stderr}"


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer; without a limit on Windows, and outside the main thread."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def execute(
    works: Sequence[Any], carry_out: Callable[..., None], *, folder: Path, **options: Any
) -> Iterator[Event[Any]]:
    """Carry out works as Slurm jobs, with the parameters of `$ZOO_SLURM`."""
    import submitit

    parameters = read_parameters(os.environ.get("ZOO_SLURM", ""))
    executor = submitit.AutoExecutor(
        folder / "submitit", parameters.pop("cluster", "slurm"), slurm_max_num_timeout=MAX_TIMEOUTS
    )
    try:
        executor.update_parameters(**parameters)
    except (AssertionError, NameError) as error:  # a wrong type, an unknown name
        raise ZooError(f"ZOO_SLURM: {error}", fix="give parameters of submitit's `update_parameters`") from error
    yield from execute_on(Slurm(executor), works, carry_out, folder=folder, **options)


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    return [ExecutorSpec(name="slurm", execute=execute, title="a Slurm job for every run", remote=True)]
