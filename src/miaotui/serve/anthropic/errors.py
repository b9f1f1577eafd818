"""Errors on Anthropic's routes in Anthropic's shape: ``{"type": "error", "error": {…}}``.

Owns that shape, and which routes it is for. Knows no handler. Invariant: the same error has the
same status and headers in both shapes. Source: Anthropic's API reference, "Errors".
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from miaotui.serve.http.bodies import json_response
from miaotui.serve.http.errors import ApiError

PREFIX = "/v1/messages"
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def response_to(error: ApiError, path: str, request_id: str) -> Response:
    """Return the response to an error on the route at ``path``, in the shape that its clients know."""
    if path != PREFIX and not path.startswith(PREFIX + "/"):
        return json_response({"error": error.body}, error.status, error.headers)
    return json_response(shaped(error, request_id), error.status, error.headers)


def shaped(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body of an error; what has no place in Anthropic's shape comes along."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    more = {name: value for name, value in error.body.items() if value is not None}
    body = {**more, "type": kind, "message": error.message}
    return {"type": "error", "error": body, "request_id": request_id}
