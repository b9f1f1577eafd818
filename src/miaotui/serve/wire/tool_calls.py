"""Tool calls of one chat answer, in OpenAI's shape.

Owns that shape. What may be called, and what is a call, `text.tool_calls` says. Invariant: the pieces of a streamed
message, joined, are the whole message.
"""

from __future__ import annotations

from typing import Any

from miaotui.serve.wire.fields import Json
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, Event, TextPiece
from miaotui.text.tool_calls.tooling import Tooling, call_id


class ChatShaper:
    """Calls in one chat answer, as OpenAI's deltas (see `forms.Shaper`)."""

    def __init__(self, tooling: Tooling) -> None:
        self._form = tooling.dialect.format
        self._parser = tooling.parser()
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._arguments: list[list[str]] = []

    def push(self, text: str) -> list[Json]:
        """What these characters add to the message."""
        return [self._delta(event) for event in self._parser.push(text)]

    def finish(self, reason: str) -> tuple[list[Json], str]:
        """What was held back, and the finish reason to tell."""
        deltas = [self._delta(event) for event in self._parser.finish()]
        called = bool(self._calls) and reason == "stop"
        return deltas, "tool_calls" if called else reason

    def message(self) -> Json:
        """The whole message, after `finish`."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": "".join(arguments)}}
                for call, arguments in zip(self._calls, self._arguments, strict=True)
            ]
        return message

    def _delta(self, event: Event) -> Json:
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
