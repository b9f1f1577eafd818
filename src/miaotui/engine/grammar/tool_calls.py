"""Grammars of tool calls: an answer that calls one of some functions, with fitting arguments.

Owns the text of those grammars. Does not parse calls or render prompts. Invariant: whatever such a
grammar lets through, the parser for the same format reads as calls of known functions, whose
arguments are JSON that their schemas describe. Source: llguidance's documentation, "Lark".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from miaotui.engine.grammar.source import Grammar, bounded
from miaotui.engine.grammar.tagged_calls import GrammarText, object_schema, tagged_rules
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import AnyFormat, Tool
from miaotui.text.tool_calls.tagged import TaggedFormat


def forced_calls(form: AnyFormat, tools: Sequence[Tool], several: bool, tokenizer: Tokenizer) -> Grammar:
    """Return an answer that is nothing but calls, marker and all."""
    return _calls(form, tools, several, tokenizer, "" if form.bare else f"{GrammarText(tokenizer).text(form.begin)} ")


def calls_after_marker(form: AnyFormat, tools: Sequence[Tool], several: bool, tokenizer: Tokenizer) -> Grammar:
    """Return the grammar of the text behind the marker of a first call."""
    return _calls(form, tools, several, tokenizer, "")


def either(calls: Grammar, shape: Grammar) -> Grammar:
    """Return the grammar of calls, or of another answer."""
    other = json.loads(shape.text)["grammars"][0] if shape.text.startswith("{") else None
    other = other or {"lark_grammar": shape.text}
    rules = calls.text.replace("start:", "calls:", 1)
    both = [{"lark_grammar": f"start: calls | @shape\n{rules}"}, {**other, "name": "shape"}]
    return bounded(json.dumps({"grammars": both}))


def begin_of(form: AnyFormat, tokenizer: Tokenizer) -> bytes | int:
    """Return the marker that begins a call, as its token or as bytes of text."""
    token = marker_id(form, tokenizer)
    return form.begin.encode() if token is None else token


def marker_id(form: AnyFormat, tokenizer: Tokenizer) -> int | None:
    """Return the token that is the format's marker and no text, if the model has one."""
    ids = tokenizer.encode(form.begin, whole=False)
    return ids[0] if len(ids) == 1 and ids[0] in tokenizer.special_ids else None


def control_ids(form: AnyFormat, tokenizer: Tokenizer) -> list[int]:
    """Return the control tokens that a call in this format is written with."""
    return [span.token for text in form.marker_texts for span in tokenizer.find_controls(text)]


def _calls(form: AnyFormat, tools: Sequence[Tool], several: bool, tokenizer: Tokenizer, begin: str) -> Grammar:
    words = GrammarText(tokenizer)
    more = f" ({words.text(form.again)} call)*" if several and form.again is not None else ""
    rules = [f"start: {begin}{words.text(form.open)} call{more} {words.text(form.close)}"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    for i, tool in enumerate(tools):
        if isinstance(form, TaggedFormat):
            rules += tagged_rules(form, tool, i, words)
            continue
        head = f'{{"{form.name_key}": {json.dumps(tool.name)}, "{form.key}": '
        rules.append(f'call_{i}: {json.dumps(head)} arguments_{i} "}}"')
        rules.append(f"arguments_{i}: %json {json.dumps(object_schema(tool))}")
    return bounded("\n".join(rules))
