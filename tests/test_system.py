"""Facts about the machine, and independent seeds."""

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
    prepare_torch,
    resident_peak_bytes,
    seed_children,
    torch_generator,
    versions,
)


# --- facts -----------------------------------------------------------------------------------------------------------
def test_num_cores_is_at_most_the_cpu_count():
    assert 1 <= num_cores() <= os.cpu_count()


def test_algorithms_are_reset_only_where_they_are_deterministic(monkeypatch):
    """torch's setter imports its compiler, which takes longer than a prediction."""
    calls, setter = [], torch.use_deterministic_algorithms
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: calls.append(mode) or setter(mode))
    prepare_torch(threads=0)
    assert calls == []
    setter(True)
    prepare_torch(threads=0)
    assert calls == [False] and not torch.are_deterministic_algorithms_enabled()


def test_a_module_is_resolved_to_its_distribution():
    assert distributions_of(["PIL.Image", "numpy", "no_such_module"]) == ["numpy", "pillow"]


def test_versions_of_other_distributions_are_included():
    assert versions("pytest", "no-such-distribution") == {**versions(), "pytest": pytest.__version__}


def test_memory_is_a_plausible_number_of_bytes_or_unknown():
    for num_bytes in (available_memory_bytes(), resident_peak_bytes()):
        assert num_bytes is None or 10e6 < num_bytes < 100e12


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux reports resident memory")
def test_peak_memory_is_at_least_the_resident_memory():
    held = np.ones(50_000_000 // 8)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident_peak_bytes() > 0.98 * resident > held.nbytes


def test_a_system_description_contains_neither_user_nor_host():
    system = describe_system("cpu", 3)
    assert (system["device"], system["threads"], system["cores"]) == ("cpu", 3, num_cores())
    assert platform.node() not in map(str, system.values())
    assert getpass.getuser() not in map(str, system.values())


def test_versions_include_the_libraries_that_affect_results():
    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions()["numpy"] == np.__version__
    assert {"python", "zoo-bench", "scikit-learn", "pandas", "pillow"} <= set(versions())


# --- seeds -----------------------------------------------------------------------------------------------------------
def test_child_seeds_match_numpy_and_are_distinct():
    children = seed_children(5, "init", "order", "dropout")
    spawned = np.random.SeedSequence(5).spawn(3)
    assert list(children.values()) == [int(c.generate_state(1, np.uint64)[0]) >> 1 for c in spawned]
    every = [child for seed in range(50) for child in seed_children(seed, "init", "order").values()]
    assert len(set(every)) == 100


def test_a_child_seed_does_not_depend_on_later_children():
    assert seed_children(5, "init")["init"] == seed_children(5, "init", "order")["init"]


def test_every_child_seed_is_a_valid_torch_seed():
    for seed in range(20):
        for child in seed_children(seed, "a", "b").values():
            assert torch_generator(child).initial_seed() == child
