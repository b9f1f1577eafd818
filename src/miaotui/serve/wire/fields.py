"""Fields that several requests share: sampling, deadlines, streaming.

Owns names, ranges and bounds of OpenAI's fields and of vLLM's extensions. Knows no model or engine.
Invariant: types are strict (``"1"`` and ``1.0`` are no integers), null is as good as absent, and what is not
declared is kept aside to be named in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from miaotui.types import MAX_DEADLINE_MS, OnLate

MAX_MESSAGES = 2048
MAX_PARTS = 256  # of one message's content
MAX_PROMPTS = 64  # of one /v1/completions
MAX_PROMPT_TOKENS = 1 << 18  # of all prompts of one request; the model's context bounds each
MAX_N = 16
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
MAX_METADATA = 64
MAX_NAME_CHARACTERS = 512  # model, user and the like
MAX_TEMPLATE_OPTIONS = 16
MAX_TOKENS = 2**31 - 1

Json = Mapping[str, Any]  # a JSON object that is only read
JsonField = dict[str, JsonValue]  # a JSON object as a field of a request
JsonMessage = dict[str, Any]  # one message of a conversation, as chat templates read it
Name = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARACTERS)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


class Wire(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class StreamOptions(Wire):
    """Extras of a stream besides the answer."""

    include_usage: bool | None = Field(None, description="Send a last chunk with empty `choices` and the usage.")


Quality = Literal["exact", "near", "any"]  # the floor of a request among tiers of one name


class PromiseFields(Wire):
    """Fields of a promise of time."""

    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE_MS,
        allow_inf_nan=False,
        description="Milliseconds from the request's last byte to the answer's last byte.",
    )
    on_late: OnLate | None = Field(
        None,
        description="What to do when the deadline cannot be met: refuse (429; the default for a "
        "deadline given in the request), shorten the answer, or answer late.",
    )
    quality: Quality | None = Field(
        None,
        description="Of a name with several tiers: `exact` is the first alone, `near` also those whose measured loss "
        "is small, `any` (the default) all; the answer says which tier it is from.",
    )


class SamplingFields(PromiseFields):
    """Fields that say how tokens are chosen and when the answer ends."""

    gives_prompt_logprobs: ClassVar[bool] = False  # whether the route's answers have a place for them

    model: Name | None = Field(None, description="A name that /v1/models lists.")
    n: int | None = Field(None, ge=1, le=MAX_N, description="Answers; answer i uses seed + i.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="None: a random one.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Bias] | None = Field(
        None, max_length=MAX_LOGIT_BIAS, description="Token id (as text) to an added logit."
    )
    max_tokens: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="0 only for prompts alone: with `echo` or `prompt_logprobs`."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    metadata: JsonField | None = Field(None, max_length=MAX_METADATA)
    # vLLM's extensions
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    structured_outputs: JsonField | None = Field(
        None, max_length=8, description="One of `json` (a schema), `json_object`, `regex`, `choice`, `grammar` (Lark)."
    )
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Log-probabilities of the prompt's tokens, with so many alternatives each; not in streams.",
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None


class ReasoningFields(Wire):
    """Fields for the reasoning of a model that thinks before it answers."""

    reasoning_format: Literal["auto", "none", "deepseek"] | None = Field(
        None, description="`none` leaves the thought in the content; else it comes apart from it."
    )
    max_reasoning_tokens: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="Tokens after which the thought is closed, so that an answer follows."
    )


class PromiseKept(Wire):
    """Report on an answer's deadline; milliseconds from the request's last byte."""

    asked_ms: float | None
    predicted_ms: float | None
    took_ms: float
    met: bool | None
    shortened: bool
    tier: str | None = Field(None, description="The model that answered, of several behind the name.")


class PromptLogprob(Wire):
    """A token that could stand at a place of the prompt: nats, its rank there, its text."""

    logprob: float
    rank: int
    decoded_token: str


class PromptTokensDetails(Wire):
    """Of the prompt's tokens, those whose work was reused."""

    cached_tokens: int


class CompletionTokensDetails(Wire):
    """Of the answer's tokens, those of the thought."""

    reasoning_tokens: int


class Usage(Wire):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


class ErrorObject(Wire):
    """Description of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Wire):
    """Every error's body."""

    error: ErrorObject
