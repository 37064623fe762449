from __future__ import annotations

import fcntl
import hashlib
import io
import os
import resource
import socket
import socketserver
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge.data import OFFICIAL, download
from nin_edge.data.download import CATALOGUE, DownloadError, Remote
from nin_edge_runtime import NinEdgeError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
TIMEOUT = 0.5  # seconds; the server answers in milliseconds or not at all


class Server(ThreadingHTTPServer):
    """Serves one file, as badly as it is told to."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True  # whether it knows Range
        self.tears: list[int] = []  # bytes after which the next answers break off
        self.status = 200
        self.silent = False
        self.length: str | None = None  # the Content-Length it states; none if empty
        self.pause = 0.0  # seconds between bytes
        self.release = threading.Event()  # ends silences
        self.asked: list[str | None] = []  # the Range of each request
        self.paths: list[str] = []

    def url(self, name: str = "data.tar.gz") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no matter for the test's output."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.paths.append(self.path)
        server.asked.append(self.headers.get("Range"))
        if server.silent:
            server.release.wait(10)
            return
        if server.status != 200 or self.path.startswith("/missing"):
            self.send_error(404 if self.path.startswith("/missing") else server.status)
            return
        start = 0
        if server.ranges and server.asked[-1]:
            start = int(server.asked[-1].removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        body = server.content[start:]
        if server.length != "":
            self.send_header("Content-Length", server.length or str(len(body)))
        if start:
            whole = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        if server.pause:
            for byte in body[:100]:
                self.wfile.write(bytes([byte]))
                server.release.wait(server.pause)
            return
        self.wfile.write(body[: server.tears.pop(0)] if server.tears else body)

    def log_message(self, *args: Any) -> None:
        """Nothing in the tests' output."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def remote(*urls: str, content: bytes = CONTENT) -> Remote:
    return Remote(urls, len(CONTENT), hashlib.md5(content).hexdigest())


def fetch(folder: Path, *remotes: Remote, **options: Any) -> None:
    download.download(remotes, folder, **{"timeout": TIMEOUT, **options})


def held(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


# --- what comes -----------------------------------------------------------------------------------


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    one = remote(server.url())
    fetch(tmp_path / "new" / "data", one, progress=lambda *call: calls.append(call))
    assert held(tmp_path / "new" / "data") == {"data.tar.gz": CONTENT}
    assert calls[-1] == ("data.tar.gz", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    fetch(tmp_path / "new" / "data", one)
    assert len(server.asked) == 1


def test_a_torn_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.tears = [100_000, 50_000]
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_what_an_earlier_attempt_left_is_kept(server: Server, tmp_path: Path) -> None:
    server.tears = [120_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="after 120,000 of 300,000 bytes; 120,000 bytes are k"):
        fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz.part": CONTENT[:120_000]}
    server.tears, server.asked = [], []
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}
    assert server.asked == ["bytes=120000-"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.tears = False, [100_000]
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_that_always_tears_is_given_up(server: Server, tmp_path: Path) -> None:
    server.ranges, server.tears = False, [100_000] * 9
    with pytest.raises(DownloadError, match="the connection broke after 100,000 of 300,000"):
        fetch(tmp_path, remote(server.url()))
    assert len(server.asked) == 3


def test_a_complete_part_needs_no_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT)
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * (len(CONTENT) + 5)], ids=["short", "long"])
def test_a_part_of_something_else_is_fetched_anew(
    server: Server, tmp_path: Path, stale: bytes
) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(stale)
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}
    assert server.asked == [f"bytes={len(stale)}-", None]


def test_the_next_address_serves_where_the_first_does_not(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path, remote(server.url("missing/data.gz"), server.url("data.gz")))
    assert held(tmp_path) == {"data.gz": CONTENT}
    assert server.paths == ["/missing/data.gz", "/data.gz"]


# --- what does not --------------------------------------------------------------------------------


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    wanted = remote(server.url(), content=b"something else")
    with pytest.raises(
        DownloadError, match=f"publisher states {wanted.digest}; the file was deleted"
    ):
        fetch(tmp_path, wanted)
    assert held(tmp_path) == {}
    assert len(server.asked) == 1


def test_a_missing_file_is_one_request(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/missing: HTTP 404 Not Found$"):
        fetch(tmp_path, remote(server.url("missing")))
    assert len(server.asked) == 1
    assert held(tmp_path) == {}


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match=r"HTTP 503 Service Unavailable$"):
        fetch(tmp_path, remote(server.url()))
    assert len(server.asked) == 3


def test_a_silent_server_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    server.silent = True
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no response for 0\.1 s$"):
        fetch(tmp_path, remote(server.url()), timeout=0.1)
    assert time.monotonic() - started < 5


def test_no_connection_is_said(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/data"
        with pytest.raises(DownloadError, match=r"no connection \(.*refused") as caught:
            fetch(tmp_path, remote(url))
    assert "\n" not in str(caught.value)
    assert held(tmp_path) == {}


def test_a_file_that_is_not_the_published_one_is_not_replaced(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "data.tar.gz").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"data\.tar\.gz: MD5 \w+, its publisher states \w+;"):
        fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": b"mine"}
    assert not server.asked


