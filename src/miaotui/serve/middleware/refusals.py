"""Answers to requests that are not let in, in the form of the API that their path belongs to.

Owns their statuses and bodies, and how HTTP answers the handshake of a WebSocket. Knows no rules: `access` decides.
Invariant: a refusal names what would let the request in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Scope, Send

DRAIN_RETRY_S = 5


@dataclass(frozen=True)
class Refusal:
    """Answer to a request that is not let in: its status and message."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


async def refuse(scope: Scope, send: Send, refusal: Refusal, request_id: str) -> None:
    """Send a refusal in the form of the API that the path belongs to."""
    is_anthropic = scope["path"].startswith("/v1/messages")
    kind = _ERROR_TYPES.get(refusal.status, "invalid_request_error")
    error: dict[str, Any] = {"message": refusal.message, "type": kind}
    if is_anthropic:
        body: dict[str, Any] = {"type": "error", "error": error, "request_id": request_id}
    else:
        body = {"error": {**error, "param": None, "code": refusal.code, "request_id": request_id}}
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *refusal.headers,
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}
LEAVING = Refusal(
    503,
    "shutting_down",
    "this server is shutting down: ask another one, or again in a moment",
    ((b"retry-after", str(DRAIN_RETRY_S).encode()), (b"connection", b"close")),
)


def wrong_key(headers: Mapping[bytes, bytes]) -> Refusal:
    """Return the refusal of a request without a known key."""
    shown = b"authorization" in headers or b"x-api-key" in headers
    text = "the API key is not known here" if shown else "an API key is needed"
    text += ": send `Authorization: Bearer KEY` or `x-api-key: KEY`"
    return Refusal(401, "invalid_api_key", text, ((b"www-authenticate", b"Bearer"),))


def refused_over_http(send: Send) -> Send:
    """Return a ``send`` of a WebSocket that takes responses of HTTP too: those to a handshake that is refused."""

    async def sending(message: Message) -> None:
        kind = message["type"]
        await send({**message, "type": f"websocket.{kind}"} if kind.startswith("http.response.") else message)

    return sending
