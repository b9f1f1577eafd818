"""Reasons why a grammar, pattern or JSON schema cannot be used, on one line.

Owns the translation of the grammar library's errors: the whole reason, the place in what the caller wrote, and what the
caller can do about it. Knows no tokens. Invariant: the result is one line of bounded length that quotes at most a short
piece of the input, whatever the library says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from miaotui.engine.grammar.source import Grammar, unescaped_pattern

MAX_CHARACTERS = 1000
EXCERPT_CHARACTERS = 40
BROKEN = "it broke the grammar library"

_PLACE = re.compile(r"\A(?:at )?(\d+)\((\d+)\): ")
_SOURCE = re.compile(r"\n *\d+ \| .*\Z", re.DOTALL)  # some lines of the grammar, which the library repeats
_MARKED = re.compile(r"^ *\d+ \| ([^\n]*)\n *\^$", re.MULTILINE)  # the line at fault among them
_PATTERN = re.compile(r"regex parse error:\n {4}([^\n]*)\n {4}( *)\^[^\n]*\nerror: (.*)\Z", re.DOTALL)
_WRAPPERS = (
    re.compile(r'\Ainvalid regex ".*" \(in regex\): ', re.DOTALL),
    re.compile(r"\Afailed to compile JSON schema: "),
)
_TOOL = re.compile(r"\Aarguments_(\d+): ")  # a rule of a grammar of tool calls
_JSON = re.compile(r"%json (\{.*\})")

# What the library says, what is said instead (its options are none of the caller's), and what the caller can do.
_ADVICE = (
    (r"oneOf constraints .*", "oneOf is enforced only if no value can fit two of its members", "use anyOf"),
    (r"Unimplemented keys: \[(.*)\]", r"\1 cannot be enforced", "leave them out, or ask without strict"),
    (r"Unknown format: (.*)", r'the format "\1" cannot be enforced', "leave format out, or ask without strict"),
    (r"(Pointer .* does not exist)", r"\1", "define it in the schema's $defs"),
    (r"(Resource '.*') is not present .*", r"\1 is not fetched", "copy it into the schema's $defs"),
    (r"(look-around, .*|lookarounds .*)", r"\1", r"leave out \\b, (?=...), (?!...), (?<=...) and (?<!...)"),
    (r"(backreferences are not supported)", r"\1", "write the repeated part again"),
)
# What the library says of a value, and the key that the value stands at.
_VALUES = (
    (r"Invalid type: (.*)", "type"),
    (r"Unknown format: (.*)", "format"),
    (r"Pointer '(.*)' does", "$ref"),
    (r"Resource '(.*)' is", "$ref"),
    (r".*required property '(.*)' is unsatisfiable", "required"),
)


def explain(error: str, grammar: Grammar) -> str:
    """Return the whole reason in ``error``, the library's for ``grammar``, with its place and advice, on one line."""
    text = error.strip()
    if text.startswith("panic"):
        return BROKEN
    head, marked = _PLACE.match(text), _MARKED.search(text)
    line = marked[1] if marked else ""
    body = _SOURCE.sub("", text[head.end() :] if head else text)
    reason, written, places = _reason(body)
    inner = _JSON.search(line)
    if head is not None and grammar.kind == "lark" and inner is None:
        places.append(f"line {head[1]}, character {head[2]}")
    found = _schema_place(grammar, inner[1] if inner else "", reason, written)
    tool = _TOOL.match(line)
    if found is not None or tool is not None:
        places.append("at " + ".".join(part for part in (f"tools[{tool[1]}]" if tool else "", found) if part))
    told = _advised(reason, f" ({', '.join(places)})" if places else "")[:MAX_CHARACTERS]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in told)


def _reason(body: str) -> tuple[str, str, list[str]]:
    """Split a message without its source lines into the reason, the pattern at fault, and the place in that."""
    pattern = _PATTERN.search(body)
    if pattern is not None:
        written, column = unescaped_pattern(pattern[1], len(pattern[2]))
        return " ".join(pattern[3].split()), written, [f"character {column + 1} of {_excerpt(written, column)}"]
    for wrapper in _WRAPPERS:
        body = wrapper.sub("", body)
    return " ".join(body.split()), "", []


def _advised(reason: str, where: str) -> str:
    for said, better, advice in _ADVICE:
        found = re.fullmatch(said, reason)
        if found is not None:
            return f"{found.expand(better)}{where}: {advice.replace(chr(92) * 2, chr(92))}"
    return reason + where


def _excerpt(text: str, at: int) -> str:
    """Return a quoted piece of ``text`` around character ``at``."""
    first = 0 if len(text) <= EXCERPT_CHARACTERS else max(0, at - EXCERPT_CHARACTERS // 2)
    piece = text[first : first + EXCERPT_CHARACTERS]
    before, after = "..." if first else "", "..." if first + len(piece) < len(text) else ""
    return f'"{before}{piece}{after}"'


# the place in a schema, which the library does not tell ------------------------------------------------------------


def _schema_place(grammar: Grammar, inner: str, reason: str, pattern: str) -> str | None:
    """Return the path to the first part of a schema that the reason fits; None if there is none, or several fit."""
    fits = _test_for(reason, pattern)
    if fits is None:
        return None
    found = [path for schema in _schemas(grammar, inner) for path, node in _nodes(schema, "") if fits(node)]
    return (found[0] or "the top") if len(found) == 1 else None


def _schemas(grammar: Grammar, inner: str) -> list[Any]:
    try:
        if inner:
            return [json.loads(inner)]
        if grammar.text.startswith("{"):
            return [part["json_schema"] for part in json.loads(grammar.text)["grammars"] if "json_schema" in part]
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    return []


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every object of a schema with its path, such as ``properties.names.items``; depth is bounded."""
    if isinstance(node, Mapping):
        yield path, node
        for name, child in node.items():
            yield from _nodes(child, f"{path}.{name}" if path else name)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{path}[{index}]")


def _test_for(reason: str, pattern: str) -> Callable[[Mapping[str, Any]], bool] | None:
    """Return a test for the objects of a schema that ``reason`` may be about; None if it does not tell."""
    if pattern:
        return lambda node: _is_pattern(node, pattern)
    for said, key in _VALUES:
        found = re.match(said, reason)
        if found:
            value = found[1]
            return lambda node: _holds(node.get(key), value)
    keys = {"oneOf"} if reason.startswith("oneOf") else set[str]()
    found = re.match(r"Unimplemented keys: (\[.*\])", reason)
    if found:
        keys = set(json.loads(found[1]))
    found = re.search(r"(\w+) \(.*\) is greater than (\w+) \(", reason)
    if found:
        keys = {found[1], found[2]}
    return (lambda node: keys <= node.keys()) if keys else None


def _is_pattern(node: Mapping[str, Any], pattern: str) -> bool:
    keys = node.get("patternProperties")
    return node.get("pattern") == pattern or (isinstance(keys, Mapping) and pattern in keys)


def _holds(value: Any, wanted: str) -> bool:
    if isinstance(value, list):
        return wanted in value
    return isinstance(value, str) and value in (wanted, f"#{wanted}")
