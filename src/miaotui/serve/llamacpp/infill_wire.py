"""``/infill``: the request and the answer, under the names of llama.cpp's server.

Owns those names and their bounds. Knows no model. Invariant: options of llama.cpp that are not followed are named in
``X-Ignored-Fields``. Source: llama.cpp's ``tools/server/README.md``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from miaotui.serve.wire.fields import MAX_TOKENS, Name, PromiseKept, SamplingFields, Wire

MAX_EXTRA = 64  # files beside the one that is filled in
TEMPERATURE = 0.8  # llama.cpp's default


class ExtraFile(Wire):
    """A file of the same project."""

    filename: Name = ""
    text: str


class InfillRequest(SamplingFields):
    """The texts before and after a gap."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=MAX_EXTRA, fail_fast=True)] | None = None
    prompt: str | None = Field(None, description="How the text in the gap begins.")
    n_predict: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="Tokens at most; -1: no limit.")


class InfillTimings(Wire):
    """Tokens and milliseconds of reading the prompt and of writing."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class InfillAnswer(Wire):
    """The whole answer, or one event of a stream; the last one has ``stop`` true and all members."""

    index: int
    content: str
    stop: bool
    model: str | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    tokens_cached: int | None = None
    truncated: bool | None = None
    stop_type: Literal["eos", "limit"] | None = None
    timings: InfillTimings | None = None
    deadline: PromiseKept | None = None
