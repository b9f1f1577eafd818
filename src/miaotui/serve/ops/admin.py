"""``/v1/admin``: how a running server is, and what an administrator may change of it.

Owns that route: draining, the log level, the limits of the queue, which encoders are in memory. Knows no model's
insides. Invariants: only a key whose line in the key file says ``admin`` is let in, so a server without keys has no
administrators; each change is in the log and, with the key's name, in the audit log.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve import LOG
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.errors import ApiError, bad_value, model_not_found
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import ADMIN_PATH, caller_of, current, received, whole_services_of
from miaotui.serve.ops.logs import set_level
from miaotui.serve.services import Services
from miaotui.serve.wire.fields import Wire
from miaotui.served_model import ServedModel

MAX_LIMIT = 1 << 40
LogLevel = Literal["debug", "info", "warning", "error"]


class AdminRequest(Wire):
    """Changes of how the server runs; what is left out stays."""

    draining: bool | None = Field(None, description="Refuse new requests with 503, and finish those that run.")
    log_level: LogLevel | None = None
    max_requests: int | None = Field(None, ge=1, le=MAX_LIMIT, description="Requests in line, for each model.")
    max_tokens: int | None = Field(None, ge=1, le=MAX_LIMIT, description="Tokens in line, for each model.")
    loaded: dict[str, bool] | None = Field(None, description="Encoders to load now (true) or to put away, by name.")


class AdminState(Wire):
    """The state of what an administrator may change."""

    draining: bool
    log_level: str
    max_requests: int | None = Field(description="Null: no chat model is served.")
    max_tokens: int | None
    models: list[str]
    loaded: dict[str, bool] = Field(description="For each encoder, whether it is in memory.")


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(ADMIN_PATH, "GET", show, "Tell how the server runs, to an administrator", answer=AdminState),
        Endpoint(
            ADMIN_PATH, "POST", change, "Change how the server runs, as an administrator", AdminRequest, AdminState
        ),
    ]


async def show(http: HttpRequest) -> Response:
    """Answer with the state."""
    _require_admin(http)
    return json_response(_state(whole_services_of(http)))


async def change(http: HttpRequest) -> Response:
    """Make changes, and answer with the state after them."""
    _require_admin(http)
    body = await read_body(received(http).body, AdminRequest)
    services = whole_services_of(http)
    wanted = [(_encoder(services, name), is_wanted) for name, is_wanted in (body.loaded or {}).items()]
    for entry, is_wanted in wanted:
        await (services.encoders.load(entry) if is_wanted else services.encoders.put_away(entry))
    if body.draining is not None:
        services.operations.is_draining = body.draining
    if body.log_level is not None:
        set_level(body.log_level)
    for model in _promising(services):
        admission = model.loop.admission
        admission.limits = replace(
            admission.limits,
            requests=body.max_requests or admission.limits.requests,
            tokens=body.max_tokens or admission.limits.tokens,
        )
    _note(http, body)
    return json_response(_state(services), headers=ignored_fields(body))


def _require_admin(http: HttpRequest) -> None:
    """Raises `ApiError` (403) for a caller that may change nothing."""
    if not caller_of(http).is_admin:
        message = "This needs an administrator's key: `miaotui key NAME --admin` makes one"
        raise ApiError(403, message, kind="permission_error", code="admin_required")


def _encoder(services: Services, name: str) -> EncoderEntry:
    """Return an encoder. Raises `ApiError`: 400 for another model, 404 if there is none of that name."""
    if name in services.encoders:
        return services.encoders[name]
    if name in services.models:
        raise bad_value("loaded", f"{name} is a chat model, which stays in memory")
    raise model_not_found(name, services.encoders)


def _promising(services: Services) -> list[ServedModel]:
    """Return the models whose queue is bounded by what they promise."""
    return [model for model in services.models.values() if model.loop.can_promise]


def _state(services: Services) -> dict[str, Any]:
    limits = next((model.loop.admission.limits for model in _promising(services)), None)
    return {
        "draining": services.operations.is_draining,
        "log_level": logging.getLevelName(logging.getLogger("miaotui").getEffectiveLevel()).lower(),
        "max_requests": None if limits is None else limits.requests,
        "max_tokens": None if limits is None else limits.tokens,
        "models": [*services.models, *services.encoders],
        "loaded": {name: entry.running is not None for name, entry in services.encoders.items()},
    }


def _note(http: HttpRequest, body: AdminRequest) -> None:
    names = ("draining", "log_level", "max_requests", "max_tokens")
    changes = {name: value for name in names if (value := getattr(body, name)) is not None}
    changes |= {name: "loaded" if is_wanted else "put away" for name, is_wanted in (body.loaded or {}).items()}
    text = ", ".join(f"{name}={value}" for name, value in changes.items())
    account = current()
    if account is not None:
        account.change = text
    LOG.warning("the administrator %s changed %s", caller_of(http).name, text or "nothing")
