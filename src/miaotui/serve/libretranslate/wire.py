"""Requests on LibreTranslate's routes, and the shape of errors there.

Owns their names. Knows no translations.
"""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from miaotui.serve.http.bodies import json_response
from miaotui.serve.http.errors import ApiError
from miaotui.serve.tasks.written_wire import WrittenFields

PATHS = frozenset({"/translate", "/detect", "/languages"})


class LibreFields(WrittenFields):
    """Fields of ours beside LibreTranslate's."""

    api_key: str | None = Field(None, description="Not used: keys are in the `Authorization` header.")


class DetectRequest(LibreFields):
    """Text whose language is asked for."""

    q: str | list[str]


class TranslateRequest(DetectRequest):
    """Texts to translate."""

    source: str = Field(description="A code of /languages, or `auto`.")
    target: str
    format: str | None = Field(None, description="`text` or `html`.")
    alternatives: int | str | None = Field(None, description="How many other translations, at most 3.")


def error_response(error: ApiError) -> Response:
    """Return an error as LibreTranslate's clients read it."""
    return json_response({"error": error.message}, error.status, error.headers)
