"""Values as Gemma 4 writes them in tool calls: keys without quotes, and strings between a mark of their own.

Owns writing and reading of such values. Knows no calls and no streams. Invariant: what is written is read again as the
same value, unless a string holds the mark. Source: the chat template that Gemma 4 is published with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
_KEY = re.compile(r"\s*(?P<key>[^\s:,{}\[\]<>\"]{1,128})\s*:\s*")
_PLAIN = re.compile(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_BLANK = re.compile(r"\s*")


def write_members(members: Mapping[str, Any], quote: str) -> str:
    """Return ``key:value,…`` without braces."""
    return ",".join(f"{key}:{_written(value, quote)}" for key, value in members.items())


def _written(value: Any, quote: str) -> str:
    if isinstance(value, str):
        return quote + value + quote
    if isinstance(value, Mapping):
        return "{" + write_members(value, quote) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_written(each, quote) for each in value) + "]"
    return json.dumps(value)


def read_members(text: str, at: int, quote: str, depth: int = 0) -> tuple[dict[str, Any], int] | None:
    """Return the members ``key:value,…`` at ``at``, and where they end; None for what is no such list."""
    found: dict[str, Any] = {}
    if depth > MAX_DEPTH:
        return None
    while (key := _KEY.match(text, at)) is not None:
        read = _read(text, key.end(), quote, depth)
        if read is None or key["key"] in found:
            return None
        found[key["key"]], at = read
        if text[at : at + 1] != ",":
            break
        at += 1
    else:
        if found:  # a comma without a member
            return None
    return found, at


def _read(text: str, at: int, quote: str, depth: int) -> tuple[Any, int] | None:
    """Return the value at ``at``, and where the blank behind it ends."""
    if text.startswith(quote, at):
        end = text.find(quote, at + len(quote))
        return None if end < 0 else (text[at + len(quote) : end], _behind(text, end + len(quote)))
    if text.startswith("{", at):
        members = read_members(text, at + 1, quote, depth + 1)
        return None if members is None else _closed(text, *members, "}")
    if text.startswith("[", at):
        return _items(text, _behind(text, at + 1), quote, depth + 1)
    plain = _PLAIN.match(text, at)
    return None if plain is None else (json.loads(plain[0]), _behind(text, plain.end()))


def _items(text: str, at: int, quote: str, depth: int) -> tuple[list[Any], int] | None:
    items: list[Any] = []
    while depth <= MAX_DEPTH and not (text.startswith("]", at) and not items):
        read = _read(text, _behind(text, at), quote, depth)
        if read is None:
            return None
        items.append(read[0])
        at = read[1]
        if text[at : at + 1] != ",":
            break
        at += 1
    return _closed(text, items, at, "]")


def _closed(text: str, value: Any, at: int, mark: str) -> tuple[Any, int] | None:
    at = _behind(text, at)
    return (value, _behind(text, at + 1)) if text.startswith(mark, at) else None


def _behind(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return at if found is None else found.end()
