"""Answers in the shapes of the Responses API: output items, and the events that build them.

Owns items, parts and their order. Knows neither prompts nor connections. Invariant: the response in
the last event is the one that would have come without streaming. Source: OpenAI's API reference,
"Responses: streaming events".
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.bodies import Events, json_text
from miaotui.serve.http.errors import ApiError, from_error
from miaotui.serve.middleware.access import received
from miaotui.text.answers import AnswerEvent, AnswerSyntax
from miaotui.text.reasoning import ReasoningPiece
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, TextPiece
from miaotui.text.tool_calls.tooling import call_id
from miaotui.types import Completion

Item = dict[str, Any]
ResponseBody = dict[str, Any]


class ResponsesWriter:
    """One answer: `push` its text, then `finish`; ``output`` is the items so far."""

    def __init__(self, syntax: AnswerSyntax | None) -> None:
        self._syntax = syntax
        self._parser = None if syntax is None else syntax.parser()
        self._numbers = itertools.count()
        self.output: list[Item] = []
        self._open = False

    def event(self, kind: str, **members: Any) -> str:
        """Return one event, numbered."""
        body = {"type": kind, "sequence_number": next(self._numbers), **members}
        return f"event: {kind}\ndata: {json_text(body)}\n\n"

    def push(self, text: str) -> str:
        """Return the events of a piece of text."""
        if self._parser is None:
            return self._text(text) if text else ""
        return "".join(map(self._event, self._parser.push(text)))

    def finish(self, status: str) -> str:
        """Return the events of what was held back, and the end of the last item, whose status is given."""
        rest = () if self._parser is None else self._parser.finish()
        written = "".join(map(self._event, rest))
        if not self.output:
            written += self._begin_message()
        return written + self._close(status)

    def _event(self, event: AnswerEvent) -> str:
        if isinstance(event, ReasoningPiece):
            return self._thought(event.text)
        if isinstance(event, TextPiece):
            return self._text(event.text)
        if isinstance(event, CallBegins):
            assert self._syntax is not None, "only a syntax finds calls"
            identity = call_id(self._syntax.tooling.dialect.format)
            call = {"type": "function_call", "id": _id("fc"), "call_id": identity}
            return self._begin({**call, "name": event.name, "arguments": ""})
        assert isinstance(event, CallArguments)
        self.output[-1]["arguments"] += event.text
        return self._at("response.function_call_arguments.delta", delta=event.text)

    def _text(self, text: str) -> str:
        begun = ""
        if not self._open or self.output[-1]["type"] != "message":
            begun = self._begin_message()
        self.output[-1]["content"][0]["text"] += text
        return begun + self._part("response.output_text.delta", delta=text, logprobs=[])

    def _thought(self, text: str) -> str:
        begun = ""
        if not self._open or self.output[-1]["type"] != "reasoning":
            begun = self._begin({"type": "reasoning", "id": _id("rs"), "summary": [], "content": []})
            part = {"type": "reasoning_text", "text": ""}
            self.output[-1]["content"] = [part]
            begun += self._part("response.content_part.added", part=part)
        self.output[-1]["content"][0]["text"] += text
        return begun + self._part("response.reasoning_text.delta", delta=text)

    def _begin_message(self) -> str:
        message = {"type": "message", "id": _id("msg"), "role": "assistant"}
        begun = self._begin({**message, "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.output[-1]["content"] = [part]
        return begun + self._part("response.content_part.added", part=part)

    def _begin(self, item: Item) -> str:
        ended = self._close("completed")
        self.output.append({**item, "status": "in_progress"})
        self._open = True
        index = len(self.output) - 1
        added = self.event("response.output_item.added", output_index=index, item=self.output[-1])
        return ended + added

    def _close(self, status: str) -> str:
        if not self._open:
            return ""
        self._open = False
        item = self.output[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            text = part["text"]
            done = self._part("response.output_text.done", text=text, logprobs=[])
            done += self._part("response.content_part.done", part=part)
        elif item["type"] == "reasoning":
            part = item["content"][0]
            done = self._part("response.reasoning_text.done", text=part["text"])
            done += self._part("response.content_part.done", part=part)
        else:
            done = self._at("response.function_call_arguments.done", arguments=item["arguments"])
        index = len(self.output) - 1
        return done + self.event("response.output_item.done", output_index=index, item=item)

    def _at(self, kind: str, **members: Any) -> str:
        index = len(self.output) - 1
        return self.event(kind, item_id=self.output[-1]["id"], output_index=index, **members)

    def _part(self, kind: str, **members: Any) -> str:
        return self._at(kind, content_index=0, **members)


def completed(
    begun: ResponseBody,
    generation: GenerationRequest,
    answer: ModelAnswer,
    completion: Completion,
    writer: ResponsesWriter,
) -> tuple[ResponseBody, str]:
    """Return the response at its end, and the events of what was held back until then."""
    short = completion.finish_reason == "length"
    status = "incomplete" if short else "completed"
    rest = writer.finish(status)
    cached, asked, answered = (completion.cached_tokens, completion.prompt_tokens, len(completion.token_ids))
    body = {
        **begun,
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "output": writer.output,
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens([completion]) or 0},
            "total_tokens": asked + answered,
        },
        "cache": generation.cache,
        "deadline": generation.deadline_report([answer]),
    }
    return body, rest


def failed(begun: ResponseBody, error: ApiError) -> ResponseBody:
    """Return the response of an answer that was begun and could not be given."""
    code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return {**begun, "status": "failed", "error": {"code": code, "message": error.message}}


async def events(
    generation: GenerationRequest, begun: ResponseBody, keep: Callable[[ResponseBody], None], ping_s: float
) -> Events:
    """Yield the events of a streamed answer; ``keep`` is called with the response when it is whole."""
    batch = generation.submit()
    (answer,) = batch.answers
    writer, text, silent = ResponsesWriter(generation.form.syntax), "", True
    try:
        async with aclosing(batch.pieces(ping_s)) as steps:
            async for step in steps:
                if step and silent:
                    silent = False
                    text = writer.event("response.created", response=begun)
                    text += writer.event("response.in_progress", response=begun)
                for _, delta in step:
                    text += writer.push(delta.text)
                    if delta.completion is not None:
                        text += _end(begun, generation, answer, delta.completion, writer, keep)
                yield text
                text = ""
    except Exception as error:
        if silent:
            raise
        known = from_error(error, received(generation.http).request_id)
        yield writer.event("response.failed", response=failed(begun, known))


def _end(
    begun: ResponseBody,
    generation: GenerationRequest,
    answer: ModelAnswer,
    completion: Completion,
    writer: ResponsesWriter,
    keep: Callable[[ResponseBody], None],
) -> str:
    body, rest = completed(begun, generation, answer, completion, writer)
    keep(body)
    return rest + writer.event(f"response.{body['status']}", response=body)


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"
