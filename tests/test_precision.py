"""The precision of training on a CPU: timed once, cached, and part of a run's identity."""

import json
import time
from dataclasses import replace

import pytest
import torch
from test_planning import REGISTRY
from torch import nn

from zoo.registry.context import Context
from zoo.registry.lookup import Registry
from zoo.runner import precision
from zoo.runner.planning import plan_bench
from zoo.runner.precision import TrainedNetwork, find_precisions, read_times
from zoo.specs.model import ModelSpec
from zoo.specs.suite import Suite
from zoo.system import devices
from zoo.system.machine import can_fork
from zoo.system.progress import Console
from zoo.system.settings import Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_fork(), reason="the networks of these tests are local classes: they need fork"),
]


class Slow(nn.Module):
    """A network that is slower in one precision."""

    def __init__(self, kind, outputs):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(1, outputs)

    def forward(self, images):
        outputs = self.fc(images.mean(dim=(1, 2, 3), keepdim=False)[:, None])
        if self.training and outputs.dtype == self.kind:
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
        return outputs


def network(name, **changes):
    fields = {"model": f"test:{name}", "stem": "own", "channels": 1, "image_size": 8, "threads": 1}
    return TrainedNetwork(**{**fields, **changes})


@pytest.fixture
def registry(monkeypatch):
    kinds = {"slow_in_bf16": torch.bfloat16, "slow_in_fp32": torch.float32}
    specs = {
        name: ModelSpec(name=name, build=lambda request, kind=kind: Slow(kind, request.num_outputs), channels=1)
        for name, kind in kinds.items()
    }
    specs["broken"] = ModelSpec(name="broken", build=lambda request: 1 / 0, channels=1)
    monkeypatch.setattr(precision, "find_model_spec", lambda model, *_: specs[model.partition(":")[2]])
    monkeypatch.setattr(precision, "imports_of", lambda *_: set())
    return Registry()


def test_each_network_gets_its_faster_precision(registry, tmp_path):
    networks = [network("slow_in_bf16"), network("slow_in_fp32")]
    assert list(find_precisions(networks, registry, tmp_path).values()) == ["fp32", "bf16"]


def test_timed_networks_are_not_timed_again(registry, tmp_path, monkeypatch):
    one = network("slow_in_bf16")
    find_precisions([one], registry, tmp_path)
    monkeypatch.setattr(precision, "execute", None)  # a call would fail
    assert find_precisions([one], registry, tmp_path) == {one: "fp32"}


def test_other_sizes_and_versions_are_timed_separately(registry, tmp_path, monkeypatch):
    find_precisions([network("slow_in_bf16")], registry, tmp_path)
    find_precisions([network("slow_in_bf16", image_size=16)], registry, tmp_path)
    monkeypatch.setattr(precision, "versions", lambda *names: {"torch": "99"})
    find_precisions([network("slow_in_bf16")], registry, tmp_path)
    assert len(list((tmp_path / "precision").glob("*.json"))) == 3


def test_a_network_that_cannot_be_built_is_left_out(registry, tmp_path):
    assert find_precisions([network("broken")], registry, tmp_path) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": {"fp32": "x", "bf16": 1}}', '{"seconds": {"fp32": 1}}'])
def test_a_damaged_file_is_timed_again(text, tmp_path):
    (tmp_path / "times.json").write_text(text)
    assert read_times(tmp_path / "times.json") is None


# --- the plan --------------------------------------------------------------------------------------------------------
@pytest.fixture
def plan(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "read_times", lambda _: {"fp32": 1.0, "bf16": 2.0})

    def plan_with(**settings):
        fields = {"models": ("tiny",), "protocol": "scratch", "seeds": (0,)}
        suite = Suite(name="test", datasets=(str(tiny_data / "binary.npz"),), **fields)
        suite = replace(suite, settings=tuple({"image_size": "16", **settings}.items()))
        options = Settings(results=tmp_path / "results", cache=tmp_path / "cache", device="cpu", offline=True)
        return {
            run.shown: run.precision
            for run in plan_bench(suite, Context(registry=REGISTRY, settings=options, console=Console())).runs
        }

    return plan_with


def test_a_long_training_is_planned_in_the_faster_precision(plan):
    assert plan(steps="500")["tiny"] == "fp32"


def test_a_short_training_or_a_fixed_precision_is_not_timed(plan):
    assert plan(steps="3")["tiny"] == "bf16"
    assert plan(steps="500", precision="bf16")["tiny"] == "bf16"


def test_times_are_plain_json(registry, tmp_path):
    find_precisions([network("slow_in_bf16")], registry, tmp_path)
    path = next((tmp_path / "precision").glob("*.json"))
    assert json.loads(path.read_text())["seconds"]["bf16"] > json.loads(path.read_text())["seconds"]["fp32"]


class Multiple(nn.Module):
    """A network of volumes that accepts multiples of 32, from 64 on."""

    def __init__(self, outputs):
        super().__init__()
        self.conv = nn.Conv3d(1, outputs, 1)

    def forward(self, volumes):
        if any(side % 32 or side < 64 for side in volumes.shape[2:]):
            raise ValueError(f"sides {tuple(volumes.shape[2:])}")
        return self.conv(volumes)


def test_volumes_are_timed_at_sides_that_the_network_accepts(monkeypatch):
    spec = ModelSpec(
        name="multiple",
        build=lambda request: Multiple(request.num_outputs),
        tasks=("segmentation",),
        dims=(3,),
        channels=1,
        size_multiple=32,
        min_image_size=64,
    )
    monkeypatch.setattr(precision, "find_model_spec", lambda *_: spec)
    reports = []
    timed = network("multiple", image_size=128, dims=3)
    precision.time_steps(timed, "cpu", reports.append, registry=Registry(), cache=None)
    assert set(reports[0]["seconds"]) == {"fp32", "bf16"}
