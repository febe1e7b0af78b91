"""Atomic and durable writes, cached hashes, and leftovers of killed processes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.system.files import (
    cache_root,
    discard,
    folder_written_whole,
    hash_bytes,
    hash_file,
    read_regular,
    sweep,
    write_json,
    written_whole,
)
from zoo.system.locks import locked
from zoo.system.memo import FileMemo
from zoo.system.toml import parse_toml

CONTENT = bytes(range(256)) * 1024  # 256 KiB: several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()


# --- hashes ----------------------------------------------------------------------------------------------------------
def test_hash_file_matches_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert hash_file(tmp_path / "a") == hashlib.sha256(CONTENT).hexdigest()
    assert hash_file(tmp_path / "a", "md5") == MD5


def test_hash_bytes_depends_on_the_boundaries_of_parts():
    assert len({hash_bytes("ab", "c"), hash_bytes("a", "bc"), hash_bytes("abc"), hash_bytes("abc", "")}) == 4


def test_a_file_name_that_is_not_valid_unicode_can_be_hashed():
    assert hash_bytes("\udcff") != hash_bytes("\udcfe")


def test_a_file_with_a_stored_hash_is_not_read_again(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    read = []

    def find(path):
        read.append(path)
        return hash_file(path)

    for _ in range(2):
        memo = FileMemo(tmp_path / "cache", find=find)
        assert memo(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
        memo.close()
    assert len(read) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
def test_swapped_files_of_equal_size_and_time_are_read_again(tmp_path):
    memo = FileMemo(tmp_path / "cache")
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(0, 10**18))  # as unpacked from an archive
    before = [memo(tmp_path / name) for name in "ab"]
    memo.close()
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    memo = FileMemo(tmp_path / "cache")
    assert [memo(tmp_path / name) for name in "ba"] == before
    memo.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_is_refused_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for use in (hash_file, read_regular, lambda path: write_json(path, {})):
        with pytest.raises(OSError, match="Not a regular file"):
            use(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("text", ["x=" + "[" * 50_000, "x=" + "[" * 3_000 + "]" * 3_000, "x=" + "9" * 5_000, "x"])
def test_invalid_toml_raises_value_error(text):
    with pytest.raises(ValueError):
        parse_toml(text)


@pytest.mark.parametrize(
    "text",
    ["[[a]]\nx = 1\n[[a]]\nx = 2\ny = [", 's = """\nx = 1\nx = 2\n"""\ny = ['],
    ids=["tables of a list", "lines of a text"],
)
def test_keys_that_may_repeat_in_toml_do_not_hide_the_error(text):
    with pytest.raises(ValueError, match="Invalid value"):
        parse_toml(text)


def test_a_repeated_toml_key_is_reported_with_both_lines():
    with pytest.raises(ValueError, match=r"line 6: 'a\.y' .*line 5"):
        parse_toml("[[a]]\nx = 1\n[[a]]\nx = 1\ny = 1\ny = 2")


def test_a_changed_file_is_hashed_again(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    memo = FileMemo(tmp_path)
    memo(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"two")
    os.utime(tmp_path / "a", ns=(0, 1_000_000_000))
    assert memo(tmp_path / "a") == hashlib.sha256(b"two").hexdigest()
    memo.close()


def test_a_damaged_memo_is_recreated(tmp_path):
    (tmp_path / "files.sqlite3").write_bytes(b"garbage" * 100)
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    memo = FileMemo(tmp_path)
    assert memo(path) == hashlib.sha256(CONTENT).hexdigest()
    memo.close()


def test_two_benches_may_hash_at_the_same_time(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    one, other = FileMemo(tmp_path / "cache"), FileMemo(tmp_path / "cache")
    one.connection.execute("PRAGMA busy_timeout = 0")
    other.connection.execute("PRAGMA busy_timeout = 0")  # waiting fails
    one(tmp_path / "a")
    other(tmp_path / "b")
    other.close()
    one.close()
    both = FileMemo(tmp_path / "cache")
    assert both.connection.execute("SELECT count(*) FROM known").fetchone() == (2,)
    both.close()


def test_the_cache_folder_follows_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("ZOO_CACHE")
    assert cache_root().name in {"zoo", "Cache"}


# --- durable writes --------------------------------------------------------------------------------------------------
def test_a_file_appears_only_after_the_block(tmp_path):
    with written_whole(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "half"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_json_with_nan_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auroc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"label": "Müdigkeit 🩻", "value": None})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"label": "Müdigkeit 🩻", "value": None}
    assert "Müdigkeit 🩻" in text and text.endswith("}\n")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").touch()
    with folder_written_whole(tmp_path / "run") as temporary:
        (temporary / "new.txt").write_text("new")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["old.txt"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").touch()
    with pytest.raises(error), folder_written_whole(tmp_path / "run") as temporary:
        (temporary / "half.txt").touch()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["old.txt"]


def test_an_old_folder_is_restored_if_the_new_one_cannot_replace_it(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").touch()
    rename = Path.rename

    def refuse_the_new_one(self, target):
        if self.suffix == ".tmp":
            raise PermissionError("a file in it is open")  # as Windows does
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(PermissionError), folder_written_whole(tmp_path / "run") as temporary:
        (temporary / "new.txt").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["old.txt"]


# --- leftovers of killed processes -----------------------------------------------------------------------------------
WRITER = """
import os, sys, time
from pathlib import Path
from zoo.system import files
what, path = sys.argv[1], Path(sys.argv[2])
if what == "moved":  # killed after the old folder was renamed and before the new one replaced it
    rename = Path.rename
    def rename_once(self, target):
        if self.suffix == ".tmp":
            print("ready", flush=True)
            time.sleep(600)
        return rename(self, target)
    Path.rename = rename_once
