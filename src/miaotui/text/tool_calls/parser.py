"""Finds tool calls in an answer's text while it is being written.

Owns the streaming parser. Invariant: however the text is split into pieces, the events, joined, are equal;
it takes time in proportion to the text. A call is one of a declared function, outside of any thought; everything
else is given back as text, whole, but for the markers of calls and the blanks beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from miaotui.text import reasoning
from miaotui.text.tool_calls.call_object import CallObject, Verdict
from miaotui.text.tool_calls.formats import AnyFormat
from miaotui.text.tool_calls.tagged import JsonDepth, Strings, TaggedFormat

_SPACES = " \t\r\n"
_SEPARATORS = _SPACES + ",;"
_MAX_HELD_SPACES = 16
_LEADS = ("[", "```[", "```json[")  # what may stand between a marker and the first call, blanks apart
_MAX_BEHIND = 64  # characters behind a call before it is over
MAX_TRIES = 8  # closing marks of a stretch that may stand within a string of its arguments
_THOUGHTS = {form.begin: form.end for form in reasoning.FORMATS}
_LONGEST_END = max(map(len, _THOUGHTS.values()))


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
    """Parser of one answer: `push` its text as it comes, then `finish`.

    ``names`` are the declared functions; ``strings`` the parameters of each whose values are strings.
    """

    def __init__(self, form: AnyFormat, names: Collection[str], strings: Strings | None = None) -> None:
        self._form, self._names, self._strings = form, frozenset(names), strings or {}
        self._stretch_text, self._tries, self._json = "", 0, JsonDepth()
        self._openings = (form.begin, *_THOUGHTS)
        firsts = re.escape("".join({marker[0] for marker in self._openings}))
        self._next = re.compile(f"[{_SPACES}]{{0,{_MAX_HELD_SPACES}}}(?:[{firsts}]|\\Z)")
        self._ends: tuple[str, ...] = ()  # of the thought
        self._events: list[Event] = []
        self._text: list[str] = []  # characters that are text, not yet an event
        self._held = ""  # text that may turn out to be a marker, or blank before one
        self._raw = ""  # what was read since the last text or whole call
        self._lead = ""
        self._object = CallObject(self._names, bare=True)
        self._told = False  # the call that is being read has been told
        self._sent = 0  # characters of its arguments that were sent
        self._tail = ""  # the end of a thought so far
        self.calls = 0
        self._state: Callable[[str], None] = self._begin()

    def push(self, text: str) -> list[Event]:
        """Return the events that these characters bring, possibly none."""
        at = 0
        while at < len(text):
            if not self._held and self._state == self._free:  # go on where a marker may begin
                found = self._next.search(text, at)
                begin = found.start() if found else len(text)
                self._say(text[at:begin])
                at = begin
                if at == len(text):
                    break
            self._state(text[at])
            at += 1
        if self._state == self._call and self._told:
            self._tell_arguments()
        self._flush()
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """Return the events of the text held back, as no more follows."""
        if self._state == self._call:
            rest = self._object.rest
            if not self._told:
                self._say(self._raw + rest)
            elif rest.strip(_SPACES):
                self._say(rest)
        elif self._state in (self._open, self._stretch):
            self._say(self._raw + self._stretch_text)
            self._stretch_text = ""
        if self._held.strip(_SPACES) or not self.calls:
            self._say(self._held)
        self._held = self._raw = ""
        self._state = self._free
        return self.push("")

    def _begin(self) -> Callable[[str], None]:
        return self._start if self._form.bare else self._free

    # text, and the markers that end it ----------------------------------------------------------

    def _start(self, character: str) -> None:
        """Read the beginning, where a bare call may stand behind blanks."""
        if character in _SPACES and len(self._held) < _MAX_HELD_SPACES:
            self._held += character
            return
        self._state = self._free
        if character == "{":
            self._begin_call(self._held, bare=True)
            self._held, self._lead = "", ""
        self._state(character)

    def _free(self, character: str) -> None:
        self._held += character
        while self._held:
            begun = self._held.lstrip(_SPACES)
            if begun == self._form.begin:
                self._raw, self._held, self._lead = self._held, "", ""
                self._state = self._stretch if isinstance(self._form, TaggedFormat) else self._open
                self._stretch_text, self._tries, self._json = "", 0, JsonDepth()
                return
            if begun in _THOUGHTS:
                self._say(self._held)
                self._held, self._ends, self._state = "", (_THOUGHTS[begun],), self._thought
                return
            blank = len(self._held) - len(begun)
            if blank <= _MAX_HELD_SPACES and any(marker.startswith(begun) for marker in self._openings):
                return
            self._say(self._held[0])
            self._held = self._held[1:]

    def _thought(self, character: str) -> None:
        """Read a thought, in which nothing is a call."""
        self._text.append(character)
        self._tail = (self._tail + character)[-_LONGEST_END:]
        if self._tail.endswith(self._ends):
            self._tail, self._state = "", self._begin()

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)

    def _flush(self) -> None:
        if self._text:
            self._events.append(TextPiece("".join(self._text)))
            self._text = []

    # calls between marks ------------------------------------------------------------------------

    def _stretch(self, character: str) -> None:
        """Collect a stretch up to the mark, or the JSON object, that ends it."""
        form = self._form
        assert isinstance(form, TaggedFormat)
        self._stretch_text += character
        close = form.close.strip()
        if not (self._stretch_text.endswith(close) if close else self._json.ends(character)):
            return
        calls = form.read(self._stretch_text, self._names, self._strings)
        if calls is not None:
            self._flush()
            for call in calls:
                self._events += [CallBegins(self.calls, call.name), CallArguments(self.calls, call.arguments)]
                self.calls += 1
            self._raw, self._stretch_text, self._state = "", "", self._free
            return
        self._tries += 1
        if self._tries >= (MAX_TRIES if close and form.marks is None else 1):
            text, self._stretch_text = self._raw + self._stretch_text, ""
            self._give_back(text)

    # calls as objects ---------------------------------------------------------------------------

    def _open(self, character: str) -> None:
        """Read what stands between the marker and the first call."""
        if character == "{" and self._lead in ("", "```", "```json", *_LEADS):
            self._begin_call(self._raw, bare=False)
            self._call(character)
            return
        self._raw += character
        if character in _SPACES:
            return
        self._lead += character
        if not any(lead.startswith(self._lead) for lead in _LEADS):
            self._give_back(self._raw)

    def _begin_call(self, raw: str, bare: bool) -> None:
        self._raw, self._state, self._told, self._sent = raw, self._call, False, 0
        self._object = CallObject(self._names, bare)

    def _call(self, character: str) -> None:
        verdict = self._object.push(character)
        if verdict is Verdict.MORE:
            return
        if verdict is not Verdict.NONE and not self._told:
            self._flush()
            self._events.append(CallBegins(self.calls, self._object.name))
            self._told = True
            self.calls += 1
        if verdict is Verdict.BEGUN:
            return
        if self._told:
            self._tell_arguments()
        if verdict is Verdict.CALL:
            self._raw, self._state = "", self._after
        else:
            self._give_back(self._object.rest if self._told else self._raw + self._object.rest)

    def _tell_arguments(self) -> None:
        """Tell the characters of the arguments that came since the last time."""
        text = "".join(self._object.arguments[self._sent :])
        self._sent = len(self._object.arguments)
        if text:
            self._events.append(CallArguments(self.calls - 1, text))

    def _give_back(self, text: str) -> None:
        """Return ``text`` that was no call after all; its last character may begin a marker."""
        self._raw, self._state = "", self._free
        self._say(text[:-1])
        self._free(text[-1])

    def _after(self, character: str) -> None:
        """Read what follows a call: another one, the closing marker, or text."""
        rest = self._raw.lstrip(_SEPARATORS)
        if character == "{" and not rest:
            self._begin_call(self._raw, bare=False)
            self._call(character)
            return
        self._raw += character
        rest = "".join(self._raw.lstrip(_SEPARATORS).split())
        closers = self._closers()
        if rest and rest in closers:
            self._raw, self._state = "", self._free
        elif len(self._raw) > _MAX_BEHIND or not any(closer.startswith(rest) for closer in closers):
            text, self._raw, self._state = self._raw, "", self._free
            for each in text:
                self._state(each)

    def _closers(self) -> tuple[str, ...]:
        """Return the texts that may close the calls, blanks apart."""
        parts = ["]"] * ("[" in self._lead) + ["```"] * ("`" in self._lead)
        close = self._form.close.strip().removeprefix("]")
        parts += [close] * (close not in ("", "]"))
        return tuple("".join(parts[at:]) for at in range(len(parts))) or ("",)
