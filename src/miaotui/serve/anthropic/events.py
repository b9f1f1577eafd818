"""Answers in Anthropic's shapes: the whole message, and the events that build it.

Owns content blocks and their order. Knows neither prompts nor connections. Invariant: a client that
applies the events gets the whole message. Source: Anthropic's API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from miaotui.serve.answer import ModelAnswer
from miaotui.serve.anthropic.errors import shaped
from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.bodies import Events, json_text
from miaotui.serve.http.errors import from_error
from miaotui.serve.middleware.access import received
from miaotui.text.answers import AnswerEvent, AnswerSyntax
from miaotui.text.reasoning import ReasoningPiece
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, TextPiece
from miaotui.text.tool_calls.tooling import call_id
from miaotui.types import Completion

BlockDicts = list[dict[str, Any]]


class MessagesWriter:
    """One answer: `push` its text, then `finish`; ``blocks`` is the content so far."""

    def __init__(self, syntax: AnswerSyntax | None) -> None:
        self._syntax = syntax
        self._parser = None if syntax is None else syntax.parser()
        self.blocks: BlockDicts = []
        self._open = False

    def push(self, text: str) -> str:
        """Return the events of a piece of text."""
        if self._parser is None:
            return self._text(text) if text else ""
        return "".join(map(self._event, self._parser.push(text)))

    def finish(self) -> str:
        """Return the events of what was held back, and the end of the last block."""
        rest = () if self._parser is None else self._parser.finish()
        written = "".join(map(self._event, rest)) + self._close()
        for block in self.blocks:
            if block["type"] == "tool_use":
                block["input"] = _object(block["input"])
        return written

    def _event(self, event: AnswerEvent) -> str:
        if isinstance(event, ReasoningPiece):
            return self._thought(event.text)
        if isinstance(event, TextPiece):
            return self._text(event.text)
        if isinstance(event, CallBegins):
            assert self._syntax is not None, "only a syntax finds calls"
            identity = call_id(self._syntax.tooling.dialect.format, "toolu_")
            block = {"type": "tool_use", "id": identity, "name": event.name}
            return self._begin({**block, "input": ""}, {**block, "input": {}})
        assert isinstance(event, CallArguments)
        self.blocks[-1]["input"] += event.text
        return self._delta({"type": "input_json_delta", "partial_json": event.text})

    def _text(self, text: str) -> str:
        begun = ""
        if not self._open or self.blocks[-1]["type"] != "text":
            block = {"type": "text", "text": ""}
            begun = self._begin(dict(block), block)
        self.blocks[-1]["text"] += text
        return begun + self._delta({"type": "text_delta", "text": text})

    def _thought(self, text: str) -> str:
        begun = ""
        if not self._open or self.blocks[-1]["type"] != "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
            begun = self._begin(dict(block), block)
        self.blocks[-1]["thinking"] += text
        return begun + self._delta({"type": "thinking_delta", "thinking": text})

    def _begin(self, kept: dict[str, Any], shown: dict[str, Any]) -> str:
        ended = self._close()
        self.blocks.append(kept)
        self._open = True
        index = len(self.blocks) - 1
        return ended + event("content_block_start", index=index, content_block=shown)

    def _delta(self, delta: dict[str, Any]) -> str:
        return event("content_block_delta", index=len(self.blocks) - 1, delta=delta)

    def _close(self) -> str:
        if not self._open:
            return ""
        self._open = False
        signed = self._delta({"type": "signature_delta", "signature": ""})
        signature = signed if self.blocks[-1]["type"] == "thinking" else ""
        return signature + event("content_block_stop", index=len(self.blocks) - 1)


def event(kind: str, **members: Any) -> str:
    """Return one event with its name."""
    return f"event: {kind}\ndata: {json_text({'type': kind, **members})}\n\n"


def whole_message(generation: GenerationRequest, answer: ModelAnswer, completion: Completion) -> dict[str, Any]:
    """Return the answer that does not stream."""
    writer = MessagesWriter(generation.form.syntax)
    writer.push(completion.text)
    writer.finish()
    ended = ending(generation, completion, writer.blocks)
    return {
        **_head(generation, completion.prompt_tokens, completion.cached_tokens),
        "content": writer.blocks,
        **ended,
        "usage": _usage(completion),
        "cache": generation.cache,
        "deadline": generation.deadline_report([answer]),
    }


async def events(generation: GenerationRequest, ping_s: float) -> Events:
    """Yield the events of a streamed answer; an error after the first one becomes an event too."""
    batch = generation.submit()
    (answer,) = batch.answers
    writer, begun = MessagesWriter(generation.form.syntax), False
    try:
        async with aclosing(batch.pieces(ping_s)) as steps:
            async for step in steps:
                text = "" if step or not begun else event("ping")
                if step and not begun:
                    begun, text = True, _begin(generation, answer)
                for _, delta in step:
                    text += writer.push(delta.text)
                    if delta.completion is not None:
                        text += _end(generation, answer, delta.completion, writer)
                if text:
                    yield text
    except Exception as error:
        if not begun:
            raise
        request_id = received(generation.http).request_id
        yield f"event: error\ndata: {json_text(shaped(from_error(error, request_id), request_id))}\n\n"


def _begin(generation: GenerationRequest, answer: ModelAnswer) -> str:
    head = _head(generation, answer.prompt_tokens, answer.cached_tokens)
    message = {**head, "content": [], "stop_reason": None, "stop_sequence": None}
    return event("message_start", message=message) + event("ping")


def _end(generation: GenerationRequest, answer: ModelAnswer, completion: Completion, writer: MessagesWriter) -> str:
    rest = writer.finish()
    ended = ending(generation, completion, writer.blocks)
    report = generation.deadline_report([answer])
    return (
        rest
        + event("message_delta", delta=ended, usage=_usage(completion))
        + event("message_stop", cache=generation.cache, deadline=report)
    )


def ending(generation: GenerationRequest, completion: Completion, blocks: BlockDicts) -> dict[str, Any]:
    """Return why the answer ended, in Anthropic's words."""
    stops = generation.params[0].stop
    stop = stop_found(generation.model.tokenizer, completion, stops)
    reason = "max_tokens" if completion.finish_reason == "length" else "end_turn"
    if stop is not None:
        reason = "stop_sequence"
    elif reason == "end_turn" and any(block["type"] == "tool_use" for block in blocks):
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": stop}


def stop_found(tokenizer: Tokenizer, completion: Completion, stops: Sequence[str]) -> str | None:
    """Return the stop string that ended the answer; None if something else did."""
    if completion.finish_reason != "stop" or not stops:
        return None
    rest = tokenizer.decode(completion.token_ids)[len(completion.text) :]
    return max((stop for stop in stops if rest.startswith(stop)), key=len, default=None)


def _head(generation: GenerationRequest, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
    return {
        "id": f"msg_{generation.token}",
        "type": "message",
        "role": "assistant",
        "model": generation.model.name,
        "usage": _counts(prompt_tokens, cached_tokens, 0),
    }


def _usage(completion: Completion) -> dict[str, int]:
    counts = completion.prompt_tokens, completion.cached_tokens, len(completion.token_ids)
    return _counts(*counts)


def _counts(prompt_tokens: int, cached_tokens: int, answered: int) -> dict[str, int]:
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "output_tokens": answered,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
    }


def _object(text: str) -> dict[str, Any]:
    """Parse a call's arguments; none if they were cut short."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
