"""Fields that requests to encoders share: the model, truncation, deadlines; and texts in the forms that clients send.

Owns their names, ranges and bounds. Knows no model. Invariant: null is as good as absent.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from miaotui.encoders.inputs import ReadOptions
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import MAX_PROMPT_TOKENS, MAX_TOKENS, Name, Wire
from miaotui.types import MAX_DEADLINE_MS, OnLate

MAX_LISTED = 1 << 16  # items of a list before they are counted against the route's own limit


class EncoderFields(Wire):
    """Fields of every request to an encoder."""

    model: Name | None = Field(None, description="A name that /v1/models lists; needed where several models fit.")
    user: Name | None = None
    truncate: bool | str | None = Field(
        None,
        description="Cut inputs that are too long at their end; the answer tells how many tokens each lost. "
        "Without, they are refused. Cohere's words `NONE` and `END` are taken too.",
    )
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, le=MAX_TOKENS, description="vLLM's: cut inputs to so many tokens; -1: to the model's limit."
    )
    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE_MS,
        allow_inf_nan=False,
        description="Milliseconds from the request's last byte to the answer's last byte.",
    )
    on_late: OnLate | None = Field(
        None, description="What to do when the deadline cannot be met: refuse (429), or answer late (best_effort)."
    )

    def reading(self, field: str, max_tokens: int | None = None) -> ReadOptions:
        """Return how inputs are read; ``field`` names them in errors. Raises `ApiError` (400)."""
        cut = self.truncate_prompt_tokens
        limit = max_tokens if cut in (None, -1) else cut
        truncates = self.truncates or cut is not None or max_tokens is not None
        return ReadOptions(field, truncate=truncates, max_tokens=limit)

    @property
    def truncates(self) -> bool:
        """Return whether inputs may be cut at their end. Raises `ApiError` (400)."""
        asked = self.truncate
        if not isinstance(asked, str):
            return bool(asked)
        if asked.upper() not in ("NONE", "END", "RIGHT"):
            raise bad_value("truncate", "must be true, false, NONE or END: inputs are cut at their end alone")
        return asked.upper() != "NONE"


def read_flag(value: Any) -> Any:
    """Return a flag that was sent as a word, as RAGFlow does, as one; anything else as it is."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(read_flag)]


def read_inputs(value: Any) -> list[str] | list[list[int]]:
    """Return a text, texts, token ids, or lists of token ids, as a list. Raises `ValueError`."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be text, token ids, or a list of one of them, and not empty")
    if len(value) > max(MAX_LISTED, MAX_PROMPT_TOKENS):
        raise ValueError("holds too many items")
    kinds = set(map(type, value))
    if kinds == {int}:
        return [_token_ids(value)]
    if kinds == {str}:
        return value
    if kinds != {list}:
        raise ValueError("must be text, token ids, or a list of one of them")
    if sum(map(len, value)) > MAX_PROMPT_TOKENS:
        raise ValueError(f"must hold at most {MAX_PROMPT_TOKENS:,} tokens")
    return [_token_ids(each) for each in value]


def read_string_list(value: Any) -> list[str]:
    """Return a text or a list of texts as a list. Raises `ValueError`."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ValueError("must be a text or a list of texts")
    return given


def _token_ids(value: list[Any]) -> list[int]:
    if not value or set(map(type, value)) != {int} or min(value) < 0 or max(value) >= 2**31:
        raise ValueError("token ids must be a list of integers in [0, 2**31) that is not empty")
    return value


_token_id_list = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_text_list = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Inputs = Annotated[
    list[str] | list[list[int]],
    PlainValidator(read_inputs),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _text_list,
                _token_id_list,
                {"type": "array", "items": _token_id_list, "minItems": 1},
            ]
        }
    ),
]
Texts = Annotated[
    list[str], PlainValidator(read_string_list), WithJsonSchema({"anyOf": [{"type": "string"}, _text_list]})
]
