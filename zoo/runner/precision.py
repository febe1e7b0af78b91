"""Choose the faster precision for training each network on this CPU, by timing a few steps."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.models.building import build_model
from zoo.models.identity import nearest_size
from zoo.models.layout import place
from zoo.models.trials import import_all, imports_of
from zoo.models.weights import find_model_spec
from zoo.registry.context import Context
from zoo.registry.lookup import Registry
from zoo.registry.opening import open_registry
from zoo.results.runs import Run
from zoo.specs.model import BuildRequest
from zoo.system.devices import open_device
from zoo.system.files import hash_bytes, read_regular, write_json
from zoo.system.machine import can_fork, num_cores, prepare_torch, processor_name, requirements_of, versions
from zoo.system.progress import Progress
from zoo.system.workers import Notify, execute
from zoo.training.batches import plan_steps

if TYPE_CHECKING:
    from torch import Tensor, nn


def choose_precisions(
    runs: Sequence[Run],
    sources: Mapping[str, tuple[OpenDataset, Split]],
    context: Context,
) -> list[Run]:
    """On a CPU that supports bf16, set the precision of each run to the one in which its network trains faster."""

    def network(run: Run) -> TrainedNetwork | None:
        protocol = run.protocol
        is_open = protocol.precision == "auto" and protocol.method == "finetune" and run.num_train
        if not is_open or run.device_kind != "cpu" or run.precision != "bf16":
            return None
        passes = plan_steps(protocol, run.num_train)[0] * protocol.batch_size
        if passes < (MIN_IMAGE_PASSES if protocol.dims == 2 else MIN_VOLUME_PASSES):
            return None
        return TrainedNetwork(
            model=run.model,
            stem=run.protocol.stem,
            channels=sources[run.dataset][0].spec.channels,
            image_size=run.input_size,
            threads=run.threads,
            dims=protocol.dims,
        )

    networks = [network(run) for run in runs]
    with context.console.counting("timing bf16 and fp32 on this processor", "models", alone=False) as progress:
        precisions = find_precisions(
            [each for each in networks if each], context.registry, context.settings.cache, progress
        )
    return [
        replace(run, precision=precisions.get(each, run.precision)) if each else run
        for run, each in zip(runs, networks, strict=True)
    ]


BATCH, TIMED_STEPS = 8, 2
MIN_VOLUME_PASSES = 200  # the same of volumes
MAX_TIMED_SIDE = 48  # of the volumes that are timed
MIN_IMAGE_PASSES = 2000  # image passes of a training; with fewer, it cannot save the time of the measurement
MAX_TIME_SHARE = 0.95  # bf16 is chosen if it takes at most this share of the time of fp32, which is more exact
TIMING_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """Everything that determines the time of a training step."""

    model: str  # distribution:architecture
    stem: str
    channels: int
    image_size: int
    threads: int
    dims: int = 2


def find_precisions(
    networks: Sequence[TrainedNetwork], registry: Registry, cache: Path, progress: Progress | None = None
) -> dict[TrainedNetwork, str]:
    """Find the faster of bf16 and fp32 for each network.

    Networks that cannot be timed are left out; their runs report the error. The times are cached by processor and
    versions, so that repeating a command plans the same runs.
    """
    if not networks:
        return {}
    plugins = sorted(f"{plugin.name} {plugin.version}" for plugin in registry.plugins)
    libraries = versions(*requirements_of(plugin.name for plugin in registry.plugins))
    machine = json.dumps([processor_name(), libraries, plugins], sort_keys=True)
    paths = {network: times_path(cache, network, machine) for network in dict.fromkeys(networks)}
    missing = [network for network, path in paths.items() if read_times(path) is None]
    if missing:
        import_all({"torch", *imports_of({network.model for network in missing}, registry, cache)})
        time_all(missing, paths, registry, cache, progress)
    times = {network: read_times(path) for network, path in paths.items()}
    return {
        network: "bf16" if seconds["bf16"] <= MAX_TIME_SHARE * seconds["fp32"] else "fp32"
        for network, seconds in times.items()
        if seconds
    }


def times_path(cache: Path, network: TrainedNetwork, machine: str) -> Path:
    key = hash_bytes(machine, json.dumps(asdict(network), sort_keys=True))
    return cache / "precision" / f"{key[:32]}.json"


def read_times(path: Path) -> dict[str, float] | None:
    """Read the cached seconds of a step by precision; None if there are none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        seconds = json.loads(read_regular(path))["seconds"]
        return {precision: float(seconds[precision]) for precision in ("fp32", "bf16")}
    return None


def time_all(
    networks: Sequence[TrainedNetwork],
    paths: dict[TrainedNetwork, Path],
    registry: Registry,
    cache: Path,
    progress: Progress | None,
) -> None:
    """Time networks in child processes, and cache the seconds of each."""
    workers = max(1, num_cores() // networks[0].threads)
    events = execute(
        networks,
        partial(time_steps, registry=registry if can_fork() else None, cache=cache),
        devices=["cpu"] * min(workers, len(networks)),
        reuse=False,
        timeout=TIMING_SECONDS,
    )
    done = 0
    for event in events:
        if "seconds" in event.details:
            with suppress(OSError):  # on a full disk, measure again next time
                write_json(paths[event.work], {**asdict(event.work), "seconds": event.details["seconds"]})
        done += event.kind == "ended"
        if progress:
            progress(done, len(networks))


def time_steps(network: TrainedNetwork, _: str, notify: Notify, *, registry: Registry | None, cache: Path) -> None:
    """Report the CPU seconds of a training step in each precision, to which other processes do not contribute."""
    prepare_torch(network.threads)
    spec = find_model_spec(network.model, registry or open_registry(), cache)
    request = BuildRequest(num_outputs=2, channels=network.channels, image_size=network.image_size, dims=network.dims)
    size = network.image_size if network.dims == 2 else nearest_size(spec, min(network.image_size, MAX_TIMED_SIDE))
    seconds = {}
    for precision in ("fp32", "bf16"):
        module = build_model(spec, request, stem=network.stem)
        seconds[precision] = time_step(place(module, "cpu", precision, network.image_size), network, size, precision)
    notify({"seconds": seconds})


def time_step(module: nn.Module, network: TrainedNetwork, size: int, precision: str) -> float:
    import torch

    if network.dims == 3:
        images: Tensor = torch.rand(1, network.channels, size, size, size)
    else:
        images = torch.rand(BATCH, network.channels, size, size)
        images = images.contiguous(memory_format=torch.channels_last)
    module.train()
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        start = time.process_time()
        with open_device("cpu").autocast(precision):
            outputs = module(images)
        outputs.float().square().sum().backward()
        seconds.append(time.process_time() - start)
    return min(seconds[1:])
