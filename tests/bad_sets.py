"""Measure how zoo handles bad datasets, one by one and in one bench: messages, time and memory.

The memory is that of the command alone. What the kernel calls a process's peak begins at that of the process that
forked it, and a suite's is large: so a small process stands between.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SECONDS, MAX_BYTES = 10, 1.5e9

BETWEEN = """
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
measured = {}
with contextlib.redirect_stdout(io.StringIO()):
    run(["info", "datasets", sys.argv[1]])  # the imports
for path in sys.argv[2:]:
    stderr, start = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        status = run(["info", "datasets", path])
    measured[path.rpartition("/")[2]] = [status, stderr.getvalue(), time.monotonic() - start]
print(json.dumps(measured))
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished command with its time and memory."""

    status: int
    out: str
    stderr: str
    peak: int  # bytes
    seconds: float

    @property
    def document(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.out)


def measure(command, environment=None, timeout=400):
    """Run a command in a child process and measure it. POSIX only."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-c", BETWEEN, str(report), *map(str, command)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
        measured = json.loads(report.read_text())
    return Measured(out=done.stdout, stderr=done.stderr, **measured)


def look_at_each(first, paths, environment):
    """`zoo info datasets` on each path in one process, `first` before to have all imported: status, words, seconds."""
    measured = measure([sys.executable, "-c", LOOK_AT_EACH, first, *paths], environment)
    assert measured.status == 0, measured.stderr
    return measured


def bench_all(command, good, bad, environment, folder):
    """Run one bench on a good dataset and all bad ones."""
    arguments = ["-m", "tiny_cnn", "-d", ",".join(map(str, (good, *bad))), "--protocol", "scratch", "--seeds", "1"]
    arguments += ["--set", "image_size=16", "--set", "steps=2", "--folds", "1", "--results", str(folder / "results")]
    return measure([*command, "bench", *arguments, "--json"], environment)


def refused_by(measured):
    """Return the message of each dataset that a bench refused, after checking that there is no traceback."""
    assert measured.status == 3
    assert "Traceback" not in measured.stderr and "\x1b" not in measured.stderr and "Warning" not in measured.stderr
    return {Path(item["dataset"]).name: item["message"] for item in measured.document["refused"]}
