"""Responses: JSON whole, or server-sent events as they come; and the work that they wait for.

Owns how JSON is written, the response that sends events, the watch on the connection, and which work goes to a thread
so that it does not hold up the event loop. Knows no wire format. Invariant: whatever ends a response early (the client,
an error, the server) closes the generator of its events at once, and so cancels its requests. Source: WHATWG HTML,
"Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from miaotui.serve.http.errors import ApiError, from_error
from miaotui.serve.middleware.access import RECEIVED

Result = TypeVar("Result")
DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"
INLINE_CHARACTERS = 4096  # work on up to so many is done in the event loop itself
Events = AsyncGenerator[str, None]  # whole events; "" when nothing came for a while
# Characters at which many clients end a line, though the standard does not; JSON lets them be written so.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def json_text(value: Any) -> str:
    """Return ``value`` as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``value`` as JSON in UTF-8."""
    body = json_text(value).encode("utf-8", "replace")  # an error may quote half a character
    return Response(body, status, dict(headers or {}), media_type="application/json")


class EventStream(Response):
    """Sends events as they come.

    The response begins with the first of them, so that a request which is refused until then is
    answered with its proper status; a later failure becomes an event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, ping_s: float, headers: Mapping[str, str] | None = None):
        super().__init__(None, headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._events, self._ping_s = events, ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; ends early, without an error, if the client leaves."""
        try:
            await unless_gone(receive, self._send_all(scope, send))
        except ClientGoneError:
            return

    async def _send_all(self, scope: Scope, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events, "")
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await _write(send, first or PING)
            try:
                await self._send_rest(events, send)
            except Exception as error:
                request_id = scope[RECEIVED].request_id if RECEIVED in scope else ""
                await _write(send, error_event(from_error(error, request_id)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_rest(self, events: Events, send: Send) -> None:
        wrote_s = time.monotonic()
        async for text in events:
            now_s = time.monotonic()
            if text or now_s - wrote_s >= 0.9 * self._ping_s:
                await _write(send, text or PING)
                wrote_s = now_s


class ClientGoneError(ApiError):
    """Closed connection: the client left before its answer was there."""

    def __init__(self) -> None:
        super().__init__(499, "The client has gone", code="client_gone")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns; cancel it and raise `ClientGoneError` if the client leaves."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_departure(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not log it


async def run(size: int, work: Callable[[], Result]) -> Result:
    """Run ``work()``, in a thread if it is on more than a few thousand characters."""
    if size <= INLINE_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)


def event(value: Any) -> str:
    """Return one event of JSON data."""
    return f"data: {json_text(value)}\n\n"


def error_event(error: ApiError) -> str:
    """Return an event that says what went wrong after the response began."""
    return event({"error": error.body})


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, text: str) -> None:
    if not text.isascii():
        text = text.translate(_LINE_ENDS)
    await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True})
