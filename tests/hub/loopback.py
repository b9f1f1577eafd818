"""A web server on the loopback interface whose answers, and whose faults, are scripted by the
tests.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar
from urllib.parse import urlsplit

AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)


@dataclass
class Page:
    """What is answered to one path.

    ``breaks``: bytes after which the first, second ... answer breaks off. ``statuses``: what the
    first, second ... answer is instead of a success.
    """

    body: bytes = b""
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    resumes: bool = True
    chunked: bool = False
    shifts: list[int] = field(default_factory=list)  # lies about where the first ranges start
    login: str = ""  # the Authorization header it wants
    redirect: str = ""
    stall_s: float = 0.0  # silence after half of the body


@dataclass(frozen=True)
class Request:
    """One request the server saw."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """Where the range asked for starts."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


class Loopback(ThreadingHTTPServer):
    """The server; ``pages`` maps paths (without query) to answers, ``requests`` is what it saw."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, path: str, body: bytes | str = b"", **options: object) -> Page:
        data = body.encode() if isinstance(body, str) else body
        self.pages[path] = Page(data, **options)  # type: ignore[arg-type]
        return self.pages[path]

    def seen(self, path: str, method: str = "GET") -> list[Request]:
        return [r for r in self.requests if r.path == path and r.method == method]


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Run a server for the length of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serving() -> AbstractContextManager[Loopback]:
    """Run a server of pages for the length of the block."""
    return running(Loopback())


class _Handler(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, headers)
        self.server.requests.append(request)
        page = self.server.pages.get(path)
        if page is None:
            self._plain(404)
        elif page.login and headers.get("authorization") != page.login:
            self._plain(401)
        elif page.redirect:
            self._plain(302, {"Location": page.redirect, **page.headers})
        elif page.statuses:
            self._plain(page.statuses.pop(0), page.headers)
        else:
            self._success(page, request, with_body)

    def _plain(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _success(self, page: Page, request: Request, with_body: bool) -> None:
        start = request.start if page.resumes else 0
        if start and start >= len(page.body):
            self._plain(416)
            return
        body = page.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", page.kind)
        if start:
            end, told = len(page.body), start + (page.shifts.pop(0) if page.shifts else 0)
            self.send_header("Content-Range", f"bytes {told}-{end - 1}/{end}")
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        for name, value in page.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self._body(page, body)

    def _body(self, page: Page, body: bytes) -> None:
        if page.breaks:
            body = body[: page.breaks.pop(0)]
            self.close_connection = True
        if page.chunked:
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n" if body else b"0\r\n\r\n"
        half = len(body) // 2 if page.stall_s else len(body)
        try:
            self.wfile.write(body[:half])
            if page.stall_s:
                self.wfile.flush()
                time.sleep(page.stall_s)
                self.wfile.write(body[half:])
        except OSError:
            self.close_connection = True  # the client has gone


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` in hex digits."""
    return hashlib.sha256(data).hexdigest()
