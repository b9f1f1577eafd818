"""Answers in OpenAI's harmony format: messages in channels, told apart while they are written.

An answer is a row of messages: ``analysis`` is thought, ``final`` and ``commentary`` are text, and a commentary with a
recipient ``functions.NAME`` is a tool call. Owns the streaming parser. Leaves a call as text in one spelling, which
`tool_calls.tagged.HARMONY_CALLS` reads. Knows neither tokens nor wire formats. Invariant: however an answer is cut into
pieces, the joined events are equal. Source: OpenAI, "OpenAI harmony response format" (gpt-oss).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from miaotui.text.reasoning import AnswerPiece, ReasoningEvent, ReasoningPiece
from miaotui.text.tool_calls.tagged import HARMONY_CALLS

CHANNEL, START, MESSAGE = "<|channel|>", "<|start|>", "<|message|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
_LEADS = (CHANNEL, START, *ENDS, "to=functions.")  # what an answer begins with, unless it is plain text
_STOPS = (*ENDS, START, CHANNEL)
_MOST_HEADER = 512  # characters before a message's text
_SPACES = " \t\r\n"
_BETWEEN = "\n\n"  # two messages of one kind
_RECIPIENT = re.compile(r"to=functions\.([A-Za-z0-9_.:-]+)")
_NAME = re.compile(r"<\|channel\|>\s*(\w*)")


class HarmonyParser:
    """Parser of one answer: `push` its text as it comes, then `finish`. ``is_open``: the prompt ended in a thought."""

    def __init__(self, is_open: bool = False) -> None:
        self._held = ""
        self._is_thought = is_open
        self._said = {True: False, False: False}  # whether there was thought, text
        self._fresh = True  # nothing of this message was said yet
        self._is_call = False
        self._state: Callable[[], Sequence[ReasoningEvent]] = self._message if is_open else self._start

    @property
    def is_answering(self) -> bool:
        """Return whether text or a call is being written."""
        return self._state == self._message and not self._is_thought

    @property
    def is_thinking(self) -> bool:
        """Return whether the text so far ends inside a thought."""
        return self._state == self._message and self._is_thought

    def push(self, text: str) -> list[ReasoningEvent]:
        """Add text. Returns the events it completes, possibly none."""
        self._held += text
        events: list[ReasoningEvent] = []
        before = None
        while before != (self._state, len(self._held)):  # until more text is needed
            before = self._state, len(self._held)
            events.extend(self._state())
        return events

    def finish(self) -> list[ReasoningEvent]:
        """Return the text that was held back, when no more follows; an unfinished header is none."""
        held, self._held = self._held, ""
        if self._state == self._message:
            return self._tell(held.rstrip(_SPACES) if self._is_thought else held)
        is_plain = self._state == self._start or not any(self._said.values())
        return [AnswerPiece(held)] if is_plain and held else []

    def _start(self) -> Sequence[ReasoningEvent]:
        """Look for the first mark; an answer without one is text."""
        begun = self._held.lstrip(_SPACES)
        if any(begun.startswith(lead) for lead in _LEADS):
            self._state = self._header
        elif not any(lead.startswith(begun) for lead in _LEADS):
            self._state, self._is_thought = self._message, False
        return ()

    def _header(self) -> Sequence[ReasoningEvent]:
        """Read what stands before a message: its channel and its recipient."""
        at = self._held.find(MESSAGE)
        if at < 0:
            if len(self._held) > _MOST_HEADER:  # no header after all
                self._state, self._is_thought, self._is_call, self._fresh = self._message, False, False, True
            return ()
        header, self._held = self._held[:at], self._held[at + len(MESSAGE) :]
        channel, recipient = _NAME.search(header), _RECIPIENT.search(header)
        self._is_call = recipient is not None
        self._is_thought = recipient is None and channel is not None and channel[1] == "analysis"
        self._state, self._fresh = self._message, True
        if recipient is None:
            return ()
        self._said[False], self._fresh = True, False
        return [AnswerPiece(f"{HARMONY_CALLS.begin}{recipient[1]}{HARMONY_CALLS.after}")]

    def _message(self) -> Sequence[ReasoningEvent]:
        """Tell a message's text up to the mark that ends it; blanks before that mark wait."""
        if self._fresh:
            self._held = self._held.lstrip(_SPACES) if self._is_thought else self._held
        found = [(self._held.find(stop), stop) for stop in _STOPS if stop in self._held]
        if found:
            at, stop = min(found)
            text, self._held = self._held[:at], self._held[at + (len(stop) if stop in ENDS else 0) :]
            told = self._tell(text.rstrip(_SPACES) if self._is_thought else text)
            self._state = self._header
            return told
        keep = len(self._held) - max(_overlap(self._held, stop) for stop in _STOPS)
        text = self._held[:keep]
        if self._is_thought:
            text = text.rstrip(_SPACES)
        self._held = self._held[len(text) :]
        return self._tell(text)

    def _tell(self, text: str) -> list[ReasoningEvent]:
        if not text:
            return []
        gap = _BETWEEN if self._fresh and self._said[self._is_thought] else ""
        self._fresh, self._said[self._is_thought] = False, True
        return [ReasoningPiece(gap + text) if self._is_thought else AnswerPiece(gap + text)]


def answer_of(text: str) -> str:
    """Return a whole answer's text and calls, without its thoughts."""
    parser = HarmonyParser()
    return "".join(e.text for e in (*parser.push(text), *parser.finish()) if isinstance(e, AnswerPiece))


def _overlap(text: str, mark: str) -> int:
    """Return how many of the last characters of ``text`` begin ``mark``."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:size])), 0)
