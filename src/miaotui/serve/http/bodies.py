"""Bodies of requests and of responses: received whole and parsed as JSON, sent as JSON or as server-sent events.

Owns the innermost layer, which reads a body within bounds of size and time, notes when it was complete, names the
request, and answers an unexpected error; the bounds that Python's JSON parser lacks (depth, length of numbers, repeated
keys, NaN), since bodies are not trusted; how JSON is written; the response that sends events; and the watch on the
connection. Knows no route and no wire format. Invariants: a handler starts when the whole body is here; every response
carries ``x-request-id``; what was parsed is a dict of plain data, or an `ApiError` with status 400 says why not, and it
takes no more than a few times the body's size; whatever ends a response early (the client, an error, the server) closes
the generator of its events at once, and so cancels its requests. Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve import LOG
from miaotui.serve.http.errors import ApiError, from_error, from_validation
from miaotui.serve.middleware.access import RECEIVED, Account, ReceivedRequest
from miaotui.serve.settings import AUDIO_PATHS, ServeSettings

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
ErrorAnswer = Callable[[ApiError, str, str], Response]  # to an error, on a path, under a request id
Events = AsyncGenerator[str, None]  # whole events; "" when nothing came for a while

MAX_JSON_DEPTH = 64
MAX_JSON_COMMAS = 300_000  # counted with those in texts, before anything is made
MAX_JSON_LISTS = 1 << 16  # likewise
MAX_JSON_OBJECTS = 50_000
MAX_JSON_MEMBERS = 4096  # of one object
MAX_NUMBER_DIGITS = 4300
MAX_IGNORED_NAMES = 32  # named in X-Ignored-Fields
INLINE_BYTES = 64 << 10  # bodies up to here are read in the event loop itself
INLINE_CHARACTERS = 4096  # other work on up to so many is done there
IGNORED = "X-Ignored-Fields"
REQUEST_ID = b"x-request-id"
DONE = "data: [DONE]\n\n"
PING = ": ping\n\n"
# Characters at which many clients end a line, though the standard does not; JSON lets them be written so.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_CLOSE = {"Connection": "close"}
_EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class BodyReader:
    """ASGI layer around the routes; ``scope[RECEIVED]`` is the `ReceivedRequest` for the handlers."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, answer_to: ErrorAnswer) -> None:
        self._app, self._settings, self._answer_to = app, settings, answer_to
        self._limit_bytes = settings.max_body_bytes
        self._audio_limit_bytes = max(settings.max_body_bytes, settings.max_audio_bytes)

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
            response = self._answer_to(known, scope["path"], sending.request_id)
            await response(scope, receive, sending)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the body; None if the client has gone. Raises `ApiError` (400, 408, 413)."""
        limit = self._audio_limit_bytes if scope["path"].startswith(AUDIO_PATHS) else self._limit_bytes
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


def read_object(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in ``body``. Raises `ApiError` (400)."""
    if body.count(b",") > MAX_JSON_COMMAS or body.count(b"[") > MAX_JSON_LISTS:
        raise _not_json("it holds more values or lists than any request needs")
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_Objects().make,
            parse_constant=_no_constant,
            parse_float=_number,
            **_LONG_INTEGERS,
        )
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except ValueError as error:
        raise _not_json(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise _not_json(f"it holds a {type(value).__name__}, not an object")
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(value)
    return value


async def read_body(body: bytes, model: type[Body]) -> Body:
    """Read the body as ``model``, in a thread if it is large.

    Raises `ApiError` (400) that names the field that is wrong.
    """
    if len(body) <= INLINE_BYTES:
        return _read_body(body, model)
    return await asyncio.to_thread(_read_body, body, model)


def _read_body(body: bytes, model: type[Body]) -> Body:
    value = read_object(body)
    try:
        return model.model_validate(value)
    except ValueError as error:  # pydantic's ValidationError is one
        raise from_validation(error) from None  # type: ignore[arg-type]


def ignored_fields(body: BaseModel) -> dict[str, str]:
    """Return the header that names what of the body was not understood; none if all was."""
    names = list(body.model_extra or ())
    for field in ("stream_options",):
        inner = getattr(body, field, None)
        if isinstance(inner, BaseModel):
            names += [f"{field}.{name}" for name in inner.model_extra or ()]
    shown = [_printable(name) for name in names[:MAX_IGNORED_NAMES]]
    if len(names) > MAX_IGNORED_NAMES:
        shown.append("...")
    return {IGNORED: ", ".join(shown)} if shown else {}


def _printable(name: str) -> str:
    """Return a name as a header may hold it: nothing of it can end a line or the list."""
    kept = (c if c.isascii() and (c.isalnum() or c in "_.-") else "?" for c in name[:64])
    return "".join(kept) or "?"


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[Any] = []
        for part in level:
            members = part.values() if isinstance(part, dict) else part
            inner += [m for m in members if isinstance(m, (dict, list))]
        if not inner:
            return
        level = inner
    raise _not_json(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _not_json(problem: str) -> ApiError:
    message = f"The body must be one JSON object in UTF-8: {problem}"
    return ApiError(400, message, code="invalid_json")


class _Objects:
    """Makes the objects of one body; few enough, and none with a key twice."""

    def __init__(self) -> None:
        self._count = 0

    def make(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Make one object."""
        self._count += 1
        if self._count > MAX_JSON_OBJECTS:
            raise ValueError(f"it holds more than {MAX_JSON_OBJECTS:,} objects")
        if len(pairs) > MAX_JSON_MEMBERS:
            raise ValueError(f"an object has more than {MAX_JSON_MEMBERS:,} members")
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a key occurs twice in one object")
        return members


def _integer(digits: str) -> int:
    # Converting a long integer takes time quadratic in its length.
    if len(digits) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, more than {MAX_NUMBER_DIGITS}")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# Since 3.10.7 Python itself refuses integers of more than some thousand digits.
_LONG_INTEGERS: dict[str, Any] = {} if hasattr(sys, "get_int_max_str_digits") else {"parse_int": _integer}


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
    ping = PING  # sent after a silence

    def __init__(self, events: Events, ping_s: float, headers: Mapping[str, str] | None = None):
        super().__init__(None, headers={**_EVENT_HEADERS, **(headers or {})})
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
            if first:  # no comment before the first event: vLLM's client takes the event behind it for a part of it
                await _write(send, first)
            try:
                await self._send_rest(events, send)
            except Exception as error:
                request_id = scope[RECEIVED].request_id if RECEIVED in scope else ""
                await _write(send, self.failure(from_error(error, request_id)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_rest(self, events: Events, send: Send) -> None:
        wrote_s = time.monotonic()
        async for text in events:
            now_s = time.monotonic()
            if text or now_s - wrote_s >= 0.9 * self._ping_s:
                await _write(send, text or self.ping)
                wrote_s = now_s

    def failure(self, error: ApiError) -> str:
        """Return the event that ends an answer which failed after it began."""
        return error_event(error)


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
