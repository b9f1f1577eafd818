"""Access: checks of Host and Origin, API keys, limits per key, and refusals while the server drains.

Owns an ASGI layer around the whole application, so that no route, not even one that does not exist, is reached
without it. Knows headers, not bodies. Invariant: only `OPEN_PATHS` are answered without a key when there are keys.
Host is checked against DNS rebinding: a page of a foreign name that resolves to this machine still sends the foreign
name; addresses cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve.middleware.accounting import CALLER, Account
from miaotui.serve.middleware.keys import ANYONE, UNLIMITED, Caller, Keyring
from miaotui.serve.middleware.quotas import KeyUsage

Headers = Mapping[bytes, bytes]

OPEN_PATHS = frozenset({"/health", "/ready"})
LOCAL_HOSTS = frozenset({"localhost"})
DRAIN_RETRY_S = 5
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_PREFLIGHT = ((b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"), (b"access-control-max-age", b"600"))


@dataclass(frozen=True)
class AccessPolicy:
    """Hosts and origins that are let in. ``*`` in ``hosts`` or ``origins`` lets all of them in."""

    hosts: frozenset[str] = frozenset()  # beside localhost and plain addresses; lower case
    origins: frozenset[str] = frozenset()  # such as https://chat.example


@dataclass(frozen=True)
class Refusal:
    """Answer to a request that is not let in: its status and message."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


class Draining(Protocol):
    """Part of a server that knows whether it is about to end."""

    is_draining: bool


class Auth:
    """Lets requests through to ``app``, or answers them itself.

    Those that it lets through have their `Caller` in the scope, for `caller_of`.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: AccessPolicy,
        keyring: Keyring | None = None,
        usage: KeyUsage | None = None,
        draining: Draining | None = None,
    ) -> None:
        self._app, self._policy, self._keyring = app, policy, keyring
        self._usage = usage or KeyUsage()
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # nothing here speaks WebSocket
            return await send({"type": "websocket.close", "code": 1008})
        headers: Headers = {name.lower(): value for name, value in reversed(scope["headers"])}
        refusal = check_host(scope, self._policy) or check_origin(headers, self._policy, scope)
        if refusal is not None:
            return await refuse(scope, send, refusal)
        origin = headers.get(b"origin")
        if origin is not None and is_listed(origin, self._policy):
            send = _with_headers(send, _cors(origin))
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                return await _preflight(headers, send)
        return await self._enter(scope, receive, send, headers)

    async def _enter(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """Through the door with a key; the paths that monitors ask for are open."""
        state = scope.setdefault("state", {})
        if scope["path"] in OPEN_PATHS:
            scope[CALLER] = state["caller"] = ANYONE
            return await self._app(scope, receive, send)
        caller = ANYONE if self._keyring is None else find_caller(headers, self._keyring)
        if caller is None:
            return await refuse(scope, send, _wrong_key(headers))
        scope[CALLER] = state["caller"] = caller
        account = state.get("account")
        if isinstance(account, Account):
            account.caller = caller
        if self._draining is not None and self._draining.is_draining:
            return await refuse(scope, send, _LEAVING)
        if caller.limits == UNLIMITED:
            return await self._app(scope, receive, send)
        if isinstance(account, Account):
            account.charge = partial(self._usage.charge, caller)
        excess = self._usage.enter(caller)
        if excess is not None:
            seconds = max(1, -int(-excess.retry_after_s // 1))
            retry = ((b"retry-after", str(seconds).encode()),)
            text = f"this key's limit of {excess.limit} is reached: ask again in {seconds} s"
            return await refuse(scope, send, Refusal(429, "rate_limit_exceeded", text, retry))
        try:
            return await self._app(scope, receive, send)
        finally:
            self._usage.leave(caller)


def check_host(scope: Scope, policy: AccessPolicy) -> Refusal | None:
    """Refuse a Host that could be a foreign name; addresses and localhost always pass."""
    if "*" in policy.hosts:
        return None
    values = [value for name, value in scope["headers"] if name.lower() == b"host"]
    match = _HOST.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return Refusal(400, "invalid_host", "the Host header is missing, doubled or malformed")
    host = match[1].decode("ascii").lower().rstrip(".")
    if host in LOCAL_HOSTS or host in policy.hosts or _is_address(host):
        return None
    text = "this server does not answer to that host name; --allowed-host adds one"
    return Refusal(421, "unknown_host", text)


def check_origin(headers: Headers, policy: AccessPolicy, scope: Scope) -> Refusal | None:
    """Refuse pages of other origins: a browser sends their requests even if it hides the answer."""
    origin = headers.get(b"origin")
    if origin is None or is_listed(origin, policy):
        return None
    own = scope.get("scheme", "http").encode() + b"://" + headers.get(b"host", b"")
    if origin.lower() == own.lower():
        return None
    text = "pages of that origin may not use this server; --cors-origin allows one"
    return Refusal(403, "origin_not_allowed", text)


def is_listed(origin: bytes, policy: AccessPolicy) -> bool:
    """Return whether an origin was allowed by name."""
    if "*" in policy.origins:
        return True
    return origin.decode("latin-1").lower() in policy.origins


def find_caller(headers: Headers, keyring: Keyring) -> Caller | None:
    """Return the caller whose key is shown, as ``Authorization: Bearer`` or ``x-api-key``; None for no known key."""
    found = None
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    for shown in (key.strip() if scheme.lower() == b"bearer" else b"", headers.get(b"x-api-key")):
        if shown:
            found = found or keyring.find(shown)
    return found


async def refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Send a refusal in the form of the API that the path belongs to."""
    is_anthropic = scope["path"].startswith("/v1/messages")
    kind = _ERROR_TYPES.get(refusal.status, "invalid_request_error")
    error: dict[str, Any] = {"message": refusal.message, "type": kind}
    if is_anthropic:
        body: dict[str, Any] = {"type": "error", "error": error}
    else:
        body = {"error": {**error, "param": None, "code": refusal.code}}
    request_id = getattr(scope.get("state", {}).get("account"), "request_id", None)
    if request_id is not None:
        (body if is_anthropic else body["error"])["request_id"] = request_id
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *refusal.headers,
    ]
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}
_LEAVING = Refusal(
    503,
    "shutting_down",
    "this server is shutting down: ask another one, or again in a moment",
    ((b"retry-after", str(DRAIN_RETRY_S).encode()), (b"connection", b"close")),
)


def _wrong_key(headers: Headers) -> Refusal:
    shown = b"authorization" in headers or b"x-api-key" in headers
    text = "the API key is not known here" if shown else "an API key is needed"
    text += ": send `Authorization: Bearer KEY` or `x-api-key: KEY`"
    return Refusal(401, "invalid_api_key", text, ((b"www-authenticate", b"Bearer"),))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _cors(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    exposed = b"x-request-id, x-ignored-fields, retry-after"
    return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed), (b"vary", b"Origin"))


def _with_headers(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


async def _preflight(headers: Headers, send: Send) -> None:
    wanted = headers.get(b"access-control-request-headers", b"")[:1024]
    plain = bool(re.fullmatch(rb"[A-Za-z0-9_, -]*", wanted))
    allowed = [(b"access-control-allow-headers", wanted)] if plain and wanted else []
    start = {"type": "http.response.start", "status": 204, "headers": [*_PREFLIGHT, *allowed]}
    await send(start)
    await send({"type": "http.response.body", "body": b""})
