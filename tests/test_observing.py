"""Observers of a bench: what they are told, and that their failures change nothing else."""

import io
import json
import os
import re
import time
from pathlib import Path

import pytest
from factories import store_result

from zoo.conformance.observer_claims import ORDINARY
from zoo.results.runs import read_run
from zoo.runner.observing import Observers, round_finished, run_finished, run_started
from zoo.specs.observer import EVENTS, ObserverSpec
from zoo.system.machine import can_fork
from zoo.system.progress import Console

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_fork(), reason="the observers of these tests are local classes: they need fork"),
]


class Recorder:
    """Write each event to a file, with the process that received it."""

    def __init__(self, path):
        self.path = path

    def write(self, event):
        with open(self.path, "a") as stream:
            stream.write(json.dumps({**event, "pid": os.getpid()}) + "\n")

    bench_started = run_started = round_finished = run_finished = bench_finished = write


def fail(event):
    raise ValueError("no\nserver")


def hang(event):
    time.sleep(600)


def crash(event):
    os._exit(3)


def observer_with(**methods):
    """A spec of an observer with these methods only."""
    return ObserverSpec(name="odd", start=lambda: type("Odd", (), {n: staticmethod(f) for n, f in methods.items()})())


@pytest.fixture
def recorder(tmp_path):
    return ObserverSpec(name="recorder", start=lambda: Recorder(tmp_path / "events.jsonl"))


