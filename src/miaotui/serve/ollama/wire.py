"""Requests on Ollama's routes, their options as our parameters, and the shape of errors there.

Owns Ollama's names and its defaults: temperature 0.8, top_k 40, top_p 0.9. Options of the machine (``num_ctx``,
``num_gpu``, ``num_thread``, …) are not followed, and named in ``X-Ignored-Fields``. Knows no model. Invariant: an
option that would change an answer and cannot be followed is refused. Source: Ollama's ``docs/api.md``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from miaotui.engine.grammar.response_format import read_format, schema_format
from miaotui.engine.grammar.source import Grammar
from miaotui.serve.encoders.fields import EncoderFields, Inputs
from miaotui.serve.http.bodies import IGNORED, ignored_fields, json_response
from miaotui.serve.http.errors import ApiError, bad_value
from miaotui.serve.wire.fields import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOKENS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    JsonField,
    Name,
    PromiseFields,
    SamplingFields,
    Stop,
    Wire,
)
from miaotui.serve.wire.params import params_for
from miaotui.types import SamplingParams

OLLAMA_PREFIX = "/api/"
LATEST = ":latest"
FORMAT = "format"
MAX_IMAGES = 64
TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.9

Images = Annotated[list[str], Field(max_length=MAX_IMAGES, fail_fast=True)]


class OllamaOptions(Wire):
    """Options of one request; those of the machine are kept aside."""

    num_predict: int | None = Field(None, ge=-2, le=MAX_TOKENS, description="Tokens at most; -1 and -2: no limit.")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False, description="Default: 0.8.")
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="Default: 40; 0: off.")
    top_p: float | None = Field(None, ge=0, le=1, description="Default: 0.9.")
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, description="Refused but for 1.")
    mirostat: int | None = Field(None, description="Refused but for 0.")
    repeat_penalty: float | None = Field(None, gt=0, le=100, description="Default: 1. Over all tokens so far.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="-1: a random one.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None

    def params(self, logprobs: int | None) -> tuple[SamplingParams, ...]:
        """Return the parameters of one answer. Raises `ApiError` (400) for what cannot be followed."""
        if self.mirostat:
            raise bad_value("options.mirostat", "is not to be had here: leave it out, or use top_p")
        if self.typical_p not in (None, 1, 1.0):
            raise bad_value("options.typical_p", "is not to be had here: leave it out, or use min_p")
        limit = None if self.num_predict is None or self.num_predict < 0 else self.num_predict
        wanted = {
            "temperature": TEMPERATURE if self.temperature is None else self.temperature,
            "top_k": TOP_K if self.top_k is None else self.top_k,
            "top_p": TOP_P if self.top_p is None else self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": None if self.seed == -1 else self.seed,
            "stop": self.stop or None,
        }
        fields = SamplingFields.model_validate(wanted)
        return params_for(fields, limit, logprobs)


class AnswerFields(PromiseFields):
    """Fields of requests for text."""

    model: Name
    stream: bool | None = Field(None, description="Default: true.")
    format: JsonField | str | None = Field(None, description="`json`, or a JSON schema.")
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="Whether a model that can think does, and its thought comes apart."
    )
    keep_alive: str | int | float | None = Field(None, description="Not followed: models stay in memory.")
    logprobs: bool | None = Field(None, description="Whether each line has the log-probabilities of its tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS, description="Best tokens beside each.")

    @property
    def streams(self) -> bool:
        """Return whether the answer comes in pieces."""
        return self.stream is not False

    def params(self) -> tuple[SamplingParams, ...]:
        """Return the parameters of the answer."""
        if self.top_logprobs and not self.logprobs:
            raise bad_value("top_logprobs", "needs logprobs to be true")
        wanted = (self.top_logprobs or 0) if self.logprobs else None
        return (self.options or OllamaOptions.model_validate({})).params(wanted)

    def form(self) -> Grammar | None:
        """Return the form of the answer that ``format`` asks for. Raises `ApiError` (400) or `FieldError`."""
        if self.format is None or self.format == "":
            return None
        if isinstance(self.format, dict):
            return schema_format({"schema": self.format, "strict": True}, FORMAT)
        if self.format != "json":
            raise bad_value(FORMAT, "must be 'json' or a JSON schema")
        return read_format({"type": "json_object"})

    def ignored(self) -> dict[str, str]:
        """Return the header that names what was not understood, options included."""
        names = [ignored_fields(part).get(IGNORED, "") for part in (self, self.options) if part is not None]
        shown = ", ".join(filter(None, names))
        return {IGNORED: shown} if shown else {}


class CalledFunction(Wire):
    """The function of a call, and its arguments as an object."""

    name: Name
    arguments: JsonField = Field(default_factory=dict)


class OllamaCall(Wire):
    """A call that an earlier answer made."""

    function: CalledFunction


class OllamaMessage(Wire):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = Field(None, description="Refused: models here read text.")
    tool_calls: Annotated[list[OllamaCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_name: Name | None = Field(None, description="Of a `tool` message: the function whose result it is.")


class OllamaChatRequest(AnswerFields):
    """A conversation to be answered."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Annotated[list[JsonField], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None


class OllamaGenerateRequest(AnswerFields):
    """A prompt to be answered, or with ``raw`` to be continued."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt is all of the text: no chat template.")
    suffix: str | None = Field(None, description="The text after the answer, for models that fill in.")
    template: str | None = Field(None, description="Refused: the model's own template is used.")
    images: Images | None = Field(None, description="Refused: models here read text.")
    context: list[int] | None = Field(None, description="Refused: send the conversation to /api/chat.")


class OllamaEmbedRequest(EncoderFields):
    """Texts to embed; they are cut to the model's length unless ``truncate`` is false."""

    input: Inputs
    dimensions: int | None = Field(None, ge=1, le=MAX_TOKENS)
    options: JsonField | None = None
    keep_alive: str | int | float | None = None


class OllamaEmbeddingsRequest(EncoderFields):
    """A text to embed, in the form that /api/embed replaced."""

    prompt: str
    options: JsonField | None = None
    keep_alive: str | int | float | None = None


class ShowRequest(Wire):
    """The model to describe."""

    model: Name | None = None
    name: Name | None = Field(None, description="The older name of `model`.")
    verbose: bool | None = None


class PullRequest(Wire):
    """The model to fetch: a name of the catalog, or of a repository."""

    model: Name | None = None
    name: Name | None = Field(None, description="The older name of `model`.")
    stream: bool | None = Field(None, description="Default: true.")
    insecure: bool | None = Field(None, description="Not followed.")


def is_ollamas(path: str) -> bool:
    """Return whether a path is one of Ollama's."""
    return path.startswith(OLLAMA_PREFIX)


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as Ollama's clients read it."""
    return {"error": error.message}


def error_response(error: ApiError) -> Response:
    """Return the response to an error on one of Ollama's routes."""
    return json_response(error_body(error), error.status, error.headers)
