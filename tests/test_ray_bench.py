"""A bench on a real Ray on this machine, through the command line."""

import os
import shutil
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed"),
]


@pytest.fixture(scope="module", autouse=True)
def installed():
    try:
        metadata.version("zoo-ray")
    except metadata.PackageNotFoundError:
        pytest.skip("zoo-ray is not installed")


@pytest.fixture
def words(tiny_data):
    words = ["--datasets", tiny_data / "binary.npz", "--models", "tiny_cnn", "--seeds", "1", "--set", "steps=4"]
    return [*words, "--set", "rounds=2", "--set", "image_size=16", "--weights", "none", "--device", "cpu"]


@pytest.fixture
def start_node(monkeypatch):
    """Start a cluster of one node on this machine with an environment of its own; return the address."""
    import ray
    from ray.cluster_utils import Cluster

    clusters = []

    def start(variables):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"RAY_USAGE_STATS_ENABLED": "0", **variables}.items():
                patch.setenv(name, value)
            clusters.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}))
        return clusters[-1].address

    yield start
    ray.shutdown()
    for cluster in clusters:
        cluster.shutdown()


def test_a_bench_on_ray_gives_the_scores_of_a_local_one(bench, words, tmp_path):
    _, local, _ = bench(*words, "--results", tmp_path / "local")
    far = tmp_path / "far"
    status, document, err = bench(*words, "--executor", "ray", "--results", far, forked=False)
    assert status == 0, err
    assert {run["id"]: run["scores"] for run in document["runs"]} == {run["id"]: run["scores"] for run in local["runs"]}
    assert list((far / ".jobs").iterdir()) == []


def test_a_node_without_a_plugin_of_the_bench_is_refused_in_one_line(zoo, words, start_node, tmp_path):
    address = start_node({"PYTHONPATH": os.environ.get("PYTHONPATH", "")})  # without zoo-tiny
    options = ["--executor", "ray", "--results", tmp_path / "results"]
    done = zoo("bench", *words, *options, forked=False, RAY_ADDRESS=address)
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if "error[" in line]
    assert "error[other-versions]" in line and "zoo-tiny not installed, the machine of the bench 1.0" in line
    assert list(tmp_path.glob("results/*/*/*/result.json")) == []


def test_without_a_shared_folder_results_return_to_the_bench(zoo, bench, words, start_node, environment, tmp_path):
    _, local, _ = bench(*words, "--results", tmp_path / "local")
    cache, far = tmp_path / "cache of the node", tmp_path / "far"
    address = start_node({"PYTHONPATH": environment()["PYTHONPATH"], "ZOO_CACHE": str(cache)})
    options = ["--executor", "ray", "--keep-weights", "all", "--results", far]
    variables = {"forked": False, "RAY_ADDRESS": address, "ZOO_RAY": "num_cpus=1 shared_folder=0"}

    done = zoo("bench", *words, *options, **variables)
    (line,) = [line for line in done.stderr.splitlines() if "error[" in line]
    assert done.returncode == 3 and "error[other-data]" in line and "no dataset 'binary'" in line

    shutil.copytree(Path(os.environ["ZOO_CACHE"]) / "images", cache / "images")
    status, document, err = bench(*words, *options, **variables)
    assert status == 0, err
    assert {run["id"]: run["scores"] for run in document["runs"]} == {run["id"]: run["scores"] for run in local["runs"]}
    assert list((far / ".jobs").iterdir()) == []
    assert len(list((far / "binary").glob("tiny_cnn*/*/model.safetensors"))) == 1
    assert not list(Path(tempfile.gettempdir()).glob("zoo-????????????????????????????????"))
