"""Devices, precisions, and captured functions."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import UsageError
from zoo.system import devices
from zoo.system.devices import (
    CaptureError,
    Device,
    GpuLock,
    Pace,
    list_devices,
    open_device,
    precision_of_capability,
    resolve_device,
    resolve_precision,
)
from zoo.system.replay import WARM_UP_STEPS, Repeated, within_memory
from zoo.training.loop import describe_hooks, python_state

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


# --- choosing --------------------------------------------------------------------------------------------------------
def test_cpu_is_cpu_without_importing_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail
    assert resolve_device("cpu") == "cpu"


@no_cuda
@pytest.mark.parametrize("requested", ["cuda", "cuda:0"])
def test_an_unavailable_cuda_device_is_refused(requested):
    with pytest.raises(UsageError, match=f"--device {requested}: .*no CUDA device"):
        resolve_device(requested)


@pytest.mark.parametrize("requested", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU", "cpu:0"])
def test_an_unknown_device_lists_the_valid_ones(requested):
    with pytest.raises(UsageError, match="auto, cpu, cuda, cuda:N, mps"):
        resolve_device(requested)


def test_auto_resolves_to_a_usable_device():
    device = resolve_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2


def test_a_numbered_device_resolves_to_itself():
    assert list_devices("cpu") == ["cpu"]
    assert list_devices("cuda:3") == ["cuda:3"]


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_every_device_has_the_same_interface(name):
    """Opening a device does not require it to exist."""
    device = open_device(name)
    assert device.name == name and device.kind == name.partition(":")[0]
    own = {attribute for attribute in vars(type(device)) if not attribute.startswith("_")}
    assert own - set(dir(Device)) <= {"index", "uuid", "lock", "mark"}


# --- precision -------------------------------------------------------------------------------------------------------
def test_a_requested_precision_is_used():
    pairs = [(p, d) for p in ("fp32", "bf16", "fp16") for d in ("cpu", "cuda:1")]
    assert [resolve_precision(*pair) for pair in pairs] == [p for p, _ in pairs]


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(6.1, "fp32"), (7.0, "fp16"), (7.5, "fp16"), (8.0, "bf16"), (8.9, "bf16"), (9.0, "bf16"), (12.0, "bf16")],
)
def test_auto_precision_follows_the_compute_capability(capability, expected):
    assert precision_of_capability(capability) == expected


def gpus(*capabilities):
    return lambda: tuple({"compute_capability": each, "gpu_memory_bytes": 16e9} for each in capabilities)


def test_the_oldest_of_several_gpus_determines_the_precision(monkeypatch):
    monkeypatch.setattr(devices, "list_gpus", gpus("9.0", "7.5"))
    monkeypatch.setattr(devices, "list_devices", lambda name: ["cuda:0", "cuda:1"] if name == "cuda" else [name])
    assert [resolve_precision("auto", name) for name in ("cuda", "cuda:0", "cuda:1")] == ["fp16", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("gigabytes", "cores", "expected"), [(8, 16, 1), (24, 16, 1), (40, 16, 2), (141, 16, 4), (141, 4, 2), (80, 1, 1)]
)
def test_runs_share_a_gpu_if_memory_and_cores_allow(gigabytes, cores, expected, monkeypatch):
    monkeypatch.setattr(devices, "list_gpus", lambda: ({"gpu_memory_bytes": gigabytes * 1e9},))
    monkeypatch.setattr(devices, "num_cores", lambda: cores)
    assert devices.count_sharing("cuda:0") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_if_the_processor_supports_it(monkeypatch, native, expected):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: native)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("auto", "mps") == "fp32"


# --- functions that are called again and again -----------------------------------------------------------------------
class Recording(Device):
    """A device whose capture returns the function, and which records its calls."""

    captures = True

    def __init__(self, *, fails=False, waits=()):
        super().__init__("cpu")
        self.fails, self.waits, self.captured = fails, list(waits), 0

    def capture(self, function):
        self.captured += 1
        if self.fails:
            raise CaptureError("it cannot be")
        return function

    def counting_waits(self):
        from contextlib import nullcontext

        return nullcontext(self.waits)


def calls_of(device, function=lambda: None, **settings):
    calls = []
    repeated = Repeated(lambda: (calls.append(1), function()), device, **settings)
    for _ in range(10):
        repeated()
    return len(calls), repeated


def test_each_call_is_one_execution_before_and_after_a_capture():
    device = Recording()
    count, repeated = calls_of(device)
    assert (count, device.captured, repeated.is_captured, repeated.obstacle) == (10, 1, True, "")


def test_a_failed_capture_is_not_retried_and_calls_continue():
    device = Recording(fails=True)
    count, repeated = calls_of(device)
    assert (count, device.captured, repeated.is_captured, repeated.obstacle) == (10, 1, False, "it cannot be")


def test_a_failed_capture_is_undone():
    undone = []
    calls_of(Recording(fails=True), undo=lambda: undone.append(True))
    assert undone == [True]


def test_nothing_is_captured_before_the_warm_up():
    device = Recording()
    repeated = Repeated(lambda: None, device)
    for _ in range(WARM_UP_STEPS):
        repeated()
    assert device.captured == 0


def test_a_function_that_makes_the_host_wait_is_not_captured():
    device = Recording(waits=["called a synchronizing operation"])
    count, repeated = calls_of(device)
    assert (count, device.captured) == (10, 0) and "wait" in repeated.obstacle


@pytest.mark.parametrize("draw", [random.random, np.random.random])
def test_a_function_that_draws_random_numbers_on_the_host_is_not_captured(draw):
    device, module = Recording(), nn.Linear(1, 1)
    count, repeated = calls_of(device, draw, watch=lambda: python_state(module))
    assert (count, device.captured) == (10, 0) and "Python" in repeated.obstacle


def test_a_model_that_counts_its_calls_is_not_captured():
    device, module = Recording(), nn.Linear(1, 1)
    module.count = 0

    def count_up():
        module.count += 1

    _, repeated = calls_of(device, count_up, watch=lambda: python_state(module))
    assert device.captured == 0 and "Python" in repeated.obstacle


def test_an_ordinary_model_is_captured():
    device, module = Recording(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    _, repeated = calls_of(device, lambda: module(torch.rand(3, 2)), watch=lambda: python_state(module))
    assert repeated.is_captured


def test_a_forward_hook_is_reported():
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert describe_hooks(module) == ""
    module[1].register_forward_hook(lambda *_: None)
    assert describe_hooks(module).startswith("1 ")


# --- the host's lead -------------------------------------------------------------------------------------------------
class Queue:
    """A device that needs some seconds for each step, and a host that needs almost none."""

    def __init__(self, seconds):
        self.seconds, self.now, self.busy_until, self.idle = seconds, 0.0, 0.0, 0.0
        self.waits = 0

    def put(self):
        self.now += 1e-4
        self.idle += max(0.0, self.now - self.busy_until)
        self.busy_until = max(self.now, self.busy_until) + self.seconds

    def mark(self):
        queue, end = self, self.busy_until

        class Mark:
            def synchronize(self):
                queue.waits += 1
                queue.now = max(queue.now, end)

        return Mark()


@pytest.mark.parametrize("seconds", [0.0005, 0.0016, 0.01, 0.1, 1.0])
def test_the_host_is_never_far_ahead_and_the_device_never_idle(seconds):
    queue = Queue(seconds)
    pace, leads = Pace(queue.mark, lambda: queue.now), []
    for _ in range(2000):
        queue.put()
        pace()
        leads.append(queue.busy_until - queue.now)
    assert max(leads[200:]) <= max(0.8, 2.1 * seconds)
    assert queue.idle <= 0.001
    assert queue.waits <= max(2000 * seconds / 0.2, 25) or seconds > 0.2


# --- memory that runs out --------------------------------------------------------------------------------------------
def test_running_out_of_memory_halves_the_batch_size_down_to_one():
    sizes = []

    def attempt(size):
        sizes.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("no")
        return "done"

    assert within_memory(attempt, 11, "cpu") == ("done", 2)
    assert sizes == [11, 6, 3, 2]


def test_a_single_image_that_does_not_fit_raises():
    def attempt(size):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(attempt, 4, "cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_an_exclusive_gpu_request_waits_for_other_runs_and_blocks_new_ones():
    import threading
    import time

    order = []

    def hold(name, seconds, *, alone=False):
        with GpuLock("test-of-locks") as lock:
            if alone:
                lock.make_exclusive()
            order.append(f"{name} begins")
            time.sleep(seconds)
            order.append(f"{name} ends")

    threads = []
    for name, seconds, alone in (("first", 0.4, False), ("alone", 0.2, True), ("last", 0.0, False)):
        threads.append(threading.Thread(target=hold, args=(name, seconds), kwargs={"alone": alone}))
        threads[-1].start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    expected = ["first begins", "first ends", "alone begins", "alone ends", "last begins", "last ends"]
    assert order == expected
