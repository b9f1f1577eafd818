"""The client of loads against servers that lie, break off, stall or never end: each is named, and nothing hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import STREAM, delta, event, scripted_server, status, usage

from miaotui.bench.load import outcome as ends
from miaotui.bench.load.events import MAX_EVENT_BYTES, EventDecoder, EventTooLongError
from miaotui.bench.load.http_target import HttpTarget, api_base, first_model
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.play import play_open
from miaotui.bench.load.prompts import PlannedRequest
from miaotui.bench.load.summary import LatencyTargets, summarised
from miaotui.bench.load.target import AskOptions
from miaotui.errors import RequestError

OPTIONS = AskOptions(timeout_s=0.6, stall_s=0.3)


def ask(script: Callable[..., Any], count: int = 1, options: AskOptions = OPTIONS) -> list[RequestOutcome]:
    """Ask a scripted server; it must not take longer than requests may."""

    async def main() -> list[RequestOutcome]:
        async with scripted_server(script) as url:
            target = HttpTarget(url, "m", options)
            try:
                return await play_open(target, [PlannedRequest(0.0, "Hello", 4, at) for at in range(count)])
            finally:
                await target.close()

    began_s = time.monotonic()
    found = asyncio.run(main())
    assert time.monotonic() - began_s < 10
    return found


def written(*parts: bytes) -> Callable[..., Any]:
    return lambda writer, _: writer.write(b"".join(parts))


WHOLE = (STREAM, delta("a"), delta("b"), delta("", "stop"), usage(3), event(b"[DONE]"))


def test_an_answer_is_counted() -> None:
    (found,) = ask(written(*WHOLE))
    assert (found.end, found.status, found.tokens, found.prompt_tokens) == (ends.ANSWERED, 200, 3, 7)
    assert found.claim_is_possible
    assert len(found.pieces_s) == 2
    assert found.ttft_s is not None
    assert found.e2e_s is not None
    assert 0 < found.ttft_s <= found.e2e_s


def test_the_request_is_openais() -> None:
    bodies = []

    def script(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        bodies.append(body)
        writer.write(b"".join(WHOLE))

    ask(script, options=AskOptions(deadline_ms=900, ignore_eos=True))
    (body,) = bodies
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert (body["stream"], body["max_tokens"], body["deadline_ms"]) == (True, 4, 900)
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [(3, 3), (4, 4), (5, 2), (1, 2), (0, 2), (-3, 2), (10**30, 2), ("many", 2), (None, 2), (True, 2), (2.5, 2)],
)
def test_a_server_that_lies_in_its_usage_is_not_believed(claimed: Any, expected: int) -> None:
    (found,) = ask(written(STREAM, delta("a"), delta("b", "length"), usage(claimed), event(b"[DONE]")))
    assert found.end == ends.ANSWERED
    assert found.tokens == expected
    summary = summarised([found], 1.0, LatencyTargets())
    assert summary.wrong_usage == (expected == 2)
    assert summary.tokens == expected


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (401, ends.UNAUTHORISED),
        (403, ends.UNAUTHORISED),
        (404, ends.REJECTED),
        (429, ends.REFUSED),
        (503, ends.REFUSED),
        (500, ends.SERVER_ERROR),
        (302, ends.SERVER_ERROR),
    ],
)
def test_a_status_is_named(code: int, end: str) -> None:
    (found,) = ask(written(status(code)))
    assert (found.end, found.status, found.detail) == (end, code, f"code_{code}")


BROKEN: dict[str, tuple[tuple[bytes, ...], str]] = {
    "nothing": ((), ends.CLOSED_EARLY),
    "half a head": ((b"HTTP/1.1 200 OK\r\nCont",), ends.CLOSED_EARLY),
    "no http": ((b"220 mail.example ESMTP\r\n\r\n",), ends.CLOSED_EARLY),
    "midway": ((STREAM, delta("a")), ends.CLOSED_EARLY),
    "done without a reason": ((STREAM, delta("a"), event(b"[DONE]")), ends.CLOSED_EARLY),
    "an end without done": ((STREAM, delta("a", "stop")), ends.ANSWERED),
    "an error within": ((STREAM, delta("a"), event({"error": {"code": "broken"}})), ends.SERVER_ERROR),
    "no json": ((STREAM, event(b"{nonsense")), ends.MALFORMED),
    "a list": ((STREAM, event([1, 2])), ends.MALFORMED),
    "choices of numbers": ((STREAM, event({"choices": [1]})), ends.MALFORMED),
    "choices are a number": ((STREAM, event({"choices": 3})), ends.MALFORMED),
    "deep": ((STREAM, event(b"[" * 100_000)), ends.MALFORMED),
    "no stream": ((status(200, {"choices": []}),), ends.MALFORMED),
}


@pytest.mark.parametrize(("parts", "end"), BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_named(parts: tuple[bytes, ...], end: str) -> None:
    (found,) = ask(written(*parts))
    assert found.end == end
    assert found.done_s is not None


def test_a_silent_server_stalls() -> None:
    async def script(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(STREAM + delta("a"))
        await writer.drain()
        await asyncio.sleep(30)

    (found,) = ask(script)
    assert (found.end, len(found.pieces_s)) == (ends.STALLED, 1)


def test_a_stream_that_never_ends_is_left() -> None:
    async def script(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(STREAM)
        while True:
            writer.write(delta("a"))
            await writer.drain()
            await asyncio.sleep(0.01)

    (found,) = ask(script)
    assert found.end == ends.ENDLESS
    assert found.pieces_s


def test_a_line_that_never_ends_is_left() -> None:
    async def script(writer: asyncio.StreamWriter, _: Any) -> None:
        writer.write(STREAM + b"data: ")
        while True:
            writer.write(b"x" * (1 << 20))
            await writer.drain()

    (found,) = ask(script, options=AskOptions(timeout_s=8.0, stall_s=5.0))
    assert found.end == ends.ENDLESS


def test_nothing_is_lost_among_many() -> None:
    """A server that answers one of three, refuses one and closes one: the counts add up."""
    kinds = [WHOLE, (status(503),), (STREAM, delta("a"))]

    def script(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        writer.write(b"".join(kinds[body["seed"] % 3]))

    found = ask(script, 30, AskOptions())
    summary = summarised(found, 1.0, LatencyTargets())
    assert (summary.asked, summary.answered, summary.refused, summary.failed) == (30, 10, 10, 10)
    assert summary.errors == {"refused 503 code_503": 10, "closed early 200 no finish_reason": 10}


def test_no_server_is_named() -> None:
    target = HttpTarget("http://127.0.0.1:9", "m", OPTIONS)

    async def main() -> list[RequestOutcome]:
        try:
            return await play_open(target, [PlannedRequest(0.0, "Hello", 4, 0)])
        finally:
            await target.close()

    assert asyncio.run(main())[0].end == ends.UNREACHABLE


def test_the_models_of_a_server_that_lists_none() -> None:
    async def main(script: Callable[..., Any]) -> str:
        async with scripted_server(script) as url:
            return await first_model(url, timeout_s=0.5)

    assert asyncio.run(main(written(status(200, {"data": [{"id": "one"}, {"id": "two"}]})))) == "one"
    kinds = [{"id": "ears", "kind": "speech"}, {"id": "chat", "kind": "chat"}]
    assert asyncio.run(main(written(status(200, {"data": kinds})))) == "chat"
    for answer, said in [
        (written(status(200, {"data": kinds[:1]})), "lists no model that writes"),
        (written(status(200, {"data": [17]})), "lists no model"),
        (written(status(200, {"data": []})), "lists no model"),
        (written(status(200, 17)), "lists no model"),
        (written(status(401)), "wants a key"),
        (written(), "does not answer"),
        (lambda *_: asyncio.sleep(5), "does not answer"),
    ]:
        with pytest.raises(RequestError, match=said):
            asyncio.run(main(answer))


def test_addresses() -> None:
    assert api_base("127.0.0.1:8000") == "http://127.0.0.1:8000/v1"
    assert api_base("https://example.org/openai/v1/") == "https://example.org/openai/v1"
    for wrong in ("ftp://example.org", "http://", "", "http://[::1", "http://a:b", "http://a:99999", "http://a:0"):
        with pytest.raises(RequestError, match="is not the address"):
            api_base(wrong)


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 20))
def test_events_do_not_depend_on_how_they_are_cut(values: list[bytes], size: int) -> None:
    lines = [value.replace(b"\n", b"").replace(b"\r", b"") for value in values]
    text = b": a comment\r\n\r\n" + b"".join(b"data: " + line + b"\r\n\r\n" for line in lines)
    decoder = EventDecoder()
    cut = [text[at : at + size] for at in range(0, len(text), size)]
    assert [found for piece in cut for found in decoder.push(piece)] == lines


def test_an_event_that_is_too_long() -> None:
    decoder, line = EventDecoder(), b"data: " + b"x" * 1000 + b"\n"
    for _ in range(MAX_EVENT_BYTES // 1000):
        assert list(decoder.push(line)) == []
    with pytest.raises(EventTooLongError):
        list(decoder.push(line))
