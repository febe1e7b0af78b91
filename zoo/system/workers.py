"""Execute work in child processes, so that a crash, a hang or lack of memory fails only one piece of work."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from zoo.errors import ZooError, clean, convert_disk_errors
from zoo.system.machine import available_memory_bytes, can_fork, descendants_of, peak_memory_of

Work = TypeVar("Work")
Notify = Callable[[dict[str, Any]], None]
EndStatus = Literal["ok", "failed", "timeout", "oom", "crashed"]

GRACE_SECONDS = 5.0
WORKER_POLL_SECONDS = 0.2
TICK_SECONDS = 1.0
TAIL_LINES = 3
TAIL_BYTES = 4096
MAX_READS = 100  # per call, because a child may print without end
ENDING = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))}


@dataclass(frozen=True, kw_only=True)
class Event(Generic[Work]):
    """An event of one piece of work: it started, made progress or ended."""

    work: Work
    kind: Literal["started", "progress", "ended"]
    status: EndStatus | None = None
    code: str = ""
    message: str = ""
    fix: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Worker(Generic[Work]):
    """A child process and its current work."""

    process: Any
    connection: Connection
    device: str
    output: Connection | None  # stdout and stderr of the child; None after they are closed
    last_output: bytes = b""
    work: Work | None = None
    started: float = 0.0
    descendants: list[int] = field(default_factory=list)  # its child processes at the time it is ended


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions(Generic[Work]):
    """The keyword arguments of an executor."""

    devices: Sequence[str]  # one worker each
    reuse: bool  # whether a worker carries out work until it fails, which keeps a GPU's context and dataset
    timeout: float | None = None  # seconds for each work
    fail_fast: bool = False  # start no work after one that failed
    start_method: str | None = None  # of child processes; None: fork where it is safe, else spawn
    # A worker takes the first work that fits its device; every work must fit one of the devices.
    fits: Callable[[Work, str], bool] = lambda work, device: True  # noqa: ARG005
    # Called repeatedly for work that has become ready, until it returns None.
    more: Callable[[], Sequence[Work] | None] = lambda: None


def execute(
    works: Sequence[Work], carry_out: Callable[[Work, str, Notify], None], **options: Any
) -> Generator[Event[Work], None, None]:
    """Carry out each piece of work in a child process and yield events; `options` are those of `ExecutorOptions`.

    Without `reuse` each piece of work has its own child, forked after the imports, so that it starts in tens of
    milliseconds with a clean heap. Where forking is unsafe (macOS, Windows), children are spawned, and works and
    `carry_out` must be picklable. Closing the generator ends all children. Without other events, an empty progress
    event is yielded once a second, so that the caller can show that work continues.
    """
    return execute_works(works, carry_out, ExecutorOptions(**options))


def execute_works(
    works: Sequence[Work], carry_out: Callable[[Work, str, Notify], None], options: ExecutorOptions[Work]
) -> Generator[Event[Work], None, None]:
    context = multiprocessing.get_context(options.start_method or ("fork" if can_fork() else "spawn"))
    start = partial(start_worker, context, carry_out, reuse=options.reuse)
    waiting = list(works)
    workers: list[Worker[Work]] = []
    free = list(options.devices)
    last = time.monotonic()
    pending = True
    try:
        while waiting or pending or any(worker.work is not None for worker in workers):
            if pending:
                ready = options.more()
                pending = ready is not None
                waiting += ready or ()
            yield from hand_out(waiting, workers, free, options.fits, start)
            busy = [worker for worker in workers if worker.work is not None]
            wait([source for worker in busy for source in sources_of(worker)], WORKER_POLL_SECONDS)
            if busy and busy[0].work is not None and time.monotonic() - last >= TICK_SECONDS:
                last = time.monotonic()
                yield Event(work=busy[0].work, kind="progress")
            for worker in list(workers):
                for event in collect(worker, options.timeout):
                    last = time.monotonic()
                    yield event
                    if event.kind == "ended":
                        keep = event.status in {"ok", "failed"} and options.reuse
                        if not keep:
                            end_worker(worker)
                            workers.remove(worker)
                            free.append(worker.device)
                        if options.fail_fast and event.status != "ok":
                            waiting.clear()
                            pending = False
    finally:
        try:
            ask_to_end(workers)
        finally:
            for worker in workers:
                end_worker(worker)


def hand_out(
    waiting: list[Work],
    workers: list[Worker[Work]],
    free: list[str],
    fits: Callable[[Work, str], bool],
    start: Callable[[str], Worker[Work]],
) -> Iterator[Event[Work]]:
    """Assign waiting work to idle workers, then to new ones on free devices while there is enough memory."""
    for worker in workers:
        if worker.work is None and (work := take(waiting, worker.device, fits)) is not None:
            yield assign_work(worker, work)
    for device in list(free):
        if not has_free_memory(workers):
            return
        if (work := take(waiting, device, fits)) is not None:
            free.remove(device)
            # An interrupt before the worker is in the list would leave it running; the child unblocks signals itself.
            with blocked_signals():
                workers.append(start(device))
            yield assign_work(workers[-1], work)


def take(waiting: list[Work], device: str, fits: Callable[[Work, str], bool]) -> Work | None:
    """Remove and return the first work that fits a device."""
    for place, work in enumerate(waiting):
        if fits(work, device):
            return waiting.pop(place)
    return None


def sources_of(worker: Worker[Any]) -> list[Any]:
    """The objects that wake the parent when this child sends a message, prints or ends."""
    return [worker.connection, worker.process.sentinel, *([worker.output] if worker.output else [])]


def has_free_memory(workers: Sequence[Worker[Any]]) -> bool:
    """Whether memory is available for another run as large as the largest active one; the first one always starts."""
    peaks = [peak_memory_of(worker.process.pid) for worker in workers if worker.work is not None]
    available = available_memory_bytes()
    return not peaks or available is None or available > max(peaks)


def start_worker(context: Any, carry_out: Any, device: str, reuse: bool) -> Worker[Any]:
    ours, theirs = context.Pipe()
    output, output_end = context.Pipe(duplex=False)
    arguments = (theirs, output_end, os.getpid(), carry_out, device, reuse)
    process = context.Process(target=serve, args=arguments, daemon=False)
    process.start()
    theirs.close()
    output_end.close()
    return Worker(process=process, connection=ours, device=device, output=output)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Delay signals that end this process until after the block. A child started in the block inherits this."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen(worker: Worker[Any]) -> None:
    """Read what a child printed, so that the pipe does not block it, and keep the last part."""
    for _ in range(MAX_READS):
        if worker.output is None or not worker.output.poll():
            return
        chunk = os.read(worker.output.fileno(), 1 << 16)
        worker.last_output = (worker.last_output + chunk)[-TAIL_BYTES:]
        if not chunk:
            worker.output.close()
            worker.output = None


def assign_work(worker: Worker[Work], work: Work) -> Event[Work]:
    worker.work, worker.started = work, time.monotonic()
    with contextlib.suppress(OSError):  # it died before its first work: `collect` detects that
        worker.connection.send(work)
    return Event(work=work, kind="started")


def collect(worker: Worker[Work], timeout: float | None) -> Iterator[Event[Work]]:
    """Yield the events of a worker since the last call."""
    work = worker.work
    listen(worker)
    if work is None:
        return
    alive = worker.process.is_alive()  # before reading: the last messages of a child that ended are still in the pipe
    try:
        while worker.connection.poll():
            message = worker.connection.recv()
            if message["kind"] == "ended":
                worker.work = None
                yield Event(work=work, **message)
                return
            if message.get("began"):
                worker.started = time.monotonic()
            yield Event(work=work, kind="progress", details=message)
    except (EOFError, OSError):
        worker.process.join(GRACE_SECONDS)
        alive = worker.process.is_alive()
    if not alive:
        worker.work = None
        status, code, message = describe_death(worker)
        yield Event(work=work, kind="ended", status=status, code=code, message=message)
    elif timeout is not None and time.monotonic() - worker.started > timeout:
        end_worker(worker)
        worker.work = None
        yield Event(
            work=work, kind="ended", status="timeout", code="timeout", message=f"took longer than {timeout:g} s"
        )


def describe_death(worker: Worker[Any]) -> tuple[EndStatus, str, str]:
    """Status, code and message of a child that died without reporting an end, with its last output.

    A killed child has the code `killed`, not `oom`, because another process may have used up the memory.
    """
    code = worker.process.exitcode
    listen(worker)
    last = tail(worker.last_output)
    output = f"; its last output: {last}" if last else ""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == getattr(signal, "SIGKILL", None):
            return "oom", "killed", f"killed by {name}: most likely the system was out of memory{output}"
        return "crashed", "crashed", f"killed by {name}{output}"
    return "crashed", "crashed", f"its process ended with exit status {code}{output}"


def tail(output: bytes) -> str:
    lines = output.decode("utf-8", errors="replace").splitlines()
    return clean(" | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip()))[-400:]


def ask_to_end(workers: Sequence[Worker[Any]]) -> None:
    """Ask busy children to end, and wait some seconds: one that trains saves its state first."""
    busy = [worker for worker in workers if worker.work is not None and worker.process.is_alive()]
    for worker in busy:
        worker.descendants = descendants_of(worker.process.pid)
        worker.process.terminate()
    end = time.monotonic() + GRACE_SECONDS
    for worker in busy:
        worker.process.join(max(0.0, end - time.monotonic()))


def end_worker(worker: Worker[Any]) -> None:
    """End a child and its descendants: ask an idle one first, then kill it and its process group."""
    if worker.process.is_alive() and worker.work is None:
        with contextlib.suppress(OSError):
            worker.connection.send(None)  # a forked child holds both ends of its pipe: closing ours has no effect
        worker.process.join(GRACE_SECONDS)
    for connection in (worker.connection, worker.output):
        if connection:
            with contextlib.suppress(OSError):
                connection.close()
    worker.output = None
    if worker.process.is_alive():
        worker.descendants = descendants_of(worker.process.pid)
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    for pid in worker.descendants:  # those in other sessions are not in its process group
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()


def serve(connection: Connection, output: Connection, parent: int, carry_out: Any, device: str, reuse: bool) -> None:
    """Receive work, carry it out and report how it ended, until the parent sends None or closes the pipe."""
    detach(output, parent)
    while True:
        try:
            work = connection.recv()
        except (EOFError, OSError):
            return
        if work is None:
            return
        try:
            ended = carry_out_one(carry_out, work, device, connection.send)
            connection.send(ended)
        except (BrokenPipeError, OSError):
            return
        if not reuse:
            return


def detach(output: Connection, parent: int) -> None:
    """Leave the terminal; redirect stdout and stderr to the parent."""
    leave_terminal(parent)
    if os.name == "posix":  # pipes are not files on Windows: there the output goes to the terminal
        os.dup2(output.fileno(), 2)
        os.dup2(output.fileno(), 1)


def leave_terminal(parent: int) -> None:
    """Leave the terminal's process group, because the parent handles Ctrl-C, and undo the parent's signal handlers."""
    end_with(parent)
    if os.name == "posix":
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def end_with(parent: int) -> None:
    """Let the system kill this process when its parent is killed (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent was killed before prctl
            os._exit(1)


def carry_out_one(carry_out: Any, work: Any, device: str, send: Notify) -> dict[str, Any]:
    """Carry out one piece of work; turn an error into a status, a code and one line."""
    try:
        with convert_disk_errors():
            carry_out(work, device, lambda message: send({"kind": "progress", **message}))
    except ZooError as error:
        return {"kind": "ended", "status": "failed", "code": error.code, "message": error.message, "fix": error.fix}
    except MemoryError as error:
        return {"kind": "ended", "status": "oom", "code": "oom", "message": f"out of memory: {clean(error)}"}
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except BaseException as error:
        import traceback

        traceback.print_exc()
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            first = clean(str(error).splitlines()[0])
            return {"kind": "ended", "status": "oom", "code": "oom", "message": first}
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        message = clean(f"{type(error).__name__}: {error} ({where})")
        return {"kind": "ended", "status": "failed", "code": "run-error", "message": message[:500]}
    return {"kind": "ended", "status": "ok"}
