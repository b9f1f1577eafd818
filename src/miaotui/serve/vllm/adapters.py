"""vLLM's routes for adapters: ``/v1/load_lora_adapter``, ``/v1/unload_lora_adapter``.

Owns their bodies and answers. Knows no adapter. Invariant: clients change what is loaded only where the operator allows
it (``--allow-adapters``), or with an administrator's key, since a path names a file of the server's computer. Source:
vLLM's documentation, "LoRA Adapters", dynamic serving.
"""

from __future__ import annotations

import asyncio

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from miaotui.errors import ModelError
from miaotui.serve.adapters import load_adapter
from miaotui.serve.http.bodies import ignored_fields, read_body
from miaotui.serve.http.errors import ApiError, bad_value, model_not_found
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, whole_services_of
from miaotui.serve.services import Services
from miaotui.serve.wire.fields import Name, Wire


class LoadAdapterRequest(Wire):
    """An adapter to load."""

    lora_name: Name
    lora_path: str = Field(min_length=1, max_length=4096, description="A folder of PEFT's, or a GGUF file.")
    base_model_name: Name | None = Field(None, description="The model that it changes; without it the first one.")


class UnloadAdapterRequest(Wire):
    """An adapter to unload."""

    lora_name: Name


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    text = "text/plain"
    return [
        Endpoint(
            "/v1/load_lora_adapter", "POST", load, "Load an adapter (vLLM)", body=LoadAdapterRequest, media_type=text
        ),
        Endpoint(
            "/v1/unload_lora_adapter",
            "POST",
            unload,
            "Unload an adapter (vLLM)",
            body=UnloadAdapterRequest,
            media_type=text,
        ),
    ]


async def load(http: HttpRequest) -> Response:
    """Load an adapter, which requests then choose by its name. Raises `ApiError`, and what loading raises."""
    body, services = await read_body(received(http).body, LoadAdapterRequest), whole_services_of(http)
    _require_allowed(http, services)
    model = services.models.find(body.base_model_name)
    if model.parent is not None:
        raise model_not_found(model.name, services.models)
    taken = {*services.encoders, *(each.name for each in services.models.all())}
    try:
        await asyncio.to_thread(load_adapter, model, body.lora_name, body.lora_path, taken)
    except ModelError as error:
        raise bad_value("lora_path", str(error)) from error
    text = f"Success: LoRA adapter '{body.lora_name}' added successfully."
    return PlainTextResponse(text, headers=ignored_fields(body))


async def unload(http: HttpRequest) -> Response:
    """Take an adapter away; requests that use it are answered to their end. Raises `ApiError` (403, 404)."""
    body, services = await read_body(received(http).body, UnloadAdapterRequest), whole_services_of(http)
    _require_allowed(http, services)
    found = services.models.adapters().get(body.lora_name)
    if found is None:
        raise model_not_found(body.lora_name, services.models.adapters())
    await asyncio.to_thread(found.loop.adapters.unload, body.lora_name)
    text = f"Success: LoRA adapter '{body.lora_name}' removed successfully."
    return PlainTextResponse(text, headers=ignored_fields(body))


def _require_allowed(http: HttpRequest, services: Services) -> None:
    caller = caller_of(http)
    allowed = services.settings.allow_adapters and not caller.allowance.is_tenant  # it would be another's adapter too
    if not allowed and not caller.is_admin:
        raise ApiError(
            403,
            "clients may not change the adapters of this server: use an administrator's key, or start it with "
            "--adapter NAME=PATH or --allow-adapters",
            code="adapters_not_allowed",
        )
