"""Formats in which model families write tool calls.

Owns the formats as data. Does not parse answers, and knows no templates or grammars. Invariant: in every
format a call is a JSON object with a name and arguments; models that are taught something else (XML,
Python) are asked for the generic format.
Sources: the chat templates that Qwen, Hermes, Llama 3, Mistral and Granite are published with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    strict: bool = False

    def as_openai(self) -> dict[str, Any]:
        """Return the tool in the form that chat templates expect."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": dict(self.parameters)}}


class CallFormat(NamedTuple):
    """``begin`` ``open`` call (``again`` call)* ``close``; a call is ``{"name": …, key: {…}}``.

    ``begin`` is the marker that tells calls from text. ``bare``: calls may also come without it,
    if the answer starts with one. ``again`` is None where one answer holds one call.
    """

    begin: str
    open: str
    again: str | None
    close: str
    key: str = "arguments"
    bare: bool = False
    id_length: int = 24  # some templates refuse identifiers of other lengths

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return one call as text."""
        said = json.dumps(dict(arguments), ensure_ascii=False)
        return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{self.key}": {said}}}'


HERMES = CallFormat("<tool_call>", "\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
LLAMA = CallFormat("<|python_tag|>", "", None, "", key="parameters", bare=True)
MISTRAL = CallFormat("[TOOL_CALLS]", "[", ", ", "]", id_length=9)
GRANITE = CallFormat("<|tool_call|>", "[", ", ", "]")
GENERIC = HERMES
FORMATS = (HERMES, LLAMA, MISTRAL, GRANITE)
