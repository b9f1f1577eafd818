"""Values that the layers around the routes leave in a request's ASGI scope: its caller and its body.

Owns their keys and the functions that read them. Knows no layer, no service and no route. Invariant: what belongs to
one caller (its namespace of prefixes and past answers) comes from the layer that checked the caller, never from the
request's own text.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request as HttpRequest

from miaotui.serve.middleware.keys import ANYONE, Caller

CALLER, RECEIVED = "miaotui.caller", "miaotui.received"  # keys of an ASGI scope


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
