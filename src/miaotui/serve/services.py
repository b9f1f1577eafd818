"""What every handler of a running server can reach, and who is asking.

Owns the context that lies in ``app.state.serve`` and in a request's scope. Knows no route.
Invariant: what belongs to one caller (its namespace of prefixes and past answers) comes from the
layer that checked the caller, never from the request's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.serve.http.errors import model_not_found
from miaotui.serve.middleware.keys import ANYONE, Caller
from miaotui.serve.served_model import ServedModel
from miaotui.serve.settings import ServeSettings

CALLER, ARRIVAL = "miaotui.caller", "miaotui.arrival"  # keys of an ASGI scope


@dataclass
class ReceivedRequest:
    """A request whose last byte has come. ``arrived_s`` is in `time.perf_counter` seconds."""

    request_id: str
    body: bytes
    arrived_s: float

    def forget(self) -> None:
        """Let the body go: nobody reads it again while the answer is made."""
        self.body = b""


@dataclass
class ServeState:
    """The running server: its models by name, its settings, and what other parts attach to it."""

    hosts: Mapping[str, ServedModel]
    settings: ServeSettings
    extras: dict[str, Any] = field(default_factory=dict)

    def hosted(self, name: str | None) -> ServedModel:
        """The model of that name; the first one for None. Raises `ApiError` (404)."""
        if name is None and self.hosts:
            return next(iter(self.hosts.values()))
        found = None if name is None else self.hosts.get(name)
        if found is None:
            raise model_not_found(name or "", self.hosts)
        return found


def state_of(request: HttpRequest) -> ServeState:
    """The server's state."""
    state: ServeState = request.app.state.serve
    return state


def received(request: HttpRequest) -> ReceivedRequest:
    """The request's body, and when it was complete."""
    arrival: ReceivedRequest = request.scope[ARRIVAL]
    return arrival


def caller_of(request: HttpRequest) -> Caller:
    """Who asks; anyone, where no layer checks."""
    caller: Caller = request.scope.get(CALLER, ANYONE)
    return caller
