"""Tries a chat template once with marked messages, to learn which parts of a conversation it writes.

Owns the marked conversations and the reading of their renderings. Does not know the families of models.
Invariant: a part counts as written only if its mark comes out; a template that fails on plain questions
counts as writing everything, so that the error of the real rendering is the one that a caller sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from miaotui.errors import MiaotuiError
from miaotui.text.chat import ChatTemplate

_SYSTEM, _LATER, _ROLE, _MARK = "qzsystemq", "qzlaterq", "qzroleq", "qzmarkq"
_USER, _ANSWER, _NEXT = "qzuserq", "qzanswerq", "qznextq"
TOOL, _ABOUT, KEY, CALLED, _RESULT = "qztoolq", "qzaboutq", "qzkeyq", "qzcalledq", "qzresultq"
_ID = "qzidqzidq"  # of nine letters, as some templates demand
_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": _ABOUT,
            "parameters": {
                "type": "object",
                "properties": {KEY: {"type": "string", "description": "text"}},
                "required": [KEY],
            },
        },
    },
)
Json = Mapping[str, Any]


class WrittenCall(NamedTuple):
    """A call as a template writes it: an object of JSON with the function's name, and the text before it."""

    before: str
    members: Mapping[str, Any]


class TemplateTraits(NamedTuple):
    """Parts of a conversation that a template writes.

    `late_system`: also several system messages, and those within the conversation.
    `system_beside_results`: also where the conversation ends with a tool's result. `empty_calls`: calls
    come out beside an empty content; if False they need a content of None. `responses`: results come out as those of
    the assistant's own message (``tool_responses``, of Gemma 4). `call`: a call if it is
    written as JSON; `written`: all that is written behind the user's message with it. `teaching`: the text that tools
    add to a conversation.
    """

    user: bool = True
    assistant: bool = True
    system: bool = True
    late_system: bool = True
    system_beside_results: bool = True
    developer: bool = True
    tools: bool = True
    calls: bool = True
    empty_calls: bool = True
    results: bool = True
    responses: bool = False
    call: WrittenCall | None = None
    written: str = ""
    teaching: str = ""


def try_template(template: ChatTemplate) -> TemplateTraits:
    """Return the traits of ``template``; takes a dozen small renderings."""
    user, answer, following = _said("user", _USER), _said("assistant", _ANSWER), _said("user", _NEXT)
    plain = _render(template, [user])
    if plain is None:
        return TemplateTraits()
    system, later = _said("system", _SYSTEM), _said("system", _LATER)
    taught = _render(template, [user], _TOOLS) or ""
    empty_calls, called = _calls(template, user)
    asked = _said("tool", _RESULT, tool_call_id=_ID, name=TOOL)
    about_tools = [user, _call("" if empty_calls else None), asked]
    results = _render(template, about_tools, _TOOLS)
    whole = _render(template, [system, *about_tools], _TOOLS)
    return TemplateTraits(
        user=_USER in plain,
        assistant=_writes(template, [user, answer, following], _ANSWER, _NEXT),
        system=_writes(template, [system, user], _SYSTEM, _USER),
        late_system=_writes(template, [user, answer, later, following], _LATER)
        and _writes(template, [system, later, user], _SYSTEM, _LATER),
        system_beside_results=results is None or (whole is not None and _SYSTEM in whole),
        developer=_knows(template, "developer", user),
        tools=TOOL in taught and _ABOUT in taught,
        calls=CALLED in called,
        empty_calls=empty_calls,
        results=results is not None and _RESULT in results,
        responses=_writes(template, [user, {**_call(""), "tool_responses": [_response(_RESULT)]}], _RESULT),
        call=_written_call(called),
        written=called[called.rfind(_USER) + len(_USER) :],
        teaching=taught,
    )


def _knows(template: ChatTemplate, role: str, user: Json) -> bool:
    """Return whether the template writes messages of ``role``, and in another way than those of any other role."""
    text, other = (_render(template, [_said(each, _MARK), user]) for each in (role, _ROLE))
    if text is None or _MARK not in text or _USER not in text:
        return False
    return other is None or text.replace(role, "") != other.replace(_ROLE, "")


def _calls(template: ChatTemplate, user: Json) -> tuple[bool, str]:
    """Return whether a call comes out beside an empty content, and the text with the call."""
    for content in ("", None):
        text = _render(template, [user, _call(content)], _TOOLS, add_generation_prompt=False) or ""
        if CALLED in text:
            return content == "", text
    return True, ""


def _written_call(text: str) -> WrittenCall | None:
    """Return the object of JSON around the name of the called function; None if there is none."""
    at = text.rfind("{", 0, max(text.rfind(TOOL), 0))
    while at >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            found = None
        if isinstance(found, dict) and TOOL in found.values() and {KEY: CALLED} in found.values():
            return WrittenCall(text[:at], found)
        at = text.rfind("{", 0, at)
    return None


def _writes(template: ChatTemplate, messages: Sequence[Json], *marks: str) -> bool:
    text = _render(template, messages)
    return text is not None and all(mark in text for mark in marks)


def _render(
    template: ChatTemplate,
    messages: Sequence[Json],
    tools: Sequence[Json] | None = None,
    add_generation_prompt: bool = True,
) -> str | None:
    """Return the text of marked messages; None if the template fails on them or refuses them."""
    values = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
    try:
        return template.compiled(tools is not None).render(values)
    except MiaotuiError:
        return None


def _said(role: str, content: str, **more: str) -> Json:
    return {"role": role, "content": content, **more}


def _response(text: str) -> Json:
    return {"name": TOOL, "response": text}


def _call(content: str | None) -> Json:
    function = {"name": TOOL, "arguments": {KEY: CALLED}}
    call = {"id": _ID, "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}
