"""OpenVINO GenAI's continuous-batching pipeline as a stepped engine.

Owns the pipeline and the handles of its requests. Knows no text: OpenVINO ignores the end of texts, and the
caller looks for it. Tokens are drawn by OpenVINO, from a generator of its own: one seed gives other tokens than ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from miaotui.engines.stepped import Progress
from miaotui.errors import RequestError
from miaotui.types import SamplingParams

SEEDS = 1 << 32


class OpenVinoEngine:
    """A `SteppedEngine` over a pipeline that ``build`` returns."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._pipeline = build()
        self._handles: dict[int, Any] = {}

    def add(self, number: int, prompt: Sequence[int], params: SamplingParams, most: int) -> None:
        """Begin a request. Raises `RequestError`."""
        tokens = openvino.Tensor(np.asarray([list(prompt)], np.int64))
        try:
            self._handles[number] = self._pipeline.add_request(number, tokens, generation_config(params, most))
        except (RuntimeError, ValueError, TypeError) as error:
            raise RequestError(f"OpenVINO does not take this request: {error}") from error

    def step(self) -> Iterator[Progress]:
        """Compute a step and yield what came."""
        self._pipeline.step()
        for number, handle in tuple(self._handles.items()):
            tokens: list[int] = []
            if handle.can_read():
                tokens = [int(token) for found in handle.read().values() for token in found.generated_ids]
            status = handle.get_status()
            end = _ENDS.get(status)
            if status != genai.GenerationStatus.RUNNING:  # each call returns another object
                del self._handles[number]
            if tokens or end is not None:
                yield Progress(number, tokens, end)  # type: ignore[arg-type]  # one of its literals

    def cancel(self, number: int) -> None:
        """End a request."""
        handle = self._handles.pop(number, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Give the pipeline up."""
        self._handles.clear()
        self._pipeline = None


_ENDS = {genai.GenerationStatus.FINISHED: "length", genai.GenerationStatus.IGNORED: "no_room"}


def generation_config(params: SamplingParams, most: int) -> Any:
    """Return a request's parameters as OpenVINO names them."""
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = most, True
    config.do_sample = params.temperature > 0
    if config.do_sample:
        config.temperature, config.top_p, config.min_p = params.temperature, params.top_p, params.min_p
        config.rng_seed = params.seed % SEEDS
        if params.top_k:
            config.top_k = params.top_k
    config.repetition_penalty = params.repetition_penalty
    config.presence_penalty, config.frequency_penalty = params.presence_penalty, params.frequency_penalty
    return config
