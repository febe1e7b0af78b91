"""Downloads from a server on this machine that does what servers and networks do: cut, redirect, change, lie."""

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from zoo.errors import DataError
from zoo.system.downloads import download

CONTENT = bytes(range(256)) * 1024  # 256 KiB: several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT by an address for each way to behave; the log holds what was asked.

    /whole resumes, /plain does not, /cut stops half-way, /away and /back redirect, /page is a login page, /liar
    answers every range from the start, /endless does not say how long it is, /slow takes two seconds, /tagged names
    its version.
    """

    def __init__(self, log, *arguments):
        self.log = log
        super().__init__(*arguments)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        asked = self.headers.get("Range", "")
        self.log.append((self.path, asked))
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if self.path == "/away":
            return self.answer(302, b"", Location="file:///etc/hostname")
        if self.path == "/back":
            return self.answer(302, b"", Location="/whole")
        if self.path == "/missing":
            return self.answer(404, b"no")
        if self.path == "/page":
            return self.answer(200, b"<html>log in</html>", **{"Content-Type": "text/html; charset=utf-8"})
        if self.path == "/endless":
            return self.answer(200, CONTENT[: len(CONTENT) // 2], length="")
        if self.path == "/liar" and asked:
            return self.answer(206, CONTENT, **{"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"})
        content, more = CONTENT, {}
        if self.path == "/tagged":
            tag = f'"{self.server.version}"'
            content, more = self.server.version.encode() * 1000 + CONTENT, {"ETag": tag}
            if self.headers.get("If-Range", tag) != tag:
                asked, start = "", 0
        if self.path == "/plain" or not asked:
            half = self.path == "/cut" or (self.path == "/tagged" and self.server.version == "1")
            return self.answer(200, content[: len(content) // 2] if half else content, length=len(content), **more)
        if start >= len(content):
            return self.answer(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, content[start:], **{"Content-Range": span}, **more)

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        length = len(body) if length is None else length
        for name, value in {"Content-Length": length, **headers}.items():
            if value != "":
                self.send_header(name, str(value))
        self.end_headers()
        pieces = 20 if self.path == "/slow" else 1
        with contextlib.suppress(ConnectionError):  # whoever asked was killed
            for number in range(pieces):
                time.sleep(0.1 * (number > 0))
                self.wfile.write(body[len(body) * number // pieces : len(body) * (number + 1) // pieces])


class Served(NamedTuple):
    """The address of a running server, the list of what it is asked, and the server."""

    address: str
    log: list
    running: ThreadingHTTPServer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, log))
    running.version = "1"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield Served(f"http://127.0.0.1:{running.server_port}", log, running)
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
    address, log, _ = server
    with pytest.raises(DataError, match=f"{address}/cut: .*run again") as caught:
        download(f"{address}/cut", tmp_path / "a.npz", md5=MD5)
    assert caught.value.code == "download"
    assert names(tmp_path) == ["a.npz.part", "a.npz.part.from"]
    arrived = (tmp_path / "a.npz.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    assert download(f"{address}/cut", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert log[-1] == ("/cut", f"bytes={arrived}-")
    assert names(tmp_path) == ["a.npz"]


def arrived(folder, server, page, content, version=""):
    """Lay down what an earlier try left of `a.npz`."""
    (folder / "a.npz.part").write_bytes(content)
    (folder / "a.npz.part.from").write_text(json.dumps([server.address + page, version]))


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    arrived(tmp_path, server, "/other", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", "")]


def test_where_nothing_could_tell_that_old_and_new_do_not_go_together_a_part_is_not_gone_on_with(server, tmp_path):
    arrived(tmp_path, server, "/whole", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz").read_bytes() == CONTENT
    assert server.log == [("/whole", "")]


def test_a_part_with_another_start_than_the_file_is_brought_again_from_the_start(server, tmp_path):
    arrived(tmp_path, server, "/whole", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", "bytes=1000-"), ("/whole", "")]


def test_a_file_that_changed_on_the_server_meanwhile_is_brought_whole(server, tmp_path):
    with pytest.raises(DataError):
        download(f"{server.address}/tagged", tmp_path / "a.npz")
    server.running.version = "2"
    assert download(f"{server.address}/tagged", tmp_path / "a.npz").read_bytes() == b"2" * 1000 + CONTENT
    assert [asked[:6] for _, asked in server.log] == ["", "bytes="]
    assert names(tmp_path) == ["a.npz"]


def test_a_file_that_is_the_same_on_the_server_is_gone_on_with_even_without_a_checksum(server, tmp_path):
    with pytest.raises(DataError):
        download(f"{server.address}/tagged", tmp_path / "a.npz")
    assert download(f"{server.address}/tagged", tmp_path / "a.npz").read_bytes() == b"1" * 1000 + CONTENT
    assert server.log[-1][1].startswith("bytes=")


def test_a_server_that_answers_a_range_from_the_start_is_not_believed(server, tmp_path):
    arrived(tmp_path, server, "/liar", CONTENT[:1000])
    assert download(f"{server.address}/liar", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_login_page_is_no_file(server, tmp_path):
    with pytest.raises(DataError, match=r"/page: a web page came instead of a.npz; fix: open it in a browser"):
        download(f"{server.address}/page", tmp_path / "a.npz")
    assert names(tmp_path) == []


def test_what_says_neither_its_length_nor_its_checksum_is_not_taken_for_whole(server, tmp_path):
    with pytest.raises(DataError, match="does not say how long it is"):
        download(f"{server.address}/endless", tmp_path / "a.npz")
    with pytest.raises(DataError, match="expected md5"):
        download(f"{server.address}/endless", tmp_path / "a.npz", md5=MD5)
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [8, 64])
def test_a_sha256_may_be_its_start(server, tmp_path, length):
    digest = hashlib.sha256(CONTENT).hexdigest()[:length]
    assert download(f"{server.address}/whole", tmp_path / "a.npz", sha256=digest).read_bytes() == CONTENT
    with pytest.raises(DataError, match=f"expected sha256 {'0' * length}, got {digest}; fix: run again"):
        download(f"{server.address}/whole", tmp_path / "b.npz", sha256="0" * length)
    assert names(tmp_path) == ["a.npz"]


def test_a_server_that_does_not_resume_starts_over(server, tmp_path):
    arrived(tmp_path, server, "/plain", CONTENT[:1000])
    assert download(f"{server[0]}/plain", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_not_brought_again(server, tmp_path):
    arrived(tmp_path, server, "/whole", CONTENT)
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", f"bytes={len(CONTENT)}-")]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    arrived(tmp_path, server, "/whole", CONTENT + b"more")
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


# --- several processes -----------------------------------------------------------------------------------------------
def start_download(url, path):
    script = "import sys; from pathlib import Path; from zoo.system.downloads import download; "
    script += "download(sys.argv[1], Path(sys.argv[2]), md5=sys.argv[3])"
    return subprocess.Popen([sys.executable, "-c", script, url, str(path), MD5], stderr=subprocess.PIPE, text=True)


def wait_until_some_arrived(path, process):
    part = path.with_name(f"{path.name}.part")
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()


@pytest.mark.integration
def test_of_processes_that_want_one_file_one_downloads_and_the_others_wait(server, tmp_path):
    processes = [start_download(f"{server.address}/slow", tmp_path / "a.npz") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0], [process.stderr.read() for process in processes]
    assert (tmp_path / "a.npz").read_bytes() == CONTENT
    assert server.log == [("/slow", "")]


@pytest.mark.integration
def test_when_the_one_that_downloads_is_killed_one_that_waits_goes_on_where_it_was(server, tmp_path):
    path = tmp_path / "a.npz"
    first = start_download(f"{server.address}/slow", path)
    wait_until_some_arrived(path, first)
    second = start_download(f"{server.address}/slow", path)
    time.sleep(0.3)
    first.kill()
    assert second.wait(60) == 0, second.stderr.read()
    assert path.read_bytes() == CONTENT
    assert server.log[-1][1].startswith("bytes=") and server.log[-1][1] != "bytes=0-"
