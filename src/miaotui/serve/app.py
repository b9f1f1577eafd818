"""The ASGI application: all routes and the layers around them.

Owns the list of modules that have routes, and the order of layers. Knows neither models nor sockets. Invariant: every
answer has one of the shapes in the OpenAPI document, and a request id, whatever the client sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.errors import MiaotuiError
from miaotui.serve.anthropic import messages as anthropic
from miaotui.serve.anthropic.errors import response_to
from miaotui.serve.cohere import rerank
from miaotui.serve.console import routes as console
from miaotui.serve.correction import routes as correction
from miaotui.serve.documents import answers, indexes, support
from miaotui.serve.http import openapi
from miaotui.serve.http.bodies import BodyReader
from miaotui.serve.http.errors import ApiError, from_error
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.learned import routes as learned
from miaotui.serve.libretranslate import routes as libretranslate
from miaotui.serve.libretranslate.wire import PATHS as LIBRE_PATHS
from miaotui.serve.libretranslate.wire import error_response
from miaotui.serve.llamacpp import infill
from miaotui.serve.middleware.access import received
from miaotui.serve.ollama import listing as ollama_models
from miaotui.serve.ollama import routes as ollama
from miaotui.serve.ollama.wire import error_response as ollama_error
from miaotui.serve.ollama.wire import is_ollamas
from miaotui.serve.openai import audio, chat, completions, embeddings, promise
from miaotui.serve.openai import models as listings
from miaotui.serve.openai.responses import routes as responses
from miaotui.serve.ops import admin, health, metrics
from miaotui.serve.services import Services
from miaotui.serve.speech import live
from miaotui.serve.tasks import decisions, extractions, generations, groups, labels, summaries, translations
from miaotui.serve.tei import routes as tei
from miaotui.serve.tei import tasks as hf_tasks
from miaotui.serve.vllm import adapters
from miaotui.serve.vllm import routes as vllm
from miaotui.text.tool_calls import placement  # noqa: F401  (imported here: no request's time is spent on it)

ROUTES: tuple[Callable[[], Sequence[Endpoint]], ...] = (
    chat.routes,
    completions.routes,
    infill.routes,
    promise.routes,
    anthropic.routes,
    responses.routes,
    embeddings.routes,
    audio.routes,
    rerank.routes,
    tei.routes,
    hf_tasks.routes,
    vllm.routes,
    adapters.routes,
    indexes.routes,
    answers.routes,
    support.routes,
    labels.routes,
    groups.routes,
    decisions.routes,
    summaries.routes,
    translations.routes,
    extractions.routes,
    generations.routes,
    correction.routes,
    libretranslate.routes,
    ollama.routes,
    ollama_models.routes,
    learned.routes,
    listings.routes,
    health.routes,
    metrics.routes,
    admin.routes,
)


def create_app(services: Services, layers: Sequence[Middleware] = ()) -> Starlette:
    """Return the application of a server.

    ``layers`` go around the routes, outermost first, before a body is read. Handlers find ``services`` with
    `services_of`.
    """
    endpoints = [endpoint for routes in ROUTES for endpoint in routes()]
    endpoints += live.routes(services)
    if services.settings.console:
        endpoints += console.routes()
    if services.settings.docs:
        endpoints += openapi.routes(endpoints)
    app = Starlette(
        routes=[*(endpoint.route() for endpoint in endpoints), *live.websocket_routes(services)],
        middleware=[*layers, Middleware(BodyReader, settings=services.settings, answer_to=_answer_to)],
        exception_handlers={ApiError: _on_error, MiaotuiError: _on_error, HTTPException: _on_error},
    )
    app.state.services = services
    app.router.redirect_slashes = False
    return app


async def _on_error(http: HttpRequest, error: Exception) -> Response:
    request_id = received(http).request_id
    return _answer_to(from_error(error, request_id), http.url.path, request_id)


def _answer_to(error: ApiError, path: str, request_id: str) -> Response:
    """Return the response to an error, in the shape that the clients of the route know."""
    if path in LIBRE_PATHS:
        return error_response(error)
    return ollama_error(error) if is_ollamas(path) else response_to(error, path, request_id)
