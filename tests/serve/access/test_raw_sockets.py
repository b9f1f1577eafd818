"""Bytes that no client would send: never an answer of 5xx, never a hang, never memory without bound."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_http import HOST, Heard, chunked, connect, post, talk
from serving import Serving, serving

from miaotui.serve.http import connection
from miaotui.serve.settings import ServeSettings
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

PATH, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = json.dumps({"prompt": "hi", "max_tokens": 2, "seed": 1}).encode()
LIMIT = 1 << 16  # of bodies, here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("raw")
    limits = ServeSettings(max_body_bytes=LIMIT, body_timeout_s=0.4)
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder), serve=limits) as it:
        yield it


@pytest.fixture(autouse=True)
def _still_answers(server: Serving) -> Iterator[None]:
    """After each attack the server answers as before, and works on nothing."""
    yield
    assert talk(server.url, post(PATH, GOOD)).status == 200
    end_s = time.monotonic() + 5
    while server.in_flight():
        assert time.monotonic() < end_s, "a request that nobody waits for still runs"
        time.sleep(0.01)


def chat(**more: Any) -> bytes:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **more}
    return post(CHAT, json.dumps(body).encode())


def schema(value: Any) -> bytes:
    named = {"name": "x", "schema": value}
    return chat(response_format={"type": "json_schema", "json_schema": named})


NO_HTTP = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    "noise": random.Random(3).randbytes(3000),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a URL of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header of 100 kB": b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
    "1,000 headers": b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 1000 + b"\r\n",
    "a length below 0": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: -5\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a length and chunks": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a transfer coding": b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: gzip\r\n\r\nxx",
    "folded headers": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n b\r\n\r\n",
    "100 requests at once": post(PATH, GOOD) * 100,
}


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_no_http_is_turned_away_in_the_shape_of_errors(what: str, server: Serving) -> None:
    heard = talk(server.url, NO_HTTP[what])
    assert heard.seconds < 3
    if heard.status != 200:  # the first of 100 requests may be answered
        assert heard.status in (0, 400)
        assert heard.closed or json.loads(heard.body)["error"]["code"] == "invalid_http"


REFUSED = {
    "nothing": b"",
    "null": b"null",
    "half of it": GOOD[:-5],
    "UTF-16": GOOD.decode().encode("utf-16"),
    "no UTF-8": b'{"prompt":"\xff","max_tokens":2}',
    "half a character": b'{"prompt":"\\ud800"}',
    "half a character as a name": b'{"prompt":"a","\\udfff":1}',
    "a stop of half a character": b'{"prompt":"a","stop":"\\ud800"}',
    "NaN": b'{"prompt":"a","temperature":NaN}',
    "infinity": b'{"prompt":"a","temperature":1e999}',
    "20,000 brackets": b'{"prompt":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "5,000 objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "10,000 digits": b'{"prompt":"a","seed":' + b"9" * 10_000 + b"}",
    "a name twice": b'{"prompt":"a","prompt":"b"}',
    "a form": b"prompt=hi&max_tokens=2",
    "no prompt": b"{}",
    "a bool as a token": b'{"prompt":[true,1]}',
    "a million stops": b'{"prompt":"a","stop":[' + b'"a",' * 10_000 + b'"a"]}',
    "everything": b'{"prompt":"a","n":1000000000}',
}


@pytest.mark.parametrize("what", REFUSED)
def test_bodies_that_are_wrong_are_refused_with_400(what: str, server: Serving) -> None:
    refused(talk(server.url, post(PATH, REFUSED[what])))
    refused(
        talk(
            server.url,
            chunked(PATH, b"%x\r\n%s\r\n0\r\n\r\n" % (len(REFUSED[what]), REFUSED[what]))
            if REFUSED[what]
            else chunked(PATH, b"0\r\n\r\n"),
        )
    )


def refused(heard: Heard, *statuses: int) -> None:
    assert heard.status in (statuses or (400,)), heard
    assert heard.seconds < 3
    error = json.loads(heard.body)["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"


GRAMMARS = {
    "itself": {"$ref": "#"},
    "another machine's": {"$ref": "http://localhost:1/schema"},
    "a file": {"$ref": "file:///etc/passwd"},
    "20 kB": {"enum": ["x" * 1000] * 20},
    "a billion items": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "100 million characters": {"type": "string", "minLength": 10**8},
    "repeats of repeats": {"type": "string", "pattern": "((a{0,500}){0,500}){0,500}"},
    "looking ahead": {"type": "string", "pattern": "(?=a)b"},
    "backtracking": {"type": "string", "pattern": "(a+)+$"},
    "40 choices of choices": {"anyOf": [{"anyOf": [{"type": "string"}] * 40}] * 40},
    "no schema": [1, 2],
    "a wrong type": {"type": "nothing"},
}


@pytest.mark.parametrize("what", GRAMMARS)
def test_schemas_cost_little_time_whatever_they_say(what: str, server: Serving) -> None:
    heard = talk(server.url, schema(GRAMMARS[what]))
    assert heard.status in (200, 400), heard
    assert heard.seconds < 3


def test_bodies_that_never_end_are_given_up(server: Serving) -> None:
    """Announced and not sent, dribbled, or larger than allowed."""
    short = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"content-length: 500\r\n\r\n{}"
    refused(talk(server.url, short), 408)
    dribbled = talk(server.url, chunked(PATH), *[b"1\r\n{\r\n"] * 30, pause_s=0.05)
    assert dribbled.closed or dribbled.status == 408
    assert dribbled.seconds < 3
    refused(talk(server.url, chunked(PATH, b"FFFFFFFFFFFFFFF\r\nxx\r\n")), 408)
    announced = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"content-length: 99999999999\r\n\r\n"
    refused(talk(server.url, announced), 413)
    refused(talk(server.url, chunked(PATH, *[b"4000\r\n" + b" " * 0x4000 + b"\r\n"] * 5)), 413)


def test_heads_that_never_end_are_given_up(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bytes at all, one every now and then, or no end of them."""
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    for pieces in ([], [b"\r\n"], [b"GET / HT"], [b"GET / HTTP/1.1\r\n"], [b"x: y\r\n"] * 40):
        heard = talk(server.url, *pieces, pause_s=0.03)
        assert heard.closed
        assert heard.seconds < 3
    begun = talk(server.url, b"GET /health HTTP/1.1\r\nx: ", *[b"a" * 10_000] * 1000)
    assert begun.closed or begun.status == 400
    again = connect(server.url)  # a second head on a kept connection
    with again:
        again.sendall(b"GET /ready HTTP/1.1\r\n" + HOST + b"\r\n")
        assert again.recv(1000).startswith(b"HTTP/1.1 ")
        again.sendall(b"GET /rea")
        assert again.recv(1000) == b""


