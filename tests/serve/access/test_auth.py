"""The guard, attacked: foreign hosts and origins, doors without keys, limits, the way out."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi_calls import Answer, Pairs, ask
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import services
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from miaotui.serve.app import create_app
from miaotui.serve.middleware.access import Access, AccessPolicy, caller_of
from miaotui.serve.middleware.keys import KeyLimits, Keyring, add_key
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for
from miaotui.types import namespace_number

PATHS = ("/v1/models", "/v1/chat/completions", "/metrics", "/docs", "/openapi.json", "/nowhere")
LOCAL = ("host", "localhost:8000")


async def who(request: Request) -> Response:
    caller = caller_of(request)
    return JSONResponse({"name": caller.name, "namespace": caller.namespace})


def app() -> Starlette:
    methods = ["GET", "POST"]
    paths = ("/health", "/ready", "/v1/models", "/v1/messages", "/v1/chat/completions")
    return Starlette(routes=[Route(path, who, methods=methods) for path in paths])


def answer(guard: Access, path: str, headers: Pairs = (LOCAL,), method: str = "GET") -> Answer:
    return asyncio.run(ask(guard, path, headers, method))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keyring, dict[str, str]]:
    path = tmp_path / "keys"
    made = {name: add_key(path, name) for name in ("alice", "bob")}
    made["carol"] = add_key(path, "carol", KeyLimits(requests_per_minute=2, concurrent=1))
    return Keyring(path), made


# ---- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_path_needs_a_key(path: str, keys: tuple[Keyring, dict[str, str]]) -> None:
    guard = Access(app(), AccessPolicy(), keys[0])
    refused = answer(guard, path)
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_monitors_need_none(path: str, keys: tuple[Keyring, dict[str, str]]) -> None:
    assert answer(Access(app(), AccessPolicy(), keys[0]), path).status == 200


@pytest.mark.parametrize(
    "path", ["//health", "/health/", "/health/../v1/models", "/HEALTH", "/health/x", "/health%2f", "health"]
)
def test_near_misses_of_open_paths_are_closed(path: str, keys: tuple[Keyring, dict[str, str]]) -> None:
    assert answer(Access(app(), AccessPolicy(), keys[0]), path).status == 401


def test_both_headers_are_understood(keys: tuple[Keyring, dict[str, str]]) -> None:
    guard, key = Access(app(), AccessPolicy(), keys[0]), keys[1]["bob"]
    shown: list[Pairs] = [
        (LOCAL, ("authorization", f"Bearer {key}")),
        (LOCAL, ("Authorization", f"bearer {key}")),
        (LOCAL, ("x-api-key", key)),
        (LOCAL, ("authorization", "Bearer wrong"), ("x-api-key", key)),
    ]
    for headers in shown:
        found = answer(guard, "/v1/models", headers)
        assert found.json() == {"name": "bob", "namespace": namespace_number("bob")}


@pytest.mark.parametrize(
    "shown",
    [
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Basic {key}"),
        ("authorization", "{key}"),
        ("x-api-key", "{key} "),
        ("x-api-key", "Bearer {key}"),
        ("x-api-key", "{half}"),
        ("x-api-key", ""),
        ("api-key", "{key}"),
        ("cookie", "authorization=Bearer {key}"),
    ],
)
def test_almost_a_key_is_none(shown: tuple[str, str], keys: tuple[Keyring, dict[str, str]]) -> None:
    key = keys[1]["alice"]
    header = (shown[0], shown[1].format(key=key, half=key[:-1]))
    assert answer(Access(app(), AccessPolicy(), keys[0]), "/v1/models", (LOCAL, header)).status == 401


def test_messages_have_errors_in_their_own_shape(keys: tuple[Keyring, dict[str, str]]) -> None:
    refused = answer(Access(app(), AccessPolicy(), keys[0]), "/v1/messages")
    assert refused.json()["type"] == "error"
    assert refused.json()["error"]["type"] == "authentication_error"


@settings(max_examples=100)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_hostile_headers_break_nothing(tmp: bytes, key: bytes) -> None:
    guard = Access(app(), AccessPolicy())
    headers: Pairs = (
        ("host", tmp.decode("latin-1")),
        ("origin", key.decode("latin-1")),
        ("authorization", key.decode("latin-1")),
    )
    assert answer(guard, "/v1/models", headers).status in {200, 400, 403, 421}


def test_every_route_of_the_application_needs_a_key(tmp_path: Path) -> None:
    """Also the ones that will be added one day: the list is the application's own."""
    keys = tmp_path / "keys"
    key = add_key(keys, "alice")
    operations = Operations(ServedModels())
    layers = layers_for(ServeSettings(("tiny",), api_key_file=str(keys)), operations)
    served = create_app(services(operations=operations), layers)
    found = dict[tuple[str, str], int]()
    for route in served.routes:
        assert isinstance(route, Route), "a mount would need a check of its own"
        path = re.sub(r"{[^}]*}", "x", route.path)
        for method in route.methods or ():
            closed = asyncio.run(ask(served, path, method=method))
            found[method, route.path] = closed.status
            mine = asyncio.run(ask(served, path, (LOCAL, ("x-api-key", key)), method, b"{"))
            assert mine.status != 401
    assert len(found) > 10
    opened = {(method, path) for (method, path), status in found.items() if status != 401}
    monitored = {(method, path) for method in ("GET", "HEAD") for path in ("/health", "/ready", "/", "/monitor")}
    assert opened == monitored


# ---- limits --------------------------------------------------------------------------------------


