"""One client's connection: uvicorn's, with bounds on what comes before a body and on waiting.

Owns the size of a request's head, the time it may take, how many requests may wait behind one
another, and how long an answer waits for a client that does not read. Knows no route. Invariant: a
connection that makes no progress is closed, and what it holds in memory until then is bounded.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 128
MAX_PIPELINED = 16
HEAD_S = 20.0  # from the first byte (of a new connection: from its opening) to the head's end
STALLED_S = 60.0  # an answer waits so long for a client that reads nothing
_TOO_LARGE = "The request's head is too large"


class HeadError(Exception):
    """A head beyond its bounds; the parser turns it into a 400."""


class ClientConnection(HttpToolsProtocol):
    """Connection of one client, made by uvicorn; pass the class as its ``http``."""

    _is_upgraded = False  # to a WebSocket, which has bounds of its own
    _head_bytes = 0
    _in_head = True
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request of a new client."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers of a client that has gone."""
        self._head_is_here()
        self._reads_again()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a request's head, and refuse a head that is too large."""
        super().data_received(data)
        if self._is_upgraded or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(_TOO_LARGE)
        if self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    # what the parser tells ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header. Raises `HeadError` when there are too many, or too long ones."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS or len(name) + len(value) > MAX_HEAD_BYTES:
            raise HeadError

    def on_headers_complete(self) -> None:
        """Finish a head. Raises `HeadError` when too many requests wait behind one another."""
        self._in_head = False
        self._head_is_here()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise HeadError
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Stop reading while other requests of this client wait in line."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    # waiting --------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Start the timer of a client that reads slower than answers come."""
        super().pause_writing()
        self._reads_again()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer."""
        super().resume_writing()
        self._reads_again()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of all other errors, and hang up."""
        if self.transport.is_closing():
            return
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = json.dumps({"error": error}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[400] + head % len(body) + body)
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the protocol of WebSockets, without timers of this one."""
        self._is_upgraded = True
        self._head_is_here()
        super().handle_websocket_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: a request for another protocol is answered in this one."""

    def _wait_for_head(self) -> None:
        self._head_is_here()
        self._waiting = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_is_here(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _reads_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
