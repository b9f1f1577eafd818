"""Reasoning in answers: the markers of a model's thoughts, and the parser that separates them from the answer.

Owns the marker pairs of model families and the streaming parser. Knows neither tokens nor wire formats. Invariant:
however an answer is cut into pieces, the joined events are equal, and apart from the markers and the blank space
beside them no character is lost. Sources: the chat templates of Qwen3, DeepSeek-R1, SmolLM3, Magistral, Seed-OSS,
Gemma 4 and Command A Reasoning; OpenAI, "harmony response format" (gpt-oss).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

_SPACES = " \t\r\n"


class ReasoningFormat(NamedTuple):
    """Markers around a model's thought, which comes before its answer.

    ``answer`` begins an answer without a thought; "": nothing does. Templates of the model contain ``sign``; "": the
    end marker. ``channels``: an answer is a row of messages (see `text.harmony`).
    """

    begin: str
    end: str
    answer: str = ""
    sign: str = ""
    channels: bool = False

    def is_open(self, prompt: str) -> bool:
        """Return whether a rendered prompt ends inside a thought, so that the answer begins there."""
        return prompt.rstrip(_SPACES).endswith(self.begin)

    def parser(self, is_open: bool = False) -> ThoughtParser:
        """Return a parser of one answer; ``is_open``: the prompt ended inside a thought."""
        if self.channels:
            from miaotui.text.harmony import HarmonyParser  # noqa: PLC0415  (of one family; it imports this module)

            return HarmonyParser(is_open)
        return ReasoningParser(self, is_open)


_FINAL = "<|channel|>final<|message|>"
HARMONY = ReasoningFormat("<|channel|>analysis<|message|>", f"<|end|><|start|>assistant{_FINAL}", _FINAL, _FINAL, True)
FORMATS = (
    ReasoningFormat("<think>", "</think>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
    ReasoningFormat("<seed:think>", "</seed:think>"),
    ReasoningFormat("<|channel>thought", "<channel|>"),
    ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    HARMONY,
)


def reasoning_format(templates: Mapping[str, str]) -> ReasoningFormat | None:
    """Return the format whose end marker, or sign, one of the model's chat templates contains, or None."""
    sources = templates.values()
    return next((form for form in FORMATS if any((form.sign or form.end) in source for source in sources)), None)


class ReasoningPiece(NamedTuple):
    """Text of the thought."""

    text: str


class AnswerPiece(NamedTuple):
    """Text of the answer."""

    text: str


ReasoningEvent = ReasoningPiece | AnswerPiece


class ThoughtParser(Protocol):
    """Parser that tells the thought of one answer from the rest."""

    @property
    def is_answering(self) -> bool:
        """Return whether the thought is over, or the answer began without one."""

    @property
    def is_thinking(self) -> bool:
        """Return whether the text so far ends inside the thought."""

    def push(self, text: str) -> list[ReasoningEvent]:
        """Add text. Returns the events it completes, possibly none."""

    def finish(self) -> list[ReasoningEvent]:
        """Return the text that was held back, when no more follows."""


class ReasoningParser:
    """Parser of one answer: `push` its text as it comes, then `finish`.

    A thought is recognised at the beginning of the answer only. ``is_open`` says that the prompt ended inside one.
    Blank space next to the markers belongs to neither part.
    """

    def __init__(self, form: ReasoningFormat, is_open: bool = False) -> None:
        self._form = form
        self._held = ""  # text that may belong to a marker, or blank space that may stand beside one
        self._state: Callable[[], Sequence[ReasoningEvent]] = self._begin_thought if is_open else self._start

    @property
    def is_answering(self) -> bool:
        """Return whether the thought is over, or the answer began without one."""
        return self._state in (self._begin_answer, self._answer)

    @property
    def is_thinking(self) -> bool:
        """Return whether the text so far ends inside the thought."""
        return self._state in (self._begin_thought, self._thought)

    def push(self, text: str) -> list[ReasoningEvent]:
        """Add text. Returns the events it completes, possibly none."""
        if self._state == self._answer and not self._held:
            return [AnswerPiece(text)] if text else []
        self._held += text
        events: list[ReasoningEvent] = []
        state = None
        while state != self._state:  # a state that consumes a marker hands over to the next one
            state = self._state
            events.extend(state())
        return events

    def finish(self) -> list[ReasoningEvent]:
        """Return the text that was held back, when no more follows."""
        held, self._held = self._held, ""
        if self._state == self._thought:
            held = held.rstrip(_SPACES)
            return [ReasoningPiece(held)] if held else []
        if self._state == self._begin_thought:
            return []
        return [AnswerPiece(held)] if held and self._state != self._begin_answer else []

    def _start(self) -> Sequence[ReasoningEvent]:
        """Look for the begin marker; only blank space may stand before it."""
        begun = self._held.lstrip(_SPACES)
        if begun.startswith(self._form.begin):
            self._held, self._state = begun[len(self._form.begin) :], self._begin_thought
        elif self._form.answer and begun.startswith(self._form.answer):
            self._held, self._state = begun[len(self._form.answer) :], self._begin_answer
        elif not any(marker.startswith(begun) for marker in (self._form.begin, self._form.answer)):
            self._state = self._answer
        return ()

    def _begin_thought(self) -> Sequence[ReasoningEvent]:
        self._held = self._held.lstrip(_SPACES)
        if self._held:
            self._state = self._thought
        return ()

    def _thought(self) -> Sequence[ReasoningEvent]:
        at = self._held.find(self._form.end)
        if at >= 0:
            said = self._held[:at].rstrip(_SPACES)
            self._held, self._state = self._held[at + len(self._form.end) :], self._begin_answer
        else:
            keep = len(self._held) - _overlap(self._held, self._form.end)
            said = self._held[:keep].rstrip(_SPACES)
            self._held = self._held[len(said) :]
        return [ReasoningPiece(said)] if said else []

    def _begin_answer(self) -> Sequence[ReasoningEvent]:
        self._held = self._held.lstrip(_SPACES)
        if self._held:
            self._state = self._answer
        return ()

    def _answer(self) -> Sequence[ReasoningEvent]:
        said, self._held = self._held, ""
        return [AnswerPiece(said)] if said else []


def split_reasoning(text: str, form: ReasoningFormat, is_open: bool = False) -> tuple[str, str]:
    """Return (thought, answer) of a whole text."""
    parser = form.parser(is_open)
    events = [*parser.push(text), *parser.finish()]
    thought = "".join(event.text for event in events if isinstance(event, ReasoningPiece))
    return thought, "".join(event.text for event in events if isinstance(event, AnswerPiece))


def count_reasoning(pieces: Iterable[str], form: ReasoningFormat, is_open: bool = False) -> int:
    """Return how many tokens belong to the thought, markers included; ``pieces`` are the texts of the tokens."""
    parser, count, was_thinking = form.parser(is_open), 0, is_open
    for piece in pieces:
        count += 1
        events = parser.push(piece)
        was_thinking |= parser.is_thinking or any(isinstance(event, ReasoningPiece) for event in events)
        if parser.is_answering:
            break
    return count if was_thinking else 0


def _overlap(text: str, marker: str) -> int:
    """Return how many of the last characters of ``text`` begin ``marker``."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0
