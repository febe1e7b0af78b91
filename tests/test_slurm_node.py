"""A bench on a Slurm of one node: `apt-get install slurm-wlm` gives the programs, and no service need run."""

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import threading
import time
from importlib import metadata

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PROGRAMS = ("slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scontrol")
CONFIG = """
ClusterName=zoo
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def require_programs():
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    programs = {name: shutil.which(name, path=path) for name in PROGRAMS}
    if missing := [name for name, place in programs.items() if place is None]:
        pytest.skip(f"{missing[0]} is missing: apt-get install slurm-wlm")
    try:
        metadata.version("zoo-slurm")
    except metadata.PackageNotFoundError:
        pytest.skip("zoo-slurm is not installed")
    return programs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Start a controller and a node; return their environment."""
    programs, folder, host = require_programs(), tmp_path / "slurm", platform.node().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, ports=free_ports(2), user=getpass.getuser(), folder=folder))
    monkeypatch.setenv("SLURM_CONF", str(config))
    with open(folder / "log", "w") as log:
        commands = [[programs["slurmctld"], "-D"], [programs["slurmd"], "-D", "-N", host, "-d", programs["slurmstepd"]]]
        daemons = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
    try:
        end = time.monotonic() + 60
        while "idle" not in (state := subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout):
            assert time.monotonic() < end, f"{state}\n{(folder / 'log').read_text()[-3000:]}"
            time.sleep(1)
        yield {"SLURM_CONF": str(config)}
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(60)


def lengthen_jobs(jobs, ended):
    """Give every job an hour after one that trained was queued again: a busy machine needs many jobs of 45 s."""
    while not ended.wait(1):
        logs = [log.read_text().rpartition('"step"') for log in jobs.glob("*.log")]
        if any(steps and '"requeued": true' in rest for steps, _, rest in logs):
            ids = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True).stdout.split()
            for job in ids:
                subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=60"], check=True)
            return


def test_a_run_that_reaches_the_time_limit_of_its_job_continues_in_the_next_one(bench, slurm, tiny_data, tmp_path):
    words = ["--datasets", tiny_data / "binary.npz", "--models", "tiny_cnn", "--seeds", "1", "--weights", "none"]
    words += ["--set", "image_size=28", "--set", "steps=20000", "--set", "rounds=2", "--device", "cpu"]
    options = ["--keep-weights", "none", "--executor", "slurm", "--results", tmp_path / "results"]
    limit = "timeout_min=2 slurm_signal_delay_s=75"
    ended = threading.Event()
    helper = threading.Thread(target=lengthen_jobs, args=(tmp_path / "results" / ".jobs", ended))
    helper.start()
    try:
        status, document, err = bench(*words, *options, ZOO_SLURM=limit, timeout=1500, forked=False, **slurm)
    finally:
        ended.set()
        helper.join()
    assert status == 0, err
    assert {run["status"] for run in document["runs"]} == {"ok"}
    (stored,) = (tmp_path / "results" / "binary").glob("tiny_cnn*/*/result.json")
    assert 0 < json.loads(stored.read_text())["details"]["resumed_at"] < 20000
