"""The table of routes, from which the router and the OpenAPI document are made.

Owns one row's shape: what a path takes and gives. Knows no handler. Invariant: a route that is served is in the
OpenAPI document, since both come from the same row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[HttpRequest], Awaitable[Response]]
Model = type[BaseModel]


@dataclass(frozen=True)
class Endpoint:
    """One method of one path; ``answer`` and ``chunk`` describe what it gives, whole or streamed."""

    path: str  # in Starlette's notation
    method: str
    handler: Handler
    summary: str
    body: Model | None = None
    answer: Model | None = None
    chunk: Model | None = None  # of a stream of server-sent events
    media_type: str = "application/json"
    body_media_type: str = "application/json"
    open: bool = False  # answered without an API key
    parameters: Mapping[str, str] = field(default_factory=dict)  # of the path: what they are

    def route(self) -> Route:
        """Return the row as Starlette routes it."""
        return Route(self.path, self.handler, methods=[self.method])
