"""The machine a run is carried out on: versions, threads, memory, seeds."""

from __future__ import annotations

import errno
import os
import platform
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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


PATCHED = ("builtins", "os", "numpy", "numpy.random")


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """The interrupts that came from outside, a plugin's own KeyboardInterrupt not among them; main thread only."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        # Ignored, as in a shell's background, none comes from outside; else nobody can tell, and it is taken for one.
        yield [] if before is signal.SIG_IGN else [signal.SIGINT]
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def process_unchanged() -> Iterator[None]:
    """What foreign code does to this process ends with the block: working folder, environment, signals, random numbers,
    functions of Python and numpy that it put others in the place of, and of torch, where it is there, its random
    numbers, gradients, default type and threads."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # removed under the command's feet
        folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment, numbers, torch = dict(os.environ), random.getstate(), sys.modules.get("torch")
    libraries = [(vars(module), dict(vars(module))) for name in PATCHED if (module := sys.modules.get(name))]
    if torch:
        drawn, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
        gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        for names, before in libraries:
            names.update(before)
        if folder:
            os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        random.setstate(numbers)
        for number, handler in handlers.items():
            changed = handler is not None and signal.getsignal(number) is not handler
            if changed and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
        if torch:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(gradients)
            torch.set_rng_state(drawn)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def network_refused() -> Iterator[list[str]]:
    """Refuse network connections of Python's sockets inside the block, and list the hosts that were tried.

    This machine is refused too: a proxy or a mirror may listen there. Sockets that are paths pass.
    """
    import socket

    hosts: list[str] = []

    def refuse(host: object) -> NoReturn:
        hosts.append(str(host))
        raise OSError(errno.ENETUNREACH, f"the network is refused here: {host}")

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda own, address: refuse(address[0]) if isinstance(address, tuple) else function(own, address)

    own = {"connect": socket.socket.connect, "connect_ex": socket.socket.connect_ex}
    look_up = socket.getaddrinfo
    try:
        for name, function in own.items():
            setattr(socket.socket, name, guard(function))
        socket.getaddrinfo = lambda host, *_, **__: refuse(host)
        yield hosts
    finally:
        socket.getaddrinfo = look_up
        for name, function in own.items():
            setattr(socket.socket, name, function)


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
