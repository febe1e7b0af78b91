"""Cache entries are listed, cleared by kind, and kept within the size limit."""

import json
import os
import subprocess
import sys
import time

import pytest

from zoo.errors import UsageError
from zoo.system.caches import choose_entries, describe_cache, in_use, keep_within, limit_bytes, list_entries

DAY = 24 * 3600


@pytest.fixture
def cache(tmp_path):
    """Two decoded datasets, used a month and a week ago, a download and the lock of a third."""
    for kind, name, days in (("images", "old", 30), ("images", "new", 7), ("datasets", "dots.npz", 90)):
        folder = tmp_path / kind / name
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"\0" * 1000)
        os.utime(folder, (time.time() - days * DAY,) * 2)
    (tmp_path / "images" / "third.lock").touch()
    return tmp_path


def names(entries):
    return [entry.name for entry in entries]


def test_entries_are_listed_with_sizes_by_least_recent_use(cache):
    entries = list_entries(cache)
    assert [(entry.kind, entry.name, entry.size_bytes) for entry in entries] == [
        ("images", "old", 1000),
        ("images", "new", 1000),
        ("datasets", "dots.npz", 1000),
    ]


def test_downloads_are_cleared_only_on_request(cache):
    assert names(choose_entries(cache)) == ["old", "new"]
    assert names(choose_entries(cache, ["datasets"])) == ["dots.npz"]
    assert names(choose_entries(cache, everything=True)) == ["old", "new", "dots.npz"]
    assert names(choose_entries(cache, older_days=10)) == ["old"]


def test_an_unknown_kind_is_named(cache):
    with pytest.raises(UsageError, match="'pictures'"):
        choose_entries(cache, ["pictures"])


def test_the_least_recently_used_entries_are_removed_until_the_rest_fits(cache):
    assert names(keep_within(cache, 1500)) == ["old"]
    assert names(list_entries(cache)) == ["new", "dots.npz"]


def test_decoded_volumes_are_listed_and_removed_too(cache):
    (cache / "images").rename(cache / "volumes")
    assert [entry.kind for entry in choose_entries(cache)] == ["volumes", "volumes"]
    assert names(keep_within(cache, 0)) == ["old", "new"]


def test_entries_used_today_are_kept_even_beyond_the_limit(cache):
    os.utime(cache / "images" / "old")
    assert names(keep_within(cache, 0)) == ["new"]
    assert (cache / "images" / "old" / "images.npy").exists()


def test_the_limit_is_an_environment_variable(monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_LIMIT_GB", "0.5")
    assert limit_bytes() == 500_000_000
    for wrong in ("much", "-1", "nan", "inf", "1e300"):
        monkeypatch.setenv("ZOO_CACHE_LIMIT_GB", wrong)
        with pytest.raises(UsageError, match="ZOO_CACHE_LIMIT_GB"):
            limit_bytes()


def test_an_empty_cache_has_no_entries(tmp_path):
    assert describe_cache(tmp_path / "none")["entries"] == []


def run(cache, *arguments):
    command = [sys.executable, "-m", "zoo", *arguments]
    environment = {**os.environ, "ZOO_CACHE": str(cache)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.integration
def test_the_command_lists_and_clears(cache):
    listed = json.loads(run(cache, "cache", "list", "--json").stdout)
    assert [entry["name"] for entry in listed["entries"]] == ["old", "new", "dots.npz"]
    assert "2 entries removed" in run(cache, "cache", "clear").stdout
    assert not (cache / "images" / "old").exists() and (cache / "datasets" / "dots.npz").exists()
    assert run(cache, "cache", "clear", "pictures").returncode == 2


@pytest.mark.integration
def test_a_cache_in_use_is_not_cleared_and_locks_of_killed_benches_are_removed(cache):
    with in_use(cache):
        with pytest.raises(UsageError) as caught:
            choose_entries(cache)
        assert caught.value.code == "cache-in-use"
        assert names(choose_entries(cache, older_days=10)) == ["old"]
    code = "import os, sys; from pathlib import Path; from zoo.system.caches import in_use\n"
    code += "with in_use(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, cache])
    assert list(cache.glob(".bench-*"))
    assert names(choose_entries(cache)) == ["old", "new"]
    assert not list(cache.glob(".bench-*"))
