"""Compute devices behind one interface: the CPU, NVIDIA GPUs (CUDA) and Apple GPUs (MPS).

Everything that differs between devices is in this module. `Device` is the CPU and the default for the others. `Cuda`
overrides what differs on a GPU, most importantly `capture`, which records a training step once and replays it.
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zoo.errors import UsageError
from zoo.system.machine import (
    available_memory_bytes,
    can_fork,
    cpu_has_bf16,
    describe_system,
    num_cores,
    resident_peak_bytes,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Answer = TypeVar("Answer")
Precision = Literal["fp32", "bf16", "fp16"]

# Work between two marks. The host is at most two marks ahead of the GPU, so it can stop quickly.
AHEAD_SECONDS = 0.25
FIRST_STRIDE, MAX_STRIDE = 4, 256  # steps between two marks
BYTES_PER_WORKER = 16e9  # GPU memory for each run that shares a GPU
MAX_DENSE_BYTES = 1 << 23  # of a batch of a dense network on the host: its maps take some 100 times as many
MAX_SHARING = 4  # runs that share one GPU
CORES_PER_WORKER = 2  # host cores for each run that shares a GPU


class CaptureError(Exception):
    """A function cannot be captured; the message says why."""


class Device:
    """A device by its torch name. This class is the CPU; subclasses override what differs."""

    rate_type = "float64"  # dtype of learning rates: that of Python floats

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = device_kind(name)

    # --- facts ---
    captures = False  # whether `capture` records a function instead of returning it

    def describe(self) -> dict[str, Any]:
        """Facts about the device that affect speed and memory."""
        return {}

    def peak_memory_bytes(self) -> int | None:
        """The peak memory of this process since `prepare`; None if unknown."""
        return resident_peak_bytes()

    def free_memory_bytes(self) -> int | None:
        return available_memory_bytes()

    # --- life of a worker ---
    def prepare(self) -> None:
        """Initialize the device for a run and reset the peak memory."""
        with suppress(OSError):  # Linux only
            Path("/proc/self/clear_refs").write_text("5")

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Share the device with other processes for the block, which is one run."""
        yield

    waited_seconds = 0.0  # spent in `wait_alone` in this process

    @property
    def can_wait(self) -> bool:
        """Whether `wait_alone` would wait: inside `shared`, and not yet alone."""
        return False

    def wait_alone(self) -> bool:
        """Wait to use the device alone until the `shared` block ends. Return False if waiting is not possible."""
        return False

    def release_memory(self) -> None:
        """Return unused memory to the system."""

    def stream(self) -> AbstractContextManager[None]:
        """Queue the operations of the block in order, independent of those of other blocks."""
        return nullcontext()

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    def pace(self) -> Callable[[], None]:
        """A function to call after each step; it keeps the host at most half a second ahead of the device."""
        return lambda: None

    # --- tensors ---
    holds_datasets = False  # the CPU maps the file

    def holds(self, num_bytes: int) -> bool:
        """Whether a dataset of this size is kept in the device's memory during training."""
        free = self.free_memory_bytes()
        return self.holds_datasets and free is not None and num_bytes < free // 2

    def send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.name)

    def rates(self, values: Sequence[float]) -> Tensor:
        """Learning rates (G,) in the form that the device's optimizers read."""
        import torch

        return torch.tensor(values, dtype=getattr(torch, self.rate_type))

    # --- arithmetic ---
    def autocast(self, precision: str) -> AbstractContextManager[None]:
        import torch

        kind = torch.float16 if precision == "fp16" else torch.bfloat16
        # With its weight cache, autocast would return tensors of a capture in the next call.
        return torch.autocast(  # type: ignore[return-value]
            self.kind, dtype=kind, enabled=precision != "fp32", cache_enabled=not self.captures
        )

    def optimizer_options(self) -> dict[str, bool]:
        """Options of every torch optimizer."""
        # perf: fused, AdamW takes 6.3 ms per step on a CPU against 15.8 ms
        return {"fused": True}

    def prediction_batch(self, image_bytes: int) -> int:  # noqa: ARG002
        """Batch size for inference."""
        return 64

    def dense_batch(self, image_bytes: int) -> int:
        """Batch size for inference with networks that answer every pixel, whose maps are as large as the image."""
        return max(1, min(64, MAX_DENSE_BYTES // image_bytes))

    def replace_where(
        self, mask: Tensor, function: Callable[..., Tensor], images: Tensor, *arguments: Tensor
    ) -> Tensor:
        """Apply `function(images, *arguments)` to the images (B, ...) whose mask (B,) is true.

        The CPU computes only those, in place. A GPU computes all and selects, because counting them would make the
        host wait.
        """
        rows = mask.nonzero()[:, 0]
        if not len(rows):
            return images
        chosen = [part.index_select(0, rows) for part in (images, *arguments)]
        return images.index_copy_(0, rows, function(*chosen))

    # --- random numbers ---
    @contextmanager
    def own_random_numbers(self, seed: int) -> Iterator[None]:
        """Seed torch's global generators with `seed` for the block, and restore them afterwards."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    def random_state(self) -> dict[str, Tensor]:
        import torch

        return {"cpu": torch.get_rng_state()}

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        import torch

        torch.set_rng_state(state["cpu"])

    # --- capture ---
    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return a faster equivalent of `function` without calling it. Raises CaptureError."""
        return function

    def is_capturing(self) -> bool:
        return False

    @contextmanager
    def counting_waits(self) -> Iterator[list[str]]:
        """Yield a list of the source lines in the block that made the host wait for the device; empty for the CPU."""
        yield []


class Cuda(Device):
    """One NVIDIA GPU. `name` is `cuda` or `cuda:N`."""

    captures = True
    holds_datasets = True
    rate_type = "float32"  # fused optimizers read it on the device
    lock: GpuLock | None = None

    def describe(self) -> dict[str, Any]:
        import torch

        facts = torch.cuda.get_device_properties(self.name)
        return {
            "gpu": facts.name,
            "gpu_memory_bytes": facts.total_memory,
            "compute_capability": f"{facts.major}.{facts.minor}",
        }

    def peak_memory_bytes(self) -> int | None:
        import torch

        return int(torch.cuda.max_memory_allocated(self.name))

    def free_memory_bytes(self) -> int | None:
        import torch

        reusable = torch.cuda.memory_reserved(self.name) - torch.cuda.memory_allocated(self.name)
        return int(torch.cuda.mem_get_info(self.name)[0]) + reusable

    def prepare(self) -> None:
        import torch

        torch.cuda.init()  # type: ignore[no-untyped-call]  # first: reset_peak_memory_stats fails without it
        torch.cuda.set_device(self.index)
        torch.backends.cudnn.allow_tf32 = False  # by default fp32 convolutions round to 10 bits
        torch.cuda.reset_peak_memory_stats(self.name)

    @contextmanager
    def shared(self) -> Iterator[None]:
        with GpuLock(self.uuid) as self.lock:
            try:
                yield
            finally:
                self.release_memory()
                self.lock = None

    @property
    def can_wait(self) -> bool:
        return self.lock is not None and not self.lock.is_exclusive

    def wait_alone(self) -> bool:
        if self.lock is None or self.lock.is_exclusive:
            return False
        self.release_memory()
        start = time.perf_counter()
        self.lock.make_exclusive()
        self.waited_seconds += time.perf_counter() - start
        return True

    @property
    def uuid(self) -> str:
        import torch

        return str(torch.cuda.get_device_properties(self.name).uuid)

    def release_memory(self) -> None:
        import gc

        import torch

        gc.collect()  # a Training and its captured step reference each other
        torch.cuda.empty_cache()

    @contextmanager
    def stream(self) -> Iterator[None]:
        # A capture needs a stream other than the default one, and the steps before it must use the same stream.
        import torch

        outer, own = torch.cuda.current_stream(self.name), torch.cuda.Stream(self.name)  # type: ignore[no-untyped-call]
        own.wait_stream(outer)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            outer.wait_stream(own)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize(self.name)

    def pace(self) -> Callable[[], None]:
        return Pace(self.mark)

    def mark(self) -> torch.cuda.Event:
        """Record an event at the end of the queue."""
        import torch

        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def send(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            return tensor.to(self.name)
        return tensor.pin_memory().to(self.name, non_blocking=True)  # pageable memory would make the host wait

    def rates(self, values: Sequence[float]) -> Tensor:
        return self.send(super().rates(values))

    def optimizer_options(self) -> dict[str, bool]:
        return {"fused": True, "capturable": True}

    def prediction_batch(self, image_bytes: int) -> int:
        # The largest activations of a model take some 100 times its input (resnet50 at 224 px: 77 MB per image).
        # Total memory, not free memory: the batch size, and with it the last bits of the val scores, must not depend
        # on which runs share the GPU.
        import torch

        share = torch.cuda.get_device_properties(self.name).total_memory / MAX_SHARING
        fitting = int(share / (image_bytes * 128))
        return max(32, min(1024, 1 << max(0, fitting.bit_length() - 1)))

    def dense_batch(self, image_bytes: int) -> int:
        return self.prediction_batch(image_bytes)

    def replace_where(
        self, mask: Tensor, function: Callable[..., Tensor], images: Tensor, *arguments: Tensor
    ) -> Tensor:
        import torch

        return torch.where(mask.reshape(-1, *[1] * (images.ndim - 1)), function(images, *arguments), images)

    @contextmanager
    def own_random_numbers(self, seed: int) -> Iterator[None]:
        import torch

        with torch.random.fork_rng(devices=[self.name]):
            torch.manual_seed(seed)
            yield

    def random_state(self) -> dict[str, Tensor]:
        import torch

        return super().random_state() | {"device": torch.cuda.get_rng_state(self.name)}

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        import torch

        super().set_random_state(state)
        torch.cuda.set_rng_state(state["device"], self.name)

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record the kernels of `function` in a CUDA graph and return its replay.

        Tensors that the function reads and writes must keep their addresses; its Python code is not executed again.
        Call this within `stream`, after a few calls of `function` there: the first ones allocate, choose algorithms
        and wait.
        """
        import torch

        random_state = torch.cuda.get_rng_state(self.name)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: a call in another thread that captures forbid (pinning memory) must not end this capture.
            stream = torch.cuda.current_stream(self.name)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                function()
        except Exception as error:
            # A failed capture leaves the generator in capture mode: give it a new state.
            fresh = torch.Generator(device=self.name)
            fresh.set_state(random_state)
            torch.cuda.default_generators[self.index].graphsafe_set_state(fresh)
            torch.cuda.synchronize(self.name)
            raise CaptureError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
        return graph.replay

    def is_capturing(self) -> bool:
        import torch

        return bool(torch.cuda.is_current_stream_capturing())

    @property
    def index(self) -> int:
        import torch

        return int(self.name.partition(":")[2] or torch.cuda.current_device())

    @contextmanager
    def counting_waits(self) -> Iterator[list[str]]:
        import torch

        waits: list[str] = []
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode(before)
                synchronizing = [warning for warning in caught if "synchroniz" in str(warning.message)]
                waits += [f"{Path(warning.filename).name}:{warning.lineno}" for warning in synchronizing]


class Pace:
    """Limit the host's lead over the GPU to `2 * AHEAD_SECONDS` of steps, without letting the GPU run idle.

    Record an event after every few steps and wait for the previous event, so that the steps in between stay queued.
    """

    def __init__(self, mark: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> None:
        self.mark, self.clock = mark, clock
        self.stride, self.count = FIRST_STRIDE, 0
        self.marks: deque[tuple[Any, int]] = deque()  # each with the number of steps since the previous one
        self.last: float | None = None  # when the last wait ended

    def __call__(self) -> None:
        self.count += 1
        if self.count < self.stride:
            return
        self.marks.append((self.mark(), self.count))
        self.count = 0
        if len(self.marks) == 1:
            return
        mark, steps = self.marks.popleft()
        mark.synchronize()
        now = self.clock()
        if self.last is not None:
            fitting = steps * AHEAD_SECONDS / max(now - self.last, 1e-6)
            self.stride = round(max(1, min(fitting, 2 * self.stride, MAX_STRIDE)))
        self.last = now


class GpuLock:
    """A lock between processes that all runs on one GPU share, or that one of them holds exclusively.

    An exclusive request takes the `door` lock first, so that new runs wait and do not starve it. If two runs request
    exclusivity at once, the second keeps its model and dataset on the GPU while it waits. Without `fcntl` (Windows)
    there is no waiting.
    """

    def __init__(self, uuid: str) -> None:
        owner = os.getuid() if hasattr(os, "getuid") else getpass.getuser()  # the user of a container may have no name
        self.folder = Path(tempfile.gettempdir()) / f"zoo-gpu-{owner}"
        self.uuid = uuid
        self.is_exclusive = False

    def __enter__(self) -> GpuLock:
        self.folder.mkdir(exist_ok=True)
        door, room = (self.folder / f"{self.uuid}.{name}" for name in ("door", "room"))
        self.door, self.room = open(door, "w"), open(room, "w")
        self.enter(exclusive=False)
        return self

    def make_exclusive(self) -> None:
        if fcntl:
            fcntl.flock(self.room, fcntl.LOCK_UN)
        self.enter(exclusive=True)
        self.is_exclusive = True

    def enter(self, *, exclusive: bool) -> None:
        if fcntl:
            fcntl.flock(self.door, fcntl.LOCK_EX)
            fcntl.flock(self.room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            fcntl.flock(self.door, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        self.door.close()
        self.room.close()


class Mps(Device):
    """An Apple GPU: no float64, no fused optimizers, no capture. It shares memory with the CPU."""

    holds_datasets = True

    def release_memory(self) -> None:
        import torch

        torch.mps.empty_cache()

    def synchronize(self) -> None:
        import torch

        torch.mps.synchronize()

    def optimizer_options(self) -> dict[str, bool]:
        return {}

    def random_state(self) -> dict[str, Tensor]:
        import torch

        return super().random_state() | {"device": torch.mps.get_rng_state()}

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        import torch

        super().set_random_state(state)
        torch.mps.set_rng_state(state["device"])


DEVICE_TYPES: dict[str, type[Device]] = {"cpu": Device, "cuda": Cuda, "mps": Mps}


def device_kind(name: str) -> str:
    return name.partition(":")[0]


@cache
def open_device(name: str) -> Device:
    """The device for a name that `resolve_device` returned."""
    return DEVICE_TYPES[device_kind(name)](name)


def describe_compute(device: str, threads: int) -> dict[str, Any]:
    """Facts about the machine and the device that affect speed and memory."""
    return {**describe_system(device, threads), **open_device(device).describe()}


# --- choosing --------------------------------------------------------------------------------------------------------
def resolve_device(requested: str) -> str:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:N` or `mps` to a device of this machine. Raises UsageError."""
    # Query NVML instead of the driver: CUDA must not be initialized in a process that forks.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if requested == "cpu":
        return "cpu"
    if requested not in ("auto", "mps") and not re.fullmatch(r"cuda(:[0-9]+)?", requested):
        raise UsageError(f"--device {requested}: not a device", fix="one of auto, cpu, cuda, cuda:N, mps")
    import torch

    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if requested == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("--device mps: not available on this machine", fix="--device cpu")
        return requested
    index = requested.partition(":")[2]
    if not torch.cuda.is_available():
        raise UsageError(f"--device {requested}: torch {torch.__version__} sees no CUDA device", fix="--device cpu")
    count = torch.cuda.device_count()
    if index and int(index) >= count:
        raise UsageError(
            f"--device {requested}: this machine has {count} CUDA devices", fix=f"cuda:0 to cuda:{count - 1}"
        )
    return requested


def list_devices(device: str) -> list[str]:
    """The devices that a resolved name stands for: `cuda` is every GPU of the machine."""
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


@cache
def list_gpus() -> tuple[dict[str, Any], ...]:
    """`Cuda.describe` of every GPU, from a child process: CUDA must not be initialized in a process that forks."""
    import torch

    if not can_fork() or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return describe_gpus()
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(describe_gpus).result()


def describe_gpus() -> tuple[dict[str, Any], ...]:
    return tuple(open_device(name).describe() for name in list_devices("cuda"))


def gpus_of(device: str) -> list[dict[str, Any]]:
    gpus = list_gpus()
    return [gpus[int(name.partition(":")[2])] for name in list_devices(device)]


def resolve_precision(requested: str, device: str) -> str:
    """Resolve `auto` to the fastest precision that the device computes natively.

    CUDA: bf16 from compute capability 8.0 (A100, RTX 30xx), fp16 with gradient scaling from 7.0 (V100, T4, RTX 20xx),
    else fp32. CPU: bf16 if it has instructions for it, else fp32. With several GPUs, use the lowest capability.
    """
    if requested != "auto":
        return requested
    if device_kind(device) == "cuda":
        return precision_of_capability(min(float(gpu["compute_capability"]) for gpu in gpus_of(device)))
    return "bf16" if device_kind(device) == "cpu" and cpu_has_bf16() else "fp32"


def precision_of_capability(capability: float) -> Precision:
    if capability >= 8:
        return "bf16"
    return "fp16" if capability >= 7 else "fp32"


def count_sharing(device: str) -> int:
    """The number of runs that share each GPU: a small model leaves most of a large GPU idle between its kernels."""
    memory = min(float(gpu["gpu_memory_bytes"]) for gpu in gpus_of(device))
    cores = num_cores() // len(list_devices(device))
    return max(1, min(MAX_SHARING, int(memory / BYTES_PER_WORKER), cores // CORES_PER_WORKER))
