"""Grammars of tool calls: an answer that calls one of some functions, with fitting arguments.

Owns the text of those grammars. Does not parse calls or render prompts. Invariant: whatever such a
grammar lets through, the parser for the same format reads as calls of known functions, whose
arguments are JSON that their schemas describe. Source: llguidance's documentation, "Lark".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from miaotui.engine.grammar.source import Grammar, annotated, bounded
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import CallFormat, Tool


def forced_calls(form: CallFormat, tools: Sequence[Tool], several: bool, tokenizer: Tokenizer) -> Grammar:
    """Return an answer that is nothing but calls, marker and all."""
    marker = "" if form.bare else _marker(form, tokenizer)
    return _calls(form, tools, several, f"{marker} ")


def calls_after_marker(form: CallFormat, tools: Sequence[Tool], several: bool) -> Grammar:
    """Return the grammar of the text behind the marker of a first call."""
    return _calls(form, tools, several, "")


def either(calls: Grammar, shape: Grammar) -> Grammar:
    """Return the grammar of calls, or of another answer."""
    other = json.loads(shape.text)["grammars"][0] if shape.text.startswith("{") else None
    other = other or {"lark_grammar": shape.text}
    rules = calls.text.replace("start:", "calls:", 1)
    both = [{"lark_grammar": f"start: calls | @shape\n{rules}"}, {**other, "name": "shape"}]
    return bounded(json.dumps({"grammars": both}))


def begin_of(form: CallFormat, tokenizer: Tokenizer) -> bytes | int:
    """Return the marker that begins a call, as its token or as bytes of text."""
    token = marker_id(form, tokenizer)
    return form.begin.encode() if token is None else token


def marker_id(form: CallFormat, tokenizer: Tokenizer) -> int | None:
    """Return the token that is the format's marker and no text, if the model has one."""
    ids = tokenizer.encode(form.begin, whole=False)
    return ids[0] if len(ids) == 1 and ids[0] in tokenizer.special_ids else None


def _marker(form: CallFormat, tokenizer: Tokenizer) -> str:
    token = marker_id(form, tokenizer)
    return json.dumps(form.begin) if token is None else f"<[{token}]>"


def _calls(form: CallFormat, tools: Sequence[Tool], several: bool, begin: str) -> Grammar:
    more = f" ({json.dumps(form.again)} call)*" if several and form.again is not None else ""
    parts = [json.dumps(text) if text else "" for text in (form.open, form.close)]
    rules = [f"start: {begin}{parts[0]} call{more} {parts[1]}"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    for i, tool in enumerate(tools):
        head = f'{{"name": {json.dumps(tool.name)}, "{form.key}": '
        schema = annotated(_object(tool), strict=tool.strict)
        rules.append(f'call_{i}: {json.dumps(head)} arguments_{i} "}}"')
        rules.append(f"arguments_{i}: %json {json.dumps(schema)}")
    return bounded("\n".join(rules))


def _object(tool: Tool) -> dict[str, object]:
    """Return the schema of the arguments, which are an object whatever else it says."""
    return {"type": "object", **tool.parameters} if tool.parameters else {"type": "object"}
