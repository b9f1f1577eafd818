"""The application: every route and every layer of the server, put together.

Owns the order of layers and the list of modules that have routes. Knows neither models nor sockets.
Invariant: whatever a client sends, the answer is one of the shapes in the OpenAPI page, with a
request id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Lifespan

from miaotui.errors import MiaotuiError
from miaotui.serve.anthropic import messages as anthropic
from miaotui.serve.anthropic.errors import response_to
from miaotui.serve.documents import answers, indexes, support
from miaotui.serve.http import openapi
from miaotui.serve.http.errors import ApiError, from_error
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.body import BodyReader
from miaotui.serve.openai import chat, completions
from miaotui.serve.openai import models as listings
from miaotui.serve.openai.responses import routes as responses
from miaotui.serve.ops import monitor
from miaotui.serve.served_model import ServedModel
from miaotui.serve.services import ServeState, received
from miaotui.serve.settings import ServeSettings

ROUTES: tuple[Callable[[], Sequence[Endpoint]], ...] = (
    chat.routes,
    completions.routes,
    anthropic.routes,
    responses.routes,
    indexes.routes,
    answers.routes,
    support.routes,
    listings.routes,
    monitor.routes,
)


def create_app(
    hosts: Mapping[str, ServedModel],
    settings: ServeSettings,
    *,
    layers: Sequence[Middleware] = (),
    extras: Mapping[str, Any] | None = None,
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """The server's application for models by name.

    ``layers`` go around the routes, outermost first, before a body is read; ``extras`` is what
    parts find in `ServeState.extras`. ``hosts`` may be filled later.
    """
    endpoints = [endpoint for routes in ROUTES for endpoint in routes()]
    if settings.docs:
        endpoints += openapi.routes(endpoints)
    app = Starlette(
        routes=[endpoint.route() for endpoint in endpoints],
        middleware=[*layers, Middleware(BodyReader, settings=settings)],
        exception_handlers={ApiError: _on_error, MiaotuiError: _on_error, HTTPException: _on_error},
        lifespan=lifespan,
    )
    app.state.serve = ServeState(hosts, settings, dict(extras or {}))
    app.router.redirect_slashes = False
    return app


async def _on_error(http: HttpRequest, error: Exception) -> Response:
    request_id = received(http).request_id
    return response_to(from_error(error, request_id), http.url.path, request_id)
