"""Downloads from a local server that interrupts, redirects, changes files and sends false headers."""

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
    """Serve CONTENT, with one path per behavior, and log all requests.

    /whole supports ranges, /plain does not, /cut stops half-way, /away and /back redirect, /page is a login page, /liar
    answers every range from the start, /endless sends no length, /slow takes two seconds, /tagged sends an ETag.
    """

    def __init__(self, log, *arguments):
        self.log = log
        super().__init__(*arguments)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        requested = self.headers.get("Range", "")
        self.log.append((self.path, requested))
        start = int(re.match(r"bytes=(\d+)-", requested)[1]) if requested else 0
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
        if self.path == "/liar" and requested:
            return self.answer(206, CONTENT, **{"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"})
        content, more = CONTENT, {}
        if self.path == "/tagged":
            tag = f'"{self.server.version}"'
            content, more = self.server.version.encode() * 1000 + CONTENT, {"ETag": tag}
            if self.headers.get("If-Range", tag) != tag:
                requested, start = "", 0
        if self.path == "/plain" or not requested:
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
        with contextlib.suppress(ConnectionError):  # the client was killed
            for number in range(pieces):
                time.sleep(0.1 * (number > 0))
                self.wfile.write(body[len(body) * number // pieces : len(body) * (number + 1) // pieces])


class Served(NamedTuple):
    """The address of a running server, its log of requests, and the server."""

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


def test_a_download_is_complete_and_reports_progress(server, tmp_path):
    reports = []
    path = download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5, progress=lambda *now: reports.append(now))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a.npz"]
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


def test_an_existing_file_is_not_requested(server, tmp_path):
    (tmp_path / "a.npz").write_bytes(CONTENT)
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5) == tmp_path / "a.npz"
    assert server[1] == []


def test_an_existing_file_with_a_wrong_md5_is_reported_and_kept(server, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"a.npz: expected md5 {MD5}, got .*; fix: delete .*a.npz"):
        download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5)
    assert (tmp_path / "a.npz").read_bytes() == b"mine"


def test_an_interrupted_download_resumes(server, tmp_path):
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
    """Write a partial `a.npz` as an earlier attempt leaves it."""
    (folder / "a.npz.part").write_bytes(content)
    (folder / "a.npz.part.from").write_text(json.dumps([server.address + page, version]))


def test_a_partial_file_of_another_url_is_not_resumed(server, tmp_path):
    arrived(tmp_path, server, "/other", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", "")]


def test_a_partial_file_without_version_and_checksum_is_not_resumed(server, tmp_path):
    arrived(tmp_path, server, "/whole", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz").read_bytes() == CONTENT
    assert server.log == [("/whole", "")]


def test_a_partial_file_with_different_content_is_downloaded_again(server, tmp_path):
    arrived(tmp_path, server, "/whole", b"x" * 1000)
    assert download(f"{server.address}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", "bytes=1000-"), ("/whole", "")]


def test_a_file_that_changed_on_the_server_is_downloaded_again(server, tmp_path):
    with pytest.raises(DataError):
        download(f"{server.address}/tagged", tmp_path / "a.npz")
    server.running.version = "2"
    assert download(f"{server.address}/tagged", tmp_path / "a.npz").read_bytes() == b"2" * 1000 + CONTENT
    assert [span[:6] for _, span in server.log] == ["", "bytes="]
    assert names(tmp_path) == ["a.npz"]


def test_an_unchanged_file_is_resumed_even_without_a_checksum(server, tmp_path):
    with pytest.raises(DataError):
        download(f"{server.address}/tagged", tmp_path / "a.npz")
    assert download(f"{server.address}/tagged", tmp_path / "a.npz").read_bytes() == b"1" * 1000 + CONTENT
    assert server.log[-1][1].startswith("bytes=")


def test_a_range_request_answered_from_the_start_is_not_appended(server, tmp_path):
    arrived(tmp_path, server, "/liar", CONTENT[:1000])
    assert download(f"{server.address}/liar", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_login_page_is_refused(server, tmp_path):
    with pytest.raises(DataError, match=r"/page: .*a\.npz"):
        download(f"{server.address}/page", tmp_path / "a.npz")
    assert names(tmp_path) == []


def test_a_response_without_length_and_checksum_is_refused(server, tmp_path):
    with pytest.raises(DataError, match=r"/endless: .*does not report its length"):
        download(f"{server.address}/endless", tmp_path / "a.npz")
    with pytest.raises(DataError, match="expected md5"):
        download(f"{server.address}/endless", tmp_path / "a.npz", md5=MD5)
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [8, 64])
def test_a_sha256_may_be_a_prefix(server, tmp_path, length):
    digest = hashlib.sha256(CONTENT).hexdigest()[:length]
    assert download(f"{server.address}/whole", tmp_path / "a.npz", sha256=digest).read_bytes() == CONTENT
    with pytest.raises(DataError, match=f"expected sha256 {'0' * length}, got {digest}; fix: run again"):
        download(f"{server.address}/whole", tmp_path / "b.npz", sha256="0" * length)
    assert names(tmp_path) == ["a.npz"]


def test_a_server_that_does_not_resume_starts_over(server, tmp_path):
    arrived(tmp_path, server, "/plain", CONTENT[:1000])
    assert download(f"{server[0]}/plain", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_complete_partial_file_is_not_downloaded_again(server, tmp_path):
    arrived(tmp_path, server, "/whole", CONTENT)
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT
    assert server.log == [("/whole", f"bytes={len(CONTENT)}-")]


def test_a_partial_file_longer_than_the_file_is_discarded(server, tmp_path):
    arrived(tmp_path, server, "/whole", CONTENT + b"more")
    assert download(f"{server[0]}/whole", tmp_path / "a.npz", md5=MD5).read_bytes() == CONTENT


def test_a_wrong_md5_leaves_no_partial_file(server, tmp_path):
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


def test_an_unreachable_server_is_reported(tmp_path, monkeypatch):
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
def test_processes_that_request_one_file_download_it_once(server, tmp_path):
    processes = [start_download(f"{server.address}/slow", tmp_path / "a.npz") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0], [process.stderr.read() for process in processes]
    assert (tmp_path / "a.npz").read_bytes() == CONTENT
    assert server.log == [("/slow", "")]


@pytest.mark.integration
def test_a_waiting_process_resumes_the_download_of_a_killed_one(server, tmp_path):
    path = tmp_path / "a.npz"
    first = start_download(f"{server.address}/slow", path)
    wait_until_some_arrived(path, first)
    second = start_download(f"{server.address}/slow", path)
    time.sleep(0.3)
    first.kill()
    assert second.wait(60) == 0, second.stderr.read()
    assert path.read_bytes() == CONTENT
    assert server.log[-1][1].startswith("bytes=") and server.log[-1][1] != "bytes=0-"