def test_two_processes_do_not_write_one_file(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "data.tar.gz.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is downloading it"):
            fetch(tmp_path, remote(server.url()))
    assert not server.asked


def test_a_full_disk_is_no_fault_of_the_network(server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fetch(tmp_path, remote(server.url()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "data.tar.gz.part")
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_made_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="exists"):
        fetch(tmp_path / "file", remote(server.url()))


def test_a_redirection_away_from_https_is_refused() -> None:
    request = urllib.request.Request("https://example.org/data")
    handler = download._NoDowngrade()
    with pytest.raises(DownloadError, match=r"redirected to http://example\.org/x, expected HTTPS"):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/x")
    moved = handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/x")
    assert moved is not None
    assert moved.full_url == "https://example.org/x"


def test_a_redirection_to_no_url_is_an_error_of_the_network() -> None:
    with (
        pytest.raises(download._BrokenError, match="Invalid IPv6 URL"),
        download._network_errors("https://example.org/data", TIMEOUT),
    ):
        urllib.request.urlopen("http://[::1")


def test_everything_in_the_catalogue_is_over_https() -> None:
    assert set(CATALOGUE) == set(OFFICIAL)
    for files in CATALOGUE.values():
        for one in files:
            assert all(url.startswith("https://") for url in one.urls)
            assert {url.rsplit("/", 1)[-1] for url in one.urls} == {one.name}
            assert len(bytes.fromhex(one.digest)) == 16
            assert 0 < one.size < 1 << 30


# --- hostile servers and folders ------------------------------------------------------------------


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "many"])
def test_a_length_that_is_none_is_ignored(server: Server, tmp_path: Path, length: str) -> None:
    server.length = length
    fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {"data.tar.gz": CONTENT}


@pytest.mark.parametrize("length", [None, "", "300001", "99999999999999"])
def test_more_bytes_than_were_published_are_not_stored(
    server: Server, tmp_path: Path, length: str | None
) -> None:
    server.content, server.length = CONTENT * 20, length
    with pytest.raises(DownloadError, match="bytes, the published file has 300,000"):
        fetch(tmp_path, remote(server.url()))
    assert held(tmp_path) == {}


def test_a_trickle_is_not_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_SLOWEST", 3_000_000)
    server.pause = 0.05
    with pytest.raises(DownloadError, match=r"slower than 3000 kB/s; \d+ bytes are kept"):
        fetch(tmp_path, remote(server.url()), timeout=0.2)
    assert CONTENT.startswith(held(tmp_path)["data.tar.gz.part"])


def endless(start: bytes, part: bytes) -> Callable[[socket.socket], None]:
    """What a server says: a start, then the same part for ever, never silent for long."""

    def talk(connected: socket.socket) -> None:
        connected.sendall(start)
        while True:
            connected.sendall(part)
            time.sleep(0.02)

    return talk


OK = b"HTTP/1.1 200 OK\r\n"
TRICKLES = {
    "the first line": ("http", endless(b"HTTP/1.1 200 ", b"K")),
    "continue": ("http", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    "a header": ("http", endless(OK + b"X: ", b"x")),
    "the length of a chunk": ("http", endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0")),
    "the trailers": ("http", endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n")),
    "a redirection": ("http", endless(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", b"x" * 999)),
    "the start of TLS": ("https", endless(b"\x16\x03\x03\x40\0", b"\2")),
}


@pytest.mark.parametrize(("scheme", "talk"), TRICKLES.values(), ids=TRICKLES)
def test_a_server_that_is_never_done_is_given_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    talk: Callable[[socket.socket], None],
) -> None:
    class Talker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            with suppress(OSError):
                talk(self.request)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talker) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        started = time.monotonic()
        with pytest.raises(DownloadError, match=r"slower than 10 kB/s|no response for|redirect"):
            fetch(tmp_path, remote(f"{scheme}://127.0.0.1:{server.server_address[1]}/a"))
        assert time.monotonic() - started < 10
        server.shutdown()
    assert held(tmp_path) == {}


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe"])
def test_an_unfinished_file_that_leads_elsewhere_is_not_written_to(
    server: Server, tmp_path: Path, kind: str
) -> None:
    mine, folder = tmp_path / "mine.txt", tmp_path / "data"
    folder.mkdir()
    part = folder / "data.tar.gz.part"
    if kind != "dangling link":
        mine.write_bytes(b"mine")
    if kind == "hard link":
        part.hardlink_to(mine)
    elif kind == "pipe":
        os.mkfifo(part)
    else:
        part.symlink_to(mine)
    with pytest.raises(NinEdgeError, match=r"\.part: a link.*expected a plain file"):
        fetch(folder, remote(server.url()))
    assert mine.exists() == (kind != "dangling link")
    assert not mine.exists() or mine.read_bytes() == b"mine"
    assert not server.asked
