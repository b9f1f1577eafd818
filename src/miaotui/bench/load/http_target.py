"""A server with OpenAI's routes as the target of a load, over HTTP with streams.

Owns the form of requests, the reading of streams, and the names of what servers do wrong. Knows no load. Invariants: an
answer takes at most ``timeout_s`` and `MAX_ANSWER_BYTES`; nothing is asked twice; what a server says of itself is
noted, and counted as wrong where it cannot be right.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from miaotui.bench.load import outcome as ends
from miaotui.bench.load.events import EventDecoder, EventTooLongError
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.prompts import PlannedRequest
from miaotui.bench.load.target import AskOptions, LoadClock
from miaotui.errors import RequestError

Route = Literal["chat", "completions"]
PATHS: Mapping[Route, str] = {"chat": "/chat/completions", "completions": "/completions"}
BUSY = (429, 503)
TEXT_KINDS = (None, "chat", "encoder-decoder")  # of models that a load can ask; most servers name none
UNKNOWN_CALLER = (401, 403)
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 16
CONNECT_S = 10.0


class HttpTarget:
    """One model of one server."""

    def __init__(
        self, url: str, model: str, options: AskOptions, *, route: Route = "chat", key: str | None = None
    ) -> None:
        self.name, self.options, self.route = model, options, route
        base = api_base(url)
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._path = PATHS[route]
        self._client = httpx.AsyncClient(
            base_url=base,
            headers=headers,
            timeout=httpx.Timeout(options.stall_s, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not is_loopback(base),
        )

    async def close(self) -> None:
        """End connections."""
        await self._client.aclose()

    async def ask(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        """Ask once, and note in ``outcome`` what came and how it ended."""
        outcome.sent_s = clock()
        try:
            await asyncio.wait_for(self._stream(planned, outcome, clock), self.options.timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            outcome.ended(ends.ENDLESS, clock(), f"longer than {self.options.timeout_s:g} s")
        except httpx.ReadTimeout:
            outcome.ended(ends.STALLED, clock(), f"nothing for {self.options.stall_s:g} s")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            outcome.ended(ends.UNREACHABLE, clock(), str(error))
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            outcome.ended(ends.CLOSED_EARLY, clock(), str(error))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, RecursionError) as error:
            outcome.ended(ends.MALFORMED, clock(), f"{type(error).__name__}: {error}")

    def body(self, planned: PlannedRequest) -> dict[str, Any]:
        """Return the request's JSON."""
        asked = {"messages": [{"role": "user", "content": planned.prompt}]}
        body: dict[str, Any] = {
            "model": self.name,
            **(asked if self.route == "chat" else {"prompt": planned.prompt}),
            "max_tokens": planned.max_tokens,
            "temperature": self.options.temperature,
            "seed": planned.number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.options.ignore_eos:
            body["ignore_eos"] = True
        if self.options.deadline_ms is not None:
            body["deadline_ms"] = self.options.deadline_ms
        return body

    async def _stream(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        async with self._client.stream("POST", self._path, json=self.body(planned)) as response:
            outcome.status = response.status_code
            if response.status_code != 200:
                text = await _begin_of(response)
                outcome.ended(_end_of_status(response.status_code), clock(), _reason(text))
                return
            kind = response.headers.get("content-type", "")
            if "text/event-stream" not in kind:
                outcome.ended(ends.MALFORMED, clock(), f"no event stream, but {kind or 'no content type'}")
                return
            await self._read(response, outcome, clock)

    async def _read(self, response: httpx.Response, outcome: RequestOutcome, clock: LoadClock) -> None:
        decoder, reading, size = EventDecoder(), _StreamState(outcome), 0
        async for piece in response.aiter_raw():
            now_s = clock()
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                outcome.ended(ends.ENDLESS, now_s, f"more than {MAX_ANSWER_BYTES >> 20} MiB")
                return
            try:
                for event in decoder.push(piece):
                    if reading.take(event, now_s):
                        return
            except EventTooLongError as error:
                outcome.ended(ends.ENDLESS, now_s, str(error))
                return
        reading.close(clock())


class _StreamState:
    """Reading of one stream, from its events."""

    def __init__(self, outcome: RequestOutcome) -> None:
        self._outcome, self._has_finished = outcome, False
        self._finished_s = 0.0

    def take(self, event: bytes, now_s: float) -> bool:
        """Take the data of an event; return whether the answer is over."""
        outcome = self._outcome
        if event == b"[DONE]":
            # Without a reason to finish the answer was cut, whatever the server says after it.
            outcome.ended(ends.ANSWERED if self._has_finished else ends.CLOSED_EARLY, now_s, "")
            return True
        found = json.loads(event)
        if not isinstance(found, dict):
            raise ValueError("an event is no JSON object")
        if found.get("error"):
            outcome.ended(ends.SERVER_ERROR, now_s, _reason(event))
            return True
        self._note_reports(found)
        for choice in found.get("choices") or ():
            if not isinstance(choice, dict):
                raise ValueError("a choice is no JSON object")
            text = _text_of(choice)
            if text:
                outcome.piece(now_s, len(text.encode("utf-8", "replace")))
            self._has_finished = self._has_finished or choice.get("finish_reason") is not None
        return False

    def close(self, now_s: float) -> None:
        """Note that the connection ended without ``[DONE]``."""
        whole = self._has_finished
        self._outcome.ended(ends.ANSWERED if whole else ends.CLOSED_EARLY, now_s, "" if whole else "no finish_reason")

    def _note_reports(self, found: Mapping[str, Any]) -> None:
        outcome, usage, deadline = self._outcome, found.get("usage"), found.get("deadline")
        if isinstance(usage, dict):
            outcome.prompt_tokens = _count(usage.get("prompt_tokens"))
            outcome.claimed_tokens = _count(usage.get("completion_tokens"))
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                outcome.cached_tokens = _count(details.get("cached_tokens"))
        if isinstance(deadline, dict) and deadline.get("asked_ms") is not None:
            outcome.promised = True
            predicted = deadline.get("predicted_ms")
            outcome.predicted_ms = float(predicted) if isinstance(predicted, int | float) else None


def _text_of(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        found = [delta.get(name) for name in ("reasoning_content", "reasoning", "content")]
        return "".join(part for part in found if isinstance(part, str))
    text = choice.get("text")
    return text if isinstance(text, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


async def _begin_of(response: httpx.Response) -> bytes:
    found = b""
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > MAX_ERROR_BYTES:
            break
    return found[:MAX_ERROR_BYTES]


def _reason(text: bytes) -> str:
    """Return the code of an error, or else its message."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        found = error.get("code") or error.get("type") or error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        found = text[:100].decode("utf-8", "replace")
    return " ".join(str(found or "").split())


def _end_of_status(status: int) -> str:
    if status in BUSY:
        return ends.REFUSED
    if status in UNKNOWN_CALLER:
        return ends.UNAUTHORISED
    return ends.REJECTED if 400 <= status < 500 else ends.SERVER_ERROR


def api_base(url: str) -> str:
    """Return the address below which OpenAI's routes are: ``/v1`` unless the address names a path.

    Raises `RequestError` for something else than an address.
    """
    wrong = f"{url!r} is not the address of a server; expected for example http://127.0.0.1:8000"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # brackets that do not close, a port that is no number
        raise RequestError(wrong) from error
    if not sound:
        raise RequestError(wrong)
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def is_loopback(url: str) -> bool:
    """Return whether an address is this machine's: no proxy is between."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def first_model(url: str, key: str | None = None, timeout_s: float = CONNECT_S) -> str:
    """Return the first model that a server lists for texts. Raises `RequestError` if it cannot be asked or lists none.

    Servers that say what kind a model is, as miaotui does, list speech models and encoders too.
    """
    base = api_base(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=not is_loopback(base), headers=headers) as client:
            response = await asyncio.wait_for(client.get(f"{base}/models"), timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, asyncio.TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise RequestError(
            f"{base} does not answer: {reason}. Check the address, or name the model: --model"
        ) from error
    if response.status_code in UNKNOWN_CALLER:
        raise RequestError(f"{base} wants a key ({response.status_code}): set OPENAI_API_KEY")
    try:
        names = [each["id"] for each in response.json()["data"] if each.get("kind") in TEXT_KINDS]
        return str(names[0])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RequestError(
            f"{base}/models lists no model that writes texts ({response.status_code}): name one with --model"
        ) from error
