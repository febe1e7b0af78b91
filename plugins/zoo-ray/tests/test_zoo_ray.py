"""Runs as Ray tasks, on a cluster of two nodes on this machine, one of which is killed."""

import os
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from zoo import ZooError
from zoo.testing import parametrize_with_checks

if not find_spec("ray"):
    pytest.skip("ray is not installed", allow_module_level=True)
zoo_ray = pytest.importorskip("zoo_ray")

WORK = """
import os, time

def carry_out(work, device, notify):
    with open(work, "a") as stream:
        stream.write(f"start {os.getpid()}\\n")
    notify({"step": 1})
    time.sleep(600 if work.endswith("hang") else SECONDS)
    with open(work, "a") as stream:
        stream.write("done\\n")
"""


def test_resources_are_numbers():
    assert zoo_ray.read_resources("num_cpus=4 num_gpus=0.5") == {"num_cpus": 4.0, "num_gpus": 0.5}


@pytest.mark.parametrize("text", ["num_cpus", "num_cpus=many", "memory=8"])
def test_a_wrong_resource_is_an_error_of_the_user(text):
    with pytest.raises(ZooError, match="ZOO_RAY: "):
        zoo_ray.read_resources(text)


@pytest.mark.integration
@pytest.mark.parametrize("exists", [True, False])
def test_a_command_runs_in_the_folder_of_the_bench_if_the_node_has_it(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "absent"
    order = zoo_ray.Order(["-c", "import os, sys; sys.exit(os.getcwd())"], {}, str(folder))
    expected = folder if exists else Path.cwd()
    assert list(zoo_ray.run_order(order, 1.0)) == [("end", (1, str(expected)))]


@pytest.mark.integration
def test_without_a_shared_folder_results_arrive_in_parts_before_the_end_of_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_ray, "PART_BYTES", 4)
    monkeypatch.setattr(zoo_ray.tempfile, "tempdir", str(tmp_path))
    code = (
        "import pathlib, sys, time; path = pathlib.Path(sys.argv[1]); log = path.with_suffix('.log')\n"
        "log.write_text('{\"step\": 1}\\n'); time.sleep(1); path.with_suffix('.parcel').write_bytes(b'results')\n"
        "log.open('a').write('{\"kind\": \"ended\"}\\n'); time.sleep(1); sys.exit(path.read_text())"
    )
    order = zoo_ray.Order(["-c", code], {}, "absent", name="abc.work", content=b"the work")
    assert list(zoo_ray.run_order(order, 1.0)) == [
        ("messages", b'{"step": 1}\n'),
        ("parcel", b"resu"),
        ("parcel", b"lts"),
        ("messages", b'{"kind": "ended"}\n'),
        ("end", (1, "the work")),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("requested", [{"num_cpus": 8.0}, {"num_cpus": 1.0, "num_gpus": 1.0}])
def test_resources_that_no_node_has_are_an_error_instead_of_a_wait(monkeypatch, requested):
    import ray

    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 16.0, "GPU": 1.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    zoo_ray.check_capacity({"num_cpus": 4.0, "num_gpus": 0.0})
    with pytest.raises(ZooError, match="num_cpus=") as caught:
        zoo_ray.check_capacity(requested)
    assert caught.value.code == "executor-failed"


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and two nodes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def start(folder, works, monkeypatch, seconds=0, **options):
    """The events of works whose function is in a module of its own."""
    (folder / "remote_works.py").write_text(WORK.replace("SECONDS", str(seconds)))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "remote_works", raising=False)
    from remote_works import carry_out

    # Ray's nodes have the environment of their start
    monkeypatch.setattr(zoo_ray, "VARIABLES", (*zoo_ray.VARIABLES, "PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = {"folder": folder / "jobs", "devices": ["cpu"], **options}
    return zoo_ray.execute([str(folder / work) for work in works], carry_out, **settings)


@pytest.mark.slow
@pytest.mark.integration
def test_runs_of_a_killed_node_are_carried_out_by_the_other_one(cluster, tmp_path, monkeypatch):
    names = [f"run{number}" for number in range(6)]
    events, killed, again = [], 0.0, []
    for event in start(tmp_path, names, monkeypatch, seconds=5):
        events.append(event)
        running = {event.work for event in events if event.kind == "started"}
        if len(running) == 4 and not killed:  # all that two nodes of two CPUs hold
            cluster.remove_node(cluster.nodes[0])
            killed = time.monotonic()
        starts = {name: Path(tmp_path, name).read_text().count("start") for name in names if (tmp_path / name).exists()}
        if max(starts.values(), default=0) > 1 and not again:
            again.append(time.monotonic() - killed)
    ends = Counter(Path(event.work).name for event in events if event.kind == "ended" and event.status == "ok")
    assert ends == dict.fromkeys(names, 1)
    assert {name: (tmp_path / name).read_text().count("done") for name in names} == dict.fromkeys(names, 1)
    assert again and again[0] < 60
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_that_takes_too_long_and_a_closed_bench_leave_no_process(cluster, tmp_path, monkeypatch):
    (ended,) = [event for event in start(tmp_path, ["hang"], monkeypatch, timeout=2) if event.kind == "ended"]
    assert ended.status == "timeout"
    events = start(tmp_path, ["other-hang"], monkeypatch)
    next(event for event in events if event.details)
    events.close()
    pids = [line.split()[1] for name in ("hang", "other-hang") for line in (tmp_path / name).read_text().splitlines()]
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_with_another_version_is_refused_in_one_line(cluster, tmp_path, monkeypatch):
    from zoo.registry import remote

    other = {**remote.environment(), "torch": "0.1"}
    monkeypatch.setattr(remote, "environment", lambda: other)
    with pytest.raises(ZooError, match=r"has torch .*, the machine of the bench 0\.1"):
        next(start(tmp_path, ["never"], monkeypatch))
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
@pytest.mark.integration
@parametrize_with_checks(zoo_ray.register_executors())
def test_the_executor_conforms(spec, check, cluster):
    check(spec)
