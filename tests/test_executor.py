"""Work in child processes: every failure is one event and does not affect other work."""

import ctypes
import errno
import faulthandler
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from zoo.errors import PluginError, ResultsError, RunError
from zoo.registry.isolation import run_executor
from zoo.specs.executor import ExecutorSpec
from zoo.system.machine import can_fork
from zoo.system.workers import GRACE_SECONDS, Event, detach, execute

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_fork(), reason="the works of these tests are local functions: they need fork"),
]


def carry_out(work, device, notify):
    """Perform the action that the work names."""
    name, _, argument = work.partition(" ")
    if name == "step":
        for step in range(int(argument)):
            notify({"step": step + 1, "pid": os.getpid()})
    elif name == "refuse":
        raise RunError("the loss is nan", code="diverged")
    elif name == "raise":
        raise ValueError("no such\x1b layer")
    elif name == "memory":
        raise MemoryError("1 EB")
    elif name == "cuda-memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
    elif name == "exit":
        os.write(2, b"goodbye\n")
        os._exit(3)
    elif name == "sys.exit":
        sys.exit(0)
    elif name == "segfault":
        faulthandler.disable()  # pytest's, which would fill the terminal
        ctypes.string_at(0)
    elif name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        notify({"pids": [os.getpid(), child.pid]})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif name == "sleep":
        time.sleep(float(argument))


def run(works, *, workers=2, reuse=False, **settings):
    return list(execute(works, carry_out, devices=["cpu"] * workers, reuse=reuse, **settings))


def ended(works, **settings):
    return {event.work: event for event in run(works, **settings) if event.kind == "ended"}


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_events_of_one_work_come_in_order():
    events = [event for event in run(["step 3"], workers=1) if event.kind != "progress" or event.details]
    assert [event.kind for event in events] == ["started", "progress", "progress", "progress", "ended"]
    assert [event.details["step"] for event in events[1:4]] == [1, 2, 3]
    assert events[-1].status == "ok"


def test_silent_work_yields_an_event_every_second():
    events = run(["sleep 3.5"], workers=1)
    assert [event.kind for event in events] == ["started", "progress", "progress", "progress", "ended"]
    assert not any(event.details for event in events)


def test_work_that_arrives_later_is_carried_out():
    arriving = iter([["step 1"], [], ["step 2", "step 3"], None])
    events = run([], workers=2, more=lambda: next(arriving))
    assert sorted(event.work for event in events if event.kind == "ended") == ["step 1", "step 2", "step 3"]


def test_a_worker_takes_only_work_that_fits_its_device():
    pairs = []

    def carry_out(work, device, notify):
        notify({"device": device})

    works = ["cpu work", "gpu work", "cpu again"]
    fits = lambda work, device: work.startswith(device[:3])  # noqa: E731
    for event in execute(works, carry_out, devices=["gpu:0", "cpu"], reuse=True, fits=fits):
        pairs += [(event.work[:3], event.details["device"][:3])] if event.details else []
    assert len(pairs) == 3 and all(kind == device for kind, device in pairs)


def test_no_work_yields_no_events():
    assert run([]) == []


ENDINGS = {
    "refuse": ("failed", "diverged", "the loss is nan"),
    "raise": ("failed", "run-error", "ValueError: no such\\x1b layer (test_executor.py:"),
    "sys.exit": ("failed", "run-error", "SystemExit: 0"),
    "memory": ("oom", "oom", "out of memory: 1 EB"),
    "cuda-memory": ("oom", "oom", "CUDA out of memory. Tried to allocate 2 GiB"),
    "exit": ("crashed", "crashed", "its process ended with exit status 3; its last output: goodbye"),
    "segfault": ("crashed", "crashed", "killed by SIGSEGV"),
    "kill": ("oom", "killed", "killed by SIGKILL: most likely the system was out of memory"),
}


