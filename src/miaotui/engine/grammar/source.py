"""Sources of grammars, as text that the grammar library understands, checked and bounded.

Owns the kinds of grammar that a caller may ask for, and their largest size. Does not know tokens. Invariant: a
`Grammar` is small and shallow enough for the library; compiling it finds out whether it is sound. Source:
llguidance's documentation, "JSON schema support" and "Lark".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from miaotui.errors import RequestError

MAX_BYTES = 128 << 10  # of one grammar, all its schemas together
MAX_DEPTH = 48  # of a schema
MAX_CHOICES = 512

_BETWEEN_SLASHES = re.compile(r"\\.|/|\n", re.DOTALL)
# No caller writes these, so that places in a caller's text can be named.
_ESCAPES = {"/": r"\x{00002F}", "\n": r"\x{00000A}"}

# One way to write each value: what is left open costs tokens and tempts small models to babble.
_COMPACT: Mapping[str, Any] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "whitespace_pattern": None,
}


@dataclass(frozen=True)
class Grammar:
    """A set of texts, in llguidance's notation (JSON for schemas and expressions, or Lark).

    ``kind`` is what the caller wrote: ``lark`` if that is the text itself, ``made`` if the text was made of it.
    """

    text: str
    kind: Literal["lark", "made"] = "made"

    @cached_property
    def digest(self) -> bytes:
        """Return the key of the compiled grammar."""
        return hashlib.sha256(f"{self.kind}\n{self.text}".encode()).digest()


def any_object() -> Grammar:
    """Return the grammar of any JSON object."""
    return from_schema({"type": "object"})


def from_schema(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> Grammar:
    """Return the grammar of JSON that a schema describes."""
    body = annotated(schema, strict=strict)
    try:
        text = json.dumps({"grammars": [{"json_schema": body}]}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"a JSON schema must hold JSON values alone: {error}") from None
    return bounded(text)


def annotated(schema: Mapping[str, Any] | bool, *, strict: bool) -> dict[str, Any]:
    """Return the schema with this module's options for the library, whatever options it came with."""
    check_schema(schema)
    body = dict(schema) if isinstance(schema, Mapping) else {"anyOf": [schema]}
    options = {**_COMPACT, "lenient": not strict, "coerce_one_of": not strict}
    return {**body, "x-guidance": options}


def from_pattern(pattern: str) -> Grammar:
    """Return the grammar of texts that a regular expression matches as a whole."""
    if not isinstance(pattern, str) or not pattern:
        raise RequestError(f"a pattern must be a non-empty text, not {pattern!r:.80}")
    return _made(f"start: /{_BETWEEN_SLASHES.sub(_escaped, pattern)}/")


def from_choices(choices: Sequence[str]) -> Grammar:
    """Return the grammar of one of some texts."""
    sound = isinstance(choices, (list, tuple)) and 0 < len(choices) <= MAX_CHOICES
    if not sound or not all(isinstance(choice, str) and choice for choice in choices):
        raise RequestError(f"choices must be 1 to {MAX_CHOICES} non-empty texts")
    return _made("start: " + " | ".join(json.dumps(choice) for choice in choices))


def from_lark(source: str) -> Grammar:
    """Return the grammar of a Lark text, in llguidance's dialect; the first rule is ``start``."""
    if not isinstance(source, str) or not source.strip():
        raise RequestError("a grammar must be a non-empty text in Lark's notation")
    return Grammar(_made(source).text, "lark")


def _made(source: str) -> Grammar:
    if any("\ud800" <= character <= "\udfff" for character in source):
        raise RequestError("a grammar must be valid Unicode: it has a lone surrogate")
    return bounded(source)


def check_schema(schema: object) -> None:
    """Raises `RequestError` for what is no schema, or is deeper than `MAX_DEPTH`."""
    if not isinstance(schema, (Mapping, bool)):
        raise RequestError(f"a JSON schema must be an object, not {type(schema).__name__}")
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise RequestError(f"a JSON schema must be at most {MAX_DEPTH} levels deep; use $defs and $ref instead")


def _escaped(found: re.Match[str]) -> str:
    """Return a part of a pattern as Lark wants it between slashes; what is escaped already stays."""
    return _ESCAPES.get(found[0], found[0])


def unescaped_pattern(text: str, column: int) -> tuple[str, int]:
    """Return a pattern as `from_pattern` took it, and where in it character ``column`` of ``text`` is."""
    before, after = text[:column], text[column:]
    for plain, escape in _ESCAPES.items():
        before, after = before.replace(escape, plain), after.replace(escape, plain)
    return before + after, len(before)


def _children(node: object) -> list[Any]:
    if not isinstance(node, (Mapping, list, tuple)):
        return []
    nested = node.values() if isinstance(node, Mapping) else node
    return [child for child in nested if isinstance(child, (Mapping, list, tuple))]


def bounded(text: str) -> Grammar:
    """Return the grammar of a text. Raises `RequestError` if it is longer than `MAX_BYTES`."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RequestError(f"a grammar, its schemas included, must have at most {MAX_BYTES:,} bytes, not {size:,}")
    return Grammar(text)