def test_limits_hold_and_say_when_to_come_again(keys: tuple[Keyring, dict[str, str]]) -> None:
    guard = Access(app(), AccessPolicy(), keys[0])
    headers = (LOCAL, ("x-api-key", keys[1]["carol"]))
    assert [answer(guard, "/v1/models", headers).status for _ in range(3)] == [200, 200, 429]
    refused = answer(guard, "/v1/models", headers)
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert answer(guard, "/v1/models", (LOCAL, ("x-api-key", keys[1]["bob"]))).status == 200


def test_one_at_a_time_stays_one_at_a_time_when_handlers_fail(keys: tuple[Keyring, dict[str, str]]) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken")

    guard = Access(failing, AccessPolicy(), keys[0])
    headers = (LOCAL, ("x-api-key", keys[1]["carol"]))
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            answer(guard, "/v1/models", headers)
    assert answer(guard, "/v1/models", headers).json()["error"]["message"].count("per minute")


def test_tokens_count_while_a_request_still_runs(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "dora", KeyLimits(tokens_per_minute=10))
    headers = (LOCAL, ("x-api-key", key))

    async def main() -> tuple[int, int]:
        go_on, inside = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            scope["state"]["account"].use(prompt=50)
            inside.set()
            await go_on.wait()
            await JSONResponse({})(scope, receive, send)

        guard = Access(slow, AccessPolicy(), Keyring(tmp_path / "keys"))

        first = asyncio.create_task(ask(guard, "/v1/models", headers))
        await inside.wait()
        second = await ask(guard, "/v1/models", headers)
        go_on.set()
        return (await first).status, second.status

    assert asyncio.run(main()) == (200, 429)


# ---- hosts and origins ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:80", "[::1]:8000", "10.1.2.3", "[fe80::1]"]
)
def test_own_names_and_addresses_pass(host: str) -> None:
    assert answer(Access(app(), AccessPolicy()), "/v1/models", (("host", host),)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example@localhost", 400),
        ("localhost, evil.example", 400),
        ("local\thost", 400),
        ("", 400),
        ("localhost:99999999", 400),
    ],
)
def test_rebound_names_are_turned_away(host: str, status: int) -> None:
    for path in ("/v1/models", "/health"):
        assert answer(Access(app(), AccessPolicy()), path, (("host", host),)).status == status


def test_two_hosts_are_none() -> None:
    headers = (LOCAL, ("host", "evil.example"))
    assert answer(Access(app(), AccessPolicy()), "/v1/models", headers).status == 400
    assert answer(Access(app(), AccessPolicy()), "/v1/models", ()).status == 400


def test_allowed_hosts_pass() -> None:
    policy = AccessPolicy(hosts=frozenset({"chat.example"}))
    assert answer(Access(app(), policy), "/v1/models", (("host", "Chat.example."),)).status == 200
    assert answer(Access(app(), policy), "/v1/models", (("host", "x.example"),)).status == 421
    anything = Access(app(), AccessPolicy(hosts=frozenset({"*"})))
    assert answer(anything, "/v1/models", (("host", "x.example"),)).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9000", ""])
def test_pages_of_other_origins_are_turned_away(origin: str) -> None:
    headers = (LOCAL, ("origin", origin))
    for method in ("GET", "POST", "OPTIONS"):
        refused = answer(Access(app(), AccessPolicy()), "/v1/models", headers, method)
        assert refused.status == 403
        assert "access-control-allow-origin" not in refused.headers


def test_own_and_allowed_origins_pass() -> None:
    own = answer(Access(app(), AccessPolicy()), "/v1/models", (LOCAL, ("origin", "http://localhost:8000")))
    assert own.status == 200
    guard = Access(app(), AccessPolicy(origins=frozenset({"https://chat.example"})))
    headers = (LOCAL, ("origin", "https://chat.example"))
    allowed = answer(guard, "/v1/models", headers)
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert answer(guard, "/v1/models", (LOCAL, ("origin", "https://chat.example.x"))).status == 403


def test_preflights_are_answered_before_the_key(keys: tuple[Keyring, dict[str, str]]) -> None:
    guard = Access(app(), AccessPolicy(origins=frozenset({"https://chat.example"})), keys[0])
    asks = (
        LOCAL,
        ("origin", "https://chat.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    )
    found = answer(guard, "/v1/models", asks, "OPTIONS")
    assert found.status == 204
    assert found.headers["access-control-allow-headers"] == "authorization, content-type"
    assert answer(guard, "/v1/models", asks[:2]).status == 401


# ---- the way out ---------------------------------------------------------------------------------


def test_a_leaving_server_takes_nothing_more(keys: tuple[Keyring, dict[str, str]]) -> None:
    guard = Access(app(), AccessPolicy(), keys[0], draining=SimpleNamespace(is_draining=True))
    headers = (LOCAL, ("x-api-key", keys[1]["alice"]))
    refused = answer(guard, "/v1/models", headers)
    assert refused.status == 503
    assert "retry-after" in refused.headers
    assert answer(guard, "/health", headers).status == 200
    assert answer(guard, "/v1/models").status == 401, "strangers are not told"


def test_web_sockets_are_refused_over_http() -> None:
    async def main() -> list[Any]:
        sent = list[Any]()

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/v1/audio/live", "headers": [(b"host", b"elsewhere.example")]}
        await Access(app(), AccessPolicy())(scope, receive, send)
        return sent

    start, body = asyncio.run(main())
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 421)
    assert body["type"] == "websocket.http.response.body"
