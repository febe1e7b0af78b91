"""The machine a run uses: versions, processes, threads, memory, seeds."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.system.plugin_files import versions_of_files

if TYPE_CHECKING:
    import torch


LIBRARIES = ("zoo-bench", "torch", "numpy", "scikit-learn", "pandas", "pillow")


def versions(*others: str) -> dict[str, str]:
    """The versions of Python, libraries that affect results, other distributions, and plugins of one file."""
    installed = {"python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        if version := installed_version(name):
            installed[name] = version
    return {**versions_of_files(), **installed}


@cache
def installed_version(distribution: str) -> str:
    """The version of an installed distribution, empty if it is not installed."""
    try:
        # perf: parses the whole metadata, long for some: 1 ms; a run looks up a dozen twice
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
        return ""


def requirements_of(distributions: Iterable[str]) -> list[str]:
    """The names of the distributions that these require directly, without those of extras."""
    names: set[str] = set()
    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError, ValueError):
            lines = metadata.requires(distribution) or []
            names.update(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0] for line in lines if "extra ==" not in line)
    return sorted(names)


def distributions_of(modules: Iterable[str]) -> list[str]:
    """The names of the installed distributions that contain these modules."""
    names: set[str] = set()
    for package in {module.partition(".")[0] for module in modules}:
        if installed_version(package):
            names.add(package)
        else:  # its distribution has a different name, or none
            names.update(list_distributions().get(package, ()))
    return sorted({re.sub(r"[-_.]+", "-", name).lower() for name in names})


@cache
def list_distributions() -> Mapping[str, Sequence[str]]:
    """The distributions of every importable package."""
    # perf: reads files of every distribution: 0.45 s with 120 of them
    return metadata.packages_distributions()


def num_cores() -> int:
    """The number of cores this process may use, by its affinity and the container's quota."""
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
    """Memory available without swapping, within the container's limit; None if the system does not report it."""
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
    """The peak memory of another process in bytes; 0 if it has ended or the system does not report it."""
    try:
        with open(f"/proc/{pid}/status") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def descendants_of(pid: int) -> list[int]:
    """The descendants of a process, including those in other sessions; empty if the system does not report them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # the process has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    descendants: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        descendants += below
        pending += below
    return descendants


@cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; emulated, it is slower than float32."""
    import torch

    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.12
    if get_capabilities is None:
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def tune_allocator() -> None:
    """Keep freed memory pages in the process (Linux with glibc only).

    By default glibc returns large blocks to the kernel after every training step and requests them again in the next,
    which makes a step 9 to 28 % slower, and more for models with many small layers.
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
    """Reset torch's global settings, which a plugin or an earlier run in this process may have changed."""
    import torch

    tune_allocator()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    if torch.are_deterministic_algorithms_enabled():  # perf: the setter imports torch._inductor, 1.5 s in every process
        torch.use_deterministic_algorithms(False)
    if threads:
        torch.set_num_threads(threads)


def resident_peak_bytes() -> int | None:
    """The peak memory of this process; None if unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def describe_system(device: str, threads: int) -> dict[str, Any]:
    """Facts about the machine that affect speed and memory, without host name, user or path."""
    return {
        "platform": platform.system(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": num_cores(),
        "device": device,
        "threads": threads,
    }


def can_fork() -> bool:
    """Whether it is safe to fork: on macOS system libraries break after a fork, and Windows has no fork."""
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
    """Independent 63-bit seeds for named uses of one seed (children of `numpy.random.SeedSequence`)."""
    import numpy as np

    children = np.random.SeedSequence(seed).spawn(len(names))
    return {
        name: int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))
        for name, child in zip(names, children, strict=True)
    }


def torch_generator(seed: int, device: str = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(seed)
