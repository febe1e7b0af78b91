"""Time the models of finished runs: each network alone, after the grid."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.pixels import random_pixels
from zoo.evaluation.predict import measure_forward
from zoo.leaderboard.sanity_checks import is_baseline
from zoo.models.building import build_model
from zoo.models.layout import place
from zoo.models.weights import find_model_spec
from zoo.registry.isolation import run_executor
from zoo.registry.lookup import Registry
from zoo.registry.opening import open_registry
from zoo.results.store import Result, read_timing, save_timing
from zoo.runner.trials import import_all, imports_of
from zoo.system.devices import device_kind, list_devices, open_device
from zoo.system.locks import locked
from zoo.system.machine import can_fork, prepare_torch
from zoo.system.progress import Console
from zoo.system.settings import Settings
from zoo.system.workers import Notify

THROUGHPUT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TimedNetwork:
    """What the speed of a model follows from: not its weights, nor the data it was trained on."""

    model: str
    stem: str
    num_outputs: int
    channels: int
    image_size: int
    precision: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A network to be measured, and the folders of the runs that it speaks for: what is handed to a worker process."""

    network: TimedNetwork
    folders: tuple[Path, ...]
    cache: Path


def time_models(
    results: Mapping[str, Result], device: str, registry: Registry, settings: Settings, console: Console
) -> dict[str, Result]:
    """The results, each with how fast its model answers; what was not measured before is measured now.

    Nothing else of this bench goes on meanwhile, and no other one on the same results measures: two at a time, each
    would be told slower than it is. A model that cannot be measured is a warning, and its speed is unknown.
    """
    if not find_untimed(results, settings.cache):
        return dict(results)
    with contextlib.ExitStack() as stack:
        with console.counting("waiting for another bench that times its models"):
            stack.enter_context(locked(settings.results / ".timing.lock"))
        measure_all(find_untimed(results, settings.cache), device, registry, settings, console)
    return {i: replace(result, cost={**result.cost, **read_timing(result.folder)}) for i, result in results.items()}


def measure_all(
    waiting: Sequence[Timed], device: str, registry: Registry, settings: Settings, console: Console
) -> None:
    with console.counting("importing what the models need"):  # once, and not in every process
        import_all(imports_of({timed.network.model for timed in waiting}, registry, settings.cache))
    events = run_executor(
        registry.find("executor", settings.executor),
        waiting,
        partial(time_network, registry=registry if can_fork() else None),
        devices=list_devices(device)[:1],
        reuse=device_kind(device) != "cpu",
        timeout=settings.run_timeout,
    )
    count = 0
    with console.counting("timing each model alone", "models", alone=False) as progress, contextlib.closing(events):
        for event in events:
            count += event.kind == "ended"
            progress(count, len(waiting))
            if event.kind == "ended" and event.status != "ok":
                console.warn(f"{event.work.network.model}: its speed could not be measured alone: {event.message}")


def find_untimed(results: Mapping[str, Result], cache: Path) -> list[Timed]:
    """The networks of finished runs beside which no speed is noted; baselines are not worth measuring."""
    folders: dict[TimedNetwork, list[Path]] = {}
    for result in results.values():
        run = result.run
        if not result.ok or result.folder is None or run["purpose"] == "tune" or is_baseline(run):
            continue
        if "channels" in result.details and not read_timing(result.folder):  # the first results do not tell them
            network = TimedNetwork(
                model=run["model"],
                stem=run["protocol"]["stem"],
                num_outputs=result.card().task.num_outputs(len(result.dataset["labels"])),
                channels=result.details["channels"],
                image_size=run["image_size"],
                precision=run["precision"],
                threads=run["threads"],
            )
            folders.setdefault(network, []).append(result.folder)
    return [Timed(network=network, folders=tuple(found), cache=cache) for network, found in folders.items()]


def time_network(timed: Timed, device: str, _: Notify, *, registry: Registry | None) -> None:
    """Measure a network in a worker process that has the machine to itself, and note it beside its runs."""
    timing = measure_network(timed.network, device, registry or open_registry(), timed.cache)
    for folder in timed.folders:
        save_timing(folder, timing)


def measure_network(network: TimedNetwork, device: str, registry: Registry, cache: Path) -> dict[str, Any]:
    """Latency of one image and throughput of batches of 32, from decoded pixels to logits in the host's memory."""
    prepare_torch(network.threads)
    open_device(device).prepare()
    spec = find_model_spec(network.model, registry, cache)
    module = build_model(
        spec,
        num_outputs=network.num_outputs,
        channels=network.channels,
        image_size=network.image_size,
        stem=network.stem,
    )
    pixels = random_pixels(THROUGHPUT_BATCH, network.image_size, network.channels, spec.mean, spec.std, device)
    module = place(module, device, network.precision, network.image_size)
    seconds = [measure_forward(module, pixels, size, precision=network.precision) for size in (1, THROUGHPUT_BATCH)]
    return {
        "latency_seconds": float(f"{seconds[0]:.4g}"),
        "inference_images_per_second": round(THROUGHPUT_BATCH / seconds[1], 1),
    }
