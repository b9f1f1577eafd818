"""``/v1/responses``: the request and the answer in the names of OpenAI's Responses API.

Owns those names and their bounds; sampling and deadlines are as in every other request. Knows no
engine. Source: OpenAI's API reference, "Responses".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from miaotui.retrieval.answers.cache import CacheState
from miaotui.serve.wire.fields import (
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOOLS,
    JsonField,
    Name,
    PromiseKept,
    ReasoningFields,
    SamplingFields,
    Wire,
)

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponsesRequest(ReasoningFields, SamplingFields):
    """An input to be answered, perhaps going on from an earlier answer."""

    input: str | Annotated[list[JsonField], Field(min_length=1, max_length=MAX_MESSAGES)]
    n: Literal[1] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    previous_response_id: Name | None = None
    tools: Annotated[list[JsonField], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | JsonField | None = None
    parallel_tool_calls: bool | None = None
    text: JsonField | None = None
    reasoning: JsonField | None = Field(None, description="`effort` `none`: no thought, where the template can.")
    store: bool | None = Field(None, description="False: keep nothing of it here.")
    background: bool | None = Field(None, description="Answer at once, and work on.")


class ResponsesUsage(Wire):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(Wire):
    """An answer, whole or on its way."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Status
    model: str
    output: list[JsonField]
    error: JsonField | None
    incomplete_details: JsonField | None
    instructions: str | None
    max_output_tokens: int | None
    previous_response_id: str | None
    parallel_tool_calls: bool
    tools: list[JsonField]
    tool_choice: str | JsonField
    text: JsonField
    temperature: float
    top_p: float
    metadata: JsonField
    background: bool
    store: bool
    usage: ResponsesUsage | None
    cache: CacheState | None
    deadline: PromiseKept | None


class ResponseEvent(Wire):
    """An event of a streamed answer."""

    type: Name
    sequence_number: int
    response: Any = None


class DeletedResponse(Wire):
    """An answer that is kept no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
