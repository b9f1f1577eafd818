"""The outermost layer: who is let in, an account of every HTTP request, and what a request's scope holds.

Owns the checks of Host, Origin, API key and limits, and refusals while the server drains; the account of the request
at hand, which is handed to listeners when the request is over and which the engine's side finds through a context
variable, so that no handler has to carry it; its line in the log; and the keys of the ASGI scope. Knows headers and no
text. Invariants: only `OPEN_PATHS` and those of the policy are answered without a key when there are keys; every HTTP
request is reported once, also when it was refused, its client vanished or a handler failed; an account holds only the
server's own words (key names, route templates, numbers) or one of a fixed set; what belongs to one caller (its
namespace of prefixes and past answers) comes from here, never from the request's own text. Host is checked against DNS
rebinding: a page of a foreign name that resolves to this machine still sends the foreign name; addresses cannot be
rebound.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve import LOG
from miaotui.serve.middleware import cors
from miaotui.serve.middleware.keys import ANYONE, UNLIMITED, Caller, Keyring
from miaotui.serve.middleware.quotas import KeyUsage
from miaotui.serve.middleware.refusals import LEAVING, Refusal, refuse, refused_over_http, wrong_key
from miaotui.serve.tenants.allowance import EVERYTHING

if TYPE_CHECKING:
    from miaotui.serve.services import Services

Headers = Mapping[bytes, bytes]

CALLER, RECEIVED, SERVICES = "miaotui.caller", "miaotui.received", "miaotui.services"  # keys of an ASGI scope
CURRENT: ContextVar[Account | None] = ContextVar("miaotui_account", default=None)
PROBING: ContextVar[bool] = ContextVar("miaotui_probing", default=False)  # set: the server's own trial request
REQUESTS = logging.getLogger("miaotui.requests")  # one line per HTTP request
KEY_PROTOCOL = b"openai-insecure-api-key."  # of a WebSocket, as in OpenAI's realtime API
UNKNOWN_ROUTE = "(unknown)"
OUTCOMES = ("ok", "refused", "invalid", "failed", "left")  # of a request
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OPEN_PATHS = frozenset({"/health", "/ready"})
LOCAL_HOSTS = frozenset({"localhost"})
ADMIN_PATH = "/v1/admin"  # answered to administrators while the server drains, so that they can end that
_READING = frozenset({"GET", "HEAD"})
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


@dataclass
class Account:
    """One HTTP request: its caller, route, tokens and end. Times are `time.perf_counter` seconds."""

    method: str = "OTHER"
    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started_s: float = field(default_factory=time.perf_counter)
    caller: Caller = ANYONE
    route: str = UNKNOWN_ROUTE
    status: int = 0  # 0: no response was begun
    whole: bool = False  # whether the response was sent to its end
    model: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    duration_s: float = 0.0
    ttft_s: float | None = None
    change: str = ""  # of how the server runs, by an administrator
    charge: Callable[[int], None] | None = None  # called with tokens as soon as they are known

    @property
    def outcome(self) -> str:
        """Return how it ended, one of `OUTCOMES`: refused is over a limit, left is before its end."""
        if not self.whole and self.status != 101:
            return "left"
        if self.status < 400:
            return "ok"
        if self.status in (429, 503):
            return "refused"
        return "failed" if self.status >= 500 else "invalid"

    def use(self, *, prompt: int = 0, cached: int = 0, answer: int = 0) -> None:
        """Add tokens of one of its generations; ``cached`` ones are among those of the prompt."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.answer_tokens += answer
        if self.charge is not None and prompt + answer:
            self.charge(prompt + answer)


AccountListener = Callable[[Account, Scope], None]


def current() -> Account | None:
    """Return the account of the HTTP request that this code works for; None outside of one."""
    return CURRENT.get()


