"""An executor that carries out every run as a Ray task."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from zoo import Engine, Event, ExecutorSpec, JobState, RemoteWork, ZooError, execute_on, hookimpl

GRACE_SECONDS = 20.0  # for a run to save its state when its task is cancelled
PART_BYTES = 1 << 24  # of results in one object of Ray
PROBE_SECONDS = 300.0  # for each node to start Python and report its versions
VARIABLES = ("ZOO_CACHE", "ZOO_PLUGINS")  # of the environment of the bench, which the commands need


@dataclass(frozen=True)
class Order:
    """What a task runs: a command of zoo, and the file of its work if the node does not share the folder."""

    words: Sequence[str]
    variables: Mapping[str, str]
    folder: str  # in which the bench runs
    name: str = ""  # of the file of work
    content: bytes = b""


def run_order(order: Order, grace: float) -> Iterator[tuple[str, Any]]:
    """Run an order in a Ray task and yield what the bench needs, as pairs of a kind and a value.

    Without a shared folder these are "messages", bytes of whole lines, and before the last of them "parcel", a part of
    the results. The last pair is "end": the exit status, and the last line of stderr. Only Python's library is used, so
    that a node without zoo can say so.

    The command runs in the working folder of the bench if the node has it, because `--results` and `$ZOO_CACHE` may be
    relative. Ray cancels a task by KeyboardInterrupt, which does not interrupt a system call. The command is asked to
    end, so that a training saves its state.
    """
    with ExitStack() as stack:
        path = stack.enter_context(written_here(order)) if order.content else None
        log = open_log(path) if path else None
        words = [*order.words, str(path), "--apart"] if path else order.words
        errors = stack.enter_context(tempfile.TemporaryFile())
        place = order.folder if Path(order.folder).is_dir() else None
        environment = {**os.environ, **order.variables}
        process = subprocess.Popen([sys.executable, *words], cwd=place, env=environment, stdout=errors, stderr=errors)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if log and (messages := read_messages(log)):
                    yield "messages", messages
        finally:
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
        if path and path.with_suffix(".parcel").exists():
            with open(path.with_suffix(".parcel"), "rb") as parcel:
                for part in iter(lambda: parcel.read(PART_BYTES), b""):
                    yield "parcel", part
        if log:
            yield "messages", log.read()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
        yield "end", (process.wait(), next((line for line in reversed(lines) if line.strip()), ""))


@contextmanager
def written_here(order: Order) -> Iterator[Path]:
    """Write the file of work to a folder of this node, and remove the folder afterwards."""
    folder = Path(tempfile.gettempdir(), f"zoo-{Path(order.name).stem}")
    shutil.rmtree(folder, ignore_errors=True)  # of a lost task of this work, whose worker then ends
    folder.mkdir(mode=0o700)
    try:
        path = folder / order.name
        path.touch(mode=0o600)
        path.write_bytes(order.content)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_log(path: Path) -> IO[bytes]:
    log = path.with_suffix(".log")
    log.touch()
    return open(log, "rb")


def read_messages(log: IO[bytes]) -> bytes:
    """The whole lines since the last call, without the end of the work: the results are sent before it."""
    place = log.tell()
    messages = log.read()
    if b'"kind": "ended"' in messages:
        messages = b""
    messages = messages[: messages.rfind(b"\n") + 1]
    log.seek(place + len(messages))
    return messages


def do_nothing(work: object, device: str, notify: Callable[..., None], **options: object) -> None:
    """The work of a probe: `zoo worker` compares the versions before it."""


def read_resources(text: str) -> dict[str, float]:
    """Parse `$ZOO_RAY`: numbers separated by spaces: `num_cpus=4 num_gpus=0.5 shared_folder=0`."""
    resources = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        try:
            resources[name] = float(value)
        except ValueError:
            raise ZooError(f"ZOO_RAY: {word!r} is not NAME=NUMBER", fix="export ZOO_RAY='num_cpus=4'") from None
        if name not in ("num_cpus", "num_gpus", "shared_folder"):
            raise ZooError(f"ZOO_RAY: unknown name {name!r}", fix="give num_cpus, num_gpus or shared_folder")
    return resources


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of `$RAY_ADDRESS` or of `ray start` here, or start Ray; disconnect afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).splitlines()
        raise ZooError(
            f"Ray cannot be reached: {lines[0] if lines else type(error).__name__}",
            fix="start it with `ray start`, and set RAY_ADDRESS to its address",
            code="executor-failed",
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's exits without ending the tasks
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(eq=False)
class Task:
    """A task of Ray, and what it has yielded."""

    work: RemoteWork[Any]
    stream: Any  # ray.ObjectRefGenerator
    end: str = ""  # what is known about it
    has_ended: bool = False

    def receive(self) -> None:
        """Store what has arrived since the last call."""
        import ray

        while not self.has_ended and ray.wait([self.stream], timeout=0)[0]:
            try:
                kind, value = ray.get(next(self.stream))
            except StopIteration:
                self.has_ended = True
            except ray.exceptions.RayError as error:
                self.end, self.has_ended = type(error).__name__, True
            else:
                if kind == "end":
                    self.end = value[1] or f"exit status {value[0]}"
                else:
                    with open(self.work.parcel if kind == "parcel" else self.work.log, "ab") as stream:
                        stream.write(value)


@dataclass(frozen=True)
class Ray(Engine):
    """Tasks of Ray, without retries by Ray."""

    resources: Mapping[str, float]

    def submit(self, works: Sequence[RemoteWork[Any]]) -> list[Task]:
        return [self.start(work, **resources_of_run(work.device, self.resources)) for work in works]

    def start(self, work: RemoteWork[Any], **options: Any) -> Task:
        """Start the command of a work as a task."""
        import ray

        # By value: a node without this plugin then reports what it lacks, instead of an error of Ray
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        words, order = work.command[1:], Order(words=(), variables={}, folder=str(Path.cwd()))
        if self.resources.get("shared_folder", 1.0):
            variables = {name: value for name, value in os.environ.items() if name in VARIABLES}
            order = replace(order, words=words, variables=variables)
        else:
            work.parcel.unlink(missing_ok=True)  # of a lost task
            order = replace(order, words=words[:-1], name=work.path.name, content=work.path.read_bytes())
        task = ray.remote(run_order).options(max_retries=0, num_returns="streaming", **options)
        return Task(work, task.remote(order, GRACE_SECONDS))

    def states(self, handles: Sequence[Task]) -> list[JobState]:
        """The clock of a run starts with its worker, so a task that waits may be called running."""
        for task in handles:
            task.receive()
        return ["ended" if task.has_ended else "running" for task in handles]

    def cancel(self, handles: Sequence[Task]) -> None:
        """Cancel tasks, and wait until their commands have ended."""
        import ray

        for task in handles:
            ray.cancel(task.stream, force=False)
        with suppress(Exception):  # a lost node
            ends = [task.stream.completed() for task in handles]
            ray.wait(ends, num_returns=len(ends), timeout=GRACE_SECONDS)

    def describe_end(self, handle: Task) -> str:
        return handle.end

    def check_nodes(self, folder: Path) -> None:
        """Raise an error in one line for the first node with other versions or plugins, or without the folder."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probes = []
        try:
            for node in ray.nodes():
                if node["Alive"]:
                    work: RemoteWork[None] = RemoteWork(None, do_nothing, "cpu", folder)
                    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    task = self.start(work, num_cpus=0, scheduling_strategy=strategy)
                    probes.append((node["NodeManagerHostname"], task))
            last = time.monotonic() + PROBE_SECONDS
            for name, task in probes:
                while not task.has_ended and time.monotonic() < last:
                    task.receive()
                    time.sleep(0.1)
                list(task.work.events())  # raises the error of other versions
                if not task.work.has_ended:
                    raise ZooError(
                        f"Ray's node {name} cannot carry out runs: {task.end or 'no answer'}",
                        fix="install the same versions there, and put --results and ZOO_CACHE on a folder that it "
                        "shares, or set ZOO_RAY=shared_folder=0",
                        code="executor-failed",
                    )
        finally:
            for _, task in probes:
                task.work.remove()


