"""Try to import each new plugin in another process, and cache the outcome.

This is for plugins whose import ends the process, crashes it or hangs, which `except` cannot catch. Exceptions at
import are handled in `loading`.
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
from zoo.registry.finding import InstalledPlugin, find_plugins, how_to_remove, raising
from zoo.registry.loading import load_plugin
from zoo.system.files import read_regular, write_json

# For one plugin. Without cached bytecode `import torch` alone takes four, and far more on a busy machine.
SECONDS = 30.0
RETRY_SECONDS = 2.0  # for one that timed out before: if it was only slow, it has been compiled and cached since
QUARANTINE_POLL_SECONDS = 0.01
ENDED = "/ended"  # cannot be the name of a plugin


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a plugin cannot be imported. A timeout may be due to a busy machine: each command tries again."""

    reason: str
    timed_out: bool = False


def quarantine_plugins(plugins: Sequence[InstalledPlugin], cache: Path) -> list[InstalledPlugin]:
    """Replace `load` of each plugin whose import would end this process or hang by one that raises PluginError.

    A plugin is tried again when its version, its file or Python changes; changes in its dependencies are not detected.
    One that timed out is tried again each time, with a shorter timeout.
    """
    tried, slow = cache / "plugins" / "tried.json", cache / "plugins" / "slow.json"
    reasons, late = read_memo(tried), read_memo(slow)
    keys = {plugin.name: key_of(plugin) for plugin in plugins}
    untried = [plugin.name for plugin in plugins if keys[plugin.name] not in reasons]
    faults = try_imports([name for name in untried if keys[name] not in late], SECONDS)
    faults |= try_imports([name for name in untried if keys[name] in late], RETRY_SECONDS)
    if faults:
        for name, fault in faults.items():
            late.pop(keys[name], None)
            (late if fault and fault.timed_out else reasons)[keys[name]] = fault.reason if fault else ""
        with contextlib.suppress(OSError):  # with a read-only cache they are tried each time
            write_json(tried, reasons)
            write_json(slow, late)
    return [
        guard_load(plugin, reasons.get(keys[plugin.name], ""), late.get(keys[plugin.name], "")) for plugin in plugins
    ]


def guard_load(plugin: InstalledPlugin, reason: str, late: str) -> InstalledPlugin:
    """Make `load` raise PluginError with the fix, if there is a reason not to import the plugin."""
    if late:
        fix = f"run again when the machine is less busy; if it still fails, {how_to_remove(plugin.name, plugin.file)}"
        return replace(plugin, load=raising(PluginError(late, fix=fix)))
    if reason:
        fix = f"upgrade it, report it to its author, or {how_to_remove(plugin.name, plugin.file)}"
        return replace(plugin, load=raising(PluginError(reason, fix=fix)))
    return plugin


def read_memo(path: Path) -> dict[str, str]:
    """The cached outcomes by key; empty if they cannot be read."""
    try:
        memo = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: text for key, text in memo.items() if isinstance(text, str)} if isinstance(memo, dict) else {}


def key_of(plugin: InstalledPlugin) -> str:
    """The facts that determine the outcome of an import, as far as they are known without importing."""
    size = mtime = 0
    with contextlib.suppress(Exception):  # a partially imported module, a custom loader, no file
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
        origin = plugin.file or (spec and spec.origin)
        status = Path(origin).stat() if origin else None
        size, mtime = (status.st_size, status.st_mtime_ns) if status else (0, 0)
    return json.dumps([plugin.name, plugin.version, plugin.module, size, mtime, platform.python_version()])


def try_imports(names: Sequence[str], seconds: float) -> dict[str, Fault | None]:
    """Why each plugin cannot be imported; None if it can or raises. One process imports until a plugin ends it."""
    faults: dict[str, Fault | None] = {}
    while untried := [name for name in names if name not in faults]:
        begun, fault = try_until_one_fails(untried, seconds)
        faults |= dict.fromkeys(begun)
        if not fault:
            break
        if not begun:
            break  # no process could be started: load them untried, and try them the next time
        faults[begun[-1]] = fault
    return faults


def try_until_one_fails(names: Sequence[str], seconds: float) -> tuple[list[str], Fault | None]:
    """The plugins whose import began, and the fault of the last one; None if all imports ended."""
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
                elif time.monotonic() - since > (seconds if size else SECONDS):  # SECONDS for the start of Python
                    fault = Fault(reason=f"its import did not end within {seconds:g} s", timed_out=True)
        finally:
            end_all(process)
        begun = log.read_text(encoding="utf-8").split("\n")[:-1]
    if begun and begun[-1] == ENDED:
        return begun[:-1], None
    return begun, fault or Fault(reason=describe_end(process.returncode))


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its process group."""
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
    """Entry point of the other process: write the name of each plugin to the log, then load it."""
    plugins = {plugin.name: plugin for plugin in find_plugins()}
    with open(log, "a", encoding="utf-8", buffering=1) as stream:
        for name in names:
            stream.write(f"{name}\n")
            with contextlib.suppress(BaseException):
                load_plugin(plugins[name])
        stream.write(f"{ENDED}\n")
    os._exit(0)  # without the exit handlers of the plugins