write = files.written_whole if what == "file" else files.folder_written_whole
with write(path) as temporary:
    (temporary if what == "file" else temporary / "half.txt").write_text("half")
    if what != "moved":
        print("ready", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def writer():
    """Start a process that stops while writing; all are killed at the end."""
    started = []

    def start(what, path):
        process = subprocess.Popen([sys.executable, "-c", WRITER, what, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.integration
@pytest.mark.parametrize("what", ["file", "folder"])
def test_incomplete_files_of_killed_processes_are_removed_and_those_of_running_ones_kept(tmp_path, writer, what):
    dead, living = (tmp_path / "a" / "b" / name for name in ("dead", "living"))
    process = writer(what, dead)
    writer(what, living)
    assert sweep(tmp_path, 2) == []
    process.kill()
    process.wait()
    (removed,) = sweep(tmp_path, 2)
    assert removed.name.startswith(".dead.")
    remaining = {path.name.split(".")[1] for path in (tmp_path / "a" / "b").iterdir()}
    assert remaining == {"living"}


@pytest.mark.integration
def test_an_old_folder_is_restored_if_its_writer_was_killed_while_replacing_it(tmp_path, writer):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").touch()
    process = writer("moved", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    process.kill()
    process.wait()
    sweep(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["old.txt"]


def test_leftovers_without_a_lock_are_removed_and_other_names_kept(tmp_path):
    (tmp_path / ".run.0a1b2c3d.tmp").mkdir()
    kept = {".run.tmp", "run.0a1b2c3d.tmp", "a.lock", "a.npz.part", ".hidden"}
    for name in kept:
        (tmp_path / name).touch()
    assert [path.name for path in sweep(tmp_path, 0)] == [".run.0a1b2c3d.tmp"]
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_free_lock_is_removed_and_a_held_one_kept(tmp_path):
    (tmp_path / ".run.lock").touch()
    with locked(tmp_path / ".other.lock"):
        sweep(tmp_path, 0)
        assert [path.name for path in tmp_path.iterdir()] == [".other.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_entry_is_removed_with_its_lock(tmp_path):
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "file").touch()
    discard(tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "entry")
