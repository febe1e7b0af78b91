"""Works as jobs of another engine: submitted up to its limit, followed, tried again, timed and canceled."""

import json
import pickle
import time
from contextlib import ExitStack

import pytest

from zoo.registry import engines
from zoo.registry.engines import Engine, execute_on, name_in_job
from zoo.system.locks import lock_of, locked


class Shelf(Engine):
    """An engine whose jobs do what a test scripts: a function of each work is called at every poll."""

    def __init__(self, scripts, max_jobs=None):
        self.scripts, self.max_jobs = scripts, max_jobs
        self.submitted, self.canceled, self.batches, self.most = [], [], [], 0

    def submit(self, works):
        self.batches.append(len(works))
        self.submitted += works
        return [(len(self.submitted) - len(works) + number, work) for number, work in enumerate(works)]

    def states(self, handles):
        self.most = max(self.most, len(handles))
        return [self.scripts[work.work](work, number) for number, work in handles]

    def cancel(self, handles):
        self.canceled += [work.work for _, work in handles]

    def describe_end(self, handle):
        return "the node burned"


def write(work, kind="progress", **message):
    with open(work.log, "a") as stream:
        stream.write(json.dumps({"kind": kind, **message}) + "\n")


def succeed(work, _):
    write(work, began=True)
    write(work, "ended", status="ok")
    return "ended"


def fail(work, _):
    write(work, "ended", status="failed", code="diverged", message="the loss is nan")
    return "ended"


def vanish(work, _):
    write(work, began=True)
    return "ended"


def hang(work, _):
    if not work.log.exists():
        write(work, began=True)
    return "running"


def wait_in_queue(work, _):
    return "waiting"


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "POLL_SECONDS", 0.0)

    def execute(shelf, works=None, **options):
        settings = {"folder": tmp_path / "jobs", "devices": ["cpu"], **options}
        return execute_on(shelf, list(shelf.scripts) if works is None else works, print, **settings)

    return execute


def ends_of(events):
    return {event.work: event for event in events if event.kind == "ended"}


def test_every_work_is_submitted_together_and_ends_once(start, tmp_path):
    shelf = Shelf({"a": succeed, "b": fail})
    events = list(start(shelf))
    assert shelf.batches == [2]
    assert [(event.work, event.kind) for event in events if event.work == "a"][:3] == [
        ("a", "started"),
        ("a", "progress"),
        ("a", "ended"),
    ]
    assert {work: (event.status, event.code) for work, event in ends_of(events).items()} == {
        "a": ("ok", ""),
        "b": ("failed", "diverged"),
    }
    assert list((tmp_path / "jobs").iterdir()) == []


def test_no_more_jobs_than_the_limit_are_submitted_at_once(start):
    shelf = Shelf(dict.fromkeys("abcde", succeed), max_jobs=2)
    assert len(ends_of(start(shelf))) == 5
    assert (shelf.batches, shelf.most) == ([2, 2, 1], 2)


def test_work_that_becomes_ready_later_is_submitted(start):
    answers = [[], ["late"], None]
    shelf = Shelf({"first": succeed, "late": succeed})
    assert set(ends_of(start(shelf, works=["first"], more=lambda: answers.pop(0)))) == {"first", "late"}


def test_a_work_gets_a_device_that_fits_it_by_its_name_in_a_job(start):
    shelf = Shelf({"a": succeed})
    list(start(shelf, devices=["cpu", "cuda:3"], fits=lambda work, device: device != "cpu"))
    assert shelf.submitted[0].device == "cuda:0"
    assert [name_in_job(device) for device in ("cpu", "mps")] == ["cpu", "mps"]


def test_a_work_whose_jobs_vanish_is_submitted_three_times(start):
    shelf = Shelf({"a": vanish})
    ended = ends_of(start(shelf))["a"]
    assert (ended.status, len(shelf.submitted)) == ("crashed", 3)
    assert ended.message == "3 jobs ended without a result; of the last one: the node burned"


def test_a_work_that_a_lost_job_still_carries_out_is_followed_instead_of_submitted_again(start):
    """The engine took a job although it reported an error: the second job finds the work taken and ends at once."""
    polls, worker = [], ExitStack()

    def end_while_taken(work, _):
        polls.append(1)
        if len(polls) == 1:
            worker.enter_context(locked(lock_of(work.path)))
            write(work, step=1)
        if len(polls) == 9:
            write(work, "ended", status="ok")
            worker.close()
        return "ended"

    shelf = Shelf({"a": end_while_taken})
    assert ends_of(start(shelf))["a"].status == "ok"
    assert (len(polls), len(shelf.submitted)) == (9, 1)


@pytest.mark.parametrize("told", [True, False])
def test_time_in_the_queue_does_not_count(start, monkeypatch, told):
    """A job that the engine queued again, with or without a message of its worker."""
    moments = iter([100, 130, 900, 1000, 1015, 1021])
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def run_twice(work, _):
        now[0] = float(next(moments))
        if now[0] in (100, 1000):
            write(work, began=True)
        if now[0] == 130 and told:
            write(work, requeued=True)
        return "waiting" if now[0] in (130, 900) and not told else "running"

    shelf = Shelf({"a": run_twice})
    assert ends_of(start(shelf, timeout=50))["a"].status == "timeout"
    assert (now[0], shelf.canceled) == (1021.0, ["a"])


def test_works_that_wait_in_a_queue_give_a_sign_of_life(start):
    polls = []

    def wait_first(work, number):
        polls.append(number)
        return succeed(work, number) if len(polls) == 3 else "waiting"

    events = list(start(Shelf({"a": wait_first})))
    assert [event.kind for event in events[:3]] == ["progress", "progress", "started"]


def test_a_failure_with_fail_fast_cancels_what_has_not_begun(start):
    shelf = Shelf({"a": hang, "b": fail, "c": wait_in_queue})
    events = start(shelf, fail_fast=True)
    for event in events:
        if event.kind == "ended":
            break
    next(events)
    assert shelf.canceled == ["c"]
    events.close()
    assert shelf.canceled == ["c", "a"]


def test_a_closed_bench_cancels_its_jobs_and_leaves_no_file(start, tmp_path):
    shelf = Shelf({"a": hang, "b": wait_in_queue})
    events = start(shelf)
    next(events)
    events.close()
    assert shelf.canceled == ["a", "b"]
    assert list((tmp_path / "jobs").iterdir()) == []


def test_an_engine_that_refuses_jobs_ends_the_bench_and_leaves_no_file(start, tmp_path, monkeypatch):
    shelf = Shelf({"a": succeed})
    monkeypatch.setattr(shelf, "submit", lambda works: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(start(shelf))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_work_that_cannot_be_written_ends_the_bench_and_leaves_no_file(start, tmp_path):
    works = ["a", lambda: None]  # a lambda cannot be pickled
    with pytest.raises((AttributeError, pickle.PicklingError)):
        next(start(Shelf({}), works))
    assert list((tmp_path / "jobs").iterdir()) == []
