"""``/v1/chat/completions``: the request, the answer, and a chunk of a streamed answer.

Owns OpenAI's names for them. What tools and formats mean is decided elsewhere. Source: OpenAI's API
reference, "Chat".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.wire.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_PROMPT_TOKENS,
    MAX_TEMPLATE_OPTIONS,
    MAX_TOKENS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    JsonField,
    Name,
    PromiseKept,
    PromptLogprob,
    ReasoningFields,
    SamplingFields,
    TokenId,
    Usage,
    Wire,
)


class ContentPart(Wire):
    """A part of a message's content; only text is understood."""

    type: Name
    text: str | None = None


class ChatMessage(Wire):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[JsonField], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = Field(None, description="The thought of an earlier answer.")


class ChatRequest(ReasoningFields, SamplingFields):
    """A conversation to be answered."""

    gives_prompt_logprobs: ClassVar[bool] = True

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: Annotated[list[JsonField], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: str | JsonField | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonField | None = None
    store: bool | None = None
    continue_final_message: bool | None = Field(
        None, description="The last message is the beginning of the answer; what follows it comes back."
    )
    answer_token_ids: Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)] | None = Field(
        None, description="Tokens of this answer that are known already; the answer begins with them."
    )
    explain: bool | None = Field(None, description="Give each token's source, and the time line of the answer.")
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = Field(
        None,
        max_length=MAX_TEMPLATE_OPTIONS,
        description="Options that the model's chat template knows, such as `enable_thinking`.",
    )


class TokenLogprob(Wire):
    """A token and its log-probability in nats."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TokenLogprob):
    """A token of the answer, and the best ones at its place."""

    top_logprobs: list[TokenLogprob]


class TokenNote(Wire):
    """A token of an explained answer, and who proposed it."""

    id: int
    text: str
    source: str
    logprob: float | None = None
    alternatives: list[tuple[int, str, float]] | None = Field(None, description="Token id, text, nats; best first.")


class AnswerTimeline(Wire):
    """Times of an explained answer, in milliseconds from its arrival at the engine."""

    queue_ms: float
    prefill_ms: float
    prompt_tokens: int
    cached_tokens: int
    steps: list[tuple[float, int, int]] = Field(description="When a step ended, its tokens, and those drafted.")


class ChatLogprobs(Wire):
    """Log-probabilities of an answer's tokens."""

    content: list[ChatTokenLogprob] | None
    refusal: Any = None


class AnswerMessage(Wire):
    """The message that answers."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[JsonField] | None = None


class ChatChoice(Wire):
    """One of n answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    tokens: list[TokenNote] | None = None
    timeline: AnswerTimeline | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Wire):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None
    cache: CacheState
    deadline: PromiseKept


class ChunkDelta(Wire):
    """Addition of a chunk to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[JsonField] | None = None


class ChunkChoice(Wire):
    """Addition of a chunk to one of n answers."""

    index: int
    delta: ChunkDelta
    logprobs: ChatLogprobs | None = None
    tokens: list[TokenNote] | None = None
    timeline: AnswerTimeline | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None


class ChatChunk(Wire):
    """One event of a streamed answer; the last one carries the deadline."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    cache: CacheState | None = None
    deadline: PromiseKept | None = None
