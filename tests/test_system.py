"""The machine to facts and settings: devices that exist, precision that pays, seeds that are independent."""

import getpass
import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import system
from zoo.errors import UsageError
from zoo.system import (
    available_memory_bytes,
    describe_system,
    num_cores,
    peak_memory_bytes,
    resolve_device,
    resolve_precision,
    seed_children,
    torch_generator,
    tune_allocator,
    versions,
)

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


# --- devices ---------------------------------------------------------------------------------------------------------
def test_cpu_is_cpu_without_importing_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail
    assert resolve_device("cpu") == "cpu"


@no_cuda
@pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
def test_a_cuda_device_that_is_not_there_is_refused(asked):
    with pytest.raises(UsageError, match=f"--device {asked}: torch .* sees no CUDA device; fix: --device cpu"):
        resolve_device(asked)


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU", "cpu:0"])
def test_an_unknown_device_names_the_ones_there_are(asked):
    with pytest.raises(UsageError, match="not a device; fix: one of auto, cpu, cuda, cuda:N, mps"):
        resolve_device(asked)


def test_auto_is_a_device_that_can_be_computed_on():
    device = resolve_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2


# --- precision -------------------------------------------------------------------------------------------------------
def test_a_precision_asked_for_is_what_is_taken():
    assert [resolve_precision(p, d) for p in ("fp32", "bf16") for d in ("cpu", "cuda:1")] == ["fp32"] * 2 + ["bf16"] * 2


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_multiplies_it(monkeypatch, native, expected):
    monkeypatch.setattr(system, "cpu_has_bf16", lambda: native)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("auto", "cuda:0") == "bf16"
    assert resolve_precision("auto", "mps") == "fp32"


# --- facts -----------------------------------------------------------------------------------------------------------
def test_the_cores_are_those_this_process_may_use():
    assert 1 <= num_cores() <= os.cpu_count()


def test_memory_is_a_plausible_number_of_bytes_or_unknown():
    for found in (available_memory_bytes(), peak_memory_bytes("cpu")):
        assert found is None or 10e6 < found < 100e12


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what is resident now")
def test_the_peak_of_memory_is_at_least_what_is_held_now():
    held = np.ones(50_000_000 // 8)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_memory_bytes("cpu") > 0.98 * resident > held.nbytes


def test_a_description_names_neither_user_nor_host():
    found = describe_system("cpu", 3)
    assert (found["device"], found["threads"], found["cores"]) == ("cpu", 3, num_cores())
    assert platform.node() not in map(str, found.values())
    assert getpass.getuser() not in map(str, found.values())


def test_the_versions_that_numbers_depend_on_are_known():
    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions()["numpy"] == np.__version__
    assert {"python", "zoo-bench", "scikit-learn", "pandas", "pillow"} <= set(versions())


def test_tuning_the_allocator_harms_nothing():
    tune_allocator()
    assert np.ones(1_000_000).sum() == 1_000_000


# --- seeds -----------------------------------------------------------------------------------------------------------
def test_a_seeds_children_are_numpys_and_differ():
    children = seed_children(5, "init", "order", "dropout")
    spawned = np.random.SeedSequence(5).spawn(3)
    assert list(children.values()) == [int(c.generate_state(1, np.uint64)[0]) >> 1 for c in spawned]
    every = [child for seed in range(50) for child in seed_children(seed, "init", "order").values()]
    assert len(set(every)) == 100


def test_a_child_keeps_its_value_when_others_come_after_it():
    assert seed_children(5, "init")["init"] == seed_children(5, "init", "order")["init"]


def test_every_child_is_a_seed_torch_takes():
    for seed in range(20):
        for child in seed_children(seed, "a", "b").values():
            assert torch_generator(child).initial_seed() == child
