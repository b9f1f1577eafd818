"""The outermost layer: an account of every HTTP request; and what the layers leave in a request's scope.

Owns the account of the request at hand, which is handed to listeners when the request is over and which the engine's
side finds through a context variable, so that no handler has to carry it; the list of running generations, which count
their tokens in it; its line in the log; and the keys of the caller and the body in the ASGI scope. Knows neither keys
nor any text. Invariants: every HTTP request is reported once, also when its client vanished or a handler failed; a
generation is in the list from its submission until it is read no more; an account holds only the server's own words
(key names, route templates, numbers) or one of a fixed set, never what a client made up; what belongs to one caller
(its namespace of prefixes and past answers) comes from the layer that checked the caller, never from the request's own
text.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaotui.serve import LOG
from miaotui.serve.middleware.keys import ANYONE, Caller

if TYPE_CHECKING:
    from miaotui.serve.services import Services

UNKNOWN_ROUTE = "(unknown)"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBING: ContextVar[bool] = ContextVar("miaotui_probing", default=False)  # set: the server's own trial request
CURRENT: ContextVar[Account | None] = ContextVar("miaotui_account", default=None)
REQUESTS = logging.getLogger("miaotui.requests")  # one line per HTTP request
CALLER, RECEIVED = "miaotui.caller", "miaotui.received"  # keys of an ASGI scope


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
    charge: Callable[[int], None] | None = None  # called with tokens as soon as they are known

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


class Accounting:
    """An ASGI layer that opens an account, and calls ``listeners`` with it when it is closed."""

    def __init__(self, app: ASGIApp, listeners: Sequence[AccountListener]) -> None:
        self._app, self._listeners = app, tuple(listeners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        account = Account(known_method(scope["method"]))
        scope.setdefault("state", {})["account"] = account
        token = CURRENT.set(account)
        try:
            return await self._app(scope, receive, _StatusRecorder(send, account))
        finally:
            CURRENT.reset(token)
            account.duration_s = time.perf_counter() - account.started_s
            account.route = route_template(scope)
            self._report(account, scope)

    def _report(self, account: Account, scope: Scope) -> None:
        for listener in self._listeners:
            try:
                listener(account, scope)
            except Exception as error:  # the answer is out; counting it must not undo that
                LOG.error("request %s was not counted", account.request_id, exc_info=error)


class _StatusRecorder:
    """A ``send`` that notes the response's status and whether it was sent to its end."""

    def __init__(self, send: Send, account: Account) -> None:
        self._send, self._account = send, account

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._account.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._account.whole = True


def known_method(method: str) -> str:
    """Return the method, or OTHER: clients may send any word."""
    return method if method in METHODS else "OTHER"


def route_template(scope: Scope) -> str:
    """Return the path as the route names it, such as ``/v1/models/{model}``; never what a client sent."""
    endpoint, app = scope.get("endpoint"), scope.get("app")
    for route in getattr(app, "routes", ()):
        if isinstance(route, Route) and route.endpoint is endpoint:
            match, _ = route.matches(scope)
            if match is not Match.NONE:
                return route.path
    return UNKNOWN_ROUTE


def log_request(account: Account, _scope: Scope) -> None:
    """Write one line for an HTTP request that is over; failures of ours are warnings."""
    level = logging.WARNING if account.status >= 500 or not account.status else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    fields = {
        "request_id": account.request_id,
        "key": account.caller.name or None,
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


def caller_of(http: HttpRequest) -> Caller:
    """Return the caller that the key layer found; `ANYONE` where no layer checks keys."""
    caller: Caller = http.scope.get(CALLER, ANYONE)
    return caller


def services_of(http: HttpRequest) -> Services:
    """Return the parts of the server that received this request."""
    services: Services = http.app.state.services
    return services
