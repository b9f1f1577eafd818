"""Parts of one chat answer in OpenAI's shape: content, reasoning, tool calls.

Owns that shape. `text.answers` tells the parts apart. Invariant: the pieces of a streamed message, joined, are the
whole message. ``reasoning_content`` is DeepSeek's name, which vLLM and llama.cpp use as well.
"""

from __future__ import annotations

from typing import Any

from miaotui.serve.wire.fields import Json
from miaotui.text.answers import AnswerEvent, AnswerSyntax
from miaotui.text.reasoning import ReasoningPiece
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, TextPiece
from miaotui.text.tool_calls.tooling import call_id


class ChatShaper:
    """Message of one answer: `push` its text as it comes, then `finish`; the deltas are OpenAI's."""

    def __init__(self, syntax: AnswerSyntax) -> None:
        self._form = syntax.tooling.dialect.format
        self._parser = syntax.parser()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._arguments: list[list[str]] = []

    def push(self, text: str) -> list[Json]:
        """Add text. Returns the deltas of the message, possibly none."""
        return [self._delta(event) for event in self._parser.push(text)]

    def finish(self, reason: str) -> tuple[list[Json], str]:
        """Return the deltas of the text that was held back, and the finish reason."""
        deltas = [self._delta(event) for event in self._parser.finish()]
        called = bool(self._calls) and reason == "stop"
        return deltas, "tool_calls" if called else reason

    def message(self) -> Json:
        """Return the whole message, after `finish`."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": "".join(arguments)}}
                for call, arguments in zip(self._calls, self._arguments, strict=True)
            ]
        return message

    def _delta(self, event: AnswerEvent) -> Json:
        if isinstance(event, ReasoningPiece):
            self._reasoning.append(event.text)
            return {"reasoning_content": event.text}
        if isinstance(event, TextPiece):
            self._text.append(event.text)
            return {"content": event.text}
        if isinstance(event, CallBegins):
            function = {"name": event.name, "arguments": ""}
            call = {"id": call_id(self._form), "type": "function", "function": function}
            self._calls.append(call)
            self._arguments.append([])
            return {"tool_calls": [{"index": event.index, **call}]}
        assert isinstance(event, CallArguments)
        self._arguments[event.index].append(event.text)
        piece = {"index": event.index, "function": {"arguments": event.text}}
        return {"tool_calls": [piece]}
