"""Progress of a bench: an updating line on a terminal, plain lines elsewhere."""

import io
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from zoo.runner.assignments import name_work
from zoo.system import progress as module
from zoo.system.progress import (
    BenchProgress,
    Console,
    RunName,
    describe_active,
    describe_amount,
    describe_wait,
    duration,
)

NAME = RunName(dataset="dots", model="net", seed="seed 0")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that changes only when it is set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_are_formatted_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ((5, 10, "images"), "[##########..........] 5 of 10 images"),
        ((1234, None, "images"), "1,234 images"),
        ((500_000, 2_000_000, "bytes"), "[#####...............] 0.5 of 2.0 MB"),
        ((30, 10, ""), "[####################] 30 of 10"),
    ],
)
def test_amounts_with_a_known_total_are_shown_as_a_bar(amount, text):
    assert describe_amount(*amount) == text


def test_a_first_image_is_too_little_for_an_estimate():
    assert describe_wait(1, 780, "images", 1.7) == "[....................] 1 of 780 images"
    assert describe_wait(78, 780, "images", 10) == "[##..................] 78 of 780 images, 1 min 30 s left"


def test_without_a_terminal_only_permanent_lines_are_written(clock):
    console = Console(stream=io.StringIO())
    bench = BenchProgress(console, 2, start=clock.now)
    bench.started(NAME)
    bench.progressed(NAME, {"step": 1, "num_steps": 4, "loss": 0.5})
    clock.now += 10
    bench.finished(NAME, "auroc 0.9")
    assert console.stream.getvalue() == "[1 of 2] dots net seed 0: auroc 0.9; about 10 s left\n"


def test_runs_in_the_queue_of_an_engine_are_reported(clock):
    console = Console(stream=io.StringIO(), last_message=clock.now)
    bench = BenchProgress(console, 6, start=clock.now)
    clock.now += 250
    bench.progressed(NAME, {})
    assert console.stream.getvalue() == "6 runs waiting for the executor: 4 min 10 s\n"


def test_on_a_terminal_one_line_shows_run_step_loss_val_and_time_left(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    console = Console(stream=Terminal())
    bench = BenchProgress(console, 3, start=clock.now)
    bench.started(NAME)
    clock.now += 30
    bench.progressed(NAME, {"step": 2, "num_steps": 4, "loss": 0.5, "val_score": 0.75})
    shown = console.stream.getvalue().rpartition("\r\x1b[K")[2]
    # half a run takes 30 s, so the other two and a half take 150 s
    assert console.live == "run 1 of 3; about 2 min 30 s left: dots net seed 0 step 2/4 loss 0.500 val 0.750"
    assert shown == console.live


def test_a_network_after_quick_baselines_needs_the_time_of_its_own_steps(clock):
    bench = BenchProgress(Console(stream=io.StringIO()), 3, start=clock.now)
    for _ in range(2):
        bench.started(NAME)
        clock.now += 2
        bench.finished(NAME, "auroc 0.5")
    bench.started(NAME)
    clock.now += 30
    bench.progressed(NAME, {"step": 1, "num_steps": 4})
    assert bench.time_left() == "; about 1 min 30 s left"


def shown_at(columns, names, clock, monkeypatch):
    """The line of a terminal with this number of columns for these active runs."""
    monkeypatch.setenv("COLUMNS", str(columns))
    console = Console(stream=Terminal())
    bench = BenchProgress(console, 20, start=clock.now)
    for name in names:
        bench.started(name)
    clock.now += 55
    for name in names:
        bench.progressed(name, {"step": 24, "num_steps": 40, "loss": 0.5, "val_score": 0.75})
        clock.now += 1
    bench.redraw()
    console.last_draw = 0.0
    console.show(console.live)
    return console.stream.getvalue().rpartition("\r\x1b[K")[2]


LONG_NAME = RunName(dataset="chest_xrays_of_two_hospitals", model="tf_efficientnet_lite0", seed="seed 0 fold 3")


def test_on_80_columns_the_dataset_is_dropped_first_and_fold_and_step_are_kept(clock, monkeypatch):
    shown = shown_at(80, [LONG_NAME], clock, monkeypatch)
    assert len(shown) <= 79 and "chest_xrays" not in shown
    assert " left: tf_efficientnet_lite0 seed 0 fold 3 step 24/40" in shown


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (140, "left: chest_xrays_of_two_hospitals tf_efficientnet_lite0 seed 0 fold 3 step 24/40 loss 0.500 val 0.750"),
        (100, "left: tf_efficientnet_lite0 seed 0 fold 3 step 24/40 loss 0.500 val 0.750"),
        (60, "left: seed 0 fold 3 step 24/40"),
    ],
)
def test_narrower_terminals_drop_more_fields_but_never_the_step(columns, expected, clock, monkeypatch):
    assert shown_at(columns, [LONG_NAME], clock, monkeypatch).endswith(expected)


