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
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.errors import PluginError
from zoo.registry.finding import FoundPlugin, find_plugins, raising
from zoo.registry.loading import load_plugin
from zoo.system.files import read_regular, write_json

SECONDS = 30.0  # for one plugin; without kept bytecode `import torch` alone takes four, on a busy machine far more
RETRY_SECONDS = 2.0  # for one that took too long before: an import that was only slow has been read and compiled since
QUARANTINE_POLL_SECONDS = 0.01
ENDED = "/ended"  # no plugin's name


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a plugin cannot be imported. A time-out may be the machine's: it is tried again with every command."""

    reason: str
    timed_out: bool = False


def keep_from_harm(plugins: Sequence[FoundPlugin], cache: Path) -> list[FoundPlugin]:
    """The plugins, with a PluginError in place of each import that would end this process or not come back.

    A plugin is tried again when its version, its file or Python is another; what it imports itself is not watched.
    One that took too long is tried again each time, for a shorter time.
    """
    tried, slow = cache / "plugins" / "tried.json", cache / "plugins" / "slow.json"
    reasons, late = read_memo(tried), read_memo(slow)
    keys = {plugin.name: key_of(plugin) for plugin in plugins}
    unknown = [plugin.name for plugin in plugins if keys[plugin.name] not in reasons]
    faults = try_imports([name for name in unknown if keys[name] not in late], SECONDS)
    faults |= try_imports([name for name in unknown if keys[name] in late], RETRY_SECONDS)
    if faults:
        for name, fault in faults.items():
            late.pop(keys[name], None)
            (late if fault and fault.timed_out else reasons)[keys[name]] = fault.reason if fault else ""
        with contextlib.suppress(OSError):  # a cache that cannot be written to: they are tried each time
            write_json(tried, reasons)
            write_json(slow, late)
    return [disarmed(plugin, reasons.get(keys[plugin.name], ""), late.get(keys[plugin.name], "")) for plugin in plugins]


def disarmed(plugin: FoundPlugin, reason: str, late: str) -> FoundPlugin:
    """The plugin, or in its place the PluginError that tells its user what to do."""
    if late:
        fix = f"run again when the machine is less busy; if it stays so, `pip uninstall {plugin.name}`"
        return replace(plugin, load=raising(PluginError(late, fix=fix)))
    if reason:
        fix = f"upgrade it, report it to its author, or `pip uninstall {plugin.name}`"
        return replace(plugin, load=raising(PluginError(reason, fix=fix)))
    return plugin


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


def try_imports(names: Sequence[str], seconds: float) -> dict[str, Fault | None]:
    """Why each plugin cannot be imported, None where it can or raises; one process until one of them ends it."""
    faults: dict[str, Fault | None] = {}
    while left := [name for name in names if name not in faults]:
        begun, fault = try_until_one_fails(left, seconds)
        faults |= dict.fromkeys(begun)
        if not fault:
            break
        if not begun:
            break  # no process can be had: they are loaded as they are, and tried the next time
        faults[begun[-1]] = fault
    return faults


def try_until_one_fails(names: Sequence[str], seconds: float) -> tuple[list[str], Fault | None]:
    """The plugins whose import began, and what became of the last one: None where all ended."""
    fault = None
    with TemporaryDirectory(prefix="zoo-") as folder:
        log = Path(folder, "begun")
        log.touch()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from zoo.registry.quarantine import try_alone; try_alone(*sys.argv[1:])",
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
                time.sleep(QUARANTINE_POLL_SECONDS)
                if log.stat().st_size != size:
                    size, since = log.stat().st_size, time.monotonic()
                elif time.monotonic() - since > (
                    seconds if size else SECONDS
                ):  # Python's own start is not the plugin's
                    fault = Fault(reason=f"its import did not end within {seconds:g} s", timed_out=True)
        finally:
            end_all(process)
        begun = log.read_text(encoding="utf-8").split("\n")[:-1]
    if begun and begun[-1] == ENDED:
        return begun[:-1], None
    return begun, fault or Fault(reason=describe_end(process.returncode))


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
