"""Formats in which model families write tool calls.

Owns the formats as data. Does not parse answers, and knows no templates or grammars. Invariant: in a `CallFormat` a
call is a JSON object with a name and arguments; those of other families are in `tagged`, and models whose form is none
of these are asked for the generic format.
Sources: the chat templates that Qwen, Hermes, Llama 3, Mistral, Granite, Phi-4-mini, Hunyuan, Nemotron and Command R7B
are published with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from miaotui.text.tool_calls.tagged import TAGGED, TaggedFormat


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
    name_key: str = "name"

    @property
    def marker_texts(self) -> tuple[str, ...]:
        """Return every text that may hold control tokens."""
        return self.begin, self.open, self.close

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return one call as text."""
        said = json.dumps(dict(arguments), ensure_ascii=False)
        return f'{{"{self.name_key}": {json.dumps(name, ensure_ascii=False)}, "{self.key}": {said}}}'


AnyFormat = CallFormat | TaggedFormat

HERMES = CallFormat("<tool_call>", "\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
LLAMA = CallFormat("<|python_tag|>", "", None, "", key="parameters", bare=True)
MISTRAL = CallFormat("[TOOL_CALLS]", "[", ", ", "]", id_length=9)
GRANITE = CallFormat("<|tool_call|>", "[", ", ", "]")
PHI4 = CallFormat("<|tool_call|>", "[", ", ", "]<|/tool_call|>")
TOOL_CALLS = CallFormat("<tool_calls>", "[", ", ", "]</tool_calls>")
NEMOTRON = CallFormat("<TOOLCALL>", "[", ", ", "]</TOOLCALL>")
COMMAND_R = CallFormat(
    "<|START_ACTION|>", "[\n    ", ",\n    ", "\n]<|END_ACTION|>", "parameters", name_key="tool_name"
)
GENERIC = HERMES
OBJECTS = (MISTRAL, GRANITE, HERMES, LLAMA, PHI4, TOOL_CALLS, NEMOTRON, COMMAND_R)
FORMATS: tuple[AnyFormat, ...] = (*OBJECTS, *TAGGED)