@pytest.fixture(scope="module")
def endings():
    return ended([*ENDINGS, "step 1"])


@pytest.mark.parametrize("work", ENDINGS)
def test_each_kind_of_failure_has_its_status_and_message(endings, work):
    status, code, message = ENDINGS[work]
    assert (endings[work].status, endings[work].code) == (status, code)
    assert endings[work].message.startswith(message)
    assert "\n" not in endings[work].message


def test_a_crash_does_not_affect_other_work(endings):
    assert endings["step 1"].status == "ok"
    assert set(endings) == {*ENDINGS, "step 1"}


def test_hanging_work_is_killed_with_its_descendants():
    events = run(["hang", "step 1"], timeout=1.0)
    found = {event.work: event for event in events if event.kind == "ended"}
    assert (found["hang"].status, found["hang"].message) == ("timeout", "took longer than 1 s")
    assert found["step 1"].status == "ok"
    pids = next(event.details["pids"] for event in events if "pids" in event.details)
    assert not any(alive(pid) for pid in pids)


def test_closing_the_generator_ends_every_child():
    events = execute(["hang", "hang"], carry_out, devices=["cpu", "cpu"], reuse=False)
    pids = []
    while len(pids) < 4:
        pids += next(events).details.get("pids", [])
    start = time.monotonic()
    events.close()
    assert time.monotonic() - start < 2 * GRACE_SECONDS  # they share the time that those get who do not listen
    assert not any(alive(pid) for pid in pids)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("available", "at_once"), [(10**15, 3), (1, 1), (None, 3)])
def test_no_further_run_starts_without_enough_memory(monkeypatch, available, at_once):
    monkeypatch.setattr("zoo.system.workers.available_memory_bytes", lambda: available)
    running, most = 0, 0
    works = [f"sleep 0.{number}" for number in (31, 32, 33, 34)]
    for event in execute(works, carry_out, devices=["cpu"] * 3, reuse=False):
        running += (event.kind == "started") - (event.kind == "ended")
        most = max(most, running)
    assert (most, running) == (at_once, 0)


def test_fail_fast_starts_nothing_after_a_failure():
    assert list(ended(["raise", "step 1", "step 2"], workers=1, fail_fast=True)) == ["raise"]


def test_without_reuse_each_work_has_its_own_process():
    pids = [event.details["pid"] for event in run(["step 1", "step 1"], workers=1) if event.details]
    assert len(set(pids)) == 2


def test_with_reuse_a_process_carries_out_work_until_it_crashes():
    events = run(["step 1", "raise", "step 2", "exit", "step 3"], workers=1, reuse=True)
    pids = {event.work: event.details["pid"] for event in events if event.details}
    assert pids["step 1"] == pids["step 2"] != pids["step 3"]


def test_idle_workers_end_on_request():
    start = time.monotonic()
    assert {e.status for e in ended(["step 1", "sleep 0.5"], reuse=True).values()} == {"ok"}
    assert time.monotonic() - start < GRACE_SECONDS  # after which they would be killed


def test_the_number_of_concurrent_works_is_the_number_of_workers():
    running = [0]
    for event in run([f"sleep 1.{number}" for number in range(4)], workers=4):
        running.append(running[-1] + (event.kind == "started") - (event.kind == "ended"))
    assert max(running) == 4


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_run_with_fork_and_with_spawn(method):
    # operator.setitem(work, device, notify): a function that a spawned child can import, and a work for which it fails
    events = execute([{}, ()], operator.setitem, devices=["cpu"], reuse=True, start_method=method)
    endings = {str(event.work): event for event in events if event.kind == "ended"}
    assert endings["{}"].status == "ok"
    assert endings["()"].message.startswith("TypeError: 'tuple' object does not support item assignment")


# --- output and signals of a child -----------------------------------------------------------------------------------
def test_the_output_of_a_child_needs_no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    (event,) = ended(["exit 3"]).values()
    assert event.message.endswith("its last output: goodbye")


