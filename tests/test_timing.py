"""Latency and throughput: measured once per network, alone, after all runs, and stored with its runs."""

import io
import json
import shutil
import time
from dataclasses import replace

import pytest
from factories import store_result

from zoo.evaluation.predict import measure_forward
from zoo.registry.context import Context
from zoo.registry.lookup import Registry
from zoo.results.store import TIMINGS, load_results, read_timing
from zoo.runner.latency import find_untimed, time_models, time_network
from zoo.specs.protocol import SCRATCH
from zoo.system.progress import Console
from zoo.system.settings import Settings

ARGUMENTS = ["-m", "tiny_cnn,naps", "--protocol", "scratch", "--set", "image_size=16", "--set", "steps=2"]


@pytest.fixture(scope="module")
def results(bench, tiny_data, tmp_path_factory):
    """A results folder of two models on two datasets and two seeds, and the JSON document of the bench."""
    root = tmp_path_factory.mktemp("timed") / "results"
    sets = f"{tiny_data / 'binary.npz'},{tiny_data / 'table'}"
    status, document, _ = bench(*ARGUMENTS, "-d", sets, "--seeds", 2, "--results", root)
    assert status == 0
    return root, document


def is_network(run):
    return run["model"] not in {"constant", "thumbnails"}


def test_each_run_of_a_network_has_latency_and_throughput(results):
    runs = [run for run in results[1]["runs"] if is_network(run)]
    assert len(runs) == 8
    for run in runs:
        assert 0 < run["cost"]["latency_seconds"] < 1
        assert (
            run["cost"]["inference_images_per_second"] > 1 / run["cost"]["latency_seconds"]
        )  # because the network is so small


def test_one_network_is_measured_once_for_all_its_seeds(results):
    actual = {}
    for run in results[1]["runs"]:
        if is_network(run):
            key = run["model"], run["dataset"]
            actual.setdefault(key, set()).add(tuple(run["cost"][name] for name in TIMINGS))
    assert {len(timings) for timings in actual.values()} == {1}


def test_the_baselines_are_not_measured(results):
    costs = [run["cost"] for run in results[1]["runs"] if not is_network(run)]
    assert costs and not any(name in cost for cost in costs for name in TIMINGS)


def test_a_report_shows_latency_and_throughput(results, zoo):
    root, document = results
    boards = json.loads(zoo("report", "--results", root, "--format", "json").stdout)["leaderboard"]
    (row,) = [row for row in boards if row["model"] == "naps" and row["dataset"] == "binary"]
    (latency,) = {
        run["cost"]["latency_seconds"]
        for run in document["runs"]
        if run["model"] == "naps" and run["dataset"] == "binary"
    }
    assert row["cost"]["latency_seconds"] == pytest.approx(latency)
    assert " ms |" in zoo("report", "--results", root, "--format", "markdown").stdout
    assert "latency_seconds" in zoo("report", "--results", root, "--format", "csv", "--table", "board").stdout


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b'{"schema": 1, "timing": {"latency_seconds": "fast"}}', b"\xff"]
)
def test_a_missing_or_damaged_timing_is_not_shown_and_is_measured_again(content, results, bench, tiny_data, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(results[0], root)
    paths = list(root.glob("binary/tiny_cnn.random/*/timing.json"))
    assert len(paths) == 2
    for path in paths:
        path.unlink() if content is None else path.write_bytes(content)
    loaded, damaged = load_results(root)
    assert not damaged
    for result in loaded:
        if result.folder in {path.parent for path in paths}:
            assert not any(name in result.cost for name in TIMINGS)
    status, document, _ = bench(*ARGUMENTS, "-d", tiny_data / "binary.npz", "--seeds", 2, "--results", root)
    assert status == 0
    assert all(run["reused"] for run in document["runs"])
    assert all(read_timing(path.parent) for path in paths)


def test_a_model_that_cannot_be_timed_gives_a_warning(results, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(results[0], root)
    for path in root.rglob("timing.json"):
        path.unlink()
    loaded = {result.id: result for result in load_results(root)[0]}
    stream = io.StringIO()
    settings = Settings(results=root, device="cpu", cache=tmp_path / "cache")
    registry = Registry()  # the models' plugin is no longer installed
    from zoo.builtin import register_executors

    registry.executors["local"] = register_executors()[0]
    after = time_models(loaded, "cpu", Context(registry=registry, settings=settings, console=Console(stream=stream)))
    assert set(after) == set(loaded)
    assert stream.getvalue().count("its speed could not be measured alone") == len(find_untimed(loaded, settings.cache))
    assert not any(name in result.cost for result in after.values() for name in TIMINGS)


@pytest.mark.parametrize(
    ("method", "inputs", "parts"),
    [
        ("finetune", "", None),
        ("probe", "", None),
        ("knn", "", ["head"]),
        ("estimator", "", ["head"]),
        ("finetune", "age 1a2b3c4d", ["inputs"]),
        ("estimator", "age 1a2b3c4d", ["head", "inputs"]),
    ],
)
def test_the_timing_names_the_parts_of_a_model_that_it_leaves_out(tmp_path, monkeypatch, method, inputs, parts):
    protocol = replace(SCRATCH, method=method, estimator="svm" if method == "estimator" else "")
    result = store_result(tmp_path, protocol=protocol, inputs=inputs, details={"channels": 1})
    (task,) = find_untimed({result.id: result}, tmp_path)
    measured = {"latency_seconds": 0.5, "inference_images_per_second": 2.0}
    monkeypatch.setattr("zoo.runner.latency.measure_network", lambda *_: measured)
    time_network(task, "cpu", None, registry=Registry())
    assert json.loads((result.folder / "timing.json").read_text())["timing"].get("not_timed") == parts
    assert read_timing(result.folder) == measured


@pytest.mark.integration
def test_the_timing_is_the_median_of_whole_batches():
    import torch

    from zoo.data.pixels import random_pixels

    class Sleeper(torch.nn.Module):
        calls = 0

        def forward(self, images):
            Sleeper.calls += 1
            time.sleep(
                0.5 if Sleeper.calls <= 2 else 0.004 * len(images)
            )  # the first two calls are slow, like a warm-up
            return images.mean(dim=(1, 2, 3))[:, None]

    pixels = random_pixels(8, 4, 3, (0.5,) * 3, (0.5,) * 3, "cpu")
    assert measure_forward(Sleeper(), pixels, 8, precision="fp32") == pytest.approx(0.032, rel=0.3)
