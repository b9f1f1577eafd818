"""The calls `generate`, `rewrite` and `continue_text`: each opens the model that it needs and closes it after.

Owns the default model and the wording of both kinds of instruction. Knows no checks. Invariant: a model that a caller
gives stays open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from miaotui.llm import LLM
from miaotui.retrieval.query.analysis import has_chinese
from miaotui.tasks.generation.generator import (
    GeneratedText,
    GenerationOptions,
    GenerationSteps,
    Messages,
    generation_steps,
)
from miaotui.tasks.vectors import listed
from miaotui.tasks.writing.open import opened_llm
from miaotui.tasks.writing.writer import Writer

GENERATION_MODEL = "qwen2.5-coder-0.5b"
Ask = Callable[[str, GenerationOptions], Messages]


def generate(
    prompts: str | Iterable[str],
    options: GenerationOptions | None = None,
    *,
    model: str | os.PathLike[str] | LLM = GENERATION_MODEL,
    deadline_ms: float | None = None,
) -> list[GeneratedText]:
    """Return a text for each prompt, under ``options.requirements``; one that cannot be taken has an error.

    Requirements that a text does not fulfil are named in ``unmet``. Raises a `MiaotuiError`.
    """
    return _called(prompts, options, prompt_messages, model, deadline_ms)


def rewrite(
    texts: str | Iterable[str],
    options: GenerationOptions | None = None,
    *,
    model: str | os.PathLike[str] | LLM = GENERATION_MODEL,
    deadline_ms: float | None = None,
) -> list[GeneratedText]:
    """Return each text rewritten, in ``options.style`` and by ``options.instruction``, see `generate`."""
    return _called(texts, options, rewrite_messages, model, deadline_ms)


def continue_text(
    texts: str | Iterable[str],
    options: GenerationOptions | None = None,
    *,
    model: str | os.PathLike[str] | LLM = GENERATION_MODEL,
    deadline_ms: float | None = None,
) -> list[GeneratedText]:
    """Return what follows each text, see `generate`."""
    return _called(texts, options, continuation_messages, model, deadline_ms)


def generated(
    writer: Writer,
    texts: Iterable[str],
    options: GenerationOptions,
    ask: Ask,
    *,
    first: int = 0,
    deadline_ms: float | None = None,
) -> list[GeneratedText]:
    """Return texts by an open model; ``first`` is the number of the first one."""
    named = replace(options, model=writer.name)
    return writer.answers(partial(asked_steps, options=named, ask=ask), texts, first=first, deadline_ms=deadline_ms)


def asked_steps(text: str, options: GenerationOptions, ask: Ask, *, index: int = 0) -> GenerationSteps:
    """Return the steps for one text as ``ask`` words it; what is no text is refused in them."""
    messages = ask(text, options) if isinstance(text, str) and text.strip() else text
    return generation_steps(messages, options, index=index)


def prompt_messages(text: str, options: GenerationOptions) -> Messages:
    """Return the conversation of a prompt; the style is the system's message."""
    said = " ".join(filter(None, (options.style and f"Style: {options.style}.", options.instruction)))
    system = [{"role": "system", "content": said}] if said else []
    return [*system, {"role": "user", "content": text}]


def rewrite_messages(text: str, options: GenerationOptions) -> Messages:
    """Return the conversation that asks to rewrite a text, in its language."""
    if has_chinese(text):
        how = "".join(
            (options.style and f"，风格：{options.style}", options.instruction and f"，要求：{options.instruction}")
        )
        return [{"role": "user", "content": f"改写下面的文字{how}。只写改写后的文字。\n\n{text}"}]
    how = " ".join(filter(None, (options.style and f"Style: {options.style}.", options.instruction)))
    return [{"role": "user", "content": f"Rewrite the text below. {how} Write the new text only.\n\n{text}"}]


def continuation_messages(text: str, options: GenerationOptions) -> Messages:
    """Return the conversation that asks to go on with a text, in its language."""
    if has_chinese(text):
        how = options.style and f"，风格：{options.style}"
        return [{"role": "user", "content": f"接着下面的文字写下去{how}，不要重复原文。\n\n{text}"}]
    how = options.style and f" Style: {options.style}."
    return [
        {"role": "user", "content": f"Continue the text below; do not repeat it.{how} {options.instruction}\n\n{text}"}
    ]


ASKS: dict[str, Ask] = {"generate": prompt_messages, "rewrite": rewrite_messages, "continue": continuation_messages}


def _called(
    texts: str | Iterable[str],
    options: GenerationOptions | None,
    ask: Ask,
    model: str | os.PathLike[str] | LLM,
    deadline_ms: float | None,
) -> list[GeneratedText]:
    given: Sequence[str] = listed(texts)
    with opened_llm(model) as llm:
        return generated(Writer(llm), given, options or GenerationOptions(), ask, deadline_ms=deadline_ms)
