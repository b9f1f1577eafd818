"""Tool calls of one answer, taken out of its text while it is written.

Owns the way from an answer's text to `ToolCall` values. Knows no engine. Invariant: the pieces of a streamed answer,
joined, are the whole answer.
"""

from __future__ import annotations

from dataclasses import replace

from miaotui.text.tool_calls.parser import CallArguments, CallBegins, Event, TextPiece
from miaotui.text.tool_calls.tooling import Tooling, call_id
from miaotui.types import Completion, Delta, ToolCall, ToolCallPiece


class AnswerCalls:
    """The calls of one answer: `read` its pieces as they come, or `read_whole` it."""

    def __init__(self, tooling: Tooling) -> None:
        self._form, self._parser = tooling.dialect.format, tooling.parser()
        self._text: list[str] = []
        self._calls: list[ToolCall] = []

    def read(self, delta: Delta) -> Delta:
        """Return a piece with its calls apart from its text."""
        events = self._parser.push(delta.text)
        whole = delta.completion
        if whole is not None:
            events += self._parser.finish()
        before = len(self._text)
        pieces = tuple(piece for event in events if (piece := self._take(event)) is not None)
        text = "".join(self._text[before:])
        if whole is None:
            return replace(delta, text=text, tool_calls=pieces)
        whole = self._finished(whole)
        return replace(delta, text=text, tool_calls=pieces, completion=whole, finish_reason=whole.finish_reason)

    def read_whole(self, completion: Completion) -> Completion:
        """Return a whole answer with its calls apart from its text."""
        for event in (*self._parser.push(completion.text), *self._parser.finish()):
            self._take(event)
        return self._finished(completion)

    def _finished(self, completion: Completion) -> Completion:
        reason = completion.finish_reason
        if self._calls and reason == "stop":
            reason = "tool_calls"
        text = "".join(self._text)
        return replace(completion, text=text, finish_reason=reason, tool_calls=tuple(self._calls))

    def _take(self, event: Event) -> ToolCallPiece | None:
        if isinstance(event, TextPiece):
            self._text.append(event.text)
            return None
        if isinstance(event, CallBegins):
            self._calls.append(ToolCall(call_id(self._form), event.name, ""))
            return ToolCallPiece(event.index, id=self._calls[-1].id, name=event.name)
        assert isinstance(event, CallArguments)
        call = self._calls[event.index]
        self._calls[event.index] = replace(call, arguments=call.arguments + event.text)
        return ToolCallPiece(event.index, event.text)
