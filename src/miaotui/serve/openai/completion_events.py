"""The events of streamed text answers.

Owns OpenAI's chunk of a text answer as text; what does not change between chunks is written once.
Knows neither engine nor connection. Invariant: the texts of an answer's chunks, joined, are the
text of the whole answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring as quoted
from typing import Any

from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.stream import event, json_text
from miaotui.serve.openai.logprobs import text_logprobs
from miaotui.types import Delta

Json = Mapping[str, Any]


def identity(generation: GenerationRequest) -> dict[str, Any]:
    """The members that a text answer and all its chunks begin with."""
    return {
        "id": f"cmpl-{generation.token}",
        "object": "text_completion",
        "created": generation.created_s,
        "model": generation.model.name,
        "system_fingerprint": generation.model.fingerprint,
    }


class TextWriter:
    """Writes the events of one request, see `events.Writer`; ``echoes`` are its prompts' texts."""

    def __init__(self, generation: GenerationRequest, echoes: Sequence[str], include_usage: bool) -> None:
        self._generation, self._echoes = generation, echoes
        self._head = event({**identity(generation), "choices": []}).removesuffix("]}\n\n") + '{"index":'
        self._usage = ',"usage":null' if include_usage else ""
        self._with_logprobs = generation.params[0].logprobs is not None
        self._offsets = [0] * (len(generation.prompts) * generation.n)

    def begin(self) -> str:
        """The prompts, if they are to be repeated."""
        n = self._generation.n
        texts = ((index, self._echoes[index // n]) for index in range(len(self._offsets)))
        return "".join(self._chunk(index, text) for index, text in texts if text)

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """One event, or none if there is no text yet."""
        with_logprobs = self._with_logprobs and delta.token_ids
        if not (delta.text or delta.finish_reason or with_logprobs):
            return ""
        logprobs = "null"
        if with_logprobs:
            tokenizer, offset = self._generation.model.tokenizer, self._offsets[index]
            shape, self._offsets[index] = text_logprobs(tokenizer, delta.logprobs, offset)
            logprobs = json_text(shape)
        return self._chunk(index, delta.text, logprobs, delta.finish_reason, deadline)

    def identity(self) -> Json:
        """What every chunk begins with."""
        return identity(self._generation)

    def _chunk(
        self, index: int, text: str, logprobs: str = "null", reason: str | None = None, deadline: Json | None = None
    ) -> str:
        end = "null" if reason is None else quoted(reason)
        more = ""
        if deadline is not None:
            more = f',"cache":"{self._generation.cache}","deadline":{json_text(deadline)}'
        return (
            f'{self._head}{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{end}}}]{self._usage}{more}}}\n\n'
        )
