"""The end of a response, as the outermost layer sees it: its status, and whether it was sent whole.

Owns the two ways in which a response begins: HTTP's, and the handshake of a WebSocket. Knows no request.
"""

from __future__ import annotations

from typing import Protocol

from starlette.types import Message, Send


class ResponseEnd(Protocol):
    """Account of a response: status 0 until one has begun, ``whole`` once it was sent to its end."""

    status: int
    whole: bool


class StatusRecorder:
    """A ``send`` that notes the response's status and whether it was sent to its end."""

    def __init__(self, send: Send, account: ResponseEnd) -> None:
        self._send, self._account = send, account

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self._account.status = message["status"]
        elif message["type"] == "websocket.accept":
            self._account.status = 101
        await self._send(message)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last or message["type"] == "websocket.close":
            self._account.whole = True


def refused_over_http(send: Send) -> Send:
    """Return a ``send`` of a WebSocket that takes responses of HTTP too: those to a handshake that is refused."""

    async def sending(message: Message) -> None:
        kind = message["type"]
        await send({**message, "type": f"websocket.{kind}"} if kind.startswith("http.response.") else message)

    return sending
