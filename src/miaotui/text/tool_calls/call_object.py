"""Reader of one JSON object that may be a tool call, character by character.

Owns the decision whether an object is a call of a declared function. Knows no markers and no text around the object.
Invariant: an object is a call only if it names a declared function and has no keys except a call's own; the arguments
of a call that is reported early are the characters of the answer, unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import Any

_ARGUMENTS = ("arguments", "parameters")
_NAMES, _IDS = ("name", "tool_name"), ("id", "tool_call_id", "type")  # identifiers and types add nothing to a call
_KEYS = {*_NAMES, *_IDS, *_ARGUMENTS}
_SPACES = " \t\r\n"
_VALUES = "-0123456789tfn"  # numbers and words begin so
_BEHIND = _SPACES + ",:nul"
_MORE = r'"(?:id|tool_call_id|type)"\s*:\s*(?:"[^"\\]*"|null)'
_HEAD = re.compile(
    rf'\{{\s*(?:{_MORE}\s*,\s*)*"(?:tool_)?name"\s*:\s*("[^"]+")\s*,\s*(?:{_MORE}\s*,\s*)*"(?:arguments|parameters)"\s*:\s*\{{'
)
_TAIL = re.compile(rf"\s*(?:,\s*{_MORE}\s*)*\}}")


class Verdict(Enum):
    """The state of a reading: more characters are needed, a call is known, it has ended, or it is none."""

    MORE = auto()
    BEGUN = auto()
    CALL = auto()
    NONE = auto()


class CallObject:
    """One object that begins with ``{``: `push` its characters until the verdict is `CALL` or `NONE`.

    ``names`` are the declared functions. ``bare``: nothing but the object tells that it is a call, so it must have
    arguments, and it is not reported before its end.
    """

    def __init__(self, names: Collection[str], bare: bool) -> None:
        self._names, self._bare = names, bare
        self._characters: list[str] = []
        self._depth, self._quoted, self._escaped = 0, False, False
        self._string_at = 0  # where the last string of the object's own begins
        self._key: object = None
        self._expects_value = False
        self._tried = False
        self.name = ""
        self.begun = False  # the call is known before its end, and its arguments go out as they come
        self.arguments: list[str] = []
        self._argument_depth = False

    @property
    def rest(self) -> str:
        """Return the characters that are no part of what was reported: all, or those behind the arguments."""
        return "".join(self._characters)

    def push(self, character: str) -> Verdict:
        """Take the next character."""
        if self._argument_depth:
            self.arguments.append(character)
        else:
            self._characters.append(character)
        if self._quoted:
            self._in_string(character)
            return Verdict.MORE
        if character == '"':
            self._quoted, self._expects_value = True, False
            self._string_at = len(self._characters) - 1
        elif character in "{[":
            self._depth, self._expects_value = self._depth + 1, False
            return self._opened(character)
        elif character in "}]":
            self._depth -= 1
            return self._closed()
        elif self._depth == 1:
            return self._behind(character) if self.begun else self._between(character)
        return Verdict.MORE

    def _in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False

    def _opened(self, character: str) -> Verdict:
        """Tell the call now if the name came first and the arguments begin."""
        if self.begun or self._bare or self._tried or self._depth != 2 or character != "{":
            return Verdict.MORE
        self._tried = True
        found = _HEAD.fullmatch("".join(self._characters))
        name = _loads(found.group(1)) if found else None
        if not isinstance(name, str) or name not in self._names:
            return Verdict.MORE
        self.name, self.begun, self._argument_depth = name, True, True
        self.arguments, self._characters = ["{"], []
        return Verdict.BEGUN

    def _closed(self) -> Verdict:
        if self.begun:
            if self._depth == 1:
                self._argument_depth = False
            elif self._depth == 0:
                return Verdict.CALL if _TAIL.fullmatch(self.rest) else Verdict.NONE
            return Verdict.MORE
        if self._depth > 0:
            return Verdict.MORE
        return Verdict.CALL if self._read() else Verdict.NONE

    def _between(self, character: str) -> Verdict:
        """Give up early on an object that has a key of its own, or names another function."""
        if character in _SPACES:
            return Verdict.MORE
        if character == ":":
            self._key, self._expects_value = self._string(), True
            return Verdict.MORE if self._key in _KEYS else Verdict.NONE
        if self._expects_value:
            self._expects_value = False
            return Verdict.MORE if character in _VALUES else Verdict.NONE
        named = character != "," or self._key not in _NAMES or self._string() in self._names
        return Verdict.MORE if self._key is not None and named else Verdict.NONE

    def _behind(self, character: str) -> Verdict:
        """Give up early on what cannot stand behind the arguments."""
        return Verdict.MORE if character in _BEHIND else Verdict.NONE

    def _string(self) -> object:
        value = _loads("".join(self._characters[self._string_at : -1]).rstrip())
        return value if isinstance(value, str) else None

    def _read(self) -> bool:
        """Read the whole object; whether it is a call."""
        members = _loads(self.rest)
        if not isinstance(members, dict) or not members.keys() <= _KEYS:
            return False
        name, given = members.get("name", members.get("tool_name")), [key for key in _ARGUMENTS if key in members]
        if not isinstance(name, str) or name not in self._names or len(given) > 1 or (self._bare and not given):
            return False
        text = _arguments(members[given[0]] if given else None)
        if text is None:
            return False
        self.name, self.arguments = name, [text]
        return True


def _arguments(value: Any) -> str | None:
    """Return arguments as the text of a JSON object; None for any other value."""
    if value is None:
        return "{}"
    if isinstance(value, str):
        return value if isinstance(_loads(value), dict) else None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else None


def _loads(text: str) -> object:
    """Return JSON data; None for a text that is none, or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is there twice")
    return members


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
