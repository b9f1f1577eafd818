"""The events of streamed text answers.

Owns OpenAI's chunk of a text answer as text; what does not change between chunks is written once.
Knows neither engine nor connection. Invariant: the texts of an answer's chunks, joined, are the
text of the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring as quoted
from typing import Any

from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.stream import event, json_text
from miaotui.serve.openai.logprobs import TextLogprobs, joined
from miaotui.serve.wire.fields import Json
from miaotui.types import Delta


def identity(generation: GenerationRequest) -> dict[str, Any]:
    """Return the members that a text answer and all its chunks begin with."""
    return {
        "id": f"cmpl-{generation.token}",
        "object": "text_completion",
        "created": generation.created_s,
        "model": generation.model.name,
        "system_fingerprint": generation.model.fingerprint,
    }


class TextWriter:
    """Writes the events of one request, see `event_stream.EventWriter`.

    ``echoes`` are the texts of its prompts, each repeated in the first piece of its answers; None: not repeated.
    """

    def __init__(self, generation: GenerationRequest, echoes: Sequence[str | None], include_usage: bool) -> None:
        self._generation = generation
        self._head = event({**identity(generation), "choices": []}).removesuffix("]}\n\n") + '{"index":'
        self._usage = ',"usage":null' if include_usage else ""
        top, tokenizer, n = generation.params[0].logprobs, generation.model.tokenizer, generation.n
        self._echoes = [echo for echo in echoes for _ in range(n)]  # of each choice; None once it is written
        self._logprobs = None if top is None else [TextLogprobs(tokenizer, top, echo or "") for echo in self._echoes]

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Return one event, or none if there is no text yet."""
        echo, self._echoes[index] = self._echoes[index], None
        text = (echo or "") + delta.text
        shape = None
        if self._logprobs is not None:
            shape = self._shape(self._logprobs[index], index, delta, echoed=echo is not None)
        if not (text or delta.finish_reason or shape):
            return ""
        logprobs = "null" if shape is None else json_text(shape)
        return self._chunk(index, text, logprobs, delta.finish_reason, deadline)

    def _shape(self, writer: TextLogprobs, index: int, delta: Delta, *, echoed: bool) -> Json | None:
        """Return the piece's log-probabilities, behind those of its prompt where that is repeated in it."""
        shape = writer.answer(delta.logprobs) if delta.logprobs else None
        if not (echoed and delta.prompt_logprobs):
            return shape
        prompt = writer.prompt(self._generation.prompts[index // self._generation.n], delta.prompt_logprobs)
        return prompt if shape is None else joined(prompt, shape)

    def identity(self) -> Json:
        """Return the members that every chunk begins with."""
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
