"""Tools of one request: the functions that its answer may call, and which of them it must.

Owns the checks of OpenAI's ``tools`` and ``tool_choice``. Knows no grammar library, no engine and no HTTP. Invariant:
names and sizes of tools are checked before a prompt or a grammar is made of them.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaotui.errors import FieldError
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.text.tool_calls.formats import AnyFormat, Tool
from miaotui.text.tool_calls.parser import ToolCallParser

Json = Mapping[str, Any]
NONE, AUTO, REQUIRED = "none", "auto", "required"
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MAX_DESCRIPTION = 16384
_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Tooling:
    """Tools that an answer may call. ``choice`` is `AUTO`, `REQUIRED` or one function's name."""

    dialect: Dialect
    tools: tuple[Tool, ...] = ()
    choice: str = AUTO
    several: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Return the tools that this answer may call."""
        if self.choice in (AUTO, REQUIRED):
            return self.tools
        return tuple(tool for tool in self.tools if tool.name == self.choice)

    @property
    def described(self) -> list[Json]:
        """Return the tools in OpenAI's form, as prompts describe them."""
        return [tool.as_openai() for tool in self.tools]

    def parser(self) -> ToolCallParser:
        """Return a parser that finds the calls in one answer."""
        strings = {tool.name: _string_parameters(tool) for tool in self.tools}
        return ToolCallParser(self.dialect.format, [tool.name for tool in self.tools], strings)


def read_tooling(dialect: Dialect, tools: Sequence[Json] | None, choice: Any, parallel: bool | None) -> Tooling:
    """Check OpenAI's fields. Raises `FieldError`."""
    read = tuple(_read_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools or ()))
    return tooling_of(dialect, read, read_choice(choice), parallel)


def tooling_of(dialect: Dialect, tools: tuple[Tool, ...], choice: str | None, parallel: bool | None) -> Tooling:
    """Join tools and a choice that fit each other. Raises `FieldError`."""
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FieldError("tools", f"the function {twice!r} is there twice")
    if choice == NONE or (not tools and choice in (None, AUTO)):
        return Tooling(dialect)
    if not tools:
        raise FieldError("tool_choice", "needs tools to choose from")
    chosen = choice or AUTO
    if chosen not in (AUTO, REQUIRED, *names):
        raise FieldError("tool_choice", f"there is no function {chosen[:64]!r} in tools")
    return Tooling(dialect, tools, chosen, parallel is not False)


def read_choice(choice: Any) -> str | None:
    """Read OpenAI's ``tool_choice``: a word, or an object that names a function. Raises `FieldError`."""
    if choice is None or choice in (NONE, AUTO, REQUIRED):
        return choice if isinstance(choice, str) else None
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if isinstance(name, str):
            return name
    raise FieldError(
        "tool_choice", 'must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}'
    )


def _read_tool(tool: Json, where: str) -> Tool:
    if tool.get("type") != "function":
        raise FieldError(f"{where}.type", f"must be 'function', not {str(tool.get('type'))[:64]!r}")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise FieldError(f"{where}.function", "must be an object with a name")
    return read_function(function, f"{where}.function")


def read_function(function: Json, where: str, schema: str = "parameters") -> Tool:
    """Read a function's name, description and schema. Raises `FieldError`."""
    name = function.get("name")
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise FieldError(f"{where}.name", "must be 1 to 128 letters, digits, '_', '-', '.' or ':'")
    description = function.get("description") or ""
    if not isinstance(description, str) or len(description) > _MAX_DESCRIPTION:
        raise FieldError(f"{where}.description", f"must be at most {_MAX_DESCRIPTION} characters")
    parameters = function.get(schema)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise FieldError(f"{where}.{schema}", "must be a JSON schema")
    kind = (parameters or {}).get("type", "object")
    if kind != "object":
        raise FieldError(f"{where}.{schema}.type", "must be 'object'")
    known = dict(parameters) if parameters else {"type": "object", "properties": {}}
    return Tool(name, description, known, bool(function.get("strict")))


def _string_parameters(tool: Tool) -> frozenset[str]:
    """Return the parameters whose values are strings."""
    properties = tool.parameters.get("properties")
    found = properties.items() if isinstance(properties, Mapping) else ()
    return frozenset(name for name, schema in found if isinstance(schema, Mapping) and schema.get("type") == "string")


def call_id(form: AnyFormat, prefix: str = "call_") -> str:
    """Return a new identifier, of the length that the model's template accepts."""
    letters = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(form.id_length))
    return letters if form.id_length < 24 else prefix + letters
