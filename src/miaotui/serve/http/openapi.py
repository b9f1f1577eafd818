"""The OpenAPI document and a page that shows it, both made from the table of routes.

Owns the translation of `Endpoint` rows and pydantic models into OpenAPI 3.1, and the page, which
needs nothing from elsewhere. Knows no handler. Invariant: what is served is described, since both
come from the same rows. Source: the OpenAPI Specification 3.1.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import json_response
from miaotui.serve.http.routing import Endpoint, Model
from miaotui.serve.wire.fields import ErrorBody, SamplingFields
from miaotui.types import MAX_DEADLINE_MS, ON_LATE

PAGE = Path(__file__).with_name("docs.html")
_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is wrong; `error.param` names the field.",
    "401": "An API key is needed, or it is not known here.",
    "404": "There is no such model or object here.",
    "405": "The route does not take that method.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is of a type that the route does not take.",
    "429": "Refused for now: the deadline cannot be met, or the key's limit is reached.",
    "500": "The server failed on this request.",
    "503": "Too much to do, or about to stop: try again after `Retry-After` seconds.",
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    models = {m for e in endpoints for m in (e.body, e.answer, e.chunk) if m is not None}
    ordered = sorted(models | {ErrorBody}, key=lambda model: model.__name__)
    names, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r":\w+}", "}", endpoint.path)
        operation = _operation(endpoint, {model: names[model, "validation"] for model in ordered})
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "miaotui",
            "version": version("miaotui"),
            "description": "Language models with a promise of time, in OpenAI's forms.",
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def routes(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return ``/openapi.json`` and ``/docs`` for these routes and themselves."""
    page, made = PAGE.read_bytes(), list[Response]()

    async def show_document(http: HttpRequest) -> Response:
        if not made:  # it takes a while to make, and few servers are asked for it
            made.append(await asyncio.to_thread(lambda: json_response(document([*endpoints, *own]))))
        return made[0]

    async def show_page(http: HttpRequest) -> Response:
        headers = {"Content-Security-Policy": _policy(page)}
        return Response(page, headers=headers, media_type="text/html")

    own = [
        Endpoint("/openapi.json", "GET", show_document, "Describe this server's routes"),
        Endpoint("/docs", "GET", show_page, "The same as a page", media_type="text/html"),
    ]
    return own


def _operation(endpoint: Endpoint, names: Mapping[Model, Mapping[str, Any]]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in endpoint.parameters.items()
    ]
    if endpoint.body is not None and issubclass(endpoint.body, SamplingFields):
        parameters += _deadline_headers()
    words = re.findall(r"\w+", f"{endpoint.method.lower()} {endpoint.path}")
    operation: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": endpoint.summary,
        "responses": _responses(endpoint, names),
        "security": [{}] if endpoint.open else [{"key": []}, {}],
    }
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {endpoint.body_media_type: {"schema": names[endpoint.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(endpoint: Endpoint, names: Mapping[Model, Mapping[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.answer is not None:
        content["application/json"] = {"schema": names[endpoint.answer]}
    elif endpoint.media_type == "application/json":
        content["application/json"] = {"schema": {"type": "object"}}
    else:
        content[endpoint.media_type] = {"schema": {"type": "string"}}
    if endpoint.chunk is not None:
        chunk = names[endpoint.chunk]["$ref"].rsplit("/", 1)[-1]
        text = f"With `stream`: server-sent events of {chunk}, then `data: [DONE]`."
        content["text/event-stream"] = {"schema": {"type": "string", "description": text}}
    problem = {"application/json": {"schema": names[ErrorBody]}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status, text in _ERRORS.items():
        responses[status] = {"description": text, "content": problem}
    return responses


def _deadline_headers() -> list[dict[str, Any]]:
    number = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE_MS}
    texts = {
        "x-deadline-ms": "Milliseconds for the whole answer, unless the body has `deadline_ms`.",
        "x-slo-ttft-ms": "Milliseconds until the first token.",
        "x-slo-tpot-ms": "Milliseconds for each token after it.",
    }
    headers: list[dict[str, Any]] = [
        {"name": name, "in": "header", "description": text, "schema": number} for name, text in texts.items()
    ]
    words = {"type": "string", "enum": list(ON_LATE)}
    late = "What to do when the time does not suffice, unless the body has `on_late`."
    return [*headers, {"name": "x-on-late", "in": "header", "description": late, "schema": words}]


def _policy(page: bytes) -> str:
    """Return a content security policy: the page may run its own script and ask this server, and nothing else."""
    script = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in script)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