def execute(
    works: Sequence[Any], carry_out: Callable[..., None], *, folder: Path, devices: Sequence[str], **options: Any
) -> Iterator[Event[Any]]:
    """Carry out works as Ray tasks, on nodes with the versions and plugins of this machine."""
    resources = read_resources(os.environ.get("ZOO_RAY", ""))
    with connected():
        for device in devices:
            check_capacity(resources_of_run(device, resources))
        engine = Ray(resources)
        engine.check_nodes(folder)
        yield from execute_on(engine, works, carry_out, folder=folder, devices=devices, **options)


def resources_of_run(device: str, resources: Mapping[str, float]) -> dict[str, float]:
    gpus = resources.get("num_gpus", 1.0) if device.startswith("cuda") else 0.0
    return {"num_cpus": resources.get("num_cpus", 1.0), "num_gpus": gpus}


def check_capacity(requested: Mapping[str, float]) -> None:
    """Raise an error if no node has the resources of a run, because Ray would wait for such a node without end."""
    import ray

    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    if not any(all(offer.get(names[name], 0.0) >= value for name, value in requested.items()) for offer in offers):
        words = " ".join(f"{name}={value:g}" for name, value in requested.items())
        raise ZooError(
            f"no node of Ray has {words}, the resources of a run",
            fix="lower them in ZOO_RAY, or add such a node",
            code="executor-failed",
        )


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    return [ExecutorSpec(name="ray", execute=execute, title="a Ray task for every run", remote=True)]
