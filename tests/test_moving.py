"""An assignment on a machine that shares no folder with the bench: images and weights are found, and checked, there."""

import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from zoo.errors import RunError, UsageError
from zoo.models.weights import RANDOM, InitialWeights
from zoo.registry.context import Context
from zoo.registry.opening import open_registry
from zoo.results.store import Result
from zoo.runner import moving
from zoo.runner.assignments import assign_runs
from zoo.runner.external import ExternalTest
from zoo.runner.moving import find_weights, move_here
from zoo.runner.planning import plan_bench
from zoo.runner.run import open_checkpoints
from zoo.sources.opening import find_recognized
from zoo.specs.suite import Suite
from zoo.system.files import hash_file
from zoo.system.progress import Console
from zoo.system.settings import Settings


@pytest.fixture(scope="module")
def assignment(tiny_data, tmp_path_factory):
    """A run of a baseline, with a cache of its own."""
    folder = tmp_path_factory.mktemp("bench")
    suite = Suite(name="flags", models=("constant",), datasets=(str(tiny_data / "binary.npz"),), seeds=(0,))
    settings = Settings(results=folder / "results", cache=folder / "cache", device="cpu", offline=True)
    context = Context(registry=open_registry(), settings=settings, console=Console(stream=io.StringIO()))
    plan = plan_bench(
        replace(suite, protocol="scratch", settings=(("image_size", "16"), ("precision", "fp32"))), context
    )
    return assign_runs(plan.runs, plan, context)[0][0]


class Named:
    """A registry in which one dataset may have a name."""

    def __init__(self, specs):
        self.specs = specs

    def find(self, kind, name):
        if name not in self.specs:
            raise UsageError(f"unknown {kind} {name!r}")
        return self.specs[name]


@pytest.fixture
def move(assignment, tmp_path, monkeypatch):
    """Move the assignment to a machine where these datasets have names."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(moving, "resolution_of", lambda run, registry: moving.Resolution(run.image_size, None))

    def move_to(moved=assignment, **specs):
        monkeypatch.setattr(moving, "open_registry", lambda: Named(specs))
        return move_here(moved, tmp_path / "results")

    return move_to


def test_a_dataset_with_a_name_there_is_decoded_there_to_the_same_images(move, assignment, tiny_data, tmp_path):
    moved = move(binary=find_recognized(tiny_data / "binary.npz", []))
    assert (moved.results, moved.cache) == (tmp_path / "results", tmp_path / "cache")
    assert open_checkpoints(moved).key == open_checkpoints(assignment).key
    assert moved.dataset.images.is_relative_to(tmp_path / "cache")
    assert moved.dataset.images.read_bytes() == assignment.dataset.images.read_bytes()


def test_a_dataset_without_its_official_split_is_decoded_there(move, assignment, tiny_data):
    resplit = replace(assignment, dataset=replace(assignment.dataset, name="binary-resplit"))
    moved = move(resplit, binary=find_recognized(tiny_data / "binary.npz", []))
    assert moved.dataset.images.read_bytes() == assignment.dataset.images.read_bytes()


def test_a_finished_run_is_carried_out_again_where_its_result_is_not(move, assignment, tiny_data, tmp_path):
    there = tmp_path / "bench"
    done = Result(id=assignment.run.id, run={}, identity={}, status="ok", folder=there)
    moved = move(replace(assignment, done=done, kept=there), binary=find_recognized(tiny_data / "binary.npz", []))
    assert (moved.done, moved.kept) == (None, None)


def test_images_of_an_external_dataset_are_copied_because_its_hash_is_that_of_a_part(move, assignment, tiny_data):
    source = find_recognized(tiny_data / "binary.npz", [])
    folder = assignment.cache / "images" / "part"
    test = ExternalTest(run=assignment.run, dataset=replace(assignment.dataset, images=folder / "images.npy"), facts={})
    with pytest.raises(RunError, match="no decoded images images/part in") as caught:
        move(replace(assignment, external=(test,)), binary=source)
    assert "copy that folder" in caught.value.fix


def test_decoded_images_may_be_copied(move, assignment, tmp_path):
    folder = assignment.dataset.images.parent
    copy = tmp_path / "cache" / folder.relative_to(assignment.cache)
    shutil.copytree(folder, copy)
    os.utime(copy, (0, 0))
    assert move().dataset.images.parent == copy
    assert copy.stat().st_mtime > 0  # used now, so that another run does not remove it from the cache
    with open(copy / assignment.dataset.images.name, "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    with pytest.raises(RunError) as caught:
        move()
    assert caught.value.code == "other-data" and "no dataset 'binary'" in caught.value.message


def test_another_dataset_of_that_name_is_refused(move, tiny_data, tmp_path):
    arrays = dict(np.load(tiny_data / "binary.npz"))
    arrays["train_images"] = 255 - arrays["train_images"]
    np.savez(tmp_path / "binary.npz", **arrays)
    with pytest.raises(RunError, match=r"has another 'binary', with the content \w{8} instead of \w{8}") as caught:
        move(binary=find_recognized(tmp_path / "binary.npz", []))
    assert caught.value.code == "other-data"


def test_weights_are_found_by_their_digest(tmp_path, monkeypatch):
    ours, theirs, local = tmp_path / "ours", tmp_path / "theirs", tmp_path / "local"
    for folder in (ours / "weights", theirs / "weights", local):
        folder.mkdir(parents=True)
    path = ours / "weights" / "net.pth"
    path.write_bytes(b"weights")
    weights = InitialWeights(init="pretrained", path=path, digest=hash_file(path))
    path.rename(local / "net.pth")
    (theirs / "weights" / "net.pth").write_bytes(b"others")
    with pytest.raises(RunError, match=r"no weights net.pth with the SHA-256 \w{8}"):
        find_weights(weights, ours, theirs)
    monkeypatch.setenv("ZOO_WEIGHTS", str(local))
    assert find_weights(weights, ours, theirs).path == local / "net.pth"
    (theirs / "weights" / "net.pth").write_bytes(b"weights")
    assert find_weights(weights, ours, theirs).path == theirs / "weights" / "net.pth"
    assert find_weights(RANDOM, ours, theirs) == RANDOM
