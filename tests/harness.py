"""Rules for every test: which ones may start a process, how long each may take, and the signals that a child inherits.

The conftest.py of the repository loads this file, so that the plugins' tests obey it too.
"""

import contextlib
import gc
import multiprocessing.util
import os
import signal
import subprocess
import sys

import pytest

PROCESS_FIXTURES = {"command", "environment"}  # whatever starts `zoo` needs one of them, directly or not
STARTERS = ((os, "fork"), (os, "system"), (multiprocessing.util, "spawnv_passfds"))
EXECUTE = subprocess.Popen._execute_child
FINDERS = {"ldconfig", "gcc", "cc", "ld"}  # ctypes.util.find_library starts them when torch is imported
SECONDS, SLOW_SECONDS = 300, 3600  # for one test; a test that waits for longer fails


def pytest_collection_modifyitems(items):
    """Mark the tests whose fixtures start processes; a file that starts some by other means has the mark itself."""
    for item in items:
        if PROCESS_FIXTURES.intersection(item.fixturenames):
            item.add_marker("integration")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without garbage collection: what is imported and collected stays until the end. perf: 1 s per worker.

    The tests then collect every 20,000 new objects instead of every 700. perf: they took 5.6 s of 96.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Run one test, with its fixtures, under the rules."""
    use_one_thread()
    seconds = SLOW_SECONDS if item.get_closest_marker("slow") else SECONDS
    with pytest.MonkeyPatch.context() as patch, time_limit(seconds):
        if not item.get_closest_marker("integration"):
            for owner, name in STARTERS:
                patch.setattr(owner, name, refuse, raising=False)
            patch.setattr(subprocess.Popen, "_execute_child", execute_finders_alone)
            # a process of its own tries each plugin once; those installed here are sound
            patch.setattr("zoo.registry.quarantine.try_imports", lambda names, _: dict.fromkeys(names))
        return (yield)


def use_one_thread():
    """Reset what a command in this process has set. perf: two threads wait for each other on a busy machine.

    After `zoo predict` in the same process, the tests of training cost 63 CPU seconds instead of 2.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def refuse(*_, **__):
    pytest.fail("a unit test starts a process: mark it `integration`, or do without")


def execute_finders_alone(process, arguments, *rest):
    if not isinstance(arguments, (list, tuple)) or os.path.basename(os.fspath(arguments[0])) not in FINDERS:  # noqa: PTH119
        refuse()
    return EXECUTE(process, arguments, *rest)


@contextlib.contextmanager
def time_limit(seconds):
    """Fail the test that is waiting after so many seconds, whatever it waits for."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"not done within {seconds} s"))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session", autouse=True)
def default_signals():
    """Let children start with default signal dispositions, also under nohup and in the background.

    An ignored signal stays ignored in a child, one with a handler does not. The handler does nothing, so that pytest
    itself still outlives its terminal.
    """
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
