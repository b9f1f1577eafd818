"""Places the parts of a conversation that a chat template has no place for.

Owns where system texts, tools, calls and results go, and the wording in which tools are described. Knows
no model. Invariant: nothing is left out: a part goes where the template writes it, or it is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from miaotui.errors import RequestError
from miaotui.text.templates.trial import TemplateTraits
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.text.tool_calls.formats import AnyFormat
from miaotui.text.tool_calls.tagged import TaggedFormat

_INTRODUCTION = "You can call these functions:\n{tools}\nTo call one, answer with\n{example}"
Message = dict[str, Any]
Json = Mapping[str, Any]


def placed(
    messages: Sequence[Message], tools: Sequence[Json], traits: TemplateTraits, dialect: Dialect
) -> tuple[list[Message], Sequence[Json]]:
    """Return the messages and tools that the template can write, with the rest placed as text.

    ``messages`` have been read (`read_messages`). Raises `RequestError` for a role that has no place.
    """
    native = dialect.native
    if native and traits.responses:
        messages = _with_responses(messages)
    said = [_said(message, traits, dialect) for message in messages]
    if not native and (tools or any(message["role"] == "tool" for message in messages)):
        said = _joined(said)
    if not native and tools:
        said = _introduced(said, tools, dialect.format)
    with_results = said[-1]["role"] != "user"
    if not traits.system or (with_results and not traits.system_beside_results):
        said = _in_front(said, leading=0)
    elif not traits.late_system:
        said = _in_front(said, leading=_leading(said))
    for role, written in (("user", traits.user), ("assistant", traits.assistant)):
        if not written and any(message["role"] == role for message in said):
            raise RequestError(f"the model's chat template leaves out messages of the role {role!r}: use another model")
    return said, tools if native else ()


def _with_responses(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with results as parts of the message that called, named by the call that each answers."""
    found: list[Message] = []
    for message in messages:
        calls = found[-1].get("tool_calls") if found else None
        if message["role"] != "tool" or not calls:
            found.append(message)
            continue
        before = found[-1].get("tool_responses", [])
        wanted = message.get("tool_call_id")
        called = next((call for call in calls if call.get("id") == wanted), calls[min(len(before), len(calls) - 1)])
        name = message.get("name") or called["function"].get("name")
        response = {"name": name, "response": message["content"]}
        found[-1] = {**found[-1], "tool_responses": [*before, response]}
    return found


def _said(message: Message, traits: TemplateTraits, dialect: Dialect) -> Message:
    """Return one message with calls, results and the role developer as the template can write them."""
    role, content = message["role"], message["content"]
    if role == "tool" and not (dialect.native and traits.results):
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if role == "developer" and not traits.developer:
        return {**message, "role": "system"}
    calls = message.get("tool_calls")
    if role != "assistant" or not calls:
        return message
    if dialect.native and traits.calls:
        return message if content or traits.empty_calls else {**message, "content": None}
    form = dialect.format
    text = form.begin + form.open + (form.again or "\n").join(_call(call, form) for call in calls) + form.close
    return {"role": role, "content": f"{content}\n{text}" if content else text}


def _call(call: Json, form: AnyFormat) -> str:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    name, arguments = function.get("name"), function.get("arguments")
    return form.write(name if isinstance(name, str) else "", arguments if isinstance(arguments, Mapping) else {})


def _joined(messages: Iterable[Message]) -> list[Message]:
    """Return the messages with several of the user's in a row as one: many templates want turns to alternate."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] == "user":
            joined[-1] = {**joined[-1], "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _introduced(messages: list[Message], tools: Sequence[Json], form: AnyFormat) -> list[Message]:
    """Return the messages with the tools described in the first system message."""
    described = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    if isinstance(form, TaggedFormat):
        call = form.write("<function>", {"<parameter>": "<value>"})
    else:
        call = f'{{"name": "<function>", "{form.key}": {{...}}}}'
    example = form.begin + form.open + call + form.close
    text = _INTRODUCTION.format(tools="\n".join(described), example=example)
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _leading(messages: Sequence[Message]) -> int:
    """Return how many system messages the conversation begins with."""
    return next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))


def _in_front(messages: Sequence[Message], leading: int) -> list[Message]:
    """Return the messages with the first ``leading`` as one, and all other system texts before the next user's."""
    placed: list[Message] = []
    if leading:
        placed.append({**messages[0], "content": _paragraphs(message["content"] for message in messages[:leading])})
    waiting: list[str] = []
    for message in messages[leading:]:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            placed.append({**message, "content": _paragraphs([*waiting, message["content"]])})
            waiting = []
        else:
            placed.append(message)
    if waiting and placed and placed[-1]["role"] == "user":
        placed[-1] = {**placed[-1], "content": _paragraphs([placed[-1]["content"], *waiting])}
    elif waiting:
        placed.append({"role": "user", "content": _paragraphs(waiting)})
    return placed


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text)
