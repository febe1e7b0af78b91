"""Carry out works as the jobs of another engine, such as the queue of a cluster.

A plugin implements the three methods of an `Engine`; `execute_on` is the rest of its executor.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.registry.remote import RemoteWork
from zoo.system.workers import Event, ExecutorOptions, Notify, Work

MAX_JOBS_OF_WORK = 3  # for one work, whose jobs vanish
POLL_SECONDS = 1.0
JobState = Literal["waiting", "running", "ended"]


class Engine(ABC):
    """Jobs of another engine. A handle is what the engine calls a job by; `execute_on` only stores it.

    An error of `submit` or `states` ends the bench: raise a `ZooError` for what a user can fix.
    """

    max_jobs: int | None = None  # at once; None: a job for every work that is ready

    @abstractmethod
    def submit(self, works: Sequence[RemoteWork[Any]]) -> Sequence[Any]:
        """Start a job for each work, in this order, and return their handles.

        A job runs `work.command`. `work.device` is `cpu`, or a GPU as it is called in a job that sees no other one.
        """

    @abstractmethod
    def states(self, handles: Sequence[Any]) -> Sequence[JobState]:
        """The state of each job: `waiting` before it runs, also again, and `ended` when the engine is done with it."""

    @abstractmethod
    def cancel(self, handles: Sequence[Any]) -> None:
        """End jobs, also ended ones. A command that receives SIGTERM some seconds before saves its training."""

    def describe_end(self, handle: Any) -> str:  # noqa: ARG002
        """What is known about a job that ended without a result, for the error of its run."""
        return ""


@dataclass(eq=False)
class Job:
    """A work and its current job."""

    remote: RemoteWork[Any]
    handle: Any
    num_jobs: int = 1
    has_started: bool = False  # some worker has begun the work
    has_worker: bool = False  # a worker of the current job has
    seconds: float = 0.0  # for which workers have carried it out, without the time in a queue
    last: float = 0.0  # when `seconds` was updated, of the monotonic clock; 0: the clock is stopped

    def count(self, state: JobState) -> None:
        """Add the time since the last call, if a worker carried out the work then."""
        now = time.monotonic()
        self.seconds += now - self.last if self.last else 0.0
        self.last = now if self.has_worker and state != "waiting" else 0.0


def execute_on(
    engine: Engine, works: Sequence[Work], carry_out: Callable[[Work, str, Notify], None], **options: Any
) -> Generator[Event[Work], None, None]:
    """Submit a job for every work, and yield the events that its worker writes to the shared folder.

    `options` are those that a remote executor receives. A work whose job ends without its end gets another job, and
    continues from the last saved state, unless a worker still carries it out: of a job that the engine has lost.
    """
    folder: Path = options.pop("folder")
    settings: ExecutorOptions[Work] = ExecutorOptions(**{"reuse": False, **options})
    waiting, jobs, pending = list(works), list[Job](), True

    def write_work(work: Work) -> RemoteWork[Work]:
        device = next(device for device in settings.devices if settings.fits(work, device))
        return RemoteWork(work, carry_out, name_in_job(device), folder)

    try:
        while waiting or jobs or pending:
            if pending:
                ready = settings.more()
                pending = ready is not None
                waiting += ready or ()
            if batch := take_batch(waiting, engine.max_jobs, len(jobs)):
                jobs += start_jobs(engine, map(write_work, batch))
            states = engine.states([job.handle for job in jobs]) if jobs else ()
            for job, state in zip(list(jobs), states, strict=True):
                if job not in jobs:  # cancelled after another one failed
                    continue
                for event in follow(job, state, engine, settings.timeout):
                    yield event
                    if event.kind == "ended":
                        jobs.remove(job)
                        job.remote.remove()
                        if settings.fail_fast and event.status != "ok":
                            pending = False
                            waiting.clear()
                            jobs = cancel_waiting(engine, jobs)
            if jobs:  # of a work that runs, if there is one: all may wait in a queue
                job = max(jobs, key=lambda job: job.has_worker)
                yield Event(work=job.remote.work, kind="progress")
            if waiting or jobs or pending:
                time.sleep(POLL_SECONDS)
    finally:
        cancel(engine, jobs)


def name_in_job(device: str) -> str:
    """The name of a device in a job that sees its own GPU only: `cuda:3` is `cuda:0` there."""
    kind, colon, _ = device.partition(":")
    return f"{kind}:0" if colon else kind


def take_batch(waiting: list[Work], max_jobs: int | None, num_jobs: int) -> list[Work]:
    """Remove and return the works that can be submitted now."""
    batch = waiting if max_jobs is None else waiting[: max(0, max_jobs - num_jobs)]
    batch = list(batch)
    del waiting[: len(batch)]
    return batch


def start_jobs(engine: Engine, written: Iterable[RemoteWork[Any]]) -> list[Job]:
    """Submit a job for each work. Without the jobs no file of a work remains."""
    remotes: list[RemoteWork[Any]] = []
    try:
        remotes.extend(written)  # which writes them: the disk may be full
        handles = engine.submit(remotes)
    except BaseException:
        for remote in remotes:  # a job that the engine took after all then has no work
            remote.remove()
        raise
    return [Job(remote, handle) for remote, handle in zip(remotes, handles, strict=True)]


def follow(job: Job, state: JobState, engine: Engine, timeout: float | None) -> Iterator[Event[Any]]:
    """Yield the new events of a work; submit a vanished job again."""
    work = job.remote.work
    is_lost = state == "ended" and not job.remote.is_taken  # before reading: what was written last is then read, too
    for event in job.remote.events():
        job.has_worker = not event.details.get("requeued")
        if not job.has_worker:
            continue
        if not job.has_started:
            job.has_started = True
            yield Event(work=work, kind="started")
        yield event
    if job.remote.has_ended:
        return
    job.count(state)
    if timeout is not None and job.seconds > timeout:
        engine.cancel([job.handle])
        message = f"took longer than {timeout:g} s"
        yield Event(work=work, kind="ended", status="timeout", code="timeout", message=message)
    elif is_lost and job.num_jobs == MAX_JOBS_OF_WORK:
        end = engine.describe_end(job.handle)
        message = f"{MAX_JOBS_OF_WORK} jobs ended without a result" + (f"; of the last one: {end}" if end else "")
        yield Event(work=work, kind="ended", status="crashed", code="crashed", message=message)
    elif is_lost:
        (job.handle,) = engine.submit([job.remote])
        job.num_jobs += 1
        job.has_worker, job.last = False, 0.0


def cancel_waiting(engine: Engine, jobs: Sequence[Job]) -> list[Job]:
    """Cancel the jobs of works that have not begun; return the others."""
    cancel(engine, [job for job in jobs if not job.has_started])
    return [job for job in jobs if job.has_started]


def cancel(engine: Engine, jobs: Sequence[Job]) -> None:
    """Cancel jobs and remove the files of their works."""
    try:
        if jobs:
            engine.cancel([job.handle for job in jobs])
    finally:
        for job in jobs:
            job.remote.remove()
