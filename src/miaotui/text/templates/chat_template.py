"""Chat templates: messages become the prompt that a model was trained to answer.

Owns the rules for messages (their roles and contents), and how templates are chosen and run. The sandbox bounds them;
it is imported (with Jinja) when the first template runs. Invariant: a template gets JSON data in which each message's
content is text, and, however hostile, ends within seconds in a text of bounded size or in a `TemplateError`; messages
at fault are a `RequestError`. Source: the OpenAI chat format; the conventions of transformers, "Chat templates".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from miaotui.errors import MiaotuiError, RequestError, TemplateError

if TYPE_CHECKING:
    from jinja2 import Template

RENDER_S = 2.0
MAX_SOURCE_BYTES = 64 << 10
DEFAULT, TOOL_USE = "default", "tool_use"
_NOTHING: Mapping[str, str] = {}
Message = Mapping[str, Any]  # role, content, and what else the template knows
ROLES = ("system", "developer", "user", "assistant", "tool")
REMEDY = "use another template, or generate from a plain prompt"


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
            self._compiled[name] = CompiledTemplate(source, self._tokens, self._limit_s)
        return self._compiled[name]


class CompiledTemplate:
    """One template, ready to run. Safe to use from several threads.

    `constants`: the texts that it writes or looks for. Raises `TemplateError` for a faulty `source`.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], limit_s: float) -> None:
        self.source = source
        self._tokens, self._limit_s = tokens, limit_s
        self._template, self.constants = _compile(source)

    def render(self, values: Mapping[str, Any], private: Mapping[str, str] = _NOTHING) -> str:
        """Return the prompt for messages that have been read, tools and options.

        `private`: characters in `values` and those they stand for, see `escaping`. Raises `TemplateError`
        and `RequestError` as `ChatTemplate.render` does.
        """
        from miaotui.text.templates.sandbox import Budget, current  # noqa: PLC0415

        token = current.set(Budget(_json_size(values), self._limit_s, private))
        try:
            return self._template.render({**self._tokens, **values})
        except MiaotuiError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template failed: {_say(error)}; {REMEDY}") from error
        finally:
            current.reset(token)


def _compile(source: str) -> tuple[Template, frozenset[str]]:
    from jinja2 import TemplateSyntaxError, nodes  # noqa: PLC0415 - see the module's docstring

    from miaotui.text.templates.sandbox import environment  # noqa: PLC0415

    size = len(source.encode("utf-8", "replace"))
    if size > MAX_SOURCE_BYTES:
        raise TemplateError(f"the chat template has {size:,} bytes, more than {MAX_SOURCE_BYTES:,}; {REMEDY}")
    try:
        tree = environment().parse(source)
        constants = frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
        return environment().from_string(tree), constants
    except TemplateSyntaxError as error:
        where = f"at line {error.lineno}"
        raise TemplateError(f"faulty chat template {where}: {error.message}; {REMEDY}") from error
    except Exception as error:  # too deeply nested for Jinja or for Python's own compiler
        raise TemplateError(f"faulty chat template: {_say(error)}; {REMEDY}") from error


def _json_size(values: Mapping[str, Any]) -> int:
    """Return the characters of `values` as JSON. Templates get data, not objects."""
    try:
        return len(json.dumps(values, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"messages, tools and template options must be JSON data: {_say(error)}") from error


def _missing(sources: Mapping[str, str]) -> str:
    if sources:
        return f"the model has chat templates for {', '.join(sources)} only, none for plain chat"
    return (
        "the model has no chat template (base models have none): give one, use a model made for "
        "chat, or generate from a plain prompt"
    )


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


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
