"""``/v1/messages``: the request and the answer in Anthropic's names.

Owns those names and their bounds; sampling and deadlines are as in every other request. Knows no
engine. Source: Anthropic's API reference, "Messages".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.wire.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOPS,
    MAX_TOKENS,
    MAX_TOOLS,
    JsonField,
    Name,
    PromiseKept,
    ReasoningFields,
    SamplingFields,
    Stop,
    Wire,
)


class Block(Wire):
    """A part of a message's content: text, a tool's use or a tool's result."""

    type: Name
    text: str | None = None
    thinking: str | None = None
    id: Name | None = None
    name: Name | None = None
    input: JsonField | None = None
    tool_use_id: Name | None = None
    content: str | Annotated[list[JsonField], Field(max_length=MAX_PARTS)] | None = None
    is_error: bool | None = None


Blocks = Annotated[list[Block], Field(max_length=MAX_PARTS)]


class MessageTurn(Wire):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class MessagesBody(Wire):
    """Messages and tools: all that makes the prompt."""

    messages: Annotated[list[MessageTurn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Blocks | None = None
    tools: Annotated[list[JsonField], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: JsonField | None = None
    thinking: JsonField | None = Field(None, description="`enabled` with `budget_tokens`, `adaptive` or `disabled`.")


class CountRequest(MessagesBody):
    """A conversation whose tokens are to be counted."""

    model: Name | None = None


class MessagesRequest(ReasoningFields, SamplingFields, MessagesBody):
    """A conversation to be answered."""

    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    n: Literal[1] | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    output_config: JsonField | None = None


class MessagesUsage(Wire):
    """Counts of tokens; those of the prompt are split by whether their work was reused."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class AnthropicMessage(Wire):
    """The whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[JsonField]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessagesUsage
    cache: CacheState
    deadline: PromiseKept


class MessageEvent(Wire):
    """An event of a streamed answer; ``message_stop`` carries the deadline."""

    type: Name
    cache: CacheState | None = None
    deadline: PromiseKept | None = None
    error: Any = None


class Count(Wire):
    """Count of a conversation's tokens."""

    input_tokens: int
