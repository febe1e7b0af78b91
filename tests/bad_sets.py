"""Run `zoo info` and `zoo bench` on bad datasets, and measure output, time and memory.

The memory is that of the command only. The kernel's peak of a process starts at that of the process that forked it,
and pytest's is large: therefore a small process starts the command.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SECONDS, MAX_BYTES = 10, 1.5e9

STARTER = """
import json, os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
seconds, status = time.monotonic() - start, os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as stream:
    json.dump({"status": status, "peak": usage.ru_maxrss * 1024, "seconds": seconds}, stream)
"""

LOOK_AT_EACH = """
import contextlib, io, json, sys, time
from zoo.cli.process import run
looks = {}
with contextlib.redirect_stdout(io.StringIO()):
    run(["info", "datasets", sys.argv[1]])  # the imports
for path in sys.argv[2:]:
    stderr, start = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        status = run(["info", "datasets", path])
    looks[path.rpartition("/")[2]] = [status, stderr.getvalue(), time.monotonic() - start]
print(json.dumps(looks))
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The output and resources of a finished command."""

    status: int
    stdout: str
    stderr: str
    peak: int  # bytes
    seconds: float

    @property
    def document(self) -> Any:
        """The printed JSON document."""
        return json.loads(self.stdout)


def measure(command, environment=None, timeout=400):
    """Run a command and measure it (POSIX only)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-c", STARTER, str(report), *map(str, command)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
        resources = json.loads(report.read_text())
    return Measured(stdout=done.stdout, stderr=done.stderr, **resources)


def look_at_each(first, paths, environment):
    """Run `zoo info datasets` on each path in one process, after `first` for the imports: status, stderr, seconds."""
    looks = measure([sys.executable, "-c", LOOK_AT_EACH, first, *paths], environment)
    assert looks.status == 0, looks.stderr
    return looks


def bench_all(command, good, bad, environment, folder):
    """Run one bench on a good dataset and all bad ones."""
    arguments = ["-m", "tiny_cnn", "-d", ",".join(map(str, (good, *bad))), "--protocol", "scratch", "--seeds", "1"]
    arguments += ["--set", "image_size=16", "--set", "steps=2", "--folds", "1", "--results", str(folder / "results")]
    return measure([*command, "bench", *arguments, "--json"], environment)


def refused_by(benched):
    """The messages of the datasets that a bench refused, after checking that stderr has no traceback."""
    assert benched.status == 3
    assert all(text not in benched.stderr for text in ("Traceback", "\x1b", "Warning"))
    return {
        Path(item["dataset"]).name: f"{item['message']}; fix: {item['fix']}" for item in benched.document["refused"]
    }