def test_endless_output_of_a_child_blocks_nothing_and_is_bounded():
    def shout(work, device, notify):
        for _ in range(2000):
            os.write(1, b"x" * 10_000 + b"\n")
        os.write(2, b"hoarse\n")
        os._exit(1)

    (event,) = [e for e in execute(["shout"], shout, devices=["cpu"], reuse=False) if e.kind == "ended"]
    assert event.status == "crashed" and event.message.endswith("| hoarse")


def test_a_child_ended_during_its_start_does_not_run_its_parents_handlers(monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("the parent's handler")

    detach_from_terminal = os.setsid
    monkeypatch.setattr(os, "setsid", lambda: (os.kill(os.getpid(), signal.SIGTERM), detach_from_terminal()))
    before = signal.signal(signal.SIGTERM, fail)
    try:
        (event,) = ended(["sleep 0"]).values()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (event.status, event.message) == ("crashed", "killed by SIGTERM")
    assert "Traceback" not in capfd.readouterr().err


def test_a_child_ends_if_its_parent_was_killed_during_its_start():
    ours, _ = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=detach, args=(ours, 1))
    child.start()
    child.join(10)
    assert child.exitcode == 1


# --- executors of plugins --------------------------------------------------------------------------------------------
def events_of(execute_):
    spec = ExecutorSpec(name="far", execute=execute_)
    return list(run_executor(spec, ["step 1"], carry_out, devices=["cpu"], reuse=False))


def raising(works, carry_out, **settings):
    raise OSError("no such queue")


def raising_later(works, carry_out, **settings):
    yield Event(work=works[0], kind="started")
    raise OSError("no such queue")


def too_old(works, carry_out, *, devices):
    yield from ()


def not_events(works, carry_out, **settings):
    yield "done"


@pytest.mark.parametrize("broken", [raising, raising_later, too_old, not_events, lambda *_, **__: None])
def test_a_failing_executor_of_a_plugin_is_named(broken):
    with pytest.raises(PluginError, match="executor 'far' failed") as caught:
        events_of(broken)
    assert caught.value.code == "executor-failed"


def test_a_full_disk_is_not_blamed_on_the_executor():
    def fill(works, carry_out, **settings):
        yield Event(work=works[0], kind="started")
        raise OSError(errno.ENOSPC, "No space left on device", "results/.jobs/1.parcel")

    with pytest.raises(ResultsError, match=r"1\.parcel: No space left on device") as caught:
        events_of(fill)
    assert caught.value.code == "no-room"


def test_an_executor_may_return_any_iterable_of_events():
    ended = Event(work="step 1", kind="ended", status="ok")
    assert events_of(lambda works, carry_out, **settings: iter([ended])) == [ended]
    assert events_of(lambda works, carry_out, **settings: [ended]) == [ended]


def test_a_generator_of_a_plugin_is_closed_with_the_bench():
    closed = []

    def endless(works, carry_out, **settings):
        try:
            while True:
                yield Event(work=works[0], kind="progress")
        finally:
            closed.append(True)

    events = run_executor(ExecutorSpec(name="far", execute=endless), ["step 1"], carry_out)
    next(events)
    events.close()
    assert closed == [True]


INTERRUPTED = """
import multiprocessing, os, signal
from zoo.system import workers

start_worker = workers.start_worker

def start_and_interrupt(*arguments, **options):
    worker = start_worker(*arguments, **options)
    os.kill(os.getpid(), signal.SIGINT)
    return worker

signal.signal(signal.SIGINT, signal.default_int_handler)
workers.start_worker = start_and_interrupt
try:
    list(workers.execute([1], print, devices=["cpu"], reuse=False))
except KeyboardInterrupt:
    print("interrupted, children:", len(multiprocessing.active_children()))
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_an_interrupt_just_after_a_worker_started_leaves_no_worker():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted, children: 0\n", done.stderr
