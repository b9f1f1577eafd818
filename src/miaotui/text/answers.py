"""Parts of an answer: the thought, the text and the tool calls, separated while the answer is written.

Owns the order of the parsers: the thought first, and calls in the rest. Knows no engine and no wire format. Invariant:
the pieces of a streamed answer, joined, are the whole answer; nothing within a thought is a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from miaotui.text.reasoning import ReasoningFormat, ReasoningPiece, ThoughtParser, count_reasoning
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, Event, TextPiece, ToolCallParser
from miaotui.text.tool_calls.tooling import Tooling, call_id
from miaotui.types import Completion, Delta, ToolCall, ToolCallPiece

AnswerEvent = ReasoningPiece | Event
LAST_TOKENS = 32  # of a prompt, that are looked at for an open thought


@dataclass(frozen=True)
class AnswerSyntax:
    """Syntax of the answers to one prompt.

    ``reasoning`` None: thoughts stay in the text. ``is_open``: the prompt ended inside a thought.
    """

    tooling: Tooling
    reasoning: ReasoningFormat | None = None
    is_open: bool = False

    @property
    def is_plain(self) -> bool:
        """Return whether an answer is text alone."""
        return self.reasoning is None and not self.tooling.tools

    def parser(self) -> AnswerParser:
        """Return a parser of one answer."""
        thought = None if self.reasoning is None else self.reasoning.parser(self.is_open)
        return AnswerParser(thought, self.tooling.parser() if self.tooling.tools else None)

    def reasoning_tokens(self, tokenizer: Tokenizer, token_ids: Sequence[int]) -> int:
        """Return how many of an answer's tokens belong to its thought."""
        if self.reasoning is None:
            return 0
        stream = tokenizer.stream(skip_special=False)
        return count_reasoning(map(stream.push, token_ids), self.reasoning, self.is_open)


class AnswerParser:
    """Parser of one answer: `push` its text as it comes, then `finish`."""

    def __init__(self, thought: ThoughtParser | None, calls: ToolCallParser | None) -> None:
        self._thought, self._calls = thought, calls

    def push(self, text: str) -> list[AnswerEvent]:
        """Add text. Returns the events it completes, possibly none."""
        if self._thought is None:
            return self._rest(text)
        events: list[AnswerEvent] = []
        for event in self._thought.push(text):
            events += [event] if isinstance(event, ReasoningPiece) else self._rest(event.text)
        return events

    def finish(self) -> list[AnswerEvent]:
        """Return the events of the text that was held back, when no more follows."""
        events: list[AnswerEvent] = []
        for event in () if self._thought is None else self._thought.finish():
            events += [event] if isinstance(event, ReasoningPiece) else self._rest(event.text)
        return events if self._calls is None else [*events, *self._calls.finish()]

    def _rest(self, text: str) -> list[AnswerEvent]:
        if self._calls is not None:
            return list(self._calls.push(text))
        return [TextPiece(text)] if text else []


def is_thought_open(form: ReasoningFormat, tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Return whether a prompt ends inside a thought."""
    return form.is_open(tokenizer.decode(prompt[-LAST_TOKENS:], skip_special=False))


class AnswerReader:
    """Reader of one answer for Python callers: `read` its pieces as they come, or `read_whole` it."""

    def __init__(self, syntax: AnswerSyntax, tokenizer: Tokenizer) -> None:
        self._syntax, self._tokenizer = syntax, tokenizer
        self._form, self._parser = syntax.tooling.dialect.format, syntax.parser()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def read(self, delta: Delta) -> Delta:
        """Return a piece with its thought and its calls apart from its text."""
        events = self._parser.push(delta.text)
        whole = delta.completion
        if whole is not None:
            events += self._parser.finish()
        texts, thoughts = len(self._text), len(self._reasoning)
        pieces = tuple(piece for event in events if (piece := self._take(event)) is not None)
        text, reasoning = "".join(self._text[texts:]), "".join(self._reasoning[thoughts:])
        delta = replace(delta, text=text, reasoning=reasoning, tool_calls=pieces)
        if whole is None:
            return delta
        whole = self._finished(whole)
        return replace(delta, completion=whole, finish_reason=whole.finish_reason)

    def read_whole(self, completion: Completion) -> Completion:
        """Return a whole answer with its thought and its calls apart from its text."""
        for event in (*self._parser.push(completion.text), *self._parser.finish()):
            self._take(event)
        return self._finished(completion)

    def _finished(self, completion: Completion) -> Completion:
        reason = completion.finish_reason
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return replace(
            completion,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            reasoning_tokens=self._syntax.reasoning_tokens(self._tokenizer, completion.token_ids),
            finish_reason=reason,
            tool_calls=tuple(self._calls),
        )

    def _take(self, event: AnswerEvent) -> ToolCallPiece | None:
        if isinstance(event, ReasoningPiece):
            self._reasoning.append(event.text)
            return None
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
