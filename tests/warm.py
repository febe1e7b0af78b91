"""Start `zoo` commands without import time, by forking a process that has imported everything.

Each child runs `zoo.cli.process.run` with the arguments of a command line, in its own session.
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
import gc, importlib, json, os, pkgutil, signal, sys
import zoo

for name in ("torch", "torch._dynamo", "torch.utils.flop_counter", "safetensors.torch", "sklearn.linear_model",
             "sklearn.metrics", "sklearn.model_selection", "filelock", "sqlite3", "PIL.PngImagePlugin", "zoo_tiny"):
    importlib.import_module(name)
for module in pkgutil.walk_packages(zoo.__path__, "zoo."):
    importlib.import_module(module.name)
sys.path.insert(0, TESTS)
from loaded_plugins import load_once
sys.path.remove(TESTS)
zoo.registry.loading.load_plugin = load_once
zoo.registry.opening.open_registry()
gc.collect()
gc.freeze()  # perf: a collection in a command goes through all that is imported: 0.15 s
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setsid()
    for number, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        os.dup2(os.open(path, (os.O_WRONLY | os.O_CREAT | os.O_APPEND) if number else os.O_RDONLY), number)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    signal.alarm(request["seconds"])
    exec(request["first"])
    from zoo.cli import process
    sys.argv = ["zoo", *request["arguments"]]
    process.run_main()
"""


@dataclass
class Bench:
    """A running or finished command: its process and its output files."""

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
            raise AssertionError(f"zoo did not end within {seconds:g} s; stderr:\n{self.read_stderr()}") from None

    def read_stderr(self) -> str:
        return self.stderr.read_text(encoding="utf-8")


class Warm:
    """Starts commands; `close` ends the server process."""

    def __init__(self, environment, folder: Path):
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", f"TESTS = {str(Path(__file__).parent)!r}{SERVER}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *arguments, first="", folder=None, seconds=0, **environment) -> Bench:
        """Start a command; its process executes the code `first` before, to cause a fault.

        SIGALRM ends it after `seconds`, if not 0.
        """
        self.count += 1
        stdout, stderr = (self.folder / f"{self.count}.{name}" for name in ("stdout", "stderr"))
        stderr.touch()
        request = {
            "arguments": list(map(str, arguments)),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "folder": str(folder or self.folder),
            "seconds": seconds,
            "first": first,
            "environment": environment,
        }
        return Bench(int(ask(self.server, request)), stdout, stderr, self.server)

    def run(self, *arguments, **settings):
        """Run a command; returns exit status, stdout and stderr."""
        bench = self.start(*arguments, **settings)
        status = bench.wait()
        return status, bench.stdout.read_text(encoding="utf-8"), bench.read_stderr()

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
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError(f"timed out after {seconds} s")


def descendants(pid) -> list[int]:
    """The live descendants of a process."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(path.parent.name))
    pids, waiting = [], [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        pids += new
        waiting += new
    return pids


def alive(pid) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
