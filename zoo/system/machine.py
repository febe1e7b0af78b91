"""The machine a run is carried out on: versions, threads, memory, seeds."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


LIBRARIES = ("zoo-bench", "torch", "torchvision", "timm", "numpy", "scikit-learn", "pandas", "pillow")


def versions(*others: str) -> dict[str, str]:
    """The versions of everything whose arithmetic or file formats a result depends on, and of other distributions."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        try:
            found[name] = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
            continue
    return found


def distributions_of(modules: Iterable[str]) -> list[str]:
    """The installed distributions that hold these modules, by name."""
    names: set[str] = set()
    for package in {module.partition(".")[0] for module in modules}:
        try:
            metadata.version(package)
            names.add(package)
        except (metadata.PackageNotFoundError, ValueError):  # its distribution has another name, or it has none
            names.update(list_distributions().get(package, ()))
    return sorted({re.sub(r"[-_.]+", "-", name).lower() for name in names})


@cache
def list_distributions() -> Mapping[str, Sequence[str]]:
    """The distributions of every importable package."""
    # perf: reads the files of every distribution, .45 s with 120 of them
    return metadata.packages_distributions()


def num_cores() -> int:
    """Cores this process may use: its affinity and the container's quota, where there are any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as stream:
            quota, period = stream.read().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores
    return cores


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping, in this container where it is one; None where nobody says."""
    try:
        with open("/proc/meminfo") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return available if limit == "max" else max(0, min(available, int(limit) - int(used) + int(cached)))
    except (OSError, KeyError, ValueError):
        return available


def peak_memory_of(pid: int) -> int:
    """The most memory another process has held, in bytes; 0 where it is gone or the system does not say."""
    try:
        with open(f"/proc/{pid}/status") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def family_of(pid: int) -> list[int]:
    """The processes below one, those that began a session of their own too; empty where the system does not say."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


@cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; emulated it is slower than float32."""
    import torch

    find = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.12
    if find is None:
        return bool(torch.cpu._is_avx512_bf16_supported())
    found = find()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def tune_allocator() -> None:
    """Keep freed pages in the process.

    glibc returns large blocks to the kernel after every step and takes them again in the next: +9 to 28 % on a
    training step, more for networks of many small layers. Linux with glibc only; elsewhere nothing is done.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    mallopt = ctypes.CDLL(None).mallopt
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 256 << 20)


def prepare_torch(threads: int) -> None:
    """Make torch what it is at its start, whatever a plugin or a run before has made of it in this process."""
    import torch

    tune_allocator()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    if threads:
        torch.set_num_threads(threads)


def resident_peak_bytes() -> int | None:
    """The most memory this process has held; None where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def describe_system(device: str, threads: int) -> dict[str, Any]:
    """Facts about the machine that a cost depends on: no name, user or path."""
    return {
        "platform": platform.system(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": num_cores(),
        "device": device,
        "threads": threads,
    }


def can_fork() -> bool:
    """Linux only: on macOS system libraries break after a fork, and Windows has none."""
    return sys.platform == "linux"


@cache
def processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def seed_children(seed: int, *names: str) -> dict[str, int]:
    """Independent 63-bit seeds for the named uses of one seed (`numpy.random.SeedSequence` children)."""
    import numpy as np

    children = np.random.SeedSequence(seed).spawn(len(names))
    return {
        name: int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))
        for name, child in zip(names, children, strict=True)
    }


def torch_generator(seed: int, device: str = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(seed)
