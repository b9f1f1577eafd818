"""Bodies before any route sees them, JSON that is not trusted, and errors that say nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest
from asgi_calls import Answer, ask, scope_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from serving import services
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from miaotui.serve.anthropic.errors import response_to
from miaotui.serve.app import create_app
from miaotui.serve.http.bodies import BodyReader, ignored_fields, read_object
from miaotui.serve.http.errors import ApiError
from miaotui.serve.middleware.access import received
from miaotui.serve.settings import ServeSettings

SMALL = ServeSettings(max_body_bytes=10_000, body_timeout_s=0.05)
CHAT = "/v1/chat/completions"


# A machine may stand still for a while, and it is not the test's business.
SOME = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
APP = create_app(services(settings=SMALL))


def post(body: bytes, *headers: tuple[str, str]) -> Answer:
    return asyncio.run(ask(APP, CHAT, headers, "POST", body))


def error_of(answer: Answer) -> Any:
    error = answer.json()["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"[]", "a list"),
        (b"null", "NoneType"),
        (b"{", "JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "deep"),
    ],
)
def test_what_is_no_sound_json_is_a_400(body: bytes, says: str) -> None:
    answer = post(body)
    assert answer.status == 400
    assert says.lower() in error_of(answer)["message"].lower()
    assert error_of(answer)["code"] == "invalid_json"


def test_very_deep_json_is_a_400() -> None:
    for levels in (50_000, 1_000_000):
        with pytest.raises(ApiError, match=r"deep|lists"):
            read_object(b'{"a":' + b"[" * levels + b"]" * levels + b"}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"0," * 1_000_000 + b"0]}",
        b'{"a":[' + b"{}," * 60_000 + b"{}]}",
        b'{"a":[' + b"[]," * 70_000 + b"[]]}",
        b"{" + b",".join(b'"%d":0' % i for i in range(5000)) + b"}",
    ],
)
def test_bombs_are_refused_before_they_are_made(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_object(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "field",
    [
        b'"messages":[' + b"0," * 200_000 + b"0]",
        b'"stop":[' + b"0," * 200_000 + b"0]",
        b'"tools":[' + b"0," * 200_000 + b"0]",
    ],
)
def test_a_long_list_is_told_of_once(field: bytes) -> None:
    answer = asyncio.run(ask(create_app(services()), CHAT, (), "POST", b"{%s}" % field))
    assert answer.status == 400
    assert len(answer.body) < 1000


def test_a_hundred_messages_are_not_deep() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 100
    assert read_object(json.dumps({"messages": messages}).encode())["messages"] == messages


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@SOME
@given(st.dictionaries(st.text(), JSON))
def test_sound_json_is_read(value: dict[str, Any]) -> None:
    assert read_object(json.dumps(value, ensure_ascii=True).encode()) == value


@SOME
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    try:
        read_object(body)
    except ApiError as refused:
        status = refused.status
    else:
        status = 400
    assert status == 400


@SOME
@given(st.dictionaries(st.text(), JSON, max_size=40))
def test_no_body_breaks_the_server(value: dict[str, Any]) -> None:
    answer = post(json.dumps(value).encode())
    assert answer.status in (400, 404, 413)
    error_of(answer)


@SOME
@given(st.dictionaries(st.text(max_size=80), st.none(), max_size=50))
def test_names_of_unknown_fields_cannot_break_a_header(values: dict[str, None]) -> None:
    class Nothing(BaseModel):
        model_config = ConfigDict(extra="allow")

    for header in ignored_fields(Nothing.model_validate(values)).values():
        assert header.isascii()
        assert header.isprintable()
        assert len(header) < 3000


def test_large_bodies_are_refused_by_their_announcement_and_by_their_size() -> None:
    for headers in ([("content-length", "10001")], [("content-length", "99" * 10)], []):
        answer = post(b"x" * 10001, *headers)
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        assert error_of(answer)["code"] == "body_too_large"


def test_errors_before_any_route_have_the_shape_of_the_path() -> None:
    answer = asyncio.run(ask(APP, "/v1/messages", (), "POST", b"x" * 10001))
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "request_too_large"


def run_with(messages: list[dict[str, Any]]) -> list[Any]:
    """What the application sends when these messages come, and after them nothing."""
    sent: list[Any] = []

    async def main() -> None:
        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        await APP(scope_of(CHAT, [], "POST"), receive, send)

    asyncio.run(main())
    return sent


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_bodies_in_pieces_are_bounded_too() -> None:
    assert run_with([part(b"x" * 6000), part(b"x" * 6000)])[0]["status"] == 413
    assert run_with([part(b"{"), part(b"}", False)])[0]["status"] == 400


def test_a_body_that_does_not_come_is_a_408() -> None:
    assert run_with([part(b"{")])[0]["status"] == 408


def test_a_client_that_leaves_while_sending_is_not_answered() -> None:
    assert run_with([part(b"{"), {"type": "http.disconnect"}]) == []


def test_unknown_paths_and_methods_have_openais_shape() -> None:
    missing = asyncio.run(ask(APP, "/v1/nothing"))
    assert (missing.status, error_of(missing)["code"]) == (404, "not_found")
    wrong = asyncio.run(ask(APP, CHAT))
    assert (wrong.status, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    slash = asyncio.run(ask(APP, CHAT + "/", method="POST"))
    assert slash.status == 404


def test_without_models_every_name_is_unknown() -> None:
    answer = post(b'{"model": "x\\ny", "messages": [{"role": "user", "content": "a"}]}')
    assert answer.status == 404
    assert error_of(answer)["code"] == "model_not_found"


def test_a_bug_says_nothing_but_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    broken = Starlette()
    broken.add_middleware(BodyReader, settings=SMALL, answer_to=response_to)

    async def fail(http: Request) -> Response:
        raise ValueError("secret path /home/someone")

    broken.add_route("/fail", fail)
    with caplog.at_level(logging.ERROR, "miaotui.serve"):
        answer = asyncio.run(ask(broken, "/fail"))
    assert answer.status == 500
    error = error_of(answer)
    assert "secret" not in answer.body.decode()
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["request_id"] in caplog.text
    assert "secret path" in caplog.text


def test_handlers_may_read_the_body_the_usual_way() -> None:
    echo = Starlette()
    echo.add_middleware(BodyReader, settings=SMALL, answer_to=response_to)

    async def show(http: Request) -> Response:
        assert received(http).body == await http.body()
        return JSONResponse(await http.json())

    echo.add_route("/echo", show, methods=["POST"])
    assert asyncio.run(ask(echo, "/echo", method="POST", body=b'{"a": 1}')).json() == {"a": 1}


def test_a_body_is_let_go() -> None:
    holder = Starlette()
    holder.add_middleware(BodyReader, settings=SMALL, answer_to=response_to)

    async def count(http: Request) -> Response:
        arrival = received(http)
        body = arrival.body
        before = sys.getrefcount(body)
        arrival.drop_body()
        return JSONResponse(before - sys.getrefcount(body))

    holder.add_route("/count", count, methods=["POST"])
    assert asyncio.run(ask(holder, "/count", method="POST", body=b"x" * 9000)).json() == 1
