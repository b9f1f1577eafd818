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


def identity(asking: GenerationRequest) -> dict[str, Any]:
    """The members that a text answer and all its chunks begin with."""
    return {
        "id": f"cmpl-{asking.token}",
        "object": "text_completion",
        "created": asking.created_s,
        "model": asking.hosted.name,
        "system_fingerprint": asking.hosted.fingerprint,
    }


class TextWriter:
    """Writes the events of one request, see `events.Writer`; ``echoes`` are its prompts' texts."""

    def __init__(self, asking: GenerationRequest, echoes: Sequence[str], include_usage: bool) -> None:
        self._asking, self._echoes = asking, echoes
        self._head = event({**identity(asking), "choices": []}).removesuffix("]}\n\n") + '{"index":'
        self._usage = ',"usage":null' if include_usage else ""
        self._with_logprobs = asking.params[0].logprobs is not None
        self._offsets = [0] * (len(asking.prompts) * asking.n)

    def begin(self) -> str:
        """The prompts, if they are to be repeated."""
        n = self._asking.n
        texts = ((index, self._echoes[index // n]) for index in range(len(self._offsets)))
        return "".join(self._chunk(index, text) for index, text in texts if text)

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """One event, or none if there is no text yet."""
        with_logprobs = self._with_logprobs and delta.token_ids
        if not (delta.text or delta.finish_reason or with_logprobs):
            return ""
        logprobs = "null"
        if with_logprobs:
            tokenizer, offset = self._asking.hosted.tokenizer, self._offsets[index]
            shape, self._offsets[index] = text_logprobs(tokenizer, delta.logprobs, offset)
            logprobs = json_text(shape)
        return self._chunk(index, delta.text, logprobs, delta.finish_reason, deadline)

    def identity(self) -> Json:
        """What every chunk begins with."""
        return identity(self._asking)

    def _chunk(
        self, index: int, text: str, logprobs: str = "null", reason: str | None = None, deadline: Json | None = None
    ) -> str:
        end = "null" if reason is None else quoted(reason)
        more = ""
        if deadline is not None:
            more = f',"cache":"{self._asking.cache}","deadline":{json_text(deadline)}'
        return (
            f'{self._head}{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{end}}}]{self._usage}{more}}}\n\n'
        )
