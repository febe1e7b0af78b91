"""Time the models of finished runs, one network at a time, after all runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.pixels import random_pixels
from zoo.errors import with_fix
from zoo.evaluation.predict import measure_forward, measure_patch
from zoo.evaluation.tiles import tile_starts
from zoo.leaderboard.sanity_checks import is_baseline
from zoo.models.building import build_model
from zoo.models.layout import place
from zoo.models.trials import import_all, imports_of
from zoo.models.weights import find_model_spec
from zoo.registry.context import Context
from zoo.registry.isolation import inherited, run_executor
from zoo.registry.lookup import Registry
from zoo.registry.opening import open_registry
from zoo.results.runs import Run, read_run
from zoo.results.store import Result, read_timing, save_timing
from zoo.specs.model import BuildRequest
from zoo.system.devices import device_kind, list_devices, open_device
from zoo.system.locks import locked
from zoo.system.machine import prepare_torch
from zoo.system.workers import Notify

THROUGHPUT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TimedNetwork:
    """Everything that determines the speed of a model; weights and training data do not."""

    model: str
    stem: str
    num_outputs: int
    channels: int
    input_size: int
    tiles: int  # of an image
    precision: str
    threads: int
    patch: tuple[int, ...] = ()  # of volumes


@dataclass(frozen=True, kw_only=True)
class TimingTask:
    """The input of a timing process: a network, and the folders of the runs that store its timing."""

    network: TimedNetwork
    folders: tuple[tuple[Path, tuple[str, ...]], ...]  # each with the parts of its model that are not timed
    cache: Path


def time_models(results: Mapping[str, Result], device: str, context: Context) -> dict[str, Result]:
    """Measure the missing latencies and throughputs, and return the results with all timings.

    Nothing else of this bench runs meanwhile, and a lock keeps other benches on the same results from measuring,
    because two measurements at a time would slow each other. A model that cannot be measured gives a warning.
    """
    settings = context.settings
    if not find_untimed(results, settings.cache):
        return dict(results)
    with contextlib.ExitStack() as stack:
        with context.console.counting("waiting for another bench that times its models"):
            stack.enter_context(locked(settings.results / ".timing.lock"))
        measure_all(find_untimed(results, settings.cache), device, context)
    return {i: replace(result, cost={**result.cost, **read_timing(result.folder)}) for i, result in results.items()}


def measure_all(tasks: Sequence[TimingTask], device: str, context: Context) -> None:
    registry, settings, console = context.registry, context.settings, context.console
    with console.counting("importing what the models need"):  # once, not in every process
        import_all(imports_of({task.network.model for task in tasks}, registry, settings.cache))
    executor = registry.find("executor", settings.executor)
    events = run_executor(
        executor,
        tasks,
        partial(time_network, registry=inherited(registry, executor)),
        devices=list_devices(device)[:1],
        reuse=device_kind(device) != "cpu",
        timeout=settings.run_timeout,
        results=settings.results,
    )
    count = 0
    with console.counting("timing each model alone", "models", alone=False) as progress, contextlib.closing(events):
        for event in events:
            count += event.kind == "ended"
            progress(count, len(tasks))
            if event.kind == "ended" and event.status != "ok":
                why = with_fix(event.message, event.fix)
                console.warn(f"{event.work.network.model}: its speed could not be measured alone: {why}")


def find_untimed(results: Mapping[str, Result], cache: Path) -> list[TimingTask]:
    """List the networks of finished runs without a stored timing, except baselines."""
    folders: dict[TimedNetwork, list[tuple[Path, tuple[str, ...]]]] = {}
    for result in results.values():
        run = result.run
        if not result.ok or result.folder is None or run["purpose"] == "tune" or is_baseline(run):
            continue
        if "channels" in result.details and not read_timing(result.folder):  # older results do not store their channels
            network = TimedNetwork(
                model=run["model"],
                stem=run["protocol"]["stem"],
                num_outputs=result.card().task.head.num_outputs(len(result.dataset["labels"])),
                channels=result.details["channels"],
                input_size=read_run(run).input_size,
                tiles=count_tiles(read_run(run)),
                precision=run["precision"],
                threads=run["threads"],
                patch=tuple(result.details.get("patch", ())),
            )
            folders.setdefault(network, []).append((result.folder, list_untimed_parts(run)))
    return [TimingTask(network=network, folders=tuple(paths), cache=cache) for network, paths in folders.items()]


def list_untimed_parts(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of a run's model beside its network: "head" on frozen features unless linear, "inputs" of a table."""
    parts = {"head": run["protocol"]["method"] in ("knn", "estimator"), "inputs": bool(run.get("inputs"))}
    return tuple(name for name, is_left_out in parts.items() if is_left_out)


def count_tiles(run: Run) -> int:
    """The tiles of an image that fills the square of a run; 1 for whole images."""
    return math.prod(len(tile_starts(run.image_size, length)) for length in run.patch)


def time_network(task: TimingTask, device: str, _: Notify, *, registry: Registry | None) -> None:
    """Measure a network in a worker process, and save the timing with its runs."""
    timing = measure_network(task.network, device, registry or open_registry(), task.cache)
    for folder, untimed in task.folders:
        save_timing(folder, {**timing, **({"not_timed": list(untimed)} if untimed else {})})


def measure_network(network: TimedNetwork, device: str, registry: Registry, cache: Path) -> dict[str, Any]:
    """Measure the latency of one image and the throughput of batches of 32, from decoded pixels to host logits.

    An image that is predicted by tiles takes as many times the mean of a tile in batches of 32. Of volumes, both are
    those of one patch at a time, as volumes are predicted: how many patches a volume has depends on the volume.
    """
    prepare_torch(network.threads)
    open_device(device).prepare()
    spec = find_model_spec(network.model, registry, cache)
    request = BuildRequest(
        num_outputs=network.num_outputs,
        channels=network.channels,
        image_size=network.input_size,
        dims=len(network.patch) or 2,
    )
    module = build_model(spec, request, stem=network.stem)
    if network.patch:
        module = place(module, device, network.precision, network.input_size)
        seconds = measure_patch(module, (network.channels, *network.patch), device, precision=network.precision)
        return {
            "latency_seconds": float(f"{seconds:.4g}"),
            "inference_images_per_second": round(1 / seconds, 3),
            "timed_patch": list(network.patch),
        }
    pixels = random_pixels(THROUGHPUT_BATCH, network.input_size, network.channels, spec.mean, spec.std, device)
    module = place(module, device, network.precision, network.input_size)
    alone, together = (
        measure_forward(module, pixels, size, precision=network.precision) for size in (1, THROUGHPUT_BATCH)
    )
    mean = together / THROUGHPUT_BATCH * network.tiles
    return {
        "latency_seconds": float(f"{alone if network.tiles == 1 else mean:.4g}"),
        "inference_images_per_second": round(1 / mean, 1 if network.tiles == 1 else 3),
    }
