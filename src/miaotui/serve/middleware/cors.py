"""Answers to pages of other origins that the operator has allowed: headers of CORS, and preflights.

Owns the headers. Does not know which origins are allowed. Invariant: nothing that a page sent is written back but its
origin and a plain list of header names. Source: WHATWG Fetch, "CORS protocol".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.types import Message, Send

_PREFLIGHT = ((b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"), (b"access-control-max-age", b"600"))
_EXPOSED = b"x-request-id, x-ignored-fields, retry-after"


def with_headers(send: Send, origin: bytes) -> Send:
    """Return a ``send`` that lets a page of ``origin`` read the response."""
    headers = (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    )

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


async def answer_preflight(headers: Mapping[bytes, bytes], send: Send) -> None:
    """Answer the question whether a page may send a request with certain headers."""
    wanted = headers.get(b"access-control-request-headers", b"")[:1024]
    plain = bool(re.fullmatch(rb"[A-Za-z0-9_, -]*", wanted))
    allowed = [(b"access-control-allow-headers", wanted)] if plain and wanted else []
    start = {"type": "http.response.start", "status": 204, "headers": [*_PREFLIGHT, *allowed]}
    await send(start)
    await send({"type": "http.response.body", "body": b""})
