"""Anthropic's conversations as this project's messages and tools.

Owns the translation of content blocks. Knows no template and no engine. Invariant: a block that
cannot be said in text is refused by name, never left out. Source: Anthropic's API reference,
"Messages" and "Tool use".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.serve.anthropic.wire import Block, MessagesBody, MessageTurn
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import JsonMessage
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.text.tool_calls.tooling import AUTO, NONE, REQUIRED, Tooling, read_function, tooling_of

_REDACTED = "redacted_thinking"  # of earlier answers of other models: not to be read
_CHOICES = {"auto": AUTO, "any": REQUIRED, "none": NONE}


def read_tools(dialect: Dialect, body: MessagesBody) -> Tooling:
    """Tools and the choice among them. Raises `ApiError` (400)."""
    tools = []
    for at, tool in enumerate(body.tools or ()):
        kind = tool.get("type")
        if kind not in (None, "custom"):
            raise bad_value(f"tools[{at}].type", f"{str(kind)[:64]!r} is not to be had here")
        tools.append(read_function(tool, f"tools[{at}]", "input_schema"))
    choice = body.tool_choice or {}
    kind = choice.get("type", "auto")
    name = choice.get("name") if kind == "tool" else _CHOICES.get(str(kind))
    if not isinstance(name, str):
        raise bad_value("tool_choice", "must have the type auto, any, none, or tool with a name")
    several = not choice.get("disable_parallel_tool_use", False)
    return tooling_of(dialect, tuple(tools), name if tools or body.tool_choice else None, several)


def read_thinking(body: MessagesBody) -> tuple[dict[str, bool], int | None]:
    """Return the template's options for ``thinking``, and the thought's budget in tokens. Raises `ApiError` (400)."""
    thinking = body.thinking or {}
    kind, budget = thinking.get("type", "adaptive"), thinking.get("budget_tokens")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise bad_value("thinking.type", "must be 'enabled', 'adaptive' or 'disabled'")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
        raise bad_value("thinking.budget_tokens", "must be a whole number from 0 on")
    if kind == "adaptive":
        return {}, budget
    return {"enable_thinking": kind == "enabled"}, budget if kind == "enabled" else 0


def read_messages(body: MessagesBody) -> tuple[list[JsonMessage], str]:
    """Messages in OpenAI's form, and the beginning of the answer if the last message is one."""
    said: list[JsonMessage] = []
    if body.system:
        said.append({"role": "system", "content": _text(body.system, "system")})
    for at, turn in enumerate(body.messages):
        said += _turn(turn, f"messages[{at}]")
    last = said[-1] if said else {}
    if last.get("role") == "assistant" and not last.get("tool_calls") and len(said) > 1:
        return said[:-1], str(last["content"] or "").rstrip()
    return said, ""


def _turn(turn: MessageTurn, where: str) -> list[JsonMessage]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    where = f"{where}.content"
    if turn.role == "assistant":
        return [_assistant(turn.content, where)]
    said: list[JsonMessage] = []
    texts: list[str] = []
    for at, block in enumerate(turn.content):
        if block.type == "tool_result":
            said.append(_result(block, f"{where}[{at}]"))
        else:
            texts.append(_block(block, f"{where}[{at}]"))
    if texts or not said:
        said.append({"role": turn.role, "content": "\n".join(texts)})
    return said


def _assistant(blocks: Sequence[Block], where: str) -> JsonMessage:
    texts, thoughts, calls = [], [], []
    for at, block in enumerate(blocks):
        if block.type == "tool_use":
            if block.name is None:
                raise bad_value(f"{where}[{at}].name", "must be the name of a tool")
            function = {"name": block.name, "arguments": block.input or {}}
            calls.append({"id": block.id or "", "type": "function", "function": function})
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != _REDACTED:
            texts.append(_block(block, f"{where}[{at}]"))
    said: JsonMessage = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        said["reasoning_content"] = "\n".join(thoughts)
    return {**said, "tool_calls": calls} if calls else said


def _result(block: Block, where: str) -> JsonMessage:
    content = block.content or ""
    if not isinstance(content, str):
        parts = (_part(part, f"{where}.content[{at}]") for at, part in enumerate(content))
        content = "\n".join(parts)
    if block.is_error:
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content}


def _text(content: str | Sequence[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_block(block, f"{where}[{at}]") for at, block in enumerate(content))


def _block(block: Block, where: str) -> str:
    return _part({"type": block.type, "text": block.text}, where)


def _part(part: Mapping[str, Any], where: str) -> str:
    text = part.get("text")
    if part.get("type") == "text" and isinstance(text, str):
        return text
    raise bad_value(where, f"only text is understood here, not {str(part.get('type'))[:64]!r}")
