"""Chat templates: messages become the prompt that a model was trained to answer.

Owns how templates are chosen and run. The sandbox bounds them; it is imported (with Jinja) when the
first template runs. Invariant: a template, however hostile, ends within seconds in a text of bounded
size or in a `TemplateError`; messages at fault are a `RequestError`.
Source: the conventions of transformers, "Chat templates".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from miaotui.errors import MiaotuiError, RequestError, TemplateError
from miaotui.text.templates.messages import read_messages

if TYPE_CHECKING:
    from jinja2 import Template

RENDER_S = 2.0
MAX_SOURCE_BYTES = 64 << 10
DEFAULT, TOOL_USE = "default", "tool_use"
_NOTHING: Mapping[str, str] = {}
Message = Mapping[str, Any]  # role, content, and what else the template knows
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
        from miaotui.text.templates.checks import Budget, current  # noqa: PLC0415

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
