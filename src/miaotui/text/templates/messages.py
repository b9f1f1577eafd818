"""Reads chat messages as callers give them: checks them and makes copies that chat templates expect.

Owns the rules for roles and content. Does not know any template. Invariant: the copies are JSON data,
each message a dict whose content is text.
Source: the OpenAI chat format, and the conventions of transformers' chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return checked copies of `messages`; text parts are joined by line breaks.

    Raises `RequestError` naming the message that is wrong.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise RequestError(
            f"messages must be a list of messages, not {type(messages).__name__}; "
            'for one question: [{"role": "user", "content": "..."}]'
        )
    if not messages:
        raise RequestError("messages must not be empty; give at least one message")
    return [_read(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _read(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} must be a dict with role and content, not {message!r:.80}")
    role = message.get("role")
    if role not in ROLES:
        raise RequestError(f"{where}: role must be one of {', '.join(ROLES)}, not {role!r:.80}")
    read = dict(message)
    read["content"] = _read_content(message, where)
    if message.get("tool_calls"):
        read["tool_calls"] = [_read_call(call, where) for call in message["tool_calls"]]
    return read


def _read_content(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("role") == "assistant":
        return ""  # as OpenAI's messages with tool calls have it
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise RequestError(f"{where}: content must be text or a list of parts, not {content!r:.80}")
    return "\n".join(_read_part(part, where) for part in content)


def _read_part(part: object, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise RequestError(
        f'{where}: each part of a content must be {{"type": "text", "text": "..."}}, '
        f"not {part!r:.80}; only text is understood here"
    )


def _read_call(call: Any, where: str) -> dict[str, Any]:
    """Return a tool call with its arguments as a dict: callers send JSON text, templates want data."""
    if not isinstance(call, Mapping):
        raise RequestError(f"{where}: each tool call must be a dict, not {call!r:.80}")
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestError(
            f"{where}: the arguments of a tool call must be a JSON object, not {function['arguments']!r:.80}"
        )
    return {**call, "function": {**function, "arguments": arguments}}
