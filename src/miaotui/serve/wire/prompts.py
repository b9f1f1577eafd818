"""Token ids of messages and texts, made without holding up the event loop.

Owns where the work is done: small prompts in the event loop itself, larger ones in a thread. Knows no route.
Invariant: a prompt that cannot fit the model's context is refused before it is cut into tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miaotui.errors import RequestError
from miaotui.serve.http.stream import Result
from miaotui.serve.wire.fields import Json
from miaotui.served_model import ServedModel

INLINE_CHARACTERS = 4096  # prompts up to here are rendered and cut into tokens in the event loop itself
_RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


async def run(size: int, work: Callable[[], Result]) -> Result:
    """Run ``work()``, in a thread if it is on more than a few thousand characters."""
    if size <= INLINE_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)


async def chat_tokens(
    model: ServedModel,
    messages: Sequence[Json],
    tools: Sequence[Json] | None = None,
    options: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
    begun: str = "",
) -> list[int]:
    """Return a conversation as token ids, ready for the assistant's turn.

    ``options`` are names that the chat template knows; ``begun`` is how the answer begins.
    Raises `RequestError`, `TemplateError` and `PromptTooLongError`.
    """
    extra = dict(options or {})
    wrong = [name for name in extra if name in _RESERVED or not name.isidentifier()]
    if wrong:
        raise RequestError(f"chat_template_kwargs must not hold {wrong[0][:64]!r}")

    def work() -> list[int]:
        return model.chat.encode(
            messages,
            tools,
            options=extra,
            add_generation_prompt=add_generation_prompt,
            begun=begun,
            at_most=model.context,
        )

    return await run(_size(messages) + (_size(tools) if tools else 0), work)


async def text_tokens(model: ServedModel, text: str, special: bool = True, whole: bool = True) -> list[int]:
    """Return a text as token ids. Raises `RequestError` and `PromptTooLongError`."""
    return await run(len(text), lambda: model.tokenizer.encode(text, special, whole=whole, at_most=model.context))


def _size(value: Any) -> int:
    """Return about how many characters of text are in a JSON value; the body's depth is bounded."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, Sequence):
        return sum(map(_size, value))
    return 0
