"""Finds tool calls in an answer's text while it is being written.

Owns the streaming parser. Does not know which tools exist. Invariant: however the text is split
into pieces, the events, joined, are the same; it takes time in proportion to the text. What looks
like a call and turns out to be none is given back as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from miaotui.text.tool_calls.formats import CallFormat

_SPACES = " \t\r\n"
_MAX_HELD_SPACES = 16


@dataclass(frozen=True)
class TextPiece:
    """Text that belongs to no call."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """Call number ``index`` of the answer, from 0; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Event = TextPiece | CallBegins | CallArguments


class ToolCallParser:
    """One answer's parser: `push` its text as it comes, then `finish`."""

    def __init__(self, form: CallFormat) -> None:
        self._form = form
        self._events: list[Event] = []
        self._state: Callable[[str], None] = self._start if form.bare else self._free
        self._held = ""  # text that may turn out to be a marker, or blank before one
        self._raw: list[str] = []  # what was read since the last text or whole call
        self._end = 0  # characters of ``close`` seen behind a call
        self._listed = False
        self.calls = 0
        self._begin_object()

    def push(self, text: str) -> list[Event]:
        """What these characters bring, possibly nothing yet."""
        for character in text:
            self._state(character)
        events, self._events = _joined(self._events), []
        return events

    def finish(self) -> list[Event]:
        """What is left when no text follows."""
        if self._begun:
            self._raw = []  # a call that was cut short; its beginning has been told
        if self._raw:
            self._give_back()
        if self._held.strip(_SPACES) or not self.calls:
            self._say(self._held)
        self._held = ""
        return self.push("")

    # text, and the marker that ends it ----------------------------------------------------------

    def _start(self, character: str) -> None:
        """A bare call may come first; nothing but blanks came before."""
        if character in _SPACES and len(self._held) < _MAX_HELD_SPACES:
            self._held += character
            return
        self._state = self._free
        if character == "{":
            self._raw, self._held = [self._held], ""
            self._state = self._open
        self._state(character)

    def _free(self, character: str) -> None:
        self._held += character
        marker = self._form.begin
        while self._held:
            begun = self._held.lstrip(_SPACES)
            if begun == marker:
                self._raw, self._held = [self._held], ""
                self._state, self._listed = self._open, False
                return
            blank = len(self._held) - len(begun)
            if marker.startswith(begun) and blank <= _MAX_HELD_SPACES:
                return
            self._say(self._held[0])
            self._held = self._held[1:]

    def _say(self, text: str) -> None:
        if text:
            self._events.append(TextPiece(text))

    def _give_back(self) -> None:
        """It was no call after all."""
        self._say("".join(self._raw))
        self._raw, self._state = [], self._free
        self._begin_object()

    # calls --------------------------------------------------------------------------------------

    def _begin_object(self) -> None:
        self._begun = False  # the call has been told of
        self._name: str | None = None
        self._key = ""
        self._value: list[str] = []
        self._arguments: list[str] | None = None  # that came before the name
        self._depth, self._quoted, self._escaped = 0, False, False

    def _open(self, character: str) -> None:
        """Between the marker and the first call."""
        self._raw.append(character)
        if character == "[" and not self._listed:
            self._listed = True
        elif character == "{":
            self._state = self._member
        elif character not in _SPACES:
            self._give_back()

    def _member(self, character: str) -> None:
        """In a call's object, between its members."""
        self._raw.append(character)
        if character == '"':
            self._value, self._quoted, self._state = ['"'], True, self._read_key
        elif character == "}":
            self._end_object()
        elif character not in _SPACES and character != ",":
            self._break()

    def _read_key(self, character: str) -> None:
        self._raw.append(character)
        self._value.append(character)
        if self._string_ends(character):
            self._key, self._value = str(_loads("".join(self._value))), []
            self._state = self._colon

    def _colon(self, character: str) -> None:
        self._raw.append(character)
        if character == ":":
            self._state = self._value_begins
        elif character not in _SPACES:
            self._break()

    def _value_begins(self, character: str) -> None:
        if character in _SPACES:
            self._raw.append(character)
        elif character in ",}]:":
            self._raw.append(character)
            self._break()
        else:
            self._value, self._depth, self._state = [], 0, self._read_value
            self._read_value(character)

    def _read_value(self, character: str) -> None:
        if self._quoted:
            self._take(character)
            if self._string_ends(character) and self._depth == 0:
                self._end_value()
        elif self._depth == 0 and self._value and character in ",}" + _SPACES:
            self._end_value()  # of a number or a word, which have no end of their own
            self._state(character)
        else:
            self._take(character)
            self._quoted = character == '"'
            self._depth += (character in "{[") - (character in "}]")
            if self._depth == 0 and character in "}]":
                self._end_value()

    def _string_ends(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False
        return not self._quoted

    def _take(self, character: str) -> None:
        """One more character of a value; arguments go out at once if the name is known."""
        self._raw.append(character)
        self._value.append(character)
        if self._key == self._form.key and self._name is not None:
            if not self._begun:
                self._tell(self._name)
            self._events.append(CallArguments(self.calls - 1, character))

    def _end_value(self) -> None:
        self._state = self._member
        if self._key == "name" and self._name is None:
            name = _loads("".join(self._value))
            self._name = name if isinstance(name, str) else None
        elif self._key == self._form.key and not self._begun:
            self._arguments = self._value
        self._value = []

    def _end_object(self) -> None:
        if self._name is None:
            self._give_back()
            return
        if not self._begun:
            self._tell(self._name)
            text = "".join(self._arguments) if self._arguments else "{}"
            self._events.append(CallArguments(self.calls - 1, text))
        self._raw, self._end, self._state = [], 0, self._after
        self._begin_object()

    def _tell(self, name: str) -> None:
        self._begun = True
        self._events.append(CallBegins(self.calls, name))
        self.calls += 1

    def _break(self) -> None:
        """The object is no JSON."""
        if self._begun:
            self._raw, self._state = [], self._free
            self._begin_object()
        else:
            self._give_back()

    def _after(self, character: str) -> None:
        """Behind a call: another one, the closing marker, or text."""
        close = self._form.close.strip()
        listed = self._listed and close != "]"
        if self._end == 0 and (character in _SPACES + ",;" or (listed and character == "]")):
            return
        if self._end == 0 and character == "{":
            self._raw, self._state = [], self._open
            self._open(character)
        elif close and character == close[self._end]:
            self._end += 1
            if self._end == len(close):
                self._state = self._free
        else:
            self._state = self._free
            for each in close[: self._end] + character:
                self._free(each)


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _joined(events: list[Event]) -> list[Event]:
    """Neighbours of one kind as one."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextPiece) and isinstance(last, TextPiece):
            joined[-1] = TextPiece(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and event.index == last.index:
            joined[-1] = CallArguments(last.index, last.text + event.text)
        else:
            joined.append(event)
    return joined
