"""Items of the Responses API as this project's messages.

Owns their translation. Knows no template and no engine. Invariant: an item that cannot be said in
text is refused by name, never left out. Source: OpenAI's API reference, "Responses".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.engine.grammar.response_format import read_format, schema_format
from miaotui.engine.grammar.source import Grammar
from miaotui.serve.http.errors import bad_value
from miaotui.serve.openai.responses.wire import ResponsesRequest
from miaotui.serve.wire.fields import Json, JsonMessage
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.text.tool_calls.tooling import Tooling, read_choice, read_function, tooling_of

_TEXTS = ("input_text", "output_text", "text")
_ROLES = ("user", "system", "developer", "assistant")


def read_tools(dialect: Dialect, body: ResponsesRequest) -> Tooling:
    """Tools and the choice among them. Raises `ApiError` (400)."""
    tools = []
    for at, tool in enumerate(body.tools or ()):
        kind = tool.get("type")
        if kind != "function":
            raise bad_value(f"tools[{at}].type", f"must be 'function', not {str(kind)[:64]!r}")
        tools.append(read_function(tool, f"tools[{at}]"))
    return tooling_of(dialect, tuple(tools), read_choice(body.tool_choice), body.parallel_tool_calls)


def read_text(text: Json | None) -> Grammar | None:
    """Read the format in ``text``. Raises `ApiError` (400)."""
    format_ = (text or {}).get("format")
    if format_ is None:
        return None
    if not isinstance(format_, Mapping):
        raise bad_value("text.format", "must be an object with a type")
    if format_.get("type") == "json_schema":
        return schema_format(format_, "text.format")
    return read_format(format_)


def read_input(value: str | Sequence[Json]) -> list[JsonMessage]:
    """Read the messages of an ``input``. Raises `ApiError` (400)."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    said: list[JsonMessage] = []
    thought = ""
    for at, item in enumerate(value):
        where = f"input[{at}]"
        kind = item.get("type", "message")
        if kind == "message":
            said.append(_with_thought(_message(item, where), thought))
        elif kind == "function_call":
            _add_call(said, item, where)
            said[-1] = _with_thought(said[-1], thought)
        elif kind == "function_call_output":
            output = _text(item.get("output"), f"{where}.output")
            said.append({"role": "tool", "tool_call_id": _name(item, "call_id", where), "content": output})
        elif kind != "reasoning":
            raise bad_value(f"{where}.type", f"{str(kind)[:64]!r} is not understood here")
        thought = _thought(item, where) if kind == "reasoning" else ""
    if not said:
        raise bad_value("input", "must hold at least one message")
    return said


def said_in(output: Sequence[Json]) -> list[JsonMessage]:
    """Return an earlier answer as messages."""
    return read_input(output) if output else []


def read_effort(reasoning: Json | None) -> dict[str, bool]:
    """Return the template's options for ``reasoning``. Raises `ApiError` (400)."""
    effort = (reasoning or {}).get("effort")
    if effort is None:
        return {}
    if not isinstance(effort, str):
        raise bad_value("reasoning.effort", "must be a word such as 'none', 'low' or 'high'")
    return {"enable_thinking": effort != "none"}


def _thought(item: Json, where: str) -> str:
    """Return the text of an earlier thought; other makers keep theirs secret and give a summary or nothing."""
    parts = item.get("content") or ()
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise bad_value(f"{where}.content", "must be a list of parts")
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "reasoning_text"]
    return "\n".join(text for text in texts if isinstance(text, str))


def _with_thought(message: JsonMessage, thought: str) -> JsonMessage:
    return {**message, "reasoning_content": thought} if thought and message["role"] == "assistant" else message


def _message(item: Json, where: str) -> JsonMessage:
    role = item.get("role")
    if role not in _ROLES:
        raise bad_value(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    return {"role": role, "content": _text(item.get("content"), f"{where}.content")}


def _add_call(said: list[JsonMessage], item: Json, where: str) -> None:
    """Add a call to the assistant's message before it."""
    arguments = item.get("arguments")
    if not isinstance(arguments, str):
        raise bad_value(f"{where}.arguments", "must be JSON as text")
    function = {"name": _name(item, "name", where), "arguments": arguments}
    call = {"id": _name(item, "call_id", where), "type": "function", "function": function}
    if not said or said[-1]["role"] != "assistant":
        said.append({"role": "assistant", "content": ""})
    said[-1].setdefault("tool_calls", []).append(call)


def _name(item: Json, field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str) or not value or len(value) > 512:
        raise bad_value(f"{where}.{field}", "must be a text of 1 to 512 characters")
    return value


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise bad_value(where, "must be text or a list of parts")
    texts = []
    for at, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str) or part.get("type") not in _TEXTS:
            raise bad_value(f"{where}[{at}]", "only parts of the type input_text are understood here")
        texts.append(text)
    return "\n".join(texts)
