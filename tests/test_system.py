"""The machine to facts and settings: cores and memory that are there, seeds that are independent."""

import getpass
import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.system.machine import (
    available_memory_bytes,
    describe_system,
    distributions_of,
    num_cores,
    resident_peak_bytes,
    seed_children,
    torch_generator,
    tune_allocator,
    versions,
)


# --- facts -----------------------------------------------------------------------------------------------------------
def test_the_cores_are_those_this_process_may_use():
    assert 1 <= num_cores() <= os.cpu_count()


def test_a_module_belongs_to_the_distribution_that_holds_it():
    assert distributions_of(["PIL.Image", "numpy", "no_such_module"]) == ["numpy", "pillow"]


def test_the_versions_of_other_distributions_are_beside_those_of_the_core():
    assert versions("pytest", "no-such-distribution") == {**versions(), "pytest": pytest.__version__}


def test_memory_is_a_plausible_number_of_bytes_or_unknown():
    for found in (available_memory_bytes(), resident_peak_bytes()):
        assert found is None or 10e6 < found < 100e12


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what is resident now")
def test_the_peak_of_memory_is_at_least_what_is_held_now():
    held = np.ones(50_000_000 // 8)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident_peak_bytes() > 0.98 * resident > held.nbytes


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
