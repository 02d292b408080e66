"""A stand-in for GitHub's API, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@dataclass
class GitHub:
    """One repository, `us/net`.

    Attributes:
        url: of the API.
        pulls: open pull requests: number, branch with its owner, and last commit.
        comments: of pull request 12: id, who, and text.
        wrote: what was posted or changed: method, path, text.
        refuses: whether it refuses to write.
    """

    url: str = ""
    pulls: list[tuple[int, str, str]] = field(default_factory=list)
    comments: list[tuple[int, str, str]] = field(default_factory=list)
    wrote: list[tuple[str, str, str]] = field(default_factory=list)
    refuses: bool = False

    def listed(self, path: str, query: dict[str, list[str]]) -> list[Any]:
        """A page of a list."""
        if path == "/repos/us/net/pulls":
            head = query["head"][0]
            return [{"number": number, "head": {"sha": sha}} for number, branch, sha in self.pulls if branch == head]
        assert path == "/repos/us/net/issues/12/comments"
        first = (int(query["page"][0]) - 1) * int(query["per_page"][0])
        page = self.comments[first : first + int(query["per_page"][0])]
        return [{"id": number, "user": {"login": who}, "body": text} for number, who, text in page]


@pytest.fixture
def github() -> Iterator[GitHub]:
    there = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, value: Any) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self.answer(200, there.listed(parts.path, parse_qs(parts.query)))

        def write(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
            allowed = self.headers["Authorization"] == "Bearer t0ken" and not there.refuses
            if allowed:
                there.wrote.append((self.command, self.path, text))
            self.answer(201 if allowed else 403, {})

        do_POST = do_PATCH = write  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    there.url = f"http://127.0.0.1:{server.server_port}"
    yield there
    server.shutdown()
    thread.join()
    server.server_close()
