"""Checks of executors: small works that succeed, fail, die, hang or are cancelled, in whatever process it chooses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, expect
from zoo.errors import RunError
from zoo.registry.isolation import JOBS
from zoo.system.workers import Event, ExecutorOptions, Notify

TIMEOUT_SECONDS = 2.0
HANG_SECONDS = 120.0  # of a work that must be ended: longer than every check waits
GONE_SECONDS = 15.0  # in which a cancelled work must have ended


def perform(work: tuple[str, str], _: str, notify: Notify, *, checker: int) -> None:
    """Perform the action that a work names, in another process than the checker; `ok` adds a line to its file."""
    action, file = work
    if action in ("die", "hang") and os.getpid() == checker:
        raise RunError("the executor carries out works in its own process", fix="start a process for each")
    if action == "refuse":
        raise RunError("this work refuses", fix="none: a check of the executor wants it")
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        Path(file).write_text(str(os.getpid()))
        notify({"step": 1})
        time.sleep(HANG_SECONDS)
    with open(file, "a") as stream:
        stream.write("done\n")


def start_works(subject: CheckedSpec, works: Sequence[tuple[str, str]], **options: Any) -> Any:
    """The events of works on two devices, as zoo requests them; a remote executor gets a folder beside their files."""
    defaults = {part: getattr(ExecutorOptions(devices=(), reuse=False), part) for part in ("fits", "more")}
    settings = {"devices": ["cpu", "cpu"], "reuse": False, "timeout": None, "fail_fast": False, **defaults, **options}
    if subject.spec.remote:
        settings["folder"] = Path(works[0][1]).parent / JOBS
    return subject.spec.execute(works, partial(perform, checker=os.getpid()), **settings)


def collect_events(subject: CheckedSpec, works: Sequence[tuple[str, str]], **options: Any) -> list[Event[Any]]:
    with closing(start_works(subject, works, **options)) as events:
        return list(events)


def run_or_skip(subject: CheckedSpec, works: Sequence[tuple[str, str]], **options: Any) -> list[Event[Any]]:
    """The events. Raises Inapplicable if works that succeed do not, which `executor-works` reports."""
    require_success(subject)
    try:
        return collect_events(subject, works, **options)
    except Exception as error:
        raise AssertionError(
            f"executor {subject.spec.name!r} raises {type(error).__name__}: {error}; a failed work is an event"
        ) from error


def require_success(subject: CheckedSpec) -> None:
    with TemporaryDirectory(prefix="zoo-", ignore_cleanup_errors=True) as folder:
        try:
            ends = ends_of(collect_events(subject, [("ok", f"{folder}/plain")]))
        except Exception as error:
            raise Inapplicable(f"a work that succeeds fails: {error}") from error
        if not ends or ends[0].status != "ok" or not Path(folder, "plain").exists():
            raise Inapplicable("a work that succeeds is not carried out")


def ends_of(events: Sequence[Event[Any]]) -> list[Event[Any]]:
    return [event for event in events if event.kind == "ended"]


def check_executor_fields(subject: CheckedSpec) -> None:
    check_plain_fields("executor", subject.spec)


def in_folder(check: Callable[[CheckedSpec, str], None]) -> Callable[[CheckedSpec], None]:
    """Give a check a temporary folder."""

    def run(subject: CheckedSpec) -> None:
        with TemporaryDirectory(prefix="zoo-", ignore_cleanup_errors=True) as folder:
            check(subject, folder)

    return run


def check_works(subject: CheckedSpec, folder: str) -> None:
    works = [("ok", f"{folder}/{number}") for number in range(5)]
    name = f"executor {subject.spec.name!r}"
    try:
        events = collect_events(subject, works)
    except Exception as error:
        raise AssertionError(f"{name} raises {type(error).__name__}: {error}") from error
    statuses = {event.work: (event.status, event.message) for event in ends_of(events)}
    failed = [(work, statuses.get(work)) for work in works if statuses.get(work, ("",))[0] != "ok"]
    expect(not failed, f"{name}: a work that succeeds ends as {failed[:1]}")
    undone = [file for _, file in works if not Path(file).exists()]
    expect(not undone, f"{name}: {len(undone)} of {len(works)} works are reported as done, but were not carried out")


def check_once(subject: CheckedSpec, folder: str) -> None:
    works = [("ok", f"{folder}/{number}") for number in range(5)]
    events = run_or_skip(subject, works)
    name = f"executor {subject.spec.name!r}"
    counts = {work: sum(event.work == work for event in ends_of(events)) for work in works}
    wrong = [(work, count) for work, count in counts.items() if count != 1]
    expect(not wrong, f"{name}: a work ended {wrong[0][1] if wrong else 0} times, expected once")
    repeated = [file for _, file in works if Path(file).exists() and Path(file).read_text().count("done") > 1]
    expect(not repeated, f"{name}: {len(repeated)} of {len(works)} works were carried out more than once")


def check_order_of_events(subject: CheckedSpec, folder: str) -> None:
    works = [("ok", f"{folder}/{number}") for number in range(3)]
    events = run_or_skip(subject, works)
    for work in works:
        kinds = [event.kind for event in events if event.work == work]
        while kinds[:1] == ["progress"]:  # it waited in a queue
            del kinds[0]
        before = kinds[: kinds.index("ended")] if "ended" in kinds else kinds
        expect(
            before[:1] == ["started"] and set(before[1:]) <= {"progress"},
            f"executor {subject.spec.name!r}: the events of a work are {kinds}, expected started, progress, ended",
        )


def check_refusal(subject: CheckedSpec, folder: str) -> None:
    expect_other_works(subject, folder, "refuse", {"failed"})


def check_death(subject: CheckedSpec, folder: str) -> None:
    expect_other_works(subject, folder, "die", {"crashed", "oom"})


def expect_other_works(subject: CheckedSpec, folder: str, action: str, statuses: set[str]) -> None:
    """Run one bad work between two good ones, and compare how each ended."""
    works = [("ok", f"{folder}/first"), (action, f"{folder}/bad"), ("ok", f"{folder}/last")]
    ended = {event.work: event for event in ends_of(run_or_skip(subject, works))}
    name = f"executor {subject.spec.name!r}"
    bad = ended.get(works[1])
    what = {"refuse": "a work that raises", "die": "a work whose process is killed"}[action]
    expect(bad and bad.status in statuses, f"{name}: {what} ends as {bad and bad.status}, expected {sorted(statuses)}")
    others = [ended[work].status if work in ended else None for work in (works[0], works[2])]
    expect(others == ["ok", "ok"], f"{name}: beside {what} the other works end as {others}")
    if action == "refuse" and bad:
        expect(
            bad.code == RunError.code,
            f"{name}: the code of a ZooError is lost: {bad.code!r}, expected {RunError.code!r}",
        )


def check_timeout(subject: CheckedSpec, folder: str) -> None:
    works = [("hang", f"{folder}/pid"), ("ok", f"{folder}/last")]
    start = time.monotonic()
    ended = {event.work: event for event in ends_of(run_or_skip(subject, works, timeout=TIMEOUT_SECONDS))}
    name = f"executor {subject.spec.name!r}"
    status = ended[works[0]].status if works[0] in ended else None
    expect(
        status == "timeout" and time.monotonic() - start < HANG_SECONDS,
        f"{name}: a work that takes longer than `timeout` ends as {status}, expected timeout",
    )
    expect(
        works[1] in ended and ended[works[1]].status == "ok", f"{name}: after a timeout the other work does not succeed"
    )


def check_cancel(subject: CheckedSpec, folder: str) -> None:
    """Close the generator while a work hangs: its process must be gone."""
    require_success(subject)
    file = Path(folder, "pid")
    with closing(start_works(subject, [("hang", str(file))])) as events:
        for event in events:
            if event.kind == "progress" and event.details:
                break
    pid = int(file.read_text()) if file.exists() else 0
    end = time.monotonic() + GONE_SECONDS
    while pid and is_running(pid) and time.monotonic() < end:
        time.sleep(0.1)
    expect(
        not is_running(pid),
        f"executor {subject.spec.name!r}: closing the generator leaves a work running; end its process in `finally`",
    )


def is_running(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def check_fail_fast(subject: CheckedSpec, folder: str) -> None:
    works = [("refuse", f"{folder}/bad"), *(("ok", f"{folder}/{number}") for number in range(6))]
    require_success(subject)
    try:
        collect_events(subject, works, devices=["cpu"], fail_fast=True)
    except Exception as error:
        raise Inapplicable(f"a work that fails raises: {error}") from error
    started = sum(Path(file).exists() for _, file in works)
    expect(
        started < 6, f"executor {subject.spec.name!r}: with `fail_fast` it starts every work after the first failure"
    )


def check_late_work(subject: CheckedSpec, folder: str) -> None:
    """Give the last work through `more`, as zoo does while it still decodes images."""
    answers: list[Any] = [[], [("ok", f"{folder}/late")], None]
    events = run_or_skip(subject, [("ok", f"{folder}/first")], more=lambda: answers.pop(0) if answers else None)
    expect(
        ("ok", f"{folder}/late") in [event.work for event in ends_of(events)],
        f"executor {subject.spec.name!r}: work that `more` returns later is not carried out",
    )


EXECUTOR_CHECKS = (
    Check(id="executor-fields", claim="Its fields are valid", run=check_executor_fields),
    Check(id="executor-works", claim="It carries out every work", run=in_folder(check_works)),
    Check(id="executor-once", claim="Each work is carried out and ends once", run=in_folder(check_once)),
    Check(id="executor-events", claim="A work starts, makes progress and ends", run=in_folder(check_order_of_events)),
    Check(id="executor-failure", claim="A work that raises is an event", run=in_folder(check_refusal)),
    Check(id="executor-kill", claim="A work whose process is killed is an event", run=in_folder(check_death)),
    Check(id="executor-timeout", claim="A work that takes too long is ended", run=in_folder(check_timeout)),
    Check(id="executor-cancel", claim="Closing the generator ends all work", run=in_folder(check_cancel)),
    Check(id="executor-fail-fast", claim="With `fail_fast` a failure stops it", run=in_folder(check_fail_fast)),
    Check(id="executor-more", claim="It carries out work that becomes ready later", run=in_folder(check_late_work)),
)
