"""The outermost layer: an account of every HTTP request, and who is told when it is over.

Owns when an account begins and ends, and the name of the route it belongs to. Knows neither keys nor
bodies. Invariant: every HTTP request is told of once, whatever became of it, also when its client
vanished or a handler failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from starlette.routing import Match, Route

from miaotui.serve.middleware.account import CURRENT, UNKNOWN_ROUTE, Account, known_method
from miaotui.serve.middleware.auth import App, Message, Receive, Scope, Send

_LOG = logging.getLogger("miaotui.serve")
Listener = Callable[[Account, Scope], None]


class Accounting:
    """An ASGI layer that opens an account, and tells ``listeners`` when it is closed."""

    def __init__(self, app: App, listeners: Sequence[Listener]) -> None:
        self._app, self._listeners = app, tuple(listeners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        account = Account(known_method(scope["method"]))
        scope.setdefault("state", {})["account"] = account
        token = CURRENT.set(account)
        try:
            return await self._app(scope, receive, _Noting(send, account))
        finally:
            CURRENT.reset(token)
            account.duration_s = time.perf_counter() - account.started_s
            account.route = route_template(scope)
            self._tell(account, scope)

    def _tell(self, account: Account, scope: Scope) -> None:
        for listener in self._listeners:
            try:
                listener(account, scope)
            except Exception as error:  # the answer is out; counting it must not undo that
                _LOG.error("request %s was not counted", account.request_id, exc_info=error)


class _Noting:
    """Passes a response on and notes its status and whether it was sent to its end."""

    def __init__(self, send: Send, account: Account) -> None:
        self._send, self._account = send, account

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._account.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._account.whole = True


def route_template(scope: Scope) -> str:
    """The path as the route names it, such as ``/v1/models/{model}``; never what a client sent."""
    endpoint, app = scope.get("endpoint"), scope.get("app")
    for route in getattr(app, "routes", ()):
        if isinstance(route, Route) and route.endpoint is endpoint:
            match, _ = route.matches(scope)
            if match is not Match.NONE:
                return route.path
    return UNKNOWN_ROUTE
