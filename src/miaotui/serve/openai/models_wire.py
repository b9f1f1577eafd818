"""``/v1/models``, ``/tokenize``, ``/detokenize`` and ``/tokenizer_info``: requests and answers.

Owns OpenAI's names for models and vLLM's for tokens. Source: OpenAI's API reference, "Models"; vLLM's
OpenAI-compatible server.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from miaotui.serve.openai.chat_wire import ChatMessage
from miaotui.serve.wire.fields import (
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    MAX_TEMPLATE_OPTIONS,
    MAX_TOOLS,
    JsonField,
    Name,
    TokenId,
    Wire,
)

Kind = Literal[
    "chat", "embedding", "rerank", "classify", "token-classify", "fill-mask", "encoder", "encoder-decoder", "speech"
]  # fmt: skip


class Abilities(Wire):
    """The things that requests to a model can have; what it lacks is refused by name."""

    same_bytes: bool = Field(description="Equal requests have equal answers, whatever else runs.")
    promises: Literal["kept", "estimated", "none"] = Field(
        description="Deadlines are kept or refused by the engine's own plan, or estimated from outside."
    )
    grammar: bool
    adapters: bool
    logprobs: bool
    prompt_logprobs: bool
    logit_bias: bool
    min_tokens: bool
    explanations: bool


class Model(Wire):
    """A model that is served here."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(
        description="Tokens of a prompt and its answer together, of a text, or of a recording, 50 a second."
    )
    kind: Kind
    loaded: bool = Field(description="Whether it is in memory; encoders are loaded when they are first used.")
    parent: str | None = Field(None, description="Of an adapter: the model that it changes.")
    abilities: Abilities | None = Field(None, description="Of a chat model: what requests to it can have.")


class ModelList(Wire):
    """All models that are served here."""

    object: Literal["list"]
    data: list[Model]


class TokenizerInfo(Wire):
    """Tokenizer facts for programs that cut texts as this server does."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None = Field(description="Jinja source.")
    model_max_length: int
    vocab_size: int
    add_bos_token: bool = Field(description="Whether a text gets the beginning token.")


class TokenizeRequest(Wire):
    """A text, or a conversation, to be cut into tokens."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Annotated[list[JsonField], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    add_special_tokens: bool = Field(True, description="Put the model's beginning and end tokens around a text.")
    parse_special: bool = Field(
        True, description="Read control tokens that are written in a text. False: all of it is plain characters."
    )
    add_generation_prompt: bool = Field(True, description="End a conversation for an answer.")
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = Field(
        None, max_length=MAX_TEMPLATE_OPTIONS
    )
    return_token_strs: bool | None = None


class TokenizeAnswer(Wire):
    """Token ids, and their texts if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Wire):
    """Token ids to be put together."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)]


class Detokenized(Wire):
    """The text of token ids, special tokens included."""

    prompt: str
