"""The tests of test_gpu.py on a simulated GPU, and what the simulation detects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What a GPU refuses, counts as a wait, or replays with an old value.
RULES = """
import simulated_gpu
import torch
from zoo.system.devices import open_device

simulated_gpu.install()
device = open_device("sim")
ones, host = torch.ones(3, device="sim"), torch.ones(3)
for refused in (lambda: ones + host, lambda: ones.numpy()):
    try:
        refused()
    except (RuntimeError, TypeError):
        continue
    raise AssertionError("a tensor of the host was read")
with device.counting_waits() as waits:
    ones.sum().item(), ones[ones > 0], ones.nonzero(), ones.cpu(), host.to("sim"), ones.tolist()
    assert len(waits) == 6, waits
    ones + 1, ones @ ones, torch.rand(3, device="sim"), device.send(host)
    assert len(waits) == 6, waits
total, numbers = torch.zeros((), device="sim"), iter((1.0, 2.0))
replay = device.capture(lambda: total.add_(next(numbers)))
assert total.item() == 0, "a capture computes nothing"
replay(), replay()
assert total.item() == 2, "the number was not that of the capture"
"""


def run(*words, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])} | variables
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=TESTS.parent, timeout=600
    )


@pytest.mark.integration
def test_the_simulated_gpu_follows_the_rules_of_a_gpu():
    result = run("-c", RULES)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.integration
def test_trainings_follow_the_rules_of_a_gpu():
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py", ZOO_TEST_DEVICE="sim")
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout and " failed" not in result.stdout
