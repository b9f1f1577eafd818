"""``/v1/completions``: the request and the answer.

Owns OpenAI's names for them; the answer's chunks have the same shape as the whole. Invariant: a
prompt in any of its four forms becomes a list of texts or of token ids. Source: OpenAI's API
reference, "Completions (legacy)".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.wire.fields import (
    MAX_PROMPT_TOKENS,
    MAX_PROMPTS,
    MAX_TOP_LOGPROBS,
    PromiseKept,
    PromptLogprob,
    SamplingFields,
    Usage,
    Wire,
)

Prompts = list[str] | list[list[int]]


def read_prompts(value: Any) -> Prompts:
    """Return a text, texts, token ids, or lists of token ids, as a list. Raises `ValueError`."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be text, token ids, or a list of one of them, and not empty")
    if type(value[0]) is int:
        return [_token_ids(value)]
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"must hold at most {MAX_PROMPTS} prompts, not {len(value)}")
    if all(isinstance(prompt, str) for prompt in value):
        return value
    if sum(len(prompt) for prompt in value if isinstance(prompt, list)) > MAX_PROMPT_TOKENS:
        raise ValueError(f"must hold at most {MAX_PROMPT_TOKENS:,} tokens")
    return [_token_ids(prompt) for prompt in value]


def _token_ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not value or len(value) > MAX_PROMPT_TOKENS:
        raise ValueError(f"token ids must be a list of 1 to {MAX_PROMPT_TOKENS:,} integers")
    # one pass in C; bool is an int to Python, and no token id
    if set(map(type, value)) != {int} or min(value) < 0 or max(value) >= 2**31:
        raise ValueError("token ids must be integers in [0, 2**31)")
    return value


_ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_texts = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS}
_lists = {"type": "array", "items": _ids, "minItems": 1, "maxItems": MAX_PROMPTS}
Prompt = Annotated[
    Prompts, PlainValidator(read_prompts), WithJsonSchema({"anyOf": [{"type": "string"}, _texts, _ids, _lists]})
]


class CompletionRequest(SamplingFields):
    """Prompts to be continued."""

    gives_prompt_logprobs: ClassVar[bool] = True

    prompt: Prompt
    echo: bool | None = Field(
        None, description="Put the prompt before the answer, and its log-probabilities before the answer's."
    )
    parse_special: bool = Field(
        True, description="Read control tokens that are written in a text. False: all of it is plain characters."
    )
    suffix: str | None = Field(
        None, description="The text after the answer, which fills the gap; for models that were trained to fill in."
    )
    best_of: int | None = Field(None, ge=1, description="Only as many as n.")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)


class CompletionLogprobs(Wire):
    """Log-probabilities of tokens in nats, null for a prompt's first; offsets are in characters of the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Wire):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class TextCompletion(Wire):
    """The whole answer, or one event of a streamed answer."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    cache: CacheState | None = None
    deadline: PromiseKept | None = None
