"""Answers in Ollama's shapes: one object, or an object on each line of a stream.

Owns the lines and the report of tokens and times at the end, in nanoseconds. Knows neither prompts nor connections.
Invariant: the pieces of a streamed answer, joined, are the whole answer; a call of a tool comes whole, in one line.
Source: Ollama's ``docs/api.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any

from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.bodies import Events, EventStream, json_text
from miaotui.serve.http.errors import ApiError
from miaotui.serve.ollama.wire import error_body
from miaotui.serve.openai.logprobs import chat_logprobs
from miaotui.serve.wire.chat_message import ChatShaper
from miaotui.types import Completion, TokenLogprobs

NS = 1_000_000_000
Shape = Callable[[dict[str, Any]], dict[str, Any]]  # from content, thinking and tool_calls to an answer's members


class LineStream(EventStream):
    """Sends an object on each line. Nothing is sent in silence: clients read each line as JSON."""

    media_type = "application/x-ndjson"
    ping = ""

    def failure(self, error: ApiError) -> str:
        """Return the line that ends an answer which failed."""
        return line(error_body(error))


def line(value: Any) -> str:
    """Return one line of a stream."""
    return f"{json_text(value)}\n"


def chat_shape(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the members of /api/chat."""
    return {"message": {"role": "assistant", "content": "", **parts}}


def generate_shape(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the members of /api/generate."""
    return {"response": parts.get("content", ""), **({"thinking": parts["thinking"]} if "thinking" in parts else {})}


def now() -> str:
    """Return the time as Ollama writes it."""
    return time_text(datetime.now(timezone.utc))


def time_text(when: datetime) -> str:
    """Return a time in UTC as Ollama writes it."""
    return when.isoformat().replace("+00:00", "Z")


def loaded(model: str, shape: Shape, reason: str) -> dict[str, Any]:
    """Return the answer to a request without a prompt, which asks for a model to be in memory, or out of it."""
    return {"model": model, "created_at": now(), **shape({}), "done": True, "done_reason": reason}


class AnswerLines:
    """One answer: `push` its text as it comes, then `finish`."""

    def __init__(self, generation: GenerationRequest, shape: Shape, answers: Sequence[ModelAnswer]) -> None:
        self._generation, self._shape, self._answers = generation, shape, answers
        self._shaper = None if generation.form.syntax is None else ChatShaper(generation.form.syntax)
        self._found: list[TokenLogprobs] = []  # of tokens whose line is still to come

    def push(self, text: str, found: Sequence[TokenLogprobs] = ()) -> str:
        """Return the lines of a piece of text; ``found`` are the log-probabilities of its tokens, if asked for."""
        self._found += found
        if self._shaper is None:
            return self._line({"content": text}) if text else ""
        return "".join(self._line(_parts(delta)) for delta in self._shaper.push(text) if _parts(delta))

    def finish(self, completion: Completion) -> str:
        """Return the lines of what was held back, the calls, and the report."""
        text = ""
        if self._shaper is not None:
            held, _ = self._shaper.finish(completion.finish_reason)
            text = "".join(self._line(_parts(delta)) for delta in held if _parts(delta))
            calls = _calls(self._shaper.message())
            text += self._line({"tool_calls": calls}) if calls else ""
        return text + line(
            {**self._head(), **self._shape({}), **self._logprobs(), **report(self._generation, completion)}
            | self._promise()
        )

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Return the answer that does not stream."""
        parts: dict[str, Any] = {"content": completion.text}
        if self._shaper is not None:
            self._shaper.push(completion.text)
            self._shaper.finish(completion.finish_reason)
            message = self._shaper.message()
            parts = {"content": message["content"] or ""}
            if "reasoning_content" in message:
                parts["thinking"] = message["reasoning_content"]
            if calls := _calls(message):
                parts["tool_calls"] = calls
        self._found = list(completion.logprobs)
        answer = {**self._head(), **self._shape(parts), **self._logprobs(), **report(self._generation, completion)}
        return answer | self._promise()

    def _logprobs(self) -> dict[str, Any]:
        """Return the log-probabilities that no line has yet, if there are any."""
        found, self._found = self._found, []
        return {"logprobs": chat_logprobs(self._generation.model.tokenizer, found)["content"]} if found else {}

    def _promise(self) -> dict[str, Any]:
        """Return the report on the deadline, where the request has one, or its model several tiers."""
        told = self._generation.deadline is not None or self._generation.tier is not None
        return {"deadline": self._generation.deadline_report(self._answers)} if told else {}

    def _head(self) -> dict[str, Any]:
        return {"model": self._generation.model.name, "created_at": now()}

    def _line(self, parts: dict[str, Any]) -> str:
        return line({**self._head(), **self._shape(parts), **self._logprobs(), "done": False})


async def answer_lines(generation: GenerationRequest, shape: Shape, ping_s: float) -> Events:
    """Yield the lines of a streamed answer."""
    batch = generation.submit()
    writer = AnswerLines(generation, shape, batch.answers)
    async with aclosing(batch.pieces(ping_s)) as steps:
        async for step in steps:
            text = ""
            for _, delta in step:
                text += writer.push(delta.text, delta.logprobs)
                if delta.completion is not None:
                    text += writer.finish(delta.completion)
            yield text


def report(generation: GenerationRequest, completion: Completion) -> dict[str, Any]:
    """Return why the answer ended, its tokens, and its times in nanoseconds."""
    timing = completion.timing
    reads_s = max(timing.ttft_s - timing.queue_s, 0.0)
    return {
        "done": True,
        "done_reason": "length" if completion.finish_reason == "length" else "stop",
        "total_duration": round(timing.total_s * NS),
        "load_duration": 0,
        "prompt_eval_count": completion.prompt_tokens,
        "prompt_eval_duration": round(reads_s * NS),
        "eval_count": len(completion.token_ids),
        "eval_duration": round((timing.total_s - timing.ttft_s) * NS),
    }


def _parts(delta: Any) -> dict[str, Any]:
    """Return what of a delta in OpenAI's shape goes into a line; calls wait until they are whole."""
    parts = {}
    if delta.get("content"):
        parts["content"] = delta["content"]
    if delta.get("reasoning_content"):
        parts["thinking"] = delta["reasoning_content"]
    return parts


def _calls(message: Any) -> list[dict[str, Any]]:
    """Return the calls of a whole message; one whose arguments were cut short has none."""
    return [
        {"function": {"name": call["function"]["name"], "arguments": _object(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
