"""Tools in prompts of models whose templates know none: told in words, results given as text.

Owns the wording. Knows no model. Invariant: what comes out has only roles that every template
knows (system, user, assistant) and plain text as content; turns still alternate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaotui.text.tool_calls.formats import CallFormat, Tool

_INTRODUCTION = "You can call these functions:\n{tools}\nTo call one, answer with\n{example}"


def without_tool_roles(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], form: CallFormat
) -> list[dict[str, Any]]:
    """The conversation with the tools described in its system message, and calls and results as text.

    ``messages`` have been read (`read_messages`): contents are text, arguments are data.
    """
    told: list[dict[str, Any]] = []
    for message in messages:
        said = _said(message, form)
        last = told[-1] if told else None
        if last is not None and last["role"] == said["role"] == "user":
            last["content"] += "\n" + said["content"]  # several results in a row are one turn
        else:
            told.append(said)
    return _introduced(told, tools, form) if tools else told


def _said(message: Mapping[str, Any], form: CallFormat) -> dict[str, Any]:
    role, content = message["role"], message["content"] or ""
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if role != "assistant" or not calls:
        return {"role": "system" if role == "developer" else role, "content": content}
    written = [_call(call, form) for call in calls]
    text = form.begin + form.open + (form.again or "\n").join(written) + form.close
    return {"role": role, "content": f"{content}\n{text}" if content else text}


def _call(call: Mapping[str, Any], form: CallFormat) -> str:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments")
    name = function.get("name")
    return form.write(name if isinstance(name, str) else "", arguments if isinstance(arguments, Mapping) else {})


def _introduced(messages: list[dict[str, Any]], tools: Sequence[Tool], form: CallFormat) -> list[dict[str, Any]]:
    described = [json.dumps(tool.as_openai()["function"], ensure_ascii=False) for tool in tools]
    call = f'{{"name": "<function>", "{form.key}": {{...}}}}'
    example = form.begin + form.open + call + form.close
    text = _INTRODUCTION.format(tools="\n".join(described), example=example)
    if messages and messages[0]["role"] == "system":
        first = {"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
