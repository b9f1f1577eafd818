"""Chooses the format of a model's tool calls by the texts that its chat template writes in a trial.

Owns the choice among the formats. Does not render anything. Invariant: a format is native only if the
template writes the tools, and a call in that format or a text that teaches it.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from miaotui.text.harmony import answer_of
from miaotui.text.templates.trial import CALLED, KEY, TOOL, TemplateTraits
from miaotui.text.tool_calls.formats import FORMATS, GENERIC, LLAMA, AnyFormat
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, TextPiece, ToolCallParser
from miaotui.text.tool_calls.tagged import HARMONY_CALLS, TaggedFormat


class Dialect(NamedTuple):
    """The format of a model's calls; ``native``: its template writes the tools, else a system text lists them."""

    format: AnyFormat
    native: bool


def dialect_of(traits: TemplateTraits) -> Dialect:
    """Return the way to ask this model for tool calls."""
    form = _format_of(traits)
    if form is None or not (traits.tools or (traits.calls and isinstance(form, TaggedFormat))):
        return Dialect(GENERIC, native=False)
    return Dialect(form, native=traits.tools)


def _format_of(traits: TemplateTraits) -> AnyFormat | None:
    marked = [form for form in FORMATS if form is not LLAMA]
    if not traits.calls:  # the model may be taught a format that the template does not write itself
        return next((form for form in marked if form.begin in traits.teaching), None)
    left = {form: text for form in marked if (text := _left(form, traits.written)) is not None}
    if left:  # of forms with equal beginnings the one that knows the end too
        return min(left, key=lambda form: len(left[form]))
    call = traits.call
    bare = call is not None and "name" in call.members and LLAMA.key in call.members
    return LLAMA if bare else None


def _left(form: AnyFormat, text: str) -> str | None:
    """Return the text beside the trial's call, if the parser finds that call, and it alone."""
    if form is HARMONY_CALLS:  # the parser of channels gives calls one spelling
        text = answer_of(text)
    parser = ToolCallParser(form, [TOOL])
    events = [*parser.push(text), *parser.finish()]
    names = [event.name for event in events if isinstance(event, CallBegins)]
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    try:
        is_read = names == [TOOL] and json.loads(arguments) == {KEY: CALLED}
    except ValueError:
        return None
    return "".join(event.text for event in events if isinstance(event, TextPiece)) if is_read else None
