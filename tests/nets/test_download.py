"""The weights download, against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.nets import download
from squeeze_export.nets.download import NAMED_WEIGHTS, cache_folder, fetch_weights

BODY = bytes(range(256)) * 1000
FILE = f"tiny-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY. What it does wrong, and what it was asked, is kept here.

    Attributes:
        body: what is served.
        ranges: whether Range is understood.
        cut: bytes after which the connection breaks, or None.
        status: a status to answer with instead, or None.
        length: whether Content-Length is sent.
        offset: added to where a range begins.
        asked: the Range header of each request.
    """

    daemon_threads = True
    body, ranges, cut, status, length, offset = BODY, True, None, None, True, 0
    cut: int | None
    status: int | None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        span = self.headers.get("Range")
        server.asked.append(span)
        assert self.path == f"/models/{FILE}"
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and server.ranges else 0
        if server.status is not None:
            self.send_error(server.status)
            return
        if start and start >= len(server.body):
            self.send_error(416)
            return
        body = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.offset}-{len(server.body) - 1}/{len(server.body)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *_args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "NAMED_WEIGHTS", {"tiny": f"https://example.invalid/models/{FILE}"})
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_good(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    cache = tmp_path / "new" / "cache"
    path = fetch_weights("tiny", cache=cache, base_url=server.url, progress=lambda *step: seen.append(step))
    assert path == cache / FILE
    assert path.read_bytes() == BODY
    assert [entry.name for entry in cache.iterdir()] == [FILE]
    assert seen[-1] == ("download", len(BODY), len(BODY))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert server.asked == [None]


def test_a_cached_file_needs_no_network(server: Server, tmp_path: Path) -> None:
    fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert fetch_weights("tiny", cache=tmp_path, base_url="http://127.0.0.1:9/").read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_spoilt_cached_file_is_found_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(BODY[:-1])
    with pytest.raises(BadInput, match="does not begin with"):
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert not server.asked
    assert fetch_weights("tiny", cache=tmp_path, base_url=server.url).read_bytes() == BODY


def test_wrong_hash(server: Server, tmp_path: Path) -> None:
    server.body = BODY[::-1]
    with pytest.raises(BadInput, match="does not begin with") as caught:
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_cut_short_then_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = 70_000
    with pytest.raises(Unavailable, match="broke off after `70000`") as caught:
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert (caught.value.exit_code, caught.value.hint) == (3, "run the command again: it goes on where it stopped")
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{FILE}.part"]
    server.cut = 100_000
    with pytest.raises(Unavailable, match="broke off after `170000` of 256000 bytes"):
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    server.cut = None
    seen: list[int] = []
    path = fetch_weights("tiny", cache=tmp_path, base_url=server.url, progress=lambda _what, done, _total: seen.append(done))
    assert path.read_bytes() == BODY
    assert server.asked == [None, "bytes=70000-", "bytes=170000-"]
    assert min(seen) > 170_000
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(b"x" * 500)
    server.ranges = False
    assert fetch_weights("tiny", cache=tmp_path, base_url=server.url).read_bytes() == BODY


def test_a_server_that_goes_on_elsewhere_is_not_believed(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(BODY[:500])
    server.offset = 7
    with pytest.raises(Unavailable, match="goes on at byte `507`, not at 500"):
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert (tmp_path / f"{FILE}.part").read_bytes() == BODY[:500]


def test_a_whole_part_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(BODY)
    assert fetch_weights("tiny", cache=tmp_path, base_url=server.url).read_bytes() == BODY


def test_a_part_that_is_too_long_is_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(BODY + b"more")
    with pytest.raises(BadInput, match="does not begin with"):
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert not list(tmp_path.iterdir())


def test_without_a_length(server: Server, tmp_path: Path) -> None:
    server.length = False
    assert fetch_weights("tiny", cache=tmp_path, base_url=server.url).read_bytes() == BODY


@pytest.mark.parametrize("length", [True, False])
def test_too_much_is_not_taken(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: bool) -> None:
    monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", len(BODY) - 1)
    server.length = length
    with pytest.raises(BadInput, match="bytes"):
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("status", [404, 416, 503])
def test_refused_by_the_server(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(Unavailable, match=f"answered with `{status}") as caught:
        fetch_weights("tiny", cache=tmp_path, base_url=server.url)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("server")
def test_connection_refused(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        fetch_weights("tiny", cache=tmp_path, base_url=f"http://127.0.0.1:{port}")
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None
    assert "--weights FILE" in caught.value.hint


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "cannot be reached"),
        (b"220 mail.example ESMTP\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke off after `0` bytes"),
    ],
)
def test_a_server_that_speaks_no_http(answer: bytes, says: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unavailable, match=says):
            fetch_weights("tiny", cache=tmp_path, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.usefixtures("server")
def test_a_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Unavailable, match="timed out"):
            fetch_weights("tiny", cache=tmp_path, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_bad_names_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`squeezenet1_2`") as caught:
        fetch_weights("squeezenet1_2", cache=tmp_path)
    assert caught.value.hint == "a file, or one of: squeezenet1_0, squeezenet1_1"
    with pytest.raises(BadInput, match="no http or https address"):
        fetch_weights("squeezenet1_0", cache=tmp_path, base_url="file:///etc")


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be used"):
        fetch_weights("tiny", cache=tmp_path / "taken", base_url=server.url)


def test_the_cache_is_where_the_system_has_it(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    places = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr("sys.platform", platform)
        places[platform] = cache_folder()
    assert places == {
        "linux": tmp_path / "xdg" / "squeeze-export",
        "darwin": tmp_path / "Library" / "Caches" / "squeeze-export",
        "win32": tmp_path / "local" / "squeeze-export",
    }
    monkeypatch.setattr("sys.platform", "linux")
    assert fetch_weights("tiny", base_url=server.url) == tmp_path / "xdg" / "squeeze-export" / FILE
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "squeeze-export"


def test_the_hash_is_in_every_name() -> None:
    for name, url in NAMED_WEIGHTS.items():
        assert url.startswith(f"https://download.pytorch.org/models/{name}-")
        assert len(url.rsplit("-", 1)[1]) == len("b66bff10.pth")
