"""Checks of specs of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import callables_of, expect, pickle_callables

# Libraries that take long to import.
HEAVY_LIBRARIES = (
    *("cv2", "jax", "matplotlib", "monai", "pandas", "scipy", "skimage", "sklearn"),
    *("tensorflow", "torch", "transformers"),
)
IMPORT_SECONDS = 60.0
# Imports a plugin and calls its hooks; prints the first heavy import and the line of the plugin that leads to it.
WATCH_IMPORTS = """
import importlib, os, sys
plugin, heavy = sys.argv[1], set(sys.argv[2].split(","))

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name not in heavy:
            return None
        frame, place = sys._getframe(1), ""
        while frame:
            if frame.f_globals.get("__name__", "").partition(".")[0] == plugin.partition(".")[0]:
                place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                break
            frame = frame.f_back
        print(f"{name} {place}", flush=True)
        os._exit(0)

import zoo
sys.meta_path.insert(0, Watch())
module = importlib.import_module(plugin)
for name in dir(module):
    if hasattr(getattr(module, name), "zoo_impl"):
        getattr(module, name)()
"""


def run_python(code: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run code in a new interpreter with the import path of this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=IMPORT_SECONDS)


def plugin_module(subject: CheckedSpec) -> str:
    """The module that registers a spec, or at least defines its first callable."""
    if subject.module:
        return subject.module
    for _, function in callables_of(subject.spec):
        inner = function.func if isinstance(function, partial) else function
        module: str = getattr(inner, "__module__", "") or ""
        if module and module.partition(".")[0] != "zoo":
            return module
    raise Inapplicable("it has no code of its own")


def check_light_import(subject: CheckedSpec) -> None:
    module = plugin_module(subject)
    done = run_python(WATCH_IMPORTS, module, ",".join(HEAVY_LIBRARIES))
    library, _, place = done.stdout.decode().strip().partition(" ")
    if done.returncode:
        raise Inapplicable(f"{module} cannot be imported: {last_line(done.stderr)}")
    expect(
        not library,
        f"importing {module} imports {library}, at {place or 'a library that it imports'}; import it in the functions "
        "that need it, so that `zoo list` stays quick",
    )


def check_spawn(subject: CheckedSpec) -> None:
    if not callables_of(subject.spec):
        raise Inapplicable("it has no callables")
    pickled = pickle_callables(subject.kind, subject.spec)
    done = run_python("import pickle, sys; pickle.load(sys.stdin.buffer)", stdin=pickled)
    expect(
        done.returncode == 0,
        f"{subject.kind} {subject.spec.name!r}: another process cannot load its functions: {last_line(done.stderr)}",
    )


def last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]


SPEC_CHECKS = (
    Check(
        id="light-import",
        claim="Importing the plugin imports no heavy library",
        run=check_light_import,
        of_plugin=True,
    ),
    Check(id="spawn", claim="Its functions can be sent to a spawned process", run=check_spawn),
)
