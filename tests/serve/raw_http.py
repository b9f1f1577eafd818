"""HTTP as bytes on a socket, also what no client would send."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

HOST = b"host: localhost\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """What came back: the bytes, whether the server hung up, and how long it took."""

    data: bytes
    closed: bool
    seconds: float

    @property
    def status(self) -> int:
        """The status of the first answer; 0 when there is none."""
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", self.data)
        return int(found[1]) if found else 0

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


def post(path: str, body: bytes, headers: bytes = b"content-type: application/json\r\n") -> bytes:
    head = b"POST %s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n"
    return head % (path.encode(), HOST, headers, len(body)) + body


def chunked(path: str, *chunks: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\n%stransfer-encoding: chunked\r\n\r\n" % (path.encode(), HOST)
    return head + b"".join(chunks)


def connect(url: str, timeout_s: float = 5.0, receive_bytes: int = 0) -> socket.socket:
    """A connection; ``receive_bytes`` bounds what the system takes in for us."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(timeout_s)
    client.connect((host, int(port)))
    return client


def talk(url: str, *pieces: bytes, pause_s: float = 0.0, timeout_s: float = 5.0) -> Heard:
    """Send pieces, and hear one whole answer, or all there is until the server hangs up."""
    started_s = time.monotonic()
    data, closed = b"", False
    with connect(url, timeout_s) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause_s)
            while not closed and not _is_whole(data):
                news = client.recv(1 << 16)
                closed = not news
                data += news
        except TimeoutError:
            pass
        except OSError:  # it hung up while we were still talking
            closed = True
    return Heard(data, closed, time.monotonic() - started_s)


def _is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    return bool(end and found and len(body) >= int(found[1]))
