"""How model families write tool calls, and which of these ways a chat template asks for.

Owns the families as data. Does not parse answers or know grammars. Invariant: in every format a
call is a JSON object with a name and arguments; templates that teach a model something else (XML,
Python) get the generic format, and their own support for tools is left alone.
Sources: the chat templates that Qwen, Hermes, Llama 3, Mistral and Granite are published with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from miaotui.text.templates.chat_template import TOOL_USE, ChatTemplate


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    strict: bool = False

    def as_openai(self) -> dict[str, Any]:
        """As chat templates want it."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": dict(self.parameters)}}


@dataclass(frozen=True)
class CallFormat:
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
        """One call as text."""
        said = json.dumps(dict(arguments), ensure_ascii=False)
        return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{self.key}": {said}}}'


HERMES = CallFormat("<tool_call>", "\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
LLAMA = CallFormat("<|python_tag|>", "", None, "", key="parameters", bare=True)
MISTRAL = CallFormat("[TOOL_CALLS]", "[", ", ", "]", id_length=9)
GRANITE = CallFormat("<|tool_call|>", "[", ", ", "]")
GENERIC = HERMES

_TOOLS = re.compile(r"\btools\b")
_OTHER_WAYS = ("<function=", "<parameter=", "<arg_key>", "[ARGS]")


@dataclass(frozen=True)
class Dialect:
    """The format a model's answers use, and whether its template writes tools and results itself."""

    format: CallFormat
    native: bool


def dialect_of(template: ChatTemplate) -> Dialect:
    """How to ask this model for tool calls."""
    sources = template.sources
    source = sources.get(TOOL_USE) or sources.get("default", "")
    if not _TOOLS.search(source) or any(way in source for way in _OTHER_WAYS):
        return Dialect(GENERIC, native=False)
    for form in (MISTRAL, GRANITE, HERMES):
        if form.begin in source:
            return Dialect(form, native=True)
    if LLAMA.begin in source or '"parameters": ' in source:
        return Dialect(LLAMA, native=True)
    return Dialect(GENERIC, native=False)
