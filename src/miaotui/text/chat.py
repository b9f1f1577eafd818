"""Turns conversations into token ids: the one way from messages to a prompt.

Owns the order of the steps: check, escape contents, place what the template has no place for, render,
find the template's control tokens, cut. Knows no wire format and no engine. Invariant: only the template's
own text makes control tokens; contents of messages, tool results, documents, names and tool
descriptions are text, whatever they look like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from miaotui.text import reasoning
from miaotui.text.templates.chat_template import ChatTemplate, CompiledTemplate, Message, read_messages
from miaotui.text.templates.escaping import ContentEscaper
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import FORMATS

if TYPE_CHECKING:
    from miaotui.text.templates.trial import TemplateTraits
    from miaotui.text.tool_calls.dialect import Dialect

THOUGHTS = tuple(marker for form in reasoning.FORMATS for marker in (form.begin, form.end))
CALLS = tuple(marker for form in FORMATS for marker in (form.begin, form.close.strip()) if marker)
MARKERS = THOUGHTS + CALLS  # these keep their meaning in what the assistant said


class ChatEncoder:
    """Encoder of one model's conversations into prompts. Safe to use from several threads."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        self._escapers: dict[str, ContentEscaper] = {}

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        begun: str = "",
        at_most: int | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation, ready for the assistant's turn.

        ``tools`` are functions in OpenAI's form; ``options`` are names that the template knows; ``begun``
        is the beginning of the answer; ``at_most`` bounds the tokens. Raises `TemplateError`,
        `RequestError` and `PromptTooLongError`.
        """
        template = self.template.compiled(bool(tools) and self.dialect.native)
        values = {**(options or {}), "messages": read_messages(messages), "tools": list(tools or ()), "begun": begun}
        escaped = self._escaper(template).escape(values)
        written = self._placed(escaped.values) | {"add_generation_prompt": add_generation_prompt}
        begun = written.pop("begun")
        text = template.render(written, escaped.private) + begun
        if not escaped.private:
            return self.tokenizer.encode(text, at_most=at_most)
        controls = self.tokenizer.find_controls(text)
        return self.tokenizer.encode_at(escaped.restore(text), controls, at_most=at_most)

    @cached_property
    def traits(self) -> TemplateTraits:
        """Return the parts of a conversation that the template writes; it is tried on first use."""
        from miaotui.text.templates.trial import try_template  # noqa: PLC0415  (a question alone needs no trial)

        return try_template(self.template)

    @cached_property
    def dialect(self) -> Dialect:
        """Return the way to ask this model for tool calls."""
        from miaotui.text.tool_calls.dialect import dialect_of  # noqa: PLC0415  (few requests have tools)

        return dialect_of(self.traits)

    @cached_property
    def reasoning(self) -> reasoning.ReasoningFormat | None:
        """Return the markers of the model's thoughts; None: its template knows none."""
        form = reasoning.reasoning_format(self.template.sources)
        for marker in () if form is None else (form.begin, form.end):
            ids = self.tokenizer.encode(marker, whole=False)
            if len(ids) == 1:
                self.tokenizer.show(ids[0])
        return form

    def _placed(self, values: dict[str, Any]) -> dict[str, Any]:
        messages, tools = values["messages"], values["tools"]
        if tools or any(message["role"] != "user" for message in messages):  # else every template writes them
            from miaotui.text.tool_calls.placement import placed  # noqa: PLC0415

            messages, tools = placed(messages, tools, self.traits, self.dialect)
        return {**values, "messages": messages, "tools": list(tools) or None}

    def _escaper(self, template: CompiledTemplate) -> ContentEscaper:
        source = template.source
        if source not in self._escapers:
            controls = self.tokenizer.control_texts
            self._escapers[source] = ContentEscaper(controls, source, template.constants, MARKERS)
        return self._escapers[source]