def test_on_80_columns_two_active_runs_show_fold_and_step(clock, monkeypatch):
    shown = shown_at(80, [LONG_NAME, replace(LONG_NAME, seed="seed 0 fold 4")], clock, monkeypatch)
    assert shown.endswith("left: seed 0 fold 3 step 24/40 | seed 0 fold 4 step 24/40")


def test_the_line_has_the_parts_of_a_run_name():
    run = SimpleNamespace(data="dots", shown="vit (frozen)", seed=7, num_folds=5, fold=2)
    texts = describe_active(name_work(SimpleNamespace(run=run, done=None)), time.monotonic(), {})
    assert texts == {"dataset": "dots", "model": "vit (frozen)", "seed": "seed 7 fold 2"}


def test_a_step_without_a_loss_keeps_the_last_one(clock):
    bench = BenchProgress(Console(stream=Terminal()), 1)
    bench.progressed(NAME, {"step": 2, "num_steps": 4, "loss": 0.5})
    clock.now += 1
    bench.progressed(NAME, {"step": 3, "num_steps": 4})
    assert "step 3/4 loss 0.500" in bench.console.live


def test_a_permanent_line_does_not_break_the_updating_one():
    console = Console(stream=Terminal())
    console.show("run 1 of 2")
    console.say("a message")
    assert console.stream.getvalue().endswith("\r\x1b[Ka message\nrun 1 of 2")


def test_done_removes_the_updating_line():
    console = Console(stream=Terminal())
    console.show("run 1 of 2")
    console.done()
    assert console.stream.getvalue().endswith("\r\x1b[K")
    assert console.live == ""


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = Console(stream=Terminal())
    console.show("run 1 of 2")
    console.say("a message")
    assert console.stream.getvalue() == "a message\n"


def test_names_cannot_drive_the_terminal():
    console = Console(stream=io.StringIO())
    console.say("dots\x1b[2J: \u202eevil")
    assert console.stream.getvalue() == "dots\\x1b[2J: \\x202eevil\n"


def test_counting_is_silent_for_a_second_and_then_writes_within_ten(clock):
    console = Console(stream=io.StringIO())
    with console.counting("decoding dots", "images", alone=False) as progress:
        progress(1, 100)
        assert console.stream.getvalue() == ""
        for _ in range(30):
            clock.now += 1
            progress(50, 100)
    lines = console.stream.getvalue().splitlines()
    assert lines[0] == "decoding dots: [##########..........] 50 of 100 images, 5 s left"
    assert len(lines) == 6


@pytest.mark.integration
def test_work_without_progress_is_shown_with_its_elapsed_time(monkeypatch):
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.3)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    console = Console(stream=io.StringIO())
    before = threading.active_count()
    with console.counting("importing torch"):
        assert threading.active_count() == before + 1
        time.sleep(1)
    assert set(console.stream.getvalue().splitlines()) <= {"importing torch: 0 s", "importing torch: 1 s"}
    assert 2 <= len(console.stream.getvalue().splitlines()) <= 3
    assert threading.active_count() == before  # a later fork inherits no lock of a thread


def test_without_a_terminal_long_silent_runs_are_shown_with_step_and_time_left(clock):
    console = Console(stream=io.StringIO())
    bench = BenchProgress(console, 2, start=clock.now)
    bench.started(NAME)
    clock.now += 4
    bench.progressed(NAME, {})
    assert console.stream.getvalue() == ""
    clock.now += 2
    bench.progressed(NAME, {})
    clock.now += 8
    bench.progressed(NAME, {"step": 1, "num_steps": 4})
    assert console.stream.getvalue().splitlines() == [
        "run 1 of 2: dots net seed 0 starting, 6 s",
        "2 runs; about 1 min 38 s left; disk: up to 0 MB",
    ]
    clock.now += 8
    bench.progressed(NAME, {})
    line = console.stream.getvalue().splitlines()[-1]
    assert line == "run 1 of 2; about 2 min 34 s left: dots net seed 0 step 1/4"


def test_an_estimate_is_written_once_after_enough_work(clock):
    console = Console(stream=io.StringIO())
    bench = BenchProgress(console, 100, start=clock.now)
    bench.started(NAME)
    clock.now += 4
    bench.progressed(NAME, {"step": 1, "num_steps": 1000})
    assert console.stream.getvalue() == ""
    bench = replace(bench, num_runs=4, decoded_bytes=10_000_000)
    bench.progressed(NAME, {"stored_bytes": 45_000_000})
    bench.progressed(NAME, {"step": 500, "num_steps": 1000})
    bench.progressed(NAME, {"step": 600, "num_steps": 1000})
    assert console.stream.getvalue() == "4 runs; about 28 s left; disk: up to 190 MB\n"
