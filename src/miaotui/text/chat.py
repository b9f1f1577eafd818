"""Turns conversations into token ids: the one way from messages to a prompt.

Owns the rules for messages (their roles and contents), the choice of a template, and the order of the steps: check,
escape contents, place what the template has no place for, render, find the template's control tokens, cut. Knows no
wire format, no engine and no Jinja, which is imported when the first template runs. Invariants: a template gets JSON
data in which each message's content is text; only the template's own text makes control tokens, so contents of
messages, tool results, documents, names and tool descriptions are text, whatever they look like; messages at fault are
a `RequestError`. Source: the OpenAI chat format; the conventions of transformers, "Chat templates".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from miaotui.errors import RequestError, TemplateError
from miaotui.text import reasoning
from miaotui.text.templates.escaping import ContentEscaper
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import FORMATS
from miaotui.text.tool_calls.tagged import HARMONY_CALLS

if TYPE_CHECKING:
    from miaotui.text.templates.sandbox import CompiledTemplate
    from miaotui.text.templates.trial import TemplateTraits
    from miaotui.text.tool_calls.dialect import Dialect

RENDER_S = 2.0
DEFAULT, TOOL_USE = "default", "tool_use"
ROLES = ("system", "developer", "user", "assistant", "tool")
THOUGHTS = tuple(marker for form in reasoning.FORMATS if not form.sign for marker in (form.begin, form.end))
CALLS = tuple(
    marker for form in FORMATS if form is not HARMONY_CALLS for marker in (form.begin, form.close.strip()) if marker
)
MARKERS = THOUGHTS + CALLS  # these keep their meaning in what the assistant said

Message = Mapping[str, Any]  # role, content, and what else the template knows


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
            for token in self.tokenizer.encode(marker, whole=False):
                self.tokenizer.show(token)
        return form

    def _placed(self, values: dict[str, Any]) -> dict[str, Any]:
        messages, tools = values["messages"], values["tools"]
        if tools or any(message["role"] != "user" for message in messages):  # else every template writes them
            from miaotui.text.tool_calls.placement import placed  # noqa: PLC0415  (few templates need it)

            messages, tools = placed(messages, tools, self.traits, self.dialect)
        return {**values, "messages": messages, "tools": list(tools) or None}

    def _escaper(self, template: CompiledTemplate) -> ContentEscaper:
        source = template.source
        if source not in self._escapers:
            controls = self.tokenizer.control_texts
            self._escapers[source] = ContentEscaper(controls, source, template.constants, MARKERS)
        return self._escapers[source]


class ChatTemplate:
    """A model's chat template, or its templates by name, or none (`available` is False).

    `source`: Jinja source, or sources by name: ``default``, ``tool_use``. `bos_token` and
    `eos_token` are the texts that the template writes for them; `limit_s` is how long one rendering
    may take. Safe to use from several threads.
    """

    def __init__(
        self,
        source: str | Mapping[str, str] | None,
        bos_token: str = "",
        eos_token: str = "",
        *,
        limit_s: float = RENDER_S,
    ) -> None:
        named = {DEFAULT: source} if isinstance(source, str) else dict(source or {})
        self.sources: Mapping[str, str] = {name: text for name, text in named.items() if text}
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._limit_s = limit_s
        self._compiled: dict[str, CompiledTemplate] = {}

    @property
    def available(self) -> bool:
        """Return whether there is a template at all; base models have none."""
        return bool(self.sources)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """Return the prompt for `messages`, ending where the answer begins if `add_generation_prompt`.

        Contents that look like control tokens are written as they are; `ChatEncoder` keeps them text.
        `tools` are JSON schemas of functions; `extra` are names that a template knows, such as
        ``enable_thinking``. Raises `TemplateError` if there is no template, or it is faulty or
        exceeds its bounds, and `RequestError` for messages that are wrong or that it refuses.
        """
        values: dict[str, Any] = {
            "messages": read_messages(messages),
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        return self.compiled(tools is not None).render(values | extra)

    def compiled(self, for_tools: bool) -> CompiledTemplate:
        """Return the template for conversations with or without tools. Raises `TemplateError`."""
        name = TOOL_USE if for_tools and TOOL_USE in self.sources else DEFAULT
        source = self.sources.get(name)
        if source is None:
            raise TemplateError(_missing(self.sources))
        if name not in self._compiled:
            from miaotui.text.templates.sandbox import CompiledTemplate  # noqa: PLC0415  (with Jinja)

            self._compiled[name] = CompiledTemplate(source, self._tokens, self._limit_s)
        return self._compiled[name]


def _missing(sources: Mapping[str, str]) -> str:
    if sources:
        return f"the model has chat templates for {', '.join(sources)} only, none for plain chat"
    return (
        "the model has no chat template (base models have none): give one, use a model made for "
        "chat, or generate from a plain prompt (`miaotui run --raw`)"
    )


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
