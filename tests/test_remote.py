"""Work in files: `zoo worker` carries it out once, on equal versions only, and its events arrive."""

import json
import os
import pickle
import re
import signal
import subprocess
import time
from importlib import metadata
from pathlib import Path

import pytest

from zoo.errors import RunError, UsageError
from zoo.registry import remote
from zoo.registry.remote import RemoteWork, carry_out_file, environment


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    """The worker changes this for its process."""
    monkeypatch.setattr(remote, "end_with", lambda parent: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def carry_out(work, device, notify):
    """Append a line to the file that the work names; `fail` raises."""
    with open(work, "a") as stream:
        stream.write(f"{device}\n")
    notify({"step": 1, "loss": 0.5})
    if work.endswith("fail"):
        raise RunError("the loss is nan", fix="lower it", code="diverged")


@pytest.fixture
def write(tmp_path):
    return lambda name="done": RemoteWork(str(tmp_path / name), carry_out, "cpu", tmp_path / "jobs")


def test_work_in_a_file_is_carried_out_once_and_its_events_arrive(write, tmp_path):
    work = write()
    assert list(work.events()) == []
    assert carry_out_file(work.path) == carry_out_file(work.path)
    progress, ended = work.events()
    assert (progress.kind, progress.details) == ("progress", {"step": 1, "loss": 0.5})
    assert (ended.kind, ended.status, ended.work) == ("ended", "ok", str(tmp_path / "done"))
    assert (tmp_path / "done").read_text() == "cpu\n"
    assert work.has_ended and list(work.events()) == []


def test_a_failure_arrives_with_its_code(write):
    work = write("fail")
    carry_out_file(work.path)
    *_, ended = work.events()
    assert (ended.status, ended.code, ended.message, ended.fix) == ("failed", "diverged", "the loss is nan", "lower it")


def test_what_a_killed_worker_left_is_skipped_and_an_unfinished_line_is_awaited(write):
    work = write()
    log = work.path.with_suffix(".log")
    log.write_text('{"kind": "progress", "step": 7}\n{"kind": "pro')
    assert [event.details for event in work.events()] == [{"step": 7}]
    carry_out_file(work.path)
    assert [event.kind for event in work.events()] == ["progress", "ended"]


def test_other_versions_are_refused_by_the_worker_and_end_the_bench(write, monkeypatch):
    work = write()
    monkeypatch.setattr(remote, "environment", lambda: {**environment(), "torch": "1.0"})
    with pytest.raises(RunError, match=r"has torch 1\.0, the machine of the bench") as worker:
        carry_out_file(work.path)
    with pytest.raises(RunError) as bench:
        list(work.events())
    assert worker.value.code == bench.value.code == "other-versions"


def test_a_plugin_that_is_missing_is_another_version(write, monkeypatch):
    monkeypatch.setattr(remote, "environment", lambda: {"zoo-x": "2.0"})
    work = write()
    monkeypatch.setattr(remote, "environment", dict)
    with pytest.raises(RunError, match=r"zoo-x not installed, the machine of the bench 2\.0"):
        carry_out_file(work.path)


def test_a_file_that_is_not_ours_is_not_unpickled(tmp_path, monkeypatch):
    path = tmp_path / "x.work"
    path.write_bytes(pickle.dumps("anything"))
    path.chmod(0o600)
    with pytest.raises(UsageError, match="not a file of work"):
        carry_out_file(path)
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(UsageError, match="another user"):
        carry_out_file(path)
    with pytest.raises(UsageError, match="no such file"):
        carry_out_file(tmp_path / "missing.work")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_file_that_others_can_change_is_not_unpickled(write, tmp_path):
    before = os.umask(0o002)  # that of many clusters
    try:
        work = write()
    finally:
        os.umask(before)
    assert carry_out_file(work.path)["status"] == "ok"
    other = write()
    other.path.chmod(0o660)
    with pytest.raises(UsageError, match="another user owns it or can change it"):
        carry_out_file(other.path)
    assert (tmp_path / "done").read_text() == "cpu\n"


def test_other_versions_are_reported_without_uname(write, monkeypatch):
    monkeypatch.delattr(os, "uname", raising=False)  # Windows has none
    work = write()
    monkeypatch.setattr(remote, "environment", dict)
    with pytest.raises(RunError, match="the machine of the bench"):
        carry_out_file(work.path)


def test_two_workers_do_not_carry_out_the_same_file(write):
    work = write()
    with remote.locked(remote.lock_of(work.path)), pytest.raises(UsageError) as caught:
        carry_out_file(work.path)
    assert caught.value.code == "work-taken"


def test_work_whose_file_the_bench_has_removed_is_asked_to_end(write):
    work, signals = write(), []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    messages = remote.MessageLog(work.path)
    messages.send({"kind": "progress"})
    work.remove()
    messages.send({"kind": "progress"})
    assert signals == [signal.SIGTERM]


# --- runs of a bench -------------------------------------------------------------------------------------------------
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


@pytest.mark.integration
def test_the_executor_in_the_docs_gives_the_scores_of_the_local_one(bench, install, tiny_data, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    install(tmp_path, "zoo-command", code)
    words = ["--datasets", tiny_data / "binary.npz", "--models", "tiny_cnn", "--seeds", "1", "--set", "steps=4"]
    words += ["--set", "rounds=2", "--set", "image_size=16", "--weights", "none", "--device", "cpu"]
    _, local, _ = bench(*words, "--results", tmp_path / "local")
    options = ["--executor", "command", "--observers", "jsonl", "--results", tmp_path / "far"]
    status, far, err = bench(*words, *options, sites=[tmp_path])
    assert status == 0, err
    assert {run["id"]: run["scores"] for run in far["runs"]} == {run["id"]: run["scores"] for run in local["runs"]}
    told = [json.loads(line)["event"] for line in (tmp_path / "far" / "events.jsonl").read_text().splitlines()]
    assert told.count("round_finished") == 2 and told.count("run_finished") == 3
    assert list((tmp_path / "far" / ".jobs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_whose_job_is_killed_continues_and_has_the_scores_of_an_undisturbed_one(
    bench, command, environment, tiny_data, tmp_path
):
    try:
        metadata.version("zoo-slurm")
    except metadata.PackageNotFoundError:
        pytest.skip("zoo-slurm is not installed")
    words = ["--datasets", tiny_data / "binary.npz", "--models", "tiny_cnn", "--seeds", "1", "--set", "steps=200"]
    words += [
        "--set",
        "image_size=28",
        "--set",
        "rounds=2",
        "--weights",
        "none",
        "--device",
        "cpu",
        "--keep-weights",
        "none",
    ]
    _, local, _ = bench(*words, "--results", tmp_path / "local")
    far = tmp_path / "far"
    process = subprocess.Popen(
        [*command, "bench", *map(str, words), "--results", str(far), "--executor", "slurm", "--json"],
        env=environment(ZOO_SLURM="cluster=local"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        os.kill(find_training_worker(far / ".jobs", process), signal.SIGTERM)
        out, err = process.communicate(timeout=280)
    finally:
        process.terminate()  # it ends its jobs
    assert process.returncode == 0, err
    document = json.loads(out)
    assert {run["id"]: run["scores"] for run in document["runs"]} == {run["id"]: run["scores"] for run in local["runs"]}
    (stored,) = (far / "binary").glob("tiny_cnn*/*/result.json")
    assert 0 < json.loads(stored.read_text())["details"]["resumed_at"] < 200


def find_training_worker(jobs, process):
    """The process id of the worker that trains, as soon as it has taken 5 steps."""
    while process.poll() is None:
        for log in jobs.glob("*.log"):
            steps = [json.loads(line).get("step", 0) for line in log.read_text().splitlines() if line.endswith("}")]
            if max(steps, default=0) >= 5:
                for folder in Path("/proc").glob("[0-9]*"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    if b"worker" in words and str(log.with_suffix(".work")).encode() in words:
                        return int(folder.name)
        time.sleep(0.02)
    raise AssertionError(process.communicate())
