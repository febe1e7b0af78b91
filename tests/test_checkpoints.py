"""An interrupted training continues, to the same bits as an uninterrupted one."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import SHORT, Tiny, make, train
from warm import wait_for

from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.training.checkpoints import Checkpoints, find_checkpoints

OFTEN = "import zoo.training.checkpoints; zoo.training.checkpoints.EVERY_SECONDS = 0.3"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, sends signals")


# --- one training ----------------------------------------------------------------------------------------------------
class StopAt(Checkpoints):
    """Saves the state after one step, and ends the training."""

    at: int

    def keep(self, state):
        self.count = getattr(self, "count", 0) + 1
        if self.count == self.at:
            self.save(state())
            raise KeyboardInterrupt


def new_module():
    torch.manual_seed(0)
    return Tiny(2, dropout=0.3)


def interrupted(folder, at, *arguments, **settings):
    """Train until step `at`, then continue in a new module; return the result."""
    stopping = StopAt(folder=folder, key="run")
    stopping.at = at
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, module=new_module(), checkpoints=stopping, **settings)
    return train(*arguments, module=new_module(), checkpoints=Checkpoints(folder=folder, key="run"), **settings)


@pytest.mark.parametrize(
    ("optimizer", "at"), [("adamw", 1), ("adamw", 10), ("adamw", 29), ("adam", 7), ("sgd", 10), ("sgd", 19)]
)
@pytest.mark.integration
def test_training_continues_to_the_same_bits_from_any_step(optimizer, at, tmp_path):
    dataset, pixels = make(symmetries=("hflip", "rot90"))
    protocol = replace(SHORT, optimizer=optimizer, augmentation="one-of", symmetries=True, warmup=0.1)
    whole = train(dataset, pixels, protocol, module=new_module())
    actual = interrupted(tmp_path, at, dataset, pixels, protocol)
    for one, other in zip(whole.module.state_dict().values(), actual.module.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert actual.details["resumed_at"] == at and "resumed_at" not in whole.details
    kept = ("step", "loss", "val_loss", "val_score")
    assert [[row[k] for k in kept] for row in actual.history] == [[row[k] for k in kept] for row in whole.history]
    assert actual.selected_step == whole.selected_step
    assert [row["train_seconds"] for row in actual.history] == sorted(row["train_seconds"] for row in actual.history)


def test_a_checkpoint_contains_the_best_weights_so_far(tmp_path):
    dataset, pixels = make(count=400)  # enough of val to select a round
    scores = iter([0.9, 0.2, 0.1, 0.9, 0.2, 0.1])
    whole = train(dataset, pixels, module=new_module(), val_score=lambda _: next(scores))
    actual = interrupted(tmp_path, 15, dataset, pixels, val_score=lambda _: next(scores))
    assert whole.selected_step == actual.selected_step == 10
    for one, other in zip(whole.module.parameters(), actual.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_keeps_the_reduced_part_of_a_batch(tmp_path):
    from test_training import Greedy

    dataset, pixels = make()

    def greedy():
        torch.manual_seed(0)
        return Greedy(2, 5)

    stopping = StopAt(folder=tmp_path, key="run")
    stopping.at = 3
    with pytest.raises(KeyboardInterrupt):
        train(dataset, pixels, SHORT, module=greedy(), checkpoints=stopping)
    actual = train(dataset, pixels, SHORT, module=greedy(), checkpoints=Checkpoints(folder=tmp_path, key="run"))
    assert actual.deviations == (Deviation("batch-parts", (16, 4)),)


# --- the file --------------------------------------------------------------------------------------------------------
STATE = {"step": 3, "weights": torch.arange(1000.0), "best": (1.0, -0.5), "none": None}


def test_a_new_state_replaces_the_old_one_and_drop_deletes_it(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints", key="a")
    other = Checkpoints(folder=tmp_path / "checkpoints", key="b")
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2):
        checkpoints.save({**STATE, "step": step})
    other.save(STATE)
    assert len(checkpoints.files()) == 1 and checkpoints.load()["step"] == 2
    checkpoints.drop()
    assert checkpoints.load() is None and other.load()["step"] == 3
    assert sorted(path.name[0] for path in (tmp_path / "checkpoints").iterdir()) == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_checkpoint_is_ignored(seed, tmp_path):
    checkpoints = Checkpoints(folder=tmp_path, key="a")
    checkpoints.save(STATE)
    (path,) = checkpoints.files()
    content, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if seed % 2:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    else:
        del content[random.integers(len(content)) :]
    path.write_bytes(content)
    assert checkpoints.load() is None


def test_a_checkpoint_with_a_code_executing_pickle_is_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    checkpoints = Checkpoints(folder=tmp_path, key="a")
    checkpoints.save({"step": Trap()})
    assert checkpoints.load() is None
    assert not (tmp_path / "executed").exists()


def test_training_goes_on_if_the_checkpoint_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.checkpoints.EVERY_SECONDS", 0.0)
    dataset, pixels = make()
    (tmp_path / "file").write_text("no folder")
    expected = train(dataset, pixels, module=new_module())
    actual = train(dataset, pixels, module=new_module(), checkpoints=Checkpoints(folder=tmp_path / "file", key="a"))
    for one, other in zip(expected.module.parameters(), actual.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_run_folder_or_version_has_its_own_checkpoints(tmp_path):
    keys = {find_checkpoints(tmp_path, *names).key for names in (("a", "b", "c"), ("a", "b", "d"), ("a", "bc", ""))}
    assert len(keys) == 3


# --- a bench ---------------------------------------------------------------------------------------------------------
def arguments(tiny_data, results, *others):
    words = ["bench", "-m", "naps", "-d", tiny_data / "binary.npz", "--protocol", "scratch", "--set", "image_size=16"]
    return [*words, "--set", "steps=50", "--set", "rounds=5", "--seeds", 1, "--results", results, *others]


def only_naps(results):
    (actual,) = [result for result in load_results(results)[0] if result.run["shown"] == "naps"]
    return actual


@pytest.fixture(scope="module")
def undisturbed(warm, tiny_data, tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    status, _, stderr = warm.run(*arguments(tiny_data, results))
    assert status == 0, stderr
    return only_naps(results)


def assert_same(actual, expected):
    for split in ("val", "test"):
        one, other = actual.predictions()[split], expected.predictions()[split]
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert actual.id == expected.id and actual.scores() == expected.scores()


def kept(cache):
    return list((cache / "checkpoints").glob("*.pt"))


@on_linux
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_bench_that_is_ended_during_training_continues_there(number, warm, tiny_data, undisturbed, tmp_path):
    results, cache = tmp_path / "results", tmp_path / "cache"
    first = OFTEN if number == signal.SIGKILL else ""  # a signaled training saves its state at any time
    bench = warm.start(*arguments(tiny_data, results), first=first, ZOO_CACHE=str(cache))
    if number == signal.SIGKILL:
        wait_for(lambda: kept(cache))
    else:
        wait_for(lambda: "[2 of 3]" in bench.read_stderr())
        time.sleep(1.5)  # into the training, which takes five
    start = time.monotonic()
    bench.kill(number)
    assert bench.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert time.monotonic() - start < 10
    assert len(kept(cache)) == 1
    status, _, stderr = warm.run(*arguments(tiny_data, results), ZOO_CACHE=str(cache))
    assert status == 0, stderr
    actual = only_naps(results)
    assert actual.details["resumed_at"] >= 1
    assert_same(actual, undisturbed)
    assert not kept(cache)


@on_linux
def test_fresh_or_a_cleared_cache_starts_over(warm, tiny_data, undisturbed, tmp_path):
    results, cache = tmp_path / "results", tmp_path / "cache"
    for others in (["--fresh"], []):
        bench = warm.start(*arguments(tiny_data, results), first=OFTEN, ZOO_CACHE=str(cache))
        wait_for(lambda: kept(cache))
        bench.kill()
        bench.wait()
        if not others:
            assert warm.run("cache", "clear", "checkpoints", ZOO_CACHE=str(cache))[0] == 0
            assert not kept(cache)
        assert warm.run(*arguments(tiny_data, results, *others), ZOO_CACHE=str(cache))[0] == 0
        actual = only_naps(results)
        assert "resumed_at" not in actual.details
        assert_same(actual, undisturbed)
        for path in results.rglob("result.json"):  # so that the second bench runs it again
            if json.loads(path.read_text())["run"]["shown"] == "naps":
                path.unlink()
