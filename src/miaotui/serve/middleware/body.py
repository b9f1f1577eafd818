"""The innermost layer: reads a request's body, notes when it was complete, and names the request.

Owns the bounds on a body's size and duration, the request id, and the answer to an unexpected error. Knows no route.
Invariant: a handler starts when the whole body is here, and every response carries ``x-request-id``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve import LOG
from miaotui.serve.anthropic.errors import response_to
from miaotui.serve.http.errors import ApiError, from_error
from miaotui.serve.middleware.accounting import RECEIVED, Account, ReceivedRequest
from miaotui.serve.settings import ServeSettings

REQUEST_ID = b"x-request-id"
_CLOSE = {"Connection": "close"}


class BodyReader:
    """ASGI layer around the routes; ``scope[RECEIVED]`` is the `ReceivedRequest` for the handlers."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(send, _request_id(scope))
        try:
            body = await self._read(scope, receive)
            if body is None:
                return
            arrival = scope[RECEIVED] = ReceivedRequest(sending.request_id, body, time.perf_counter())
            del body  # from here on only the arrival holds it
            await self._app(scope, _replay(arrival, receive), sending)
        except Exception as error:
            if sending.has_begun:  # too late for a status: the broken connection says it
                LOG.error("request %s broke off", sending.request_id, exc_info=error)
                raise
            known = from_error(error, sending.request_id)
            response = response_to(known, scope["path"], sending.request_id)
            await response(scope, receive, sending)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the body; None if the client has gone. Raises `ApiError` (400, 408, 413)."""
        limit = self._settings.max_body_bytes
        if _announced(scope) > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            return body
        reading = _read_on(message, receive, limit)
        try:
            return await asyncio.wait_for(reading, self._settings.body_timeout_s)
        except asyncio.TimeoutError:
            text = f"The body did not come within {self._settings.body_timeout_s:g} s"
            raise ApiError(408, text, code="request_timeout", headers=_CLOSE) from None


async def _read_on(message: Message, receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    return None


class _Sending:
    """Puts the request id on the response, and knows whether one has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self.has_begun = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if not self.has_begun and message["type"] == "http.response.start":
            self.has_begun = True
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID, self.request_id.encode())]
        await self._send(message)


def _request_id(scope: Scope) -> str:
    account = scope.get("state", {}).get("account")
    return account.request_id if isinstance(account, Account) else f"req_{secrets.token_hex(12)}"


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else 2**63
    return 0


def _too_large(limit: int) -> ApiError:
    text = f"The body must have at most {limit:,} bytes"
    return ApiError(413, text, code="body_too_large", headers=_CLOSE)


def _replay(arrival: ReceivedRequest, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once more, then what else comes."""
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": arrival.body, "more_body": False}

    return replaying
