"""Examine this machine for `zoo doctor`: problems, and how to fix them, as plain data."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.errors import ResultsError
from zoo.registry.finding import OUR_PLUGINS
from zoo.registry.lookup import Registry
from zoo.results.store import load_results
from zoo.system.devices import describe_compute, resolve_device
from zoo.system.locks import locked
from zoo.system.machine import available_memory_bytes, num_cores, requirements_of, versions
from zoo.training.check import check_device

MIN_FREE_BYTES = 2e9  # decoded images and weights of one medium dataset
RUN_MEMORY_BYTES = 1.5e9  # a resnet18 at 224 px, batches of 32
OPTIONAL = {
    "av": "video files: pip install 'zoo-bench[video]'",
    "cleanlab": "`--label-noise`: pip install 'zoo-bench[noise]'",
}


def examine_machine(registry: Registry, cache: Path, results: Path, device: str | None = None) -> dict[str, Any]:
    """Examine the machine, versions, plugins, cache and results folder; train on `device` if one is given.

    `advice` lists the problems and their fixes.
    """
    check = check_device(resolve_device(device)) if device else {}
    folders = {"cache": describe_folder(cache), "results": describe_folder(results)}
    own, memory = resolve_device("auto"), available_memory_bytes()
    advice = [
        *advise_on_folder("cache", folders["cache"], "set ZOO_CACHE to"),
        *advise_on_folder("results folder", folders["results"], "set --results to"),
        *advise_on_results(results),
        *advise_on_machine(own, memory),
        *advise_on_plugins(registry),
        *check.pop("advice", ()),
    ]
    return {
        "system": {
            **describe_compute(own, 1),
            "available_memory_gb": memory and round(memory / 1e9, 1),
        },
        "versions": versions(*requirements_of(plugin.name for plugin in registry.plugins)),
        "plugins": {
            p.name: f"{p.version} {p.status}" + (f": {p.reason}" if p.reason else "") for p in registry.plugins
        },
        **folders,
        **({"device check": check} if check else {}),
        "not installed": [text for name, text in OPTIONAL.items() if find_spec(name) is None],
        "advice": advice or ["no problems found"],
    }


def describe_folder(folder: Path) -> dict[str, Any]:
    """Whether a folder, or its nearest existing parent, can be written to and locked, and its free space."""
    place = find_place(folder)
    writable = place.is_dir() and os.access(place, os.W_OK)
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        free = 0
    return {
        "folder": str(folder),
        "writable": writable,
        "locks": can_lock(place) if writable else False,
        "free_gb": round(free / 1e9, 1),
    }


def find_place(folder: Path) -> Path:
    """The folder or its nearest existing parent; a dangling link counts, because nothing can be created below it."""
    while not folder.exists() and not folder.is_symlink() and folder != folder.parent:
        folder = folder.parent
    return folder


def can_lock(folder: Path) -> bool:
    """Whether the file system refuses a second handle on a lock that is held."""
    from filelock import FileLock, Timeout

    path = folder / f".zoo-doctor-{os.getpid()}.lock"
    try:
        with locked(path, timeout=1.0):
            try:
                with FileLock(path, timeout=0):
                    return False
            except Timeout:
                return True
    except (OSError, NotImplementedError):
        return False


def advise_on_folder(what: str, described: dict[str, Any], remedy: str) -> Iterator[str]:
    where, place = f"{what} {described['folder']}", find_place(Path(described["folder"]))
    if place.is_symlink() and not place.exists():
        yield f"{where}: {place} is a broken link; create {place.readlink()}, or {remedy} another folder"
    elif not described["writable"]:
        yield f"{where}: cannot be written to; {remedy} a folder that can"
    elif not described["locks"]:
        yield f"{where}: its file system has no locks; run only one bench at a time in it, or {remedy} another"
    if described["writable"] and described["free_gb"] * 1e9 < MIN_FREE_BYTES:
        free = f"{described['free_gb']} GB free"
        yield f"{where}: {free}; free some (`zoo cache clear`), or {remedy} a folder on a larger disk"


def advise_on_results(results: Path) -> Iterator[str]:
    """Report stored results that cannot be read."""
    if not results.is_dir():
        return
    try:
        damaged = load_results(results)[1]
    except ResultsError as error:
        yield str(error)
        return
    yield from damaged


def advise_on_machine(device: str, memory: int | None) -> Iterator[str]:
    import torch

    if device == "cpu" and shutil.which("nvidia-smi"):
        yield f"torch {torch.__version__} finds no GPU, but nvidia-smi exists: install a torch for its driver's CUDA"
    elif device == "cpu":
        yield "torch finds no GPU: fine for the quickstart and small datasets, slow at 224 px"
    if device == "cpu" and memory is not None and memory < RUN_MEMORY_BYTES * num_cores():
        yield f"{memory / 1e9:.1f} GB of memory for {num_cores()} runs at once: set --workers to a smaller number"
    if sys.flags.dont_write_bytecode:
        yield "PYTHONDONTWRITEBYTECODE is set, so every command compiles torch again, which takes seconds; unset it"


def advise_on_plugins(registry: Registry) -> Iterator[str]:
    for broken in registry.broken:
        yield f"plugin {broken.plugin} is {broken.state}: {broken.reason}; repair or {broken.removal}"
    if not registry.models or set(registry.models) <= {"constant", "thumbnails"}:
        names = [name for name, kind in OUR_PLUGINS.items() if kind == "model"]
        yield f"no model plugin is installed: pip install {' '.join(names)}"