def test_many_idle_connections_do_not_keep_others_out(server: Serving) -> None:
    with contextlib.ExitStack() as held:
        for number in range(200):
            idle = held.enter_context(connect(server.url))
            if number % 2:
                idle.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-le")
        assert talk(server.url, post(PATH, GOOD)).status == 200


def test_a_client_that_does_not_read_is_left(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer fills the buffers in between; nothing waits for it for ever."""
    monkeypatch.setattr(connection, "STALLED_S", 0.3)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 230, "n": 16}
    many = {"logprobs": True, "top_logprobs": 20, "ignore_eos": True, "stream": True, "seed": 1}
    with connect(server.url, receive_bytes=2048) as client:
        client.sendall(post(CHAT, json.dumps(body | many).encode()))
        time.sleep(1)
        end_s = time.monotonic() + 20
        while server.in_flight():
            assert time.monotonic() < end_s
            time.sleep(0.05)
        time.sleep(0.5)
        got = b""
        with contextlib.suppress(ConnectionError):
            while news := client.recv(1 << 20):
                got += news
    assert b"[DONE]" not in got


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many changes leave a head without an end; the server hangs up soon then."""
    monkeypatch.setattr(connection, "HEAD_S", 0.2)


WORDS = [b"\r\n", b"\0", b"\xff", b":", b" ", b"chunked", b"-1", b"99999999999", b"{", b"}", b'"', b"HTTP/1.1"]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.sampled_from([post(PATH, GOOD), chat(stream=True), chunked(PATH, b"3\r\n{}\n\r\n0\r\n\r\n")]),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 4), st.sampled_from(WORDS) | st.binary(max_size=6)),
        min_size=1,
        max_size=4,
    ),
)
def test_changed_requests_are_answered_or_refused(
    server: Serving, short_waits: None, request_: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for at, removed, new in changes:
        request_ = request_[:at] + new + request_[at + removed :]
    heard = talk(server.url, request_ + b"\r\n\r\n", timeout_s=1.5)
    assert heard.status == 0 or 100 <= heard.status < 500, (request_, heard)
