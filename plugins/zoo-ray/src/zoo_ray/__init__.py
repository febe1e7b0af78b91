"""An executor that carries out every run as a Ray task."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import Engine, Event, ExecutorSpec, JobState, RemoteWork, ZooError, execute_on, hookimpl

GRACE_SECONDS = 20.0  # for a run to save its state when its task is cancelled
PROBE_SECONDS = 300.0  # for each node to start Python and report its versions
VARIABLES = ("ZOO_CACHE", "ZOO_PLUGINS")  # of the environment of the bench, which the commands need


def run_command(words: Sequence[str], variables: Mapping[str, str], folder: str, grace: float) -> tuple[int, str]:
    """Run a command in a Ray task; return its exit status and the last line of its stderr.

    It runs in the working folder of the bench if the node has it, because `--results` and `$ZOO_CACHE` may be relative.

    Ray cancels a task by KeyboardInterrupt, which does not interrupt a system call. The command is asked to end, so
    that a training saves its state.
    """
    with tempfile.TemporaryFile() as errors:
        environment = {**os.environ, **variables}
        place = folder if Path(folder).is_dir() else None
        process = subprocess.Popen([sys.executable, *words], cwd=place, env=environment, stdout=errors, stderr=errors)
        try:
            while process.poll() is None:
                time.sleep(0.2)
        finally:
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
        return process.wait(), next((line for line in reversed(lines) if line.strip()), "")


def do_nothing(work: object, device: str, notify: Callable[..., None]) -> None:
    """The work of a probe: `zoo worker` compares the versions before it."""


def read_resources(text: str) -> dict[str, float]:
    """Parse `$ZOO_RAY`: the resources of a run, separated by spaces: `num_cpus=4 num_gpus=0.5`."""
    resources = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        try:
            resources[name] = float(value)
        except ValueError:
            raise ZooError(f"ZOO_RAY: {word!r} is not NAME=NUMBER", fix="export ZOO_RAY='num_cpus=4'") from None
        if name not in ("num_cpus", "num_gpus"):
            raise ZooError(f"ZOO_RAY: unknown resource {name!r}", fix="give num_cpus or num_gpus")
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


@dataclass(frozen=True)
class Ray(Engine):
    """Tasks of Ray, without retries by Ray."""

    resources: Mapping[str, float]

    def submit(self, works: Sequence[RemoteWork[Any]]) -> list[Any]:
        return [start_command(work, **resources_of_run(work.device, self.resources)) for work in works]

    def states(self, handles: Sequence[Any]) -> list[JobState]:
        """The clock of a run starts with its worker, so a task that waits may be called running."""
        import ray

        ended = set(ray.wait(list(handles), num_returns=len(handles), timeout=0)[0])
        return ["ended" if task in ended else "running" for task in handles]

    def cancel(self, handles: Sequence[Any]) -> None:
        """Cancel tasks, and wait until their commands have ended."""
        import ray

        for task in handles:
            ray.cancel(task, force=False)
        with suppress(Exception):  # a lost node
            ray.wait(list(handles), num_returns=len(handles), timeout=GRACE_SECONDS)

    def describe_end(self, handle: Any) -> str:
        import ray

        try:
            status, line = ray.get(handle)
        except ray.exceptions.RayError as error:
            return type(error).__name__
        return line or f"exit status {status}"


def execute(
    works: Sequence[Any], carry_out: Callable[..., None], *, folder: Path, devices: Sequence[str], **options: Any
) -> Iterator[Event[Any]]:
    """Carry out works as Ray tasks, on nodes with the versions and plugins of this machine."""
    resources = read_resources(os.environ.get("ZOO_RAY", ""))
    with connected():
        for device in devices:
            check_capacity(resources_of_run(device, resources))
        check_nodes(folder)
        yield from execute_on(Ray(resources), works, carry_out, folder=folder, devices=devices, **options)


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


def start_command(remote: RemoteWork[Any], **options: Any) -> Any:
    """Start the command of a work as a Ray task, without retries by Ray."""
    import ray

    # By value: a node without this plugin then reports what it lacks, instead of an error of Ray
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    variables = {name: value for name, value in os.environ.items() if name in VARIABLES}
    task = ray.remote(run_command).options(max_retries=0, **options)
    return task.remote(remote.command[1:], variables, str(Path.cwd()), GRACE_SECONDS)


def check_nodes(folder: Path) -> None:
    """Raise an error in one line for the first node that has other versions or plugins, or does not see the folder."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probes = []
    for node in ray.nodes():
        if node["Alive"]:
            remote: RemoteWork[None] = RemoteWork(None, do_nothing, "cpu", folder)
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = start_command(remote, num_cpus=0, scheduling_strategy=strategy)
            probes.append((node["NodeManagerHostname"], remote, task))
    try:
        for name, remote, task in probes:
            try:
                status, line = ray.get(task, timeout=PROBE_SECONDS)
            except ray.exceptions.RayError as error:
                status, line = 1, type(error).__name__
            list(remote.events())  # raises the error of other versions
            if not remote.has_ended:
                raise ZooError(
                    f"Ray's node {name} cannot carry out runs: {line or f'exit status {status}'}",
                    fix="install the same versions there, and put --results and ZOO_CACHE on a folder that it shares",
                    code="executor-failed",
                )
    finally:
        for _, remote, _ in probes:
            remote.remove()


@hookimpl
def register_executors() -> list[ExecutorSpec]:
    return [ExecutorSpec(name="ray", execute=execute, title="a Ray task for every run", remote=True)]
