"""Server-sent events byte by byte, pings in silence, and clients that leave."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import plain_http
import pytest
from serving import Serving, serving

from miaotui.serve.settings import ServeSettings
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "go on"}], "ignore_eos": True, "seed": 1}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("streams")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=4096)
    settings = ServeSettings(ping_s=0.1)
    with serving({"tiny": path}, settings_in(folder), serve=settings) as running:
        yield running


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def connect(server: Serving, body: dict[str, Any], path: str = CHAT) -> socket.socket:
    """A connection that has sent a request and not read anything."""
    address = urlsplit(server.url)
    assert address.port
    connection = socket.create_connection(("127.0.0.1", address.port))
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    return connection


def test_events_are_data_lines_and_end_with_done(server: Serving) -> None:
    body = LONG | {"stream": True, "max_tokens": 5}
    answer = plain_http.post(server.url + CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-length" not in answer.headers
    assert answer.text.startswith("data: ")
    events = answer.text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    for event in events:
        if event == ": ping":
            continue
        assert event.startswith("data: {")
        assert "\n" not in event
        json.loads(event[6:])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_leaves_is_cancelled(server: Serving, stream: bool, path: str) -> None:
    engine = server.hosts["tiny"].loop.engine
    used = engine.scheduler.stats().pages_used
    body = {**LONG, "prompt": "go on", "max_tokens": 3900, "stream": stream, "n": 2}
    connection = connect(server, body, path)
    eventually(lambda: server.in_flight() == 2)
    if stream:
        assert b"200 OK" in connection.recv(4096)
    connection.close()
    eventually(lambda: server.in_flight() == 0)
    assert engine.scheduler.stats().pages_used == used == 0


def test_pages_are_free_within_one_step_of_leaving(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = server.hosts["tiny"].loop
    steps, noticed, freed = 0, [], []
    step, leave, cancel = loop.engine.step, loop.cancel, loop.engine.cancel

    def counting(*args: Any) -> bool:
        nonlocal steps
        steps += 1
        return step(*args)

    def noticing(request: Any) -> None:
        noticed.append(steps)
        leave(request)

    def freeing(request: Any) -> None:
        cancel(request)
        freed.append(steps)

    monkeypatch.setattr(loop.engine, "step", counting)
    monkeypatch.setattr(loop, "cancel", noticing)
    monkeypatch.setattr(loop.engine, "cancel", freeing)
    connection = connect(server, LONG | {"max_tokens": 3900, "stream": True})
    eventually(lambda: steps > 10)
    connection.close()
    eventually(lambda: bool(freed))
    assert freed[0] - noticed[0] <= 1
    assert loop.engine.scheduler.stats().pages_used == 0


def test_a_waiting_stream_is_kept_alive_by_comments(server: Serving) -> None:
    hosted = server.hosts["tiny"]
    step = hosted.loop.engine.step
    try:
        hosted.loop.engine.step = lambda drafts=None: False  # type: ignore[method-assign]
        connection = connect(server, LONG | {"stream": True, "max_tokens": 3})
        connection.settimeout(10)
        seen = b""
        while seen.count(b": ping\n\n") < 2:
            seen += connection.recv(4096)
        assert b"data:" not in seen.replace(b": ping", b"")
    finally:
        hosted.loop.engine.step = step  # type: ignore[method-assign]
    hosted.loop._wakeup.call()
    while b"[DONE]" not in seen:
        seen += connection.recv(4096)
    connection.close()


def test_many_streams_say_what_each_says_alone(server: Serving) -> None:
    def text(seed: int) -> str:
        body = LONG | {"stream": True, "max_tokens": 20, "seed": seed}
        answer = plain_http.post(server.url + CHAT, json=body, timeout=60).text
        parts = [json.loads(e[6:]) for e in answer.split("\n\n") if e.startswith("data: {")]
        return "".join(p["choices"][0]["delta"].get("content", "") for p in parts)

    alone = [text(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(text, range(6))) == alone
    assert len(set(alone)) == 6


def test_a_request_that_fails_midway_says_so_in_an_event(server: Serving) -> None:
    engine = server.hosts["tiny"].loop.engine
    take = engine._take
    takes, was_read = itertools.count(1), threading.Event()

    def faulty(*args: Any) -> Any:
        if next(takes) > 3:
            assert was_read.wait(60), "no event was read"
            raise MemoryError("secret")
        return take(*args)

    body = LONG | {"stream": True, "max_tokens": 900}
    try:
        engine._take = faulty  # type: ignore[method-assign]
        with plain_http.stream("POST", server.url + CHAT, json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            was_read.set()
            text += "".join(pieces)
    finally:
        was_read.set()
        engine._take = take  # type: ignore[method-assign]
    last = text.split("\n\n")[-2]
    assert json.loads(last[6:])["error"]["code"] == "internal_error"
    assert "secret" not in text
    assert "[DONE]" not in text
    eventually(lambda: server.hosts["tiny"].loop.healthy)
    assert plain_http.post(server.url + CHAT, json=LONG | {"max_tokens": 2}).status_code == 200
