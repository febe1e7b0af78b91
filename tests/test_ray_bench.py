"""A bench on a real Ray on this machine, through the command line."""

import os
from importlib import metadata

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration]
pytest.importorskip("ray")


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
