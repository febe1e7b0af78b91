"""Runs as jobs: with submitit's local executor, which starts, kills and requeues processes as Slurm does jobs."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo import ZooError

pytest.importorskip("submitit")
zoo_slurm = pytest.importorskip("zoo_slurm")

WORK = """
import os, signal, time

def carry_out(work, device, notify):
    with open(work, "a") as stream:
        stream.write(f"{os.getpid()} ")
    notify({"step": 1})
    if work.endswith("hang"):
        time.sleep(600)
    if work.endswith("vanish") or (work.endswith("once") and len(open(work).read().split()) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_parameters_are_numbers_or_texts():
    assert zoo_slurm.read_parameters("slurm_partition=gpu 'slurm_comment=two words' mem_gb=16") == {
        "timeout_min": 60,
        "slurm_partition": "gpu",
        "slurm_comment": "two words",
        "mem_gb": 16,
    }
    with pytest.raises(ZooError, match="'gpu' is not NAME=VALUE"):
        zoo_slurm.read_parameters("gpu")


def test_a_job_sees_its_first_gpu():
    assert [zoo_slurm.in_job(device) for device in ("cpu", "cuda:3", "mps")] == ["cpu", "cuda:0", "mps"]


def start(folder, works, monkeypatch, **options):
    """The events of works whose function is in a module of its own, as jobs on this machine."""
    (folder / "remote_works.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ZOO_SLURM", "cluster=local")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "remote_works", raising=False)
    from remote_works import carry_out

    settings = {"folder": folder / "jobs", "devices": ["cpu"], **options}
    return zoo_slurm.execute([str(folder / work) for work in works], carry_out, **settings)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.integration
def test_every_work_ends_once_however_its_jobs_end(tmp_path, monkeypatch):
    events = list(start(tmp_path, ["hang", "vanish", "once", "fine"], monkeypatch, timeout=20))
    ends = {Path(event.work).name: event for event in events if event.kind == "ended"}
    assert {name: end.status for name, end in ends.items()} == {
        "hang": "timeout",
        "vanish": "crashed",
        "once": "ok",
        "fine": "ok",
    }
    assert sum(event.kind == "ended" for event in events) == 4
    jobs = {name: (tmp_path / name).read_text().split() for name in ends}
    assert {name: len(pids) for name, pids in jobs.items()} == {"hang": 1, "vanish": 3, "once": 2, "fine": 1}
    end = time.monotonic() + 20
    while any(is_alive(pid) for pids in jobs.values() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pids in jobs.values() for pid in pids if is_alive(pid)]


@pytest.mark.integration
def test_the_end_of_a_bench_ends_its_jobs(tmp_path, monkeypatch):
    events = start(tmp_path, ["hang"], monkeypatch)
    assert next(event for event in events if event.details).details == {"step": 1}
    events.close()
    (pid,) = (tmp_path / "hang").read_text().split()
    end = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(pid)


@pytest.mark.integration
def test_before_its_end_a_job_lets_its_command_save_and_is_queued_again(tmp_path):
    saved = tmp_path / "saved"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def save(*_): pathlib.Path({str(saved)!r}).touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(600)\n"
    )
    command = zoo_slurm.Command([sys.executable, "-c", code])
    thread = threading.Thread(target=command)
    thread.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    again = command.checkpoint()
    thread.join()
    assert saved.exists() and again.function.words == command.words
