"""Guards around a plugin's code: what it changes in the process, raises or downloads."""

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
from typing import TYPE_CHECKING, Any, NoReturn

from zoo.errors import PluginError, ZooError, clean
from zoo.specs.executor import ExecutorSpec
from zoo.system.workers import Event, Notify, Work, execute

if TYPE_CHECKING:
    pass


def run_executor(
    spec: ExecutorSpec, works: Sequence[Work], carry_out: Callable[[Work, str, Notify], None], **settings: Any
) -> Generator[Event[Work], None, None]:
    """The events of an executor (`zoo.ExecutorSpec`). PluginError that names a plugin's where it goes wrong."""
    if spec.execute is execute:
        yield from spec.execute(works, carry_out, **settings)
        return
    try:
        events = spec.execute(works, carry_out, **settings)
        with contextlib.ExitStack() as stack:
            if hasattr(events, "close"):  # a generator; other iterators have nothing to end
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
            fix="--executor local, or report this to whoever publishes its plugin",
            code="executor-failed",
        ) from error


PATCHED = ("builtins", "os", "numpy", "numpy.random")


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """The interrupts that came from outside, a plugin's own KeyboardInterrupt not among them; main thread only."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        # Ignored, as in a shell's background, none comes from outside; else nobody can tell, and it is taken for one.
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
    """What foreign code does to this process ends with the block: working folder, environment, signals, random numbers,
    functions of Python and numpy that it put others in the place of, and of torch, where it is there, its random
    numbers, gradients, default type and threads."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # removed under the command's feet
        folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment, numbers, torch = dict(os.environ), random.getstate(), sys.modules.get("torch")
    libraries = [(vars(module), dict(vars(module))) for name in PATCHED if (module := sys.modules.get(name))]
    if torch:
        drawn, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
        gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        for names, before in libraries:
            names.update(before)
        if folder:
            os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        random.setstate(numbers)
        for number, handler in handlers.items():
            changed = handler is not None and signal.getsignal(number) is not handler
            if changed and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
        if torch:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(gradients)
            torch.set_rng_state(drawn)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def network_refused() -> Iterator[list[str]]:
    """Refuse network connections of Python's sockets inside the block, and list the hosts that were tried.

    This machine is refused too: a proxy or a mirror may listen there. Sockets that are paths pass.
    """
    import socket

    hosts: list[str] = []

    def refuse(host: object) -> NoReturn:
        hosts.append(str(host))
        raise OSError(errno.ENETUNREACH, f"the network is refused here: {host}")

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
