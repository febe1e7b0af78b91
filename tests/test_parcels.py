"""Runs that return from a machine without a shared folder: packed, sent, and written whole beside other runs."""

import errno
import os
import signal
from functools import partial

import numpy as np
import pytest

from zoo.errors import DataError, RunError
from zoo.registry import remote
from zoo.registry.parcels import pack_runs, unpack_runs
from zoo.registry.remote import RemoteWork, carry_out_file


def write_run(results, name):
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(name)
    np.savez(folder / "predictions.npz", a=np.zeros(3))  # a zip at the end of a tar
    return folder


def test_runs_are_written_beside_others_and_nothing_else_is(tmp_path):
    there, here, parcel = tmp_path / "there", tmp_path / "here", tmp_path / "parcel"
    write_run(there, "data/model/run")
    (there / "data" / "model" / ".run.lock").touch()
    (there / "notes").touch()
    write_run(here, "data/model/other")
    (write_run(here, "data/model/run") / "old").touch()
    pack_runs(there, parcel)
    unpack_runs(parcel, here)
    assert sorted(path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()) == [
        "data/model/other/predictions.npz",
        "data/model/other/result.json",
        "data/model/run/predictions.npz",
        "data/model/run/result.json",
    ]


def test_without_runs_there_is_no_parcel(tmp_path):
    pack_runs(tmp_path / "none", tmp_path / "parcel")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_parcel_is_refused(tmp_path):
    write_run(tmp_path / "there", "data/model/run")
    pack_runs(tmp_path / "there", tmp_path / "parcel")
    os.truncate(tmp_path / "parcel", 700)
    with pytest.raises(DataError):
        unpack_runs(tmp_path / "parcel", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def carry_out(work, device, notify, results=None, error=""):
    if error:
        raise RunError("node7 has no dataset", fix="install it", code=error)
    write_run(results, work)


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Carry out a work with no shared folder, and send back what its worker wrote."""
    monkeypatch.setattr(remote, "end_with", lambda parent: None)
    before = signal.getsignal(signal.SIGTERM)

    def carry_out_there(error=""):
        work = RemoteWork("data/model/run", partial(carry_out, error=error), "cpu", tmp_path / "results" / ".jobs")
        there = tmp_path / "there" / work.path.name
        there.parent.mkdir()
        there.touch(mode=0o600)
        there.write_bytes(work.path.read_bytes())
        carry_out_file(there, apart=True)
        for here in (work.parcel, work.log):
            if (sent := there.with_suffix(here.suffix)).exists():
                here.write_bytes(sent.read_bytes())
        return work

    yield carry_out_there
    signal.signal(signal.SIGTERM, before)


def test_the_results_of_another_machine_are_in_the_results_folder_when_its_work_ends(send, tmp_path):
    work = send()
    assert not (tmp_path / "results" / "data").exists()
    assert [event.status for event in work.events()] == ["ok"]
    assert (tmp_path / "results" / "data" / "model" / "run" / "result.json").exists()
    work.remove()
    assert list((tmp_path / "results" / ".jobs").iterdir()) == []


def test_results_that_cannot_be_packed_end_the_work_so_that_it_is_not_repeated(send, monkeypatch):
    def fill_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp")

    monkeypatch.setattr(remote, "pack_runs", fill_disk)
    (event,) = send().events()
    assert event.status == "failed" and event.code == "no-room"


def test_other_data_on_another_machine_end_the_bench(send):
    with pytest.raises(RunError, match="node7 has no dataset") as caught:
        list(send(error="other-data").events())
    assert caught.value.code == "other-data"
