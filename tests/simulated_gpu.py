"""A simulated GPU: torch device `sim`, whose tensors are computed on the CPU but obey a GPU's rules.

- An operation on tensors of both devices fails, except copies and numbers.
- Operations that would make the host wait are counted, and fail in a capture.
- A capture records the operations, and a replay executes them on the same memory without any Python code, so that a
  value that Python computed in between is as stale as in a CUDA graph.
- Random numbers on the device come from a generator of its own.

Speed, memory, rounding and the kernels themselves are not simulated.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from zoo.system import devices
from zoo.system.devices import CaptureError, Cuda, Device

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
# The size of the output, or a Python value, depends on the data.
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_dim.default,
}


# Operations without a tensor, on which the others of this kind are built.
CREATIONS = (
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.eye.default,
    aten.linspace.default,
    aten.randperm.default,
)


@dataclass(frozen=True, eq=False)
class Recorded:
    """An operation of a capture."""

    func: Any
    args: Any
    kwargs: Any
    output: Any
    before: list[tuple[torch.Tensor, torch.Tensor]]  # what it changed, and the earlier numbers

    def undo(self) -> None:
        for tensor, numbers in self.before:
            tensor.copy_(numbers)

    def replay(self) -> None:
        """Execute the operation again, into the memory of its first output."""
        with torch.no_grad(), drawing(self.func):
            again = self.func(*self.args, **self.kwargs)
        for old, new in zip(_pytree.tree_leaves(self.output), _pytree.tree_leaves(again), strict=True):
            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)


class Recording(list[Recorded]):
    """The operations of a capture in progress; true even when it is empty."""

    def __bool__(self) -> bool:
        return True

    def replay(self) -> None:
        for each in self:
            each.replay()


class State:
    """What the simulated GPU knows beside its tensors."""

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self.waits: list[str] = []  # source lines that made the host wait
        self.recording: Recording | None = None


STATE = State()


class Module(_DummyBackendModule):
    """What torch asks of `torch.sim`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class OnGpu(torch.Tensor):
    """A tensor of the simulated GPU; `inner` has its numbers, on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[no-any-return,attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="sim:0",
            requires_grad=requires_grad,
        )

    def __init__(self, inner: torch.Tensor, requires_grad: bool = False) -> None:
        del requires_grad
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # torch then moves modules by swapping tensors
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: Any, context: Any, size: Any, stride: Any) -> OnGpu:
        return OnGpu(parts["inner"])

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return load_on_host, (self.inner.detach(),)

    def __deepcopy__(self, memo: Any) -> OnGpu:
        return OnGpu(self.inner.detach().clone())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})


def load_on_host(inner: torch.Tensor) -> torch.Tensor:
    """What torch.load(..., map_location="cpu") returns for a stored tensor of the device."""
    return inner


def names_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "sim"


def leaves(args: Any, kwargs: Any) -> list[Any]:
    return _pytree.tree_leaves((args, kwargs))


def execute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Execute one operation of the device by the rules of this module."""
    own = [each for each in leaves(args, kwargs) if isinstance(each, OnGpu)]
    of_host = [each for each in leaves(args, kwargs) if is_on_host(each)]
    if func in COPIES:
        to_host = (
            not names_gpu(kwargs["device"]) if kwargs.get("device") is not None else not isinstance(args[0], OnGpu)
        )
        if to_host or of_host:
            wait(func)
    elif of_host:
        shapes = [tuple(each.shape) for each in of_host]
        raise RuntimeError(f"{func}: expected all tensors on sim, but those of shape {shapes} are on the CPU")
    else:
        to_host = False
        if func in READS or any(each.dtype in (torch.bool, torch.uint8) for each in masks_of(func, args)):
            wait(func)
    inner_args, inner_kwargs = _pytree.tree_map(unwrap, (args, kwargs))
    if names_gpu(kwargs.get("device")):
        inner_kwargs["device"] = torch.device("cpu")
    before = [(each, each.clone()) for each in written_by(func, inner_args, inner_kwargs)] if STATE.recording else []
    with drawing(func), reporting_memory():
        output = func(*inner_args, **inner_kwargs)
    if STATE.recording:
        STATE.recording.append(Recorded(func, inner_args, inner_kwargs, output, before))
    if to_host:
        return output
    known = {id(each.inner): each for each in own}
    return _pytree.tree_map(lambda each: wrap(each, known), output)


def create(func: Any, *args: Any, **kwargs: Any) -> OnGpu:
    return execute(func, args, {**kwargs, "device": torch.device("sim")})


def unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def wrap(value: Any, known: dict[int, OnGpu]) -> Any:
    """The tensor of the device for an output; an operation in place returns its argument."""
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else OnGpu(value)