@dataclass(frozen=True)
class AccessPolicy:
    """Hosts and origins that are let in. ``*`` in ``hosts`` or ``origins`` lets all of them in."""

    hosts: frozenset[str] = frozenset()  # beside localhost and plain addresses; lower case
    origins: frozenset[str] = frozenset()  # such as https://chat.example
    open_paths: frozenset[str] = frozenset()  # read without a key, beside `OPEN_PATHS`: files of the console


class StatusRecorder:
    """A ``send`` that notes in an account the response's status and whether it was sent to its end."""

    def __init__(self, send: Send, account: Account) -> None:
        self._send, self._account = send, account

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self._account.status = message["status"]
        elif message["type"] == "websocket.accept":
            self._account.status = 101
        await self._send(message)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last or message["type"] == "websocket.close":
            self._account.whole = True


class Draining(Protocol):
    """Part of a server that knows whether it is about to end."""

    is_draining: bool


class Access:
    """An ASGI layer that opens an account of each request, and lets it through to ``app`` or refuses it.

    ``listeners`` are called with the account when it is closed; ``closed`` gets it, to be counted later. Requests that
    are let through have their `Caller` in the scope, for `caller_of`.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: AccessPolicy,
        keyring: Keyring | None = None,
        usage: KeyUsage | None = None,
        draining: Draining | None = None,
        listeners: Sequence[AccountListener] = (),
        closed: list[Account] | None = None,
    ) -> None:
        self._app, self._policy, self._keyring = app, policy, keyring
        self._usage = usage or KeyUsage()
        self._draining, self._listeners, self._closed = draining, tuple(listeners), closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            scope["method"], send = "GET", refused_over_http(send)
        account = Account(known_method(scope["method"]))
        scope.setdefault("state", {})["account"] = account
        token = CURRENT.set(account)
        try:
            return await self._let_in(scope, receive, StatusRecorder(send, account), account)
        finally:
            CURRENT.reset(token)
            account.duration_s = time.perf_counter() - account.started_s
            account.route = route_template(scope)
            self._report(account, scope)

    def _report(self, account: Account, scope: Scope) -> None:
        if self._closed is not None:
            self._closed.append(account)
        for listener in self._listeners:
            try:
                listener(account, scope)
            except Exception as error:  # the answer is out; counting it must not undo that
                LOG.error("request %s was not counted", account.request_id, exc_info=error)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, account: Account) -> None:
        """Check where the request comes from, then its key."""
        headers: Headers = {name.lower(): value for name, value in reversed(scope["headers"])}
        refusal = check_host(scope, self._policy) or check_origin(headers, self._policy, scope)
        if refusal is not None:
            return await refuse(scope, send, refusal, account.request_id)
        origin = headers.get(b"origin")
        if origin is not None and is_listed(origin, self._policy):
            send = cors.with_headers(send, origin)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                return await cors.answer_preflight(headers, send)
        refusal = self._check_key(scope, headers, account)
        if refusal is not None:
            return await refuse(scope, send, refusal, account.request_id)
        scope[CALLER] = account.caller
        if account.caller.limits == UNLIMITED:
            return await self._app(scope, receive, send)
        return await self._within_limits(scope, receive, send, account)

    def _check_key(self, scope: Scope, headers: Headers, account: Account) -> Refusal | None:
        """Find the account's caller; paths that monitors and browsers ask for without a key are open."""
        path = scope["path"]
        if path in OPEN_PATHS or (path in self._policy.open_paths and scope["method"] in _READING):
            return None
        caller = ANYONE if self._keyring is None else find_caller(headers, self._keyring)
        if caller is None:
            return wrong_key(headers)
        account.caller = caller
        draining = self._draining is not None and self._draining.is_draining
        return LEAVING if draining and not (caller.is_admin and path == ADMIN_PATH) else None

    async def _within_limits(self, scope: Scope, receive: Receive, send: Send, account: Account) -> None:
        """Let a request through that keeps the limits of its key."""
        caller = account.caller
        account.charge = partial(self._usage.charge, caller)
        excess = self._usage.enter(caller)
        if excess is not None:
            seconds = max(1, -int(-excess.retry_after_s // 1))
            retry = ((b"retry-after", str(seconds).encode()),)
            text = f"this key's limit of {excess.limit} is reached: ask again in {seconds} s"
            return await refuse(scope, send, Refusal(429, "rate_limit_exceeded", text, retry), account.request_id)
        try:
            return await self._app(scope, receive, send)
        finally:
            self._usage.leave(caller)


def known_method(method: str) -> str:
    """Return the method, or OTHER: clients may send any word."""
    return method if method in METHODS else "OTHER"


def route_template(scope: Scope) -> str:
    """Return the path as the route names it, such as ``/v1/models/{model}``; never what a client sent."""
    endpoint, app = scope.get("endpoint"), scope.get("app")
    for route in getattr(app, "routes", ()):
        if isinstance(route, Route | WebSocketRoute) and route.endpoint is endpoint:
            match, _ = route.matches(scope)
            if match is not Match.NONE:
                return route.path
    return UNKNOWN_ROUTE


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
    scheme: str = scope.get("scheme", "http")
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    own = scheme.encode() + b"://" + headers.get(b"host", b"")
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
    """Return the caller whose key is shown; None for no known key.

    It is shown as ``Authorization: Bearer`` or ``x-api-key``, or among the protocols of a WebSocket, whose headers a
    page cannot set.
    """
    found = None
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    offered = (each.strip() for each in headers.get(b"sec-websocket-protocol", b"").split(b","))
    protocols = [each.removeprefix(KEY_PROTOCOL) for each in offered if each.startswith(KEY_PROTOCOL)]
    for shown in (key.strip() if scheme.lower() == b"bearer" else b"", headers.get(b"x-api-key"), *protocols[:1]):
        if shown:
            found = found or keyring.find(shown)
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def log_request(account: Account, _scope: Scope) -> None:
    """Write one line for an HTTP request that is over; failures of ours are warnings."""
    level = logging.WARNING if account.status >= 500 or not account.status else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    fields = {
        "request_id": account.request_id,
        "tenant": account.caller.name or None,
        "key": account.caller.key or account.caller.name or None,
        "method": account.method,
        "route": account.route,
        "status": account.status,
        "duration_ms": round(account.duration_s * 1000, 1),
        "prompt_tokens": account.prompt_tokens,
        "answer_tokens": account.answer_tokens,
        "ttft_ms": None if account.ttft_s is None else round(account.ttft_s * 1000, 1),
    }
    REQUESTS.log(
        level,
        "%s %s %d in %.0f ms, %d + %d tokens",
        account.method,
        account.route,
        account.status,
        account.duration_s * 1000,
        account.prompt_tokens,
        account.answer_tokens,
        extra={"fields": fields},
    )


@dataclass
class ReceivedRequest:
    """A request whose last byte has come. ``arrived_s`` is in `time.perf_counter` seconds."""

    request_id: str
    body: bytes
    arrived_s: float

    def drop_body(self) -> None:
        """Free the body's memory, which no one reads while the answer is made."""
        self.body = b""


def received(http: HttpRequest) -> ReceivedRequest:
    """Return the request's body and the time at which it was complete."""
    found: ReceivedRequest = http.scope[RECEIVED]
    return found


def caller_of(http: HTTPConnection) -> Caller:
    """Return the caller that the key layer found; `ANYONE` where no layer checks keys."""
    caller: Caller = http.scope.get(CALLER, ANYONE)
    return caller


def services_of(http: HTTPConnection) -> Services:
    """Return the parts of the server that received this request, as far as its caller may use them."""
    found: Services | None = http.scope.get(SERVICES)
    if found is None:
        whole, allowance = whole_services_of(http), caller_of(http).allowance
        found = http.scope[SERVICES] = whole if allowance == EVERYTHING else whole.narrowed(allowance)
    return found


def whole_services_of(http: HTTPConnection) -> Services:
    """Return all parts of the server, for what concerns the operator alone."""
    services: Services = http.app.state.services
    return services
