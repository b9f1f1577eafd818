"""Idempotency keys: a request that is sent again under its key gets the answer that was computed the first time.

Owns the answers of the last hour, within bounds. Knows no route: it records what goes out. Invariants: of several
requests with one key at most one computes at a time; a key stands for one caller, one path and one body; an answer that
broke off, was refused or failed is not kept, so that asking again computes it.
Source: Jena, Dalal, "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header-06).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve.middleware.access import CALLER
from miaotui.serve.middleware.keys import ANYONE
from miaotui.serve.middleware.refusals import Refusal, refuse

HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")
MOST_KEY_BYTES = 255
MOST_BYTES, MOST_ANSWER_BYTES = 64 << 20, 4 << 20  # of all answers, and of one
MOST_AGE_S = 3600.0
MOST_BODY_BYTES = 64 << 20  # of a request that is sent again; the first one has passed the server's own limit
_NOT_KEPT = 429  # statuses from 500 on are not kept either

_Key = tuple[str, str, bytes]


@dataclass
class _Kept:
    """One answer: on its way, or whole."""

    at_s: float
    body: bytes = b""  # digest of the request's
    messages: list[Message] = field(default_factory=list)
    size: int = 0
    is_whole: bool = False


class IdempotencyKeys:
    """An ASGI layer; it stands behind the one that checks keys."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        given = _header(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if given is None:
            return await self._app(scope, receive, send)
        if not 0 < len(given) <= MOST_KEY_BYTES:
            message = f"Idempotency-Key must have 1 to {MOST_KEY_BYTES} bytes"
            return await refuse(scope, send, Refusal(400, "invalid_idempotency_key", message), _number(scope))
        self._forget_old()
        key = (scope.get(CALLER, ANYONE).owner, scope["path"], given)
        known = self._kept.get(key)
        if known is not None:
            return await self._answer_again(known, scope, receive, send)
        return await self._answer(key, scope, receive, send)

    async def _answer(self, key: _Key, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request answered, and keep the answer if it is whole."""
        kept = self._kept[key] = _Kept(self._clock())
        digest = hashlib.sha256()

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                digest.update(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            await send(message)
            kept.size += len(message.get("body", b""))
            if kept.size <= MOST_ANSWER_BYTES:
                kept.messages.append({**message})
            kept.is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receiving, sending)
        finally:
            status = kept.messages[0].get("status", _NOT_KEPT) if kept.messages else _NOT_KEPT
            if kept.is_whole and kept.size <= MOST_ANSWER_BYTES and status < 500 and status != _NOT_KEPT:
                kept.body = digest.digest()
                self._size += kept.size
            else:
                self._kept.pop(key, None)

    async def _answer_again(self, known: _Kept, scope: Scope, receive: Receive, send: Send) -> None:
        digest, size = hashlib.sha256(), 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            size += len(message.get("body", b""))
            digest.update(message.get("body", b""))
            more = message.get("more_body", False) and size <= MOST_BODY_BYTES
        if not known.is_whole or not known.body:
            busy = "A request with this Idempotency-Key is being answered: ask again in a moment"
            refusal = Refusal(409, "idempotency_key_in_use", busy, ((b"retry-after", b"1"),))
            return await refuse(scope, send, refusal, _number(scope))
        if digest.digest() != known.body:
            other = "This Idempotency-Key was used with another body: use a new key for a new request"
            return await refuse(scope, send, Refusal(422, "idempotency_key_reused", other), _number(scope))
        for kept in known.messages:
            again = {**kept}
            if again["type"] == "http.response.start":
                again["headers"] = [*again.get("headers", ()), REPLAYED]
            await send(again)
        return None

    def _forget_old(self) -> None:
        """Drop answers that are too old, and the oldest ones while they take too much memory; never one on its way."""
        now_s = self._clock()
        for key, kept in list(self._kept.items()):
            if not kept.is_whole or not kept.body:
                continue
            if now_s - kept.at_s <= MOST_AGE_S and self._size <= MOST_BYTES:
                break
            del self._kept[key]
            self._size -= kept.size


def _header(scope: Scope) -> bytes | None:
    return next((value.strip() for name, value in scope["headers"] if name.lower() == HEADER), None)


def _number(scope: Scope) -> str:
    account: Any = scope.get("state", {}).get("account")
    return "" if account is None else str(account.request_id)
