"""The event files that TensorBoard reads."""

import struct
import sys

import pytest
from factories import store_result

from zoo.results.runs import read_run
from zoo.runner.observing import Observers, round_finished, run_finished
from zoo.system.progress import Console

pytest.importorskip("tensorboardX")
zoo_tensorboard = pytest.importorskip("zoo_tensorboard")
pytestmark = pytest.mark.integration

(OBSERVER,) = zoo_tensorboard.register_observers()


def read_summaries(folder):
    """The summaries in the event files of a folder."""
    return [(event.step, value) for event in read_events(folder) for value in event.summary.value]


def read_events(folder):
    """The events in the event files of a folder: TFRecords of length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a finished and a failed run, and the result of the first."""
    root = tmp_path_factory.mktemp("results")
    done, failed = store_result(root), store_result(root, seed=1, status="failed")
    observers = Observers([OBSERVER], Console(sys.stderr))
    observers.emit({"event": "bench_started", "results": str(root)})
    numbers = {"num_steps": 4, "loss": 0.5, "val_score": None}
    for step in (2, 4):
        observers.emit(round_finished(read_run(done.run), {**numbers, "step": step, "val_loss": step / 8}))
    observers.emit(run_finished(done))
    observers.emit(run_finished(failed))
    observers.close("finished")
    return [root / "tensorboard" / read_run(result.run).folder for result in (done, failed)], done


def test_rounds_are_scalars_and_undefined_values_are_left_out(runs):
    scalars = [
        (value.tag, step, value.simple_value)
        for step, value in read_summaries(runs[0][0])
        if value.tag != "status/text_summary"
    ]
    assert scalars == [("loss", 2, 0.5), ("val_loss", 2, 0.25), ("loss", 4, 0.5), ("val_loss", 4, 0.5)]


def test_test_scores_and_choices_are_hyperparameters(runs):
    (done, _), result = runs
    values = {value.tag: value for _, value in read_summaries(done / "scores")}
    assert values["test/auroc"].simple_value == pytest.approx(result.scores()["auroc"].value)
    assert values["_hparams_/session_start_info"].metadata.plugin_data.plugin_name == "hparams"
    assert b"net" in values["_hparams_/session_start_info"].metadata.plugin_data.content


def test_a_failed_run_has_its_reason(runs):
    ((_, value),) = read_summaries(runs[0][1])
    assert (value.tag, value.tensor.string_val[0]) == ("status/text_summary", b"the loss is nan")
    assert not (runs[0][1] / "scores").exists()


def test_another_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_TENSORBOARD", str(tmp_path / "logs"))
    observer = OBSERVER.start()
    observer.bench_started({"results": str(tmp_path)})
    observer.run_finished(run_finished(store_result(tmp_path, status="failed")))
    assert list((tmp_path / "logs").rglob("events.out.*")) and not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("status", ["ok", "timeout", "failed", None])
def test_a_repeated_run_replaces_a_finished_one_and_continues_any_other(tmp_path, status):
    from tensorboardX.proto.event_pb2 import SessionLog

    first = store_result(tmp_path, status=status or "failed")
    numbers = {"num_steps": 4, "loss": 0.5, "val_loss": None, "val_score": None}
    for step, result in ((2, first), (4, store_result(tmp_path))):
        observer = OBSERVER.start()
        observer.bench_started({"results": str(tmp_path)})
        observer.round_finished(round_finished(read_run(result.run), {**numbers, "step": step}))
        if status or step == 4:
            observer.run_finished(run_finished(result))
        observer.bench_finished({})
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.*") if path.parent.name != "scores"}
    summaries = read_summaries(folder)
    assert [step for step, value in summaries if value.tag == "loss"] == ([4] if status == "ok" else [2, 4])
    purges = [event.step for event in read_events(folder) if event.session_log.status == SessionLog.START]
    assert purges == ([] if status == "ok" else [4])  # TensorBoard drops what the earlier run has from this step on
    texts = [value.tensor.string_val[0] for _, value in summaries if value.tag == "status/text_summary"]
    assert texts == [b"ok"]


def test_a_run_that_was_interrupted_after_its_last_round_keeps_its_rounds(tmp_path):
    from tensorboardX.proto.event_pb2 import SessionLog

    done = store_result(tmp_path)
    numbers = {"step": 4, "num_steps": 4, "loss": 0.5, "val_loss": None, "val_score": None}
    for event in ("round_finished", "run_finished"):
        observer = OBSERVER.start()
        observer.bench_started({"results": str(tmp_path)})
        if event == "round_finished":
            observer.round_finished(round_finished(read_run(done.run), numbers))
        else:
            observer.run_finished(run_finished(done))
        observer.bench_finished({})
    folder = tmp_path / "tensorboard" / read_run(done.run).folder
    # TensorBoard drops what is after a START's step
    assert SessionLog.START not in [event.session_log.status for event in read_events(folder)]
