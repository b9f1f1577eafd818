"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}``.

Owns the translation of every error of ours into a status, headers and that body. Knows no route. Invariant: an
unexpected error tells the client nothing but the request's id; the rest is in the log.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from miaotui.errors import (
    ConversationMissingError,
    DeadlineUnattainableError,
    DocumentIndexError,
    FieldError,
    IndexBusyError,
    IndexMissingError,
    MiaotuiError,
    OverloadedError,
    PromptTooLongError,
    QuotaError,
    RequestError,
    TemplateError,
)
from miaotui.serve import LOG
from miaotui.types import SamplingParams

INVALID, SERVER = "invalid_request_error", "server_error"
RATE = "rate_limit_error"
_FIELDS = {"messages", "chat_template_kwargs", "tools", *SamplingParams.__dataclass_fields__}
_TAGS = {"str", "int", "float", "bool", "dict", "list", "none", "is-instance", "function-plain"}


class ApiError(Exception):
    """An answer that is an error: its status, its body's members, and extra headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.message, self.code = message, code
        self.body: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code, **more}


def model_not_found(name: str, known: Iterable[str]) -> ApiError:
    """Return a 404 for a model that is not served here."""
    names = ", ".join(sorted(known)) or "none"
    message = f"The model {name[:200]!r} does not exist here. Models: {names}"
    return ApiError(404, message, param="model", code="model_not_found")


def bad_value(param: str, message: str) -> ApiError:
    """Return a 400 for a field whose value is wrong."""
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")


def context_exceeded(param: str, message: str) -> ApiError:
    """Return a 400 for a prompt that is too long for the model."""
    return ApiError(400, message, param=param, code="context_length_exceeded")


def from_validation(error: ValidationError) -> ApiError:
    """Return a 400 that names the first field that is wrong, and what was expected."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = [each for each in problems if each["loc"][:1] == problems[0]["loc"][:1]]
    problem = max(first, key=lambda each: len(each["loc"]))  # of a union, the closest member
    param = _param(problem["loc"])
    missing = problem["type"] == "missing"
    code = "missing_required_parameter" if missing else "invalid_value"
    message = problem["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param or 'body'}: {message}", param=param, code=code)


def _param(loc: Iterable[int | str]) -> str | None:
    """Return a path such as ``messages[0].content``, without pydantic's names for members of unions."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z][a-z0-9_]{0,63}", part) and part not in _TAGS:
            path += f".{part}" if path else part
    return path or None


def from_error(error: Exception, request_id: str = "") -> ApiError:
    """Return what to answer for any exception, and log what is not the client's doing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return from_validation(error)
    if isinstance(error, HTTPException):
        return _from_http(error)
    if isinstance(error, (DocumentIndexError, ConversationMissingError)):
        return _from_documents(error)
    if isinstance(error, MiaotuiError):
        known = _from_known(error)
        if known is not None:
            return known
    LOG.error("request %s failed", request_id, exc_info=error)
    message = "The server failed on this request; it is in the server's log under its request id"
    return ApiError(500, message, kind=SERVER, code="internal_error", request_id=request_id)


def _from_known(error: MiaotuiError) -> ApiError | None:
    message = str(error)
    if isinstance(error, PromptTooLongError):
        # Clients know this mistake by these words.
        text = f"This model's maximum context length is exceeded: {message}"
        return context_exceeded(error.field if isinstance(error, FieldError) else "messages", text)
    if isinstance(error, RequestError):
        return _from_request(error, message)
    if isinstance(error, TemplateError):
        return ApiError(400, message, param="messages", code="chat_template")
    if isinstance(error, DeadlineUnattainableError):
        return ApiError(
            429,
            message,
            kind=RATE,
            code="deadline_unattainable",
            headers=_retry(error.retry_after_s),
            predicted_ms=round(error.predicted_ms, 1),
        )
    if isinstance(error, OverloadedError):
        headers = _retry(error.retry_after_s)
        return ApiError(503, message, kind=SERVER, code="overloaded", headers=headers)
    return None


def _from_request(error: RequestError, message: str) -> ApiError:
    if isinstance(error, QuotaError):
        return ApiError(403, message, kind="permission_error", code="quota_exceeded")
    param = error.field if isinstance(error, FieldError) else _named(message)
    return ApiError(400, message, param=param, code="invalid_value")


def _from_documents(error: DocumentIndexError | ConversationMissingError) -> ApiError:
    if isinstance(error, IndexMissingError):
        return ApiError(404, str(error), param="name", code="index_not_found")
    if isinstance(error, ConversationMissingError):
        return ApiError(404, str(error), param="id", code="conversation_not_found")
    if isinstance(error, IndexBusyError):
        return ApiError(409, "The index is being written by another process", code="index_busy")
    LOG.error("an index cannot be used: %s", error)
    message = "The index cannot be used now; the server's operator must see to it"
    return ApiError(503, message, kind=SERVER, code="index_unavailable")


def _named(message: str) -> str | None:
    """Return the field that a message of ours begins with."""
    match = re.match(r"([a-z_]+)(\[\d+\])*", message)
    return match.group() if match and match[1] in _FIELDS else None


def _retry(after_s: float) -> dict[str, str]:
    """Return both headers: OpenAI's clients prefer the milliseconds, the standard header has whole seconds."""
    sound = after_s if math.isfinite(after_s) and after_s > 0 else 1.0
    return {"Retry-After": str(math.ceil(sound)), "retry-after-ms": str(math.ceil(sound * 1000))}


def _from_http(error: HTTPException) -> ApiError:
    texts = {404: "There is no such route here", 405: "This route does not take that method"}
    message = texts.get(error.status_code, error.detail)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code)
    return ApiError(error.status_code, message, code=code, headers=error.headers)
