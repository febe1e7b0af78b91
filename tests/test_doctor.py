"""The problems that `zoo doctor` reports, each on a machine that has it, with its fix."""

import json
import os
import sys

import pytest

from zoo.registry.lookup import BrokenPlugin, Registry
from zoo.report import doctor
from zoo.system.namesakes import explain_overwritten
from zoo.training.check import check_device


def advice(tmp_path, registry=None, cache=None, results=None):
    found = doctor.examine_machine(registry or Registry(), cache or tmp_path / "cache", results or tmp_path / "results")
    json.dumps(found)
    return "\n".join(found["advice"])


def test_a_broken_plugin_and_no_model_at_all(tmp_path):
    broken = BrokenPlugin(plugin="zoo-bad", version="1.0", reason="ImportError: no cuda")
    found = advice(tmp_path, Registry(broken=(broken,)))
    assert "zoo-bad is broken and left out: ImportError: no cuda; repair or `pip uninstall zoo-bad`" in found
    assert "no model plugin is installed: pip install" in found


def test_another_distribution_with_a_package_zoo(tmp_path, monkeypatch):
    info = tmp_path / "zoo-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 2.0\n")
    (info / "RECORD").write_text("zoo/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "zoo 2.0 also installs a package `zoo`" in advice(tmp_path)
    error = explain_overwritten()
    assert error.code == "overwritten" and error.fix.startswith("pip uninstall zoo, then pip install")


def test_missing_folders_are_judged_by_their_nearest_parent(tmp_path):
    found = doctor.examine_machine(Registry(), tmp_path / "a" / "cache", tmp_path / "b" / "results")
    for name in ("cache", "results"):
        assert found[name]["writable"] and found[name]["locks"] and found[name]["free_gb"] > 0
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    found = advice(tmp_path, cache=tmp_path / "file", results=tmp_path / "file" / "results")
    assert f"cache {tmp_path / 'file'}: cannot be written to; set ZOO_CACHE to a folder that can" in found
    assert f"results folder {tmp_path / 'file' / 'results'}: cannot be written to; set --results to" in found


@pytest.mark.skipif(sys.platform == "win32", reason="links are for administrators there")
def test_a_link_to_nothing_where_a_folder_should_be(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    told = f"{tmp_path / 'link'} is a broken link; create {tmp_path / 'gone'}, or"
    found = advice(tmp_path, cache=tmp_path / "link" / "cache", results=tmp_path / "link")
    assert f"cache {tmp_path / 'link' / 'cache'}: {told} set ZOO_CACHE to another folder" in found
    assert f"results folder {tmp_path / 'link'}: {told} set --results to another folder" in found


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert "cannot be written to" in advice(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_disk_with_little_room(zoo, tmp_path):
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    words = [sys.executable, "-m", "zoo", "doctor", "--json", "--results", str(folder / "results")]
    script = f"mount -t tmpfs -o size=1M none {folder} && exec {' '.join(words)}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    assert "0.0 GB free; free some" in "\n".join(json.loads(done.stdout)["advice"])


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "can_lock", lambda folder: False)  # none such can be mounted here
    assert "its file system has no locks; run only one bench at a time in it" in advice(tmp_path)


def test_damaged_results_are_named(store, tmp_path):
    folder = store(tmp_path / "results").folder or next((tmp_path / "results").glob("*/*/*"))
    (folder / "predictions.npz").write_bytes(b"")
    assert f"{folder}/predictions.npz: changed after it was written; fix: delete its folder" in advice(tmp_path)


def test_results_of_a_newer_zoo(store, tmp_path):
    store(tmp_path / "results")
    path = next((tmp_path / "results").glob("*/*/*/result.json"))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({"schema": 99} | {k: v for k, v in document.items() if k not in {"schema", "seal"}}))
    assert "has schema 99" in advice(tmp_path)


def test_bytecode_that_is_not_kept(zoo, tmp_path):
    found = json.loads(zoo("doctor", "--json", cwd=tmp_path, forked=False, PYTHONDONTWRITEBYTECODE="1").stdout)
    assert any("PYTHONDONTWRITEBYTECODE is set" in line for line in found["advice"])


def test_too_little_memory_for_a_run_on_each_core():
    found = list(doctor.advise_on_machine("cpu", int(1e9)))
    assert any("set --workers to a smaller number" in line for line in found)
    assert not any("--workers" in line for line in doctor.advise_on_machine("cpu", int(1e13)))


@pytest.mark.integration
def test_a_device_is_checked_by_training_on_it():
    check = check_device("cpu")
    assert (check["device"], check["step"], check["advice"]) == ("cpu", "eager", [])
    assert check["largest_difference_of_a_parameter"] == {"captured and eager steps": 0, "this device and the CPU": 0}
