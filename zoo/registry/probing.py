"""Installed plugins to those that can be imported: each is tried once in another process, and remembered.

An exception at import is contained where plugins are loaded. This is for what no `except` contains: a plugin that ends
the process, crashes it, or never comes back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.errors import PluginError
from zoo.files import read_regular, write_json
from zoo.registry.finding import FoundPlugin, find_plugins, raising
from zoo.registry.loading import load_plugin

SECONDS = 10.0  # for one plugin; without kept bytecode `import torch` alone takes four
POLL_SECONDS = 0.01
FIX = "import inside functions what may fail so; `zoo cache clear plugins` has it tried again"
ENDED = "/ended"  # no plugin's name


def keep_from_harm(plugins: Sequence[FoundPlugin], cache: Path) -> list[FoundPlugin]:
    """The plugins, with a PluginError in place of each import that would end this process or not come back.

    A plugin is tried again when its version, its file or Python is another; what it imports itself is not watched.
    """
    memo = cache / "plugins" / "tried.json"
    reasons = read_memo(memo)
    keys = {plugin.name: key_of(plugin) for plugin in plugins}
    new = [plugin.name for plugin in plugins if keys[plugin.name] not in reasons]
    if new:
        reasons |= {keys[name]: reason for name, reason in try_imports(new).items()}
        with contextlib.suppress(OSError):  # a cache that cannot be written to: they are tried each time
            write_json(memo, reasons)
    return [disarmed(plugin, reasons.get(keys[plugin.name], "")) for plugin in plugins]


def disarmed(plugin: FoundPlugin, reason: str) -> FoundPlugin:
    return replace(plugin, load=raising(PluginError(reason, fix=FIX))) if reason else plugin


def read_memo(path: Path) -> dict[str, str]:
    """What was found before, by key; nothing where that cannot be read."""
    try:
        found = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def key_of(plugin: FoundPlugin) -> str:
    """What an import follows from, as far as that can be seen without one."""
    size = mtime = 0
    with contextlib.suppress(Exception):  # a module half-imported, a loader of its own, no file
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
        status = Path(spec.origin).stat() if spec and spec.origin else None
        size, mtime = (status.st_size, status.st_mtime_ns) if status else (0, 0)
    return json.dumps([plugin.name, plugin.version, plugin.module, size, mtime, platform.python_version()])


def try_imports(names: Sequence[str]) -> dict[str, str]:
    """Why each plugin cannot be imported, "" where it can or raises; one process for all until one of them ends it."""
    reasons: dict[str, str] = {}
    while left := [name for name in names if name not in reasons]:
        begun, fault = try_until_one_fails(left)
        reasons |= dict.fromkeys(begun, "")
        if not fault:
            break
        if not begun:
            break  # no process can be had: they are loaded as they are, and tried the next time
        reasons[begun[-1]] = fault
    return reasons


def try_until_one_fails(names: Sequence[str]) -> tuple[list[str], str]:
    """The plugins whose import began, and what became of the last one: "" where all ended."""
    fault = ""
    with TemporaryDirectory(prefix="zoo-") as folder:
        log = Path(folder, "begun")
        log.touch()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from zoo.registry.probing import try_alone; try_alone(*sys.argv[1:])",
                log,
                *names,
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        size, since = 0, time.monotonic()
        try:
            while process.poll() is None and not fault:
                time.sleep(POLL_SECONDS)
                if log.stat().st_size != size:
                    size, since = log.stat().st_size, time.monotonic()
                elif time.monotonic() - since > SECONDS:
                    fault = f"its import did not end within {SECONDS:g} s"
        finally:
            end_all(process)
        begun = log.read_text(encoding="utf-8").split("\n")[:-1]
    if begun and begun[-1] == ENDED:
        return begun[:-1], ""
    return begun, fault or describe_end(process.returncode)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def describe_end(status: int) -> str:
    if status < 0:
        return f"its import crashes: killed by {signal.Signals(-status).name}"
    return f"its import ends the process, with exit status {status}"


def try_alone(log: str, *names: str) -> None:
    """What the other process does: load each plugin, and say so before; then end without asking anybody."""
    found = {plugin.name: plugin for plugin in find_plugins()}
    with open(log, "a", encoding="utf-8", buffering=1) as stream:
        for name in names:
            stream.write(f"{name}\n")
            with contextlib.suppress(BaseException):
                load_plugin(found[name])
        stream.write(f"{ENDED}\n")
    os._exit(0)
