"""The events of a streamed chat answer.

Owns OpenAI's chunk of a chat answer as text: what does not change between chunks is written once,
so that a chunk costs little more than quoting its characters. Knows neither engine nor connection.
Invariant: the contents of an answer's chunks, joined, are the content of the whole answer.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quoted
from typing import Any

from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.stream import event, json_text
from miaotui.serve.openai.logprobs import chat_logprobs
from miaotui.serve.wire.chat_message import ChatShaper
from miaotui.serve.wire.fields import Json
from miaotui.types import Delta

CHUNK = "chat.completion.chunk"


def identity(generation: GenerationRequest, kind: str) -> dict[str, Any]:
    """Return the members that a chat answer and all its chunks begin with."""
    return {
        "id": f"chatcmpl-{generation.token}",
        "object": kind,
        "created": generation.created_s,
        "model": generation.model.name,
        "system_fingerprint": generation.model.fingerprint,
    }


class ChatWriter:
    """Writes the events of one chat request, see `events.Writer`."""

    def __init__(self, generation: GenerationRequest, include_usage: bool) -> None:
        self._generation = generation
        self._choices = [_ChoiceStream(generation, index, include_usage) for index in range(generation.n)]

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Often one event; at the end one more, with the reason."""
        choice = self._choices[index]
        text = choice.piece(delta)
        return text if delta.completion is None else text + choice.end(delta, deadline)

    def identity(self) -> Json:
        """Return what every chunk begins with."""
        return identity(self._generation, CHUNK)


class _ChoiceStream:
    """The events of one of n answers."""

    def __init__(self, generation: GenerationRequest, index: int, include_usage: bool) -> None:
        empty = event({**identity(generation, CHUNK), "choices": []})
        self._head = empty.removesuffix("]}\n\n") + f'{{"index":{index},"delta":'
        self._usage = ',"usage":null' if include_usage else ""
        self._tail = f',"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'
        self._last = f',"cache":"{generation.cache}","deadline":'
        syntax = generation.form.syntax
        self._shaper = None if syntax is None else ChatShaper(syntax)
        self._with_logprobs = generation.params[0].logprobs is not None
        self._tokenizer = generation.model.tokenizer
        self._role = '"role":"assistant",'  # of the first event, which comes with the first token; then ""

    def piece(self, delta: Delta) -> str:
        if self._shaper is not None:
            return self._parts(delta, self._shaper)
        if self._with_logprobs and (delta.token_ids or delta.text):
            return self._with(delta)
        if not delta.text:
            return ""
        return f'{self._head}{{{self._role_once()}"content":{quoted(delta.text)}}}{self._tail}'

    def end(self, delta: Delta, deadline: Json | None) -> str:
        """Return what was held back, and why the answer ended."""
        held, reason = "", str(delta.finish_reason)
        if self._shaper is not None:
            deltas, reason = self._shaper.finish(reason)
            held = "".join(map(self._shaped, deltas))
        more = "" if deadline is None else self._last + json_text(deadline)
        role = self._role_once()
        last = f'{{{role}"content":""}}' if role else "{}"
        end = f',"logprobs":null,"finish_reason":{quoted(reason)}}}]{self._usage}{more}}}\n\n'
        return held + self._head + last + end

    def _role_once(self) -> str:
        """Return the member that names the role, for the choice's first event only."""
        role, self._role = self._role, ""
        return role

    def _shaped(self, delta: Json) -> str:
        return f"{self._head}{{{self._role_once()}{json_text(delta)[1:]}{self._tail}"

    def _parts(self, delta: Delta, shaper: ChatShaper) -> str:
        """Return the events of a piece; its log-probabilities, if asked for, come with the first."""
        deltas = shaper.push(delta.text)
        if not self._with_logprobs or not delta.token_ids:
            return "".join(map(self._shaped, deltas))
        first, *rest = deltas or [{}]
        logprobs = json_text(chat_logprobs(self._tokenizer, delta.logprobs))
        members = json_text(first)[1:]
        role = self._role_once()
        head = f"{self._head}{{{role if members != '}' else role.rstrip(',')}{members}"
        begun = f'{head},"logprobs":{logprobs},"finish_reason":null}}]{self._usage}}}\n\n'
        return begun + "".join(map(self._shaped, rest))

    def _with(self, delta: Delta) -> str:
        logprobs = json_text(chat_logprobs(self._tokenizer, delta.logprobs))
        return (
            f'{self._head}{{{self._role_once()}"content":{quoted(delta.text)}}},"logprobs":{logprobs},'
            f'"finish_reason":null}}]{self._usage}}}\n\n'
        )
