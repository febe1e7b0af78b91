"""Files are whole or absent: durable writes, remembered hashes, and downloads from a server on this machine."""

import hashlib
import json
import os
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zoo.errors import DataError
from zoo.files import (
    FileMemo,
    cache_root,
    download,
    folder_written_whole,
    hash_bytes,
    hash_file,
    write_json,
    written_whole,
)

CONTENT = bytes(range(256)) * 1024  # 256 KiB: several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()


# --- hashes ----------------------------------------------------------------------------------------------------------
def test_a_files_digest_is_hashlibs(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert hash_file(tmp_path / "a") == hashlib.sha256(CONTENT).hexdigest()
    assert hash_file(tmp_path / "a", "md5") == MD5


def test_parts_cannot_slide_into_each_other():
    assert len({hash_bytes("ab", "c"), hash_bytes("a", "bc"), hash_bytes("abc"), hash_bytes("abc", "")}) == 4


def test_a_file_name_that_is_no_unicode_can_be_hashed():
    assert hash_bytes("\udcff") != hash_bytes("\udcfe")


def test_a_remembered_hash_needs_no_second_reading(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    memo = FileMemo(tmp_path / "cache")
    first = memo(tmp_path / "a")
    memo.close()
    # The same size and time, another content: only a memo that does not read gives the old digest.
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"two")
    os.utime(tmp_path / "a", ns=(0, status.st_mtime_ns))
    memo = FileMemo(tmp_path / "cache")
    assert memo(tmp_path / "a") == first == hashlib.sha256(b"one").hexdigest()
    memo.close()


def test_a_changed_file_is_hashed_again(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    memo = FileMemo(tmp_path)
    memo(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"two")
    os.utime(tmp_path / "a", ns=(0, 1_000_000_000))
    assert memo(tmp_path / "a") == hashlib.sha256(b"two").hexdigest()
    memo.close()


def test_damaged_memory_of_hashes_is_made_again(tmp_path):
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
    other.connection.execute("PRAGMA busy_timeout = 0")  # whoever has to wait fails
    one(tmp_path / "a")
    other(tmp_path / "b")
    other.close()
    one.close()
    both = FileMemo(tmp_path / "cache")
    assert both.connection.execute("SELECT count(*) FROM facts").fetchone() == (2,)
    both.close()


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("ZOO_CACHE")
    assert cache_root().name in {"zoo", "Cache"}


# --- durable writes --------------------------------------------------------------------------------------------------
def test_a_file_appears_only_when_the_block_has_ended(tmp_path):
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


def test_json_holds_no_nan_and_a_refused_document_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auroc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"label": "Müdigkeit 🩻", "value": None})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"label": "Müdigkeit 🩻", "value": None}
    assert "Müdigkeit 🩻" in text and text.endswith("}\n")


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
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


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
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


# --- downloads -------------------------------------------------------------------------------------------------------
class Server(BaseHTTPRequestHandler):
    """Serves CONTENT: /whole resumes, /plain does not, /cut stops half-way, /away and /back redirect."""

    def __init__(self, log, *arguments):
        self.log = log
        super().__init__(*arguments)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        asked = self.headers.get("Range", "")
        self.log.append((self.path, asked))
        if self.path == "/away":
            return self.answer(302, b"", Location="file:///etc/hostname")
        if self.path == "/back":
            return self.answer(302, b"", Location="/whole")
        if self.path == "/missing":
            return self.answer(404, b"no")
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if self.path == "/plain" or not asked:
            body = CONTENT[: len(CONTENT) // 2] if self.path == "/cut" else CONTENT
            return self.answer(200, body, length=len(CONTENT))
        if start >= len(CONTENT):
            return self.answer(416, b"", **{"Content-Range": f"bytes */{len(CONTENT)}"})
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return self.answer(206, CONTENT[start:], **{"Content-Range": span})

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body) if length is None else length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    """The address of a running server, and the list of what it is asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, log))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", log
    running.shutdown()
    running.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_tells_how_far_it_is(server, tmp_path):
    told = []
    path = download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5, progress=lambda *now: told.append(now))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a.npz"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_a_file_that_is_there_is_not_asked_for(server, tmp_path):
    (tmp_path / "a.npz").write_bytes(CONTENT)
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5) == tmp_path / "a.npz"
    assert server[1] == []


def test_a_file_that_is_there_with_another_md5_is_named_and_kept(server, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"a.npz: expected md5 {MD5}, got .*; fix: delete .*a.npz"):
        download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5)
    assert (tmp_path / "a.npz").read_bytes() == b"mine"


def test_a_cut_download_keeps_what_arrived_and_goes_on_from_there(server, tmp_path):
    address, log = server
    with pytest.raises(DataError, match=f"{address}/cut: .*run again") as caught:
        download(f"{address}/cut", tmp_path / "a.npz", md5=MD5)
    assert caught.value.code == "download"
    assert names(tmp_path) == ["a.npz.part"]
    arrived = (tmp_path / "a.npz.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    assert download(f"{address}/cut", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert log[-1] == ("/cut", f"bytes={arrived}-")
    assert names(tmp_path) == ["a.npz"]


def test_a_server_that_does_not_resume_starts_over(server, tmp_path):
    (tmp_path / "a.npz.part").write_bytes(b"half")
    assert download(f"{server[0]}/plain", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_not_brought_again(server, tmp_path):
    (tmp_path / "a.npz.part").write_bytes(CONTENT)
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert len(server[1]) == 1


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "a.npz.part").write_bytes(CONTENT + b"more")
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_wrong_md5_leaves_nothing_to_go_on_from(server, tmp_path):
    with pytest.raises(DataError, match=f"/whole: expected md5 {'0' * 32}, got {MD5}"):
        download(f"{server[0]}/whole", tmp_path / "a.npz", md5="0" * 32)
    assert names(tmp_path) == []


def test_a_redirect_is_followed(server, tmp_path):
    assert download(f"{server[0]}/back", tmp_path / "a", md5=MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("page", ["/away", "/missing"])
def test_a_redirect_to_a_local_file_and_a_missing_page_are_refused(server, tmp_path, page):
    with pytest.raises(DataError, match=f"{page}: (InvalidSchema|HTTPError)"):
        download(server[0] + page, tmp_path / "a")
    assert names(tmp_path) == []


def test_a_local_address_is_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(DataError, match="InvalidSchema"):
        download((tmp_path / "secret").as_uri(), tmp_path / "a")


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/a: ConnectionError"):
        download("http://127.0.0.1:9/a", tmp_path / "a", timeout=1)