def is_on_host(value: Any) -> bool:
    """Whether a value is a tensor of the host that a kernel cannot read: a number is passed by value."""
    return isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) and value.ndim > 0


def masks_of(func: Any, args: Any) -> list[torch.Tensor]:
    """The indices of an indexing operation; those that are masks are counted first."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default):
        return []
    return [each for each in args[1] if each is not None]


def wait(func: Any) -> None:
    if STATE.recording is not None:
        raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
    frames = [frame for frame in traceback.extract_stack(sys._getframe(1)) if "/torch/" not in frame.filename]
    place = next((f for f in reversed(frames) if not f.filename.endswith("simulated_gpu.py")), frames[-1])
    STATE.waits.append(f"{place.filename.rpartition('/')[2]}:{place.lineno} {func}")


@contextlib.contextmanager
def drawing(func: Any) -> Any:
    """Draw the random numbers of an operation from the device's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        yield
        return
    host = torch.get_rng_state()
    torch.set_rng_state(STATE.generator.get_state())
    try:
        yield
    finally:
        STATE.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(host)


@contextlib.contextmanager
def reporting_memory() -> Any:
    """Raise a GPU's error where the host has no more memory."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def written_by(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operation changes."""
    if func is aten.native_batch_norm.default:  # whose schema does not mention its running statistics
        return [each for each in args[3:5] if each is not None]
    values = [*args, *(kwargs.get(each.name) for each in func._schema.arguments[len(args) :])]
    written = [
        value
        for value, each in zip(values, func._schema.arguments, strict=True)
        if each.alias_info is not None and each.alias_info.is_write
    ]
    return [each for each in _pytree.tree_leaves(written) if isinstance(each, torch.Tensor)]


class Simulated(Cuda):
    """`Cuda` without its calls of torch.cuda."""

    def describe(self) -> dict[str, Any]:
        return {"gpu": "simulated", "gpu_memory_bytes": 8 << 30, "compute_capability": "9.0"}

    def peak_memory_bytes(self) -> int | None:
        return None

    def free_memory_bytes(self) -> int | None:
        return 8 << 30

    def prepare(self) -> None:
        pass

    uuid = "simulated"

    def release_memory(self) -> None:
        pass

    def stream(self) -> Any:
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        pass

    def pace(self) -> Any:
        return lambda: None

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cpu" or STATE.recording:
            return tensor.to(self.name)
        return OnGpu(tensor.clone())  # from pinned memory: the host does not wait

    def prediction_batch(self, image_bytes: int) -> int:
        return 8

    @contextlib.contextmanager
    def own_random_numbers(self, seed: int) -> Any:
        outer = STATE.generator.get_state()
        STATE.generator.manual_seed(seed)
        with Device.own_random_numbers(self, seed):
            try:
                yield
            finally:
                STATE.generator.set_state(outer)

    def random_state(self) -> dict[str, torch.Tensor]:
        return Device.random_state(self) | {"device": STATE.generator.get_state()}

    def set_random_state(self, state: dict[str, torch.Tensor]) -> None:
        Device.set_random_state(self, state)
        STATE.generator.set_state(state["device"])

    def capture(self, function: Any) -> Any:
        STATE.recording = recording = Recording()
        generator = STATE.generator.get_state()
        try:
            function()
        except Exception as error:
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        finally:
            STATE.recording = None
            STATE.generator.set_state(generator)
            with torch.no_grad():  # a capture computes nothing
                for each in reversed(recording):
                    each.undo()
        return recording.replay

    def is_capturing(self) -> bool:
        return STATE.recording is not None

    index = 0

    @contextlib.contextmanager
    def counting_waits(self) -> Any:
        outer, STATE.waits = STATE.waits, []
        waits = STATE.waits
        try:
            yield waits
        finally:
            outer += waits
            STATE.waits = outer


LIBRARY = torch.library.Library("aten", "IMPL", "PrivateUse1")


def install() -> None:
    """Register the device with torch and with zoo."""
    _setup_privateuseone_for_python_backend("sim", backend_module=Module())
    for func in CREATIONS:
        LIBRARY.impl(func, partial(create, func))
    LIBRARY.impl("_copy_from", lambda source, target, _=False: execute(aten.copy_.default, (target, source), {}))
    torch.serialization.add_safe_globals([load_on_host])
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # wrapped tensors have no views in it
    devices.DEVICE_TYPES["sim"] = Simulated
    devices.resolve_device = resolve_device


def resolve_device(requested: str) -> str:
    """Let `cuda` name the simulated device."""
    return "sim" if requested == "cuda" else requested


if __name__ == "__main__":  # zoo on a machine with this GPU
    install()
    from zoo.__main__ import main

    sys.exit(main())
