"""Chooses the format of a model's tool calls by the texts that its chat template writes in a trial.

Owns the choice among the formats. Does not render anything. Invariant: a format is native only if the
template writes the tools, and a call in that format or a text that teaches it.
"""

from __future__ import annotations

from typing import NamedTuple

from miaotui.text.templates.trial import TemplateTraits
from miaotui.text.tool_calls.formats import GENERIC, GRANITE, HERMES, LLAMA, MISTRAL, CallFormat

_MARKED = (MISTRAL, GRANITE, HERMES)


class Dialect(NamedTuple):
    """The format of a model's calls. `native`: its template writes the tools itself."""

    format: CallFormat
    native: bool


def dialect_of(traits: TemplateTraits) -> Dialect:
    """Return the way to ask this model for tool calls."""
    form = _format_of(traits) if traits.tools else None
    return Dialect(GENERIC, native=False) if form is None else Dialect(form, native=True)


def _format_of(traits: TemplateTraits) -> CallFormat | None:
    if not traits.calls:  # the model may be taught a format that the template does not write itself
        return next((form for form in _MARKED if form.begin in traits.teaching), None)
    if traits.call is None or "name" not in traits.call.members:
        return None
    before = traits.call.before.rstrip().removesuffix("[").rstrip()
    for form in _MARKED:
        if before.endswith(form.begin) and form.key in traits.call.members:
            return form
    return LLAMA if LLAMA.key in traits.call.members else None
