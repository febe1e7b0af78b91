"""Benches that start in a blink: `zoo` forked from a process that has imported everything, as many as a test wants.

What is forked is the command itself, `zoo.cli.process.run` with the words of a command line, in a session of its own.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = 240.0  # seconds that a command may take, below those that a test may take (conftest.py)
SERVER = """
import importlib, json, os, signal, sys

for name in ("torch", "torch._dynamo", "torch.utils.flop_counter", "safetensors.torch", "sklearn.linear_model",
             "sklearn.metrics", "sklearn.model_selection", "filelock", "zoo.runner.bench", "zoo.leaderboard.boards",
             "zoo.report.boards", "zoo.cli.commands", "zoo_tiny"):
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    if "shell" in asked:
        print(os.system(asked["shell"]), flush=True)
        continue
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setsid()
    for number, path in enumerate((os.devnull, asked["stdout"], asked["stderr"])):
        os.dup2(os.open(path, (os.O_WRONLY | os.O_CREAT | os.O_APPEND) if number else os.O_RDONLY), number)
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    signal.alarm(asked["seconds"])
    exec(asked["first"])
    from zoo.cli import process
    sys.argv = ["zoo", *asked["arguments"]]
    process.run_main()
"""


@dataclass
class Bench:
    """A command that runs, or ran: its process, and what it wrote."""

    pid: int
    stdout: Path
    stderr: Path
    server: subprocess.Popen

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def wait(self, seconds=LIMIT) -> int:
        """Return its exit status, below zero the signal that ended it; kill it and fail where it does not end."""
        try:
            return int(ask(self.server, {"wait": self.pid}, seconds))
        except TimeoutError:
            for pid in (self.pid, *descendants(self.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            read_line(self.server)  # the answer that was waited for
            raise AssertionError(f"zoo did not end within {seconds:g} s; stderr:\n{self.told()}") from None

    def told(self) -> str:
        return self.stderr.read_text(encoding="utf-8")


class Warm:
    """Starts commands; `close` ends the process that has everything imported."""

    def __init__(self, environment, folder: Path, before=()):
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [*before, sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *arguments, first="", folder=None, seconds=0, **environment) -> Bench:
        """Start a command; `first` is code that its process executes before, to bring about a fault.

        After so many `seconds`, if any, SIGALRM ends it.
        """
        self.count += 1
        stdout, stderr = (self.folder / f"{self.count}.{name}" for name in ("stdout", "stderr"))
        stderr.touch()
        asked = {
            "arguments": list(map(str, arguments)),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "folder": str(folder or self.folder),
            "seconds": seconds,
            "first": first,
            "environment": environment,
        }
        return Bench(int(ask(self.server, asked)), stdout, stderr, self.server)

    def shell(self, command: str):
        """Do something else where the commands run."""
        assert ask(self.server, {"shell": command}).strip() == "0", command

    def run(self, *arguments, **settings):
        """Exit status, stdout and stderr of a command."""
        bench = self.start(*arguments, **settings)
        status = bench.wait()
        return status, bench.stdout.read_text(encoding="utf-8"), bench.told()

    def close(self):
        self.server.kill()
        self.server.wait()


def ask(server, question, seconds=LIMIT) -> str:
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    return read_line(server, seconds)


def read_line(server, seconds=LIMIT) -> str:
    """Read the answer to one question; nothing else is in the pipe, so readline does not wait once there is some."""
    if not select.select([server.stdout], [], [], seconds)[0]:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return server.stdout.readline()


def wait_for(condition, seconds=60.0):
    """What `condition` gives, once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def descendants(pid) -> list[int]:
    """The processes below one, that live."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def alive(pid) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
