"""Guards around a plugin's code, for what it changes in the process, raises or downloads."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import PluginError, ZooError, clean, convert_disk_errors
from zoo.registry.lookup import Registry
from zoo.specs.executor import ExecutorSpec
from zoo.system.machine import can_fork
from zoo.system.workers import Event, ExecutorOptions, Notify, Work, execute


def inherited(registry: Registry, spec: ExecutorSpec) -> Registry | None:
    """The registry if the workers of an executor inherit it, else None: each then opens its own."""
    return registry if can_fork() and not spec.remote else None


def run_executor(
    spec: ExecutorSpec, works: Sequence[Work], carry_out: Callable[[Work, str, Notify], None], **settings: Any
) -> Generator[Event[Work], None, None]:
    """Yield the events of an executor. Raises PluginError if an executor of a plugin fails.

    `settings` are fields of `ExecutorOptions`, and `results`, the results folder. The executor receives all of
    `EXECUTOR_OPTIONS`.
    """
    defaults: ExecutorOptions[Work] = ExecutorOptions(devices=(), reuse=False)
    settings = {name: getattr(defaults, name) for name in EXECUTOR_OPTIONS} | settings
    results = settings.pop("results", Path("results"))
    if spec.remote:
        settings["folder"] = results / JOBS
    if spec.execute is execute:
        yield from spec.execute(works, carry_out, **settings)
        return
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(convert_disk_errors())  # a full disk is no fault of the plugin
            events = spec.execute(works, carry_out, **settings)
            if hasattr(events, "close"):  # generators have it; other iterators need no end
                stack.callback(events.close)
            for event in events:
                if not isinstance(event, Event):
                    raise TypeError(f"it yielded {type(event).__name__}, expected zoo.Event")
                yield event
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"executor {spec.name!r} failed: {type(error).__name__}: {clean(error)}",
            fix="use --executor local, or report this to the plugin's author",
            code="executor-failed",
        ) from error


EXECUTOR_OPTIONS = ("devices", "reuse", "timeout", "fail_fast", "fits", "more")
JOBS = ".jobs"  # files of remote executors, in the results folder
PATCHED = ("builtins", "os", "numpy", "numpy.random")


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Yield a list of the SIGINT signals received in the block, to tell them from a plugin's own KeyboardInterrupt.

    Signals can be recorded in the main thread only. In other threads the list holds one SIGINT from the start, so that
    every KeyboardInterrupt counts as the user's, unless SIGINT is ignored, as in a background job of a shell.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield [] if before is signal.SIG_IGN else [signal.SIGINT]
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Restore what a plugin's code may change in this process after the block.

    This covers the working folder, environment, signal handlers, random state, and patched functions of Python and
    numpy; and, if torch is imported, its random state, gradients, default dtype and threads.
    """
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # the folder was removed
        folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # perf: a board enters this block for every metric of every row; os.environ decodes every variable (50 us), and
    # `dict` copies a module's names one by one (50 us), where `copy` copies them at once
    variables = vars(os.environ)["_data"]
    environment, random_state, torch = variables.copy(), random.getstate(), sys.modules.get("torch")
    libraries = [(vars(module), vars(module).copy()) for name in PATCHED if (module := sys.modules.get(name))]
    if torch:
        torch_state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
        gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        for names, before in libraries:
            names.update(before)
        if folder:
            os.chdir(folder)
        if variables != environment:
            os.environ.clear()
            decode_key, decode = os.environ.decodekey, os.environ.decodevalue
            os.environ.update({decode_key(name): decode(value) for name, value in environment.items()})
        random.setstate(random_state)
        for number, handler in handlers.items():
            changed = handler is not None and signal.getsignal(number) is not handler
            if changed and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
        if torch:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(gradients)
            torch.set_rng_state(torch_state)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def network_refused() -> Iterator[list[str]]:
    """Refuse network connections of Python's sockets inside the block, and yield a list of the requested hosts.

    This includes localhost, where a proxy or a mirror may listen. Unix sockets are allowed.
    """
    import socket

    hosts: list[str] = []

    def refuse(host: object) -> NoReturn:
        hosts.append(str(host))
        raise OSError(errno.ENETUNREACH, f"network access is not allowed here: {host}")

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda own, address: refuse(address[0]) if isinstance(address, tuple) else function(own, address)

    own = {"connect": socket.socket.connect, "connect_ex": socket.socket.connect_ex}
    look_up = socket.getaddrinfo
    try:
        for name, function in own.items():
            setattr(socket.socket, name, guard(function))
        socket.getaddrinfo = lambda host, *_, **__: refuse(host)
        yield hosts
    finally:
        socket.getaddrinfo = look_up
        for name, function in own.items():
            setattr(socket.socket, name, function)