@pytest.fixture
def read(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def observe(specs, events, outcome="finished"):
    """Send events to observers; return the lines on stderr."""
    stream = io.StringIO()
    observers = Observers(specs, Console(stream))
    for event in events:
        observers.emit(event)
    observers.close(outcome)
    return stream.getvalue().splitlines()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """The events of a finished and a failed run."""
    root = tmp_path_factory.mktemp("results")
    done, failed = store_result(root), store_result(root, seed=1, status="failed")
    run = read_run(done.run)
    return [
        run_started(run),
        round_finished(run, {"step": 2, "num_steps": 4, "loss": 0.7, "val_score": 0.6, "val_loss": None}),
        round_finished(run, {"step": 4, "num_steps": 4, "loss": 0.5, "val_score": None, "val_loss": 0.6}),
        run_finished(done),
        run_finished(failed),
    ]


def test_events_arrive_in_order_in_another_process_and_the_last_one_counts_the_runs(recorder, read, events):
    assert observe([recorder], events) == []
    received = read()
    assert [{name: value for name, value in each.items() if name != "pid"} for each in received[:-1]] == [
        json.loads(json.dumps(each)) for each in events
    ]
    last = received[-1]
    assert {each["pid"] for each in received} == {last["pid"]} != {os.getpid()}
    assert (last["outcome"], last["runs"], last["dropped_rounds"]) == ("finished", {"ok": 1, "failed": 1}, 0)


def test_the_conformance_kit_sends_events_with_the_fields_of_real_ones(events):
    examples = {event["event"]: event for event in ORDINARY}
    for event in events:
        example = examples[event["event"]]
        assert example.keys() == event.keys()
        assert example["run"].keys() == event["run"].keys()


def test_the_events_of_a_run_have_its_scores_or_its_error(events):
    *_, done, failed = events
    assert done["run"]["model"] == "net" and done["scores"]["auroc"]["low"] < done["scores"]["auroc"]["value"]
    assert (failed["status"], failed["scores"], failed["error"]["code"]) == ("failed", {}, "diverged")


@pytest.mark.parametrize(
    ("method", "reason"),
    [(fail, "ValueError: no server"), (crash, "its process ended"), (hang, "it did not finish within 0.5 s")],
)
def test_a_failing_observer_is_dropped_with_one_line_and_the_others_get_everything(
    monkeypatch, recorder, read, events, method, reason
):
    monkeypatch.setattr("zoo.runner.observing.CLOSE_SECONDS", 0.5)
    start = time.monotonic()
    assert observe([observer_with(run_started=method), recorder], events) == [
        f"zoo: warning: observer 'odd' was dropped: {reason}"
    ]
    assert [each["event"] for each in read()] == [*(each["event"] for each in events), "bench_finished"]
    assert time.monotonic() - start < 60


def test_an_observer_that_cannot_start_is_dropped(events):
    def start():
        raise ModuleNotFoundError("No module named 'wandb'")

    (line,) = observe([ObserverSpec(name="odd", start=start)], events)
    assert line.endswith("'odd' was dropped: ModuleNotFoundError: No module named 'wandb'")


def test_a_full_queue_loses_its_oldest_round_events_and_counts_them(monkeypatch, tmp_path, read, events):
    monkeypatch.setattr("zoo.runner.observing.QUEUE_LENGTH", 4)
    gate = tmp_path / "gate"

    class Slow(Recorder):
        def run_started(self, event):
            while not gate.exists():
                time.sleep(0.01)

    stream = io.StringIO()
    observers = Observers([ObserverSpec(name="slow", start=lambda: Slow(tmp_path / "events.jsonl"))], Console(stream))
    started, a_round, _, finished, _ = events
    observers.emit(started)
    while observers.observers[0].queue:  # until the observer has received it
        time.sleep(0.01)
    for step in range(5):
        observers.emit({**a_round, "step": step})
    observers.emit(finished)
    gate.touch()
    observers.close("finished")
    received = read()
    kept = [each["step"] for each in received if each["event"] == "round_finished"]
    assert kept and kept[-1] == 4 and received[-2]["event"] == "run_finished"
    dropped = 5 - len(kept)
    assert dropped >= 2 and received[-1]["dropped_rounds"] in (dropped, dropped - 1)
    assert f"'slow' was too slow: {dropped} of its round events" in stream.getvalue()


def test_an_observer_whose_queue_is_full_of_other_events_is_dropped_before_the_end(monkeypatch, events):
    monkeypatch.setattr("zoo.runner.observing.QUEUE_LENGTH", 4)
    stream = io.StringIO()
    observers = Observers([observer_with(run_started=hang)], Console(stream))
    for _ in range(6):
        observers.emit(events[0])
    assert stream.getvalue() == "zoo: warning: observer 'odd' was dropped: 4 events wait for it\n"
    assert observers.observers == []


def test_what_an_observer_prints_goes_to_stderr(capfd, events):
    observe([observer_with(run_started=lambda event: os.write(1, b"hello\n"))], events[:1])
    assert capfd.readouterr() == ("", "hello\n")


def test_the_observer_in_the_docs_works(capfd, events):
    page = (Path(__file__).parents[1] / "docs" / "observers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    (spec,) = names["register_observers"]()
    assert observe([spec], events) == []
    assert "".join(capfd.readouterr()) == "net on dots, seed 0: ok\nnet on dots, seed 1: failed\n"


# --- in a bench ------------------------------------------------------------------------------------------------------
PLUGIN = """
import os
from zoo import ObserverSpec, hookimpl

class Bad:
    def round_finished(self, event):
        raise OSError("disk full")

@hookimpl
def register_observers():
    return [ObserverSpec(name="bad", start=Bad)]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, install):
    folder = tmp_path_factory.mktemp("observers")
    install(folder, "zoo-observers", PLUGIN)
    return folder


def test_a_bench_tells_its_story_and_a_bad_observer_changes_nothing(bench, site, tiny_data, tmp_path):
    words = ["--datasets", tiny_data / "binary.npz", "--models", "tiny_cnn", "--seeds", "1", "--set", "steps=4"]
    words += ["--set", "rounds=2", "--set", "image_size=16", "--weights", "none", "--device", "cpu"]
    plain = bench(*words, "--results", tmp_path / "plain")
    status, document, err = bench(*words, "--results", tmp_path / "observed", "--observers", "bad,jsonl", sites=[site])
    assert status == plain[0] == 0
    scores = [{run["id"]: run["scores"] for run in each["runs"]} for each in (plain[1], document)]
    assert scores[0] == scores[1]
    assert err.count("observer 'bad' was dropped: OSError: disk full") == err.count("observer") == 1
    told = [json.loads(line) for line in (tmp_path / "observed" / "events.jsonl").read_text().splitlines()]
    assert set(EVENTS) == {each["event"] for each in told}
    assert (told[0]["num_runs"], told[0]["models"], told[-1]["runs"]) == (
        3,
        ["tiny_cnn", "constant", "thumbnails"],
        {"ok": 3},
    )
    mine = [each["event"] for each in told[1:-1] if each["run"]["model"] == "tiny_cnn"]
    assert mine == ["run_started", "round_finished", "round_finished", "run_finished"]
    ends = {each["run"]["id"]: each["scores"]["auroc"]["value"] for each in told if each["event"] == "run_finished"}
    assert ends == {run["id"]: run["scores"]["auroc"]["value"] for run in document["runs"]}


@pytest.mark.parametrize("names", [("recorder",), ("recorder", "recorder")], ids=["named once", "named twice"])
def test_an_interrupted_bench_says_so_once_to_its_observers(names, tmp_path, recorder, read, monkeypatch):
    from zoo.registry.context import Context
    from zoo.registry.lookup import Registry
    from zoo.runner.observing import observed
    from zoo.runner.planning import Plan
    from zoo.specs.suite import Suite
    from zoo.system.settings import Settings

    nothing = {name: {} for name in ("done", "sources", "fingerprints", "externals", "weights", "metrics")}
    plan = Plan(runs=(), **nothing, primary_metric="", protocols=(), refused=(), device="cpu")
    settings = Settings(results=tmp_path, observers=names)
    context = Context(registry=Registry(observers={"recorder": recorder}), settings=settings, console=Console())
    with pytest.raises(KeyboardInterrupt), observed(plan, Suite(name="few"), context):
        raise KeyboardInterrupt
    assert [each["event"] for each in read()] == ["bench_started", "bench_finished"]
    assert read()[-1]["outcome"] == "interrupted"
