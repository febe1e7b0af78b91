"""Runs as jobs: with submitit's local executor, which starts, kills and requeues processes as Slurm does jobs."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from zoo import RemoteWork, ZooError
from zoo.testing import parametrize_with_checks

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
    assert zoo_slurm.read_parameters("slurm_partition=gpu 'slurm_comment=two words' mem_gb=16 slurm_x=1.5") == {
        "timeout_min": 60,
        "slurm_partition": "gpu",
        "slurm_comment": "two words",
        "mem_gb": 16,
        "slurm_x": 1.5,
    }
    with pytest.raises(ZooError, match="'gpu' is not NAME=VALUE"):
        zoo_slurm.read_parameters("gpu")


@pytest.mark.parametrize("text", ["gpus_per_node=one", "memory=8", "slurm_partitoin=gpu"])
def test_a_wrong_parameter_is_an_error_of_the_user(text, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_SLURM", f"cluster=local {text}")
    with pytest.raises(ZooError, match="ZOO_SLURM: "):
        next(zoo_slurm.execute([], print, folder=tmp_path, devices=["cpu"]))


def start(folder, works, monkeypatch, cluster="local", **options):
    """The events of works whose function is in a module of its own, as jobs on this machine."""
    (folder / "remote_works.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ZOO_SLURM", f"cluster={cluster}")
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
    # a work that waits in the queue gives an empty sign of life before it starts
    first = {event.work: event.kind for event in reversed(events) if event.kind != "progress" or event.details}
    assert set(first.values()) == {"started"}
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
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["submitit"]


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
    command = zoo_slurm.Command([sys.executable, "-c", code], tmp_path / "log")
    thread = threading.Thread(target=command)
    thread.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    again = command.checkpoint()
    thread.join()
    assert saved.exists() and again.function.words == command.words
    assert json.loads((tmp_path / "log").read_text()) == {"kind": "progress", "requeued": True}


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGUSR2")
def test_a_job_is_queued_again_as_soon_as_its_command_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_slurm, "SAVE_SECONDS", 5.0)
    monkeypatch.setattr(zoo_slurm, "POLL_SECONDS", 0.05)
    command, seconds = zoo_slurm.Command(["sleep", "600"], tmp_path / "log"), []

    def signal_when_started():
        while not command.process:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    def end_job(*_):
        start = time.monotonic()
        command.checkpoint()
        seconds.append(time.monotonic() - start)

    before = signal.signal(signal.SIGUSR2, end_job)  # in the main thread, as submitit does
    try:
        threading.Thread(target=signal_when_started).start()
        assert command() == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seconds[0] < 4


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGUSR2")
def test_a_command_survives_the_signal_that_slurm_sends_to_every_process_before_the_time_limit(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"
    assert zoo_slurm.Command([sys.executable, "-c", code], tmp_path / "log")() == 0


class FakeJob:
    """A job of submitit whose state is old until Slurm is asked."""

    def __init__(self, state, now):
        self.state, self.now, self.num_calls = state, now, 0

    def done(self):
        return self.state == "COMPLETED"

    def get_info(self, mode):
        self.num_calls += 1
        self.state = self.now


def test_the_states_of_jobs_are_those_of_slurm():
    jobs = [FakeJob(state, state) for state in ("RUNNING", "PENDING", "COMPLETED")]
    assert zoo_slurm.Slurm(None).states(jobs) == ["running", "waiting", "ended"]


def test_while_jobs_wait_slurm_is_asked_twice_a_minute(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    job, slurm = FakeJob("PENDING", "PENDING"), zoo_slurm.Slurm(None)
    for second in range(100, 141):
        seconds[0] = float(second)
        job.now = "PENDING" if second < 120 else "RUNNING"
        states = slurm.states([job])
    assert states == ["running"] and job.num_calls == 2


SBATCH = """#!/bin/sh
echo call >> {folder}/calls
test "$(wc -l < {folder}/calls)" -gt {failures} || {{ echo "sbatch: error: Socket timed out" >&2; exit 1; }}
echo "Submitted batch job 7"
"""


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Submit a job with an `sbatch` that fails some times first."""
    import submitit

    def submit_after(failures):
        install_sbatch(tmp_path / "bin", SBATCH.format(folder=tmp_path, failures=failures), monkeypatch)
        monkeypatch.setattr(zoo_slurm, "RETRY_SECONDS", (0.0, 0.0))
        slurm = zoo_slurm.Slurm(submitit.SlurmExecutor(tmp_path / "submitit"))
        return slurm.submit([RemoteWork("work", print, "cpu", tmp_path / "jobs")])

    return submit_after


def install_sbatch(folder, text, monkeypatch):
    program = folder / "sbatch"
    folder.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    program.with_name("srun").symlink_to(program)  # submitit looks for it
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_a_passing_failure_of_sbatch_is_tried_again(submit):
    assert [job.job_id for job in submit(2)] == ["7"]


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_a_lasting_failure_of_sbatch_is_one_line(submit):
    with pytest.raises(ZooError, match="sbatch failed 3 times: sbatch: error: Socket timed out") as caught:
        submit(9)
    assert caught.value.code == "executor-failed"


ACCEPTING = """#!/bin/sh
# sbatch: the first call starts its job, then hangs; srun: run the command after the options
if [ "$(basename "$0")" = srun ]; then
    while [ "${{1#-}}" != "$1" ]; do
        case "$1" in --output|--error) shift;; esac
        shift
    done
    exec "$@"
fi
echo call >> {folder}/calls
number=$(($(wc -l < {folder}/calls)))
SLURM_JOB_ID=$number setsid sh "$1" > {folder}/out$number 2>&1 &
echo $! >> {folder}/pids
test $number -gt 1 || exec sleep 600
echo "Submitted batch job $number"
"""


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_a_run_whose_sbatch_hangs_after_slurm_took_the_job_is_carried_out_once(tmp_path, monkeypatch):
    """submitit gives a job its function after `sbatch`: the first job waits a minute for it, and ends without work."""
    monkeypatch.setattr(zoo_slurm, "SUBMIT_SECONDS", 2.0)
    monkeypatch.setattr(zoo_slurm, "RETRY_SECONDS", (0.0,))
    install_sbatch(tmp_path / "bin", ACCEPTING.format(folder=tmp_path), monkeypatch)
    try:
        events = list(start(tmp_path, ["fine"], monkeypatch, cluster="slurm"))
    finally:
        for pid in (tmp_path / "pids").read_text().split():
            with suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)
    assert [event.status for event in events if event.kind == "ended"] == ["ok"]
    assert len((tmp_path / "calls").read_text().split()) == 2
    assert len((tmp_path / "fine").read_text().split()) == 1


@pytest.mark.slow
@pytest.mark.integration
@parametrize_with_checks(zoo_slurm.register_executors())
def test_the_executor_conforms(spec, check, monkeypatch):
    monkeypatch.setenv("ZOO_SLURM", "cluster=local")
    check(spec)
