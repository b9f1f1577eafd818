"""Keeps the contents of a conversation apart from the template's own text, so that they stay text.

Owns the escaping of contents before a template runs. In each content the characters with which control
tokens begin and end are replaced by characters that no content holds. After the rendering a control token
found in the text is therefore the template's own, wherever the template has moved, cut or joined the
contents; then the replaced characters are put back. Knows no roles but the assistant's, whose reasoning
and tool-call markers keep their meaning. Invariant: lengths, blanks and letters do not change, and markers
that the template itself looks for stay as they are, so the rendered text is that of the unescaped contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from miaotui.errors import RequestError
from miaotui.text.tokenizers.encoder import SpecialTokens

# Symbols of one script, Sutton SignWriting: printable, no letters, no blanks, and rare in texts.
_FIRST_PRIVATE, _LAST_PRIVATE = 0x1D800, 0x1D9FF
_ASSISTANT_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "thinking"})
_NAMES = frozenset(
    {"content", "name", "text", "title", "id", "tool_call_id"}
)  # a template may put these within markers


@dataclass(frozen=True)
class Escaped:
    """Values with their contents escaped. ``private``: replacing characters and those they stand for."""

    values: dict[str, Any]
    private: Mapping[str, str] = field(default_factory=dict)

    def restore(self, text: str) -> str:
        """Put the replaced characters back into a rendered text."""
        for replacing, character in self.private.items():
            text = text.replace(replacing, character)
        return text


class ContentEscaper:
    """Escapes the contents of conversations for one template and one tokenizer.

    `controls`: texts of the control tokens. `source`: the template's source, and `constants`: the texts
    that it writes or looks for. `markers`: texts that keep their meaning in an assistant's message.
    """

    def __init__(
        self, controls: Iterable[str], source: str = "", constants: Iterable[str] = (), markers: Iterable[str] = ()
    ) -> None:
        self._controls = [text for text in controls if text]
        self._source = source
        ends = {text[0] for text in self._controls} | {text[-1] for text in self._controls}
        self._edges = "".join(sorted(filter(_is_symbol, ends)))
        self._odd = [text for text in self._controls if not (_is_symbol(text[0]) and _is_symbol(text[-1]))]
        self._written = [text for text in constants if text]
        self._constants = [text for text in self._written if any(edge in text for edge in self._edges)]
        self._markers = [text for text in markers if any(edge in text for edge in self._edges)]
        self._joined = "\0".join(self._controls)
        self._longest = max(map(len, self._controls), default=0)
        self._safe: dict[str, bool] = {}

    def escape(self, values: Mapping[str, Any]) -> Escaped:
        """Escape all texts in ``values``: ``messages``, ``tools``, ``begun`` and options of the template.

        Raises `RequestError` if the texts hold all the characters that could replace others.
        """
        texts = list(_texts(values))
        wanted = self._wanted(texts)
        if not wanted:
            return Escaped(dict(values))
        private = self._free([text for _, text in texts], len(wanted))
        table = dict(zip(wanted, private, strict=True))
        return Escaped(_changed(values, partial(self._escape, table)), {v: k for k, v in table.items()})

    def _wanted(self, texts: Sequence[tuple[str, str]]) -> str:
        """Return the characters that must be replaced in some of ``texts``, or nothing."""
        found = {edge for edge in self._edges if any(edge in text for _, text in texts)}
        if not (self._odd or self._wrapped):
            return "".join(sorted(found))
        for key, text in texts:
            found.update(text[at] for at in self._single(key, text))
        return "".join(sorted(found))

    def _single(self, key: str, text: str) -> Iterator[int]:
        """Yield the places of single characters to replace, where no edge of a token does it."""
        for control in self._odd:
            at = text.find(control)
            while at >= 0:
                yield at + next((i for i, character in enumerate(control) if not character.isspace()), 0)
                at = text.find(control, at + 1)
        if key in _NAMES and len(text) <= self._longest:
            word = text.strip()
            if word in self._wrapped:
                yield text.index(word)

    def _free(self, texts: Sequence[str], count: int) -> str:
        """Return ``count`` characters of the private range that neither ``texts`` nor the template hold."""
        candidates = map(chr, range(_FIRST_PRIVATE, _LAST_PRIVATE + 1))
        unused = (each for each in candidates if each not in self._source and not any(each in text for text in texts))
        found = "".join(each for each, _ in zip(unused, range(count), strict=False))
        if len(found) < count:
            raise RequestError("the messages hold every symbol of Sutton SignWriting; leave at least a few of them out")
        return found

    def _escape(self, table: Mapping[str, str], key: str, text: str, said: bool) -> str:
        singles = list(self._single(key, text))
        if singles:
            characters = list(text)
            for at in singles:
                characters[at] = table[text[at]]
            text = "".join(characters)
        kept = [each for each in self._constants if each in text and self._is_safe(each)]
        if said:
            kept += (marker for marker in self._markers if marker in text)
        if not kept:
            return self._replaced(text, table)
        parts = re.split(f"({'|'.join(map(re.escape, sorted(kept, key=len, reverse=True)))})", text)
        return "".join(part if i % 2 else self._replaced(part, table) for i, part in enumerate(parts))

    def _replaced(self, text: str, table: Mapping[str, str]) -> str:
        for edge in self._edges:
            if edge in text:
                text = text.replace(edge, table[edge])
        return text

    def _is_safe(self, constant: str) -> bool:
        """Return whether ``constant`` can stay in a content: no control token can contain or overlap it."""
        known = self._safe.get(constant)
        if known is None:
            begins, ends = self._parts
            size = len(constant)
            known = self._safe[constant] = not (
                constant in self._joined
                or any(constant[at:] in begins for at in range(size))
                or any(constant[:at] in ends for at in range(1, size + 1))
                or next(self._search.find(constant), None) is not None
            )
        return known

    @cached_property
    def _wrapped(self) -> frozenset[str]:
        """Return words of which the template would make a control token, since it may write the rest around them."""
        size, joined = self._longest, f"\0{self._joined}\0"
        firsts, lasts = {text[0] for text in self._controls}, {text[-1] for text in self._controls}
        ends = {text[at:] for text in self._written for at in _places(text, firsts, max(0, len(text) - size))}
        starts = {text[: at + 1] for text in self._written for at in _places(text[:size], lasts)}
        before = [text for text in ends if f"\0{text}" in joined]
        after = [text for text in starts if f"{text}\0" in joined]
        around = [(p, q, text) for p in before for text in self._controls if text.startswith(p) for q in after]
        return frozenset(text[len(p) : -len(q)] for p, q, text in around if text.endswith(q)) - {""}

    @cached_property
    def _parts(self) -> tuple[set[str], set[str]]:
        """Return all proper beginnings and all proper ends of control tokens."""
        begins = {text[:at] for text in self._controls for at in range(1, len(text))}
        return begins, {text[at:] for text in self._controls for at in range(1, len(text))}

    @cached_property
    def _search(self) -> SpecialTokens:
        return SpecialTokens({text: at for at, text in enumerate(self._controls)})


_Change = Callable[[str, str, bool], str]  # (key, text, whether the assistant said it) -> changed text


def _changed(values: Mapping[str, Any], change: _Change) -> dict[str, Any]:
    """Return a copy of ``values`` with all texts and keys changed."""

    def each(key: str, value: Any, said: bool = False) -> Any:
        if isinstance(value, str):
            return change(key, value, said)
        if isinstance(value, Mapping):
            return {change("", name, False): each(name, below) for name, below in value.items()}
        if isinstance(value, (list, tuple)):
            return [each(key, below) for below in value]
        return value

    def message(value: Mapping[str, Any]) -> dict[str, Any]:
        speaks = value["role"] == "assistant"
        return {
            change("", name, False): each(name, below, speaks and name in _ASSISTANT_TEXTS)
            for name, below in value.items()
        }

    copied = {name: each(name, value, name == "begun") for name, value in values.items() if name != "messages"}
    return {**copied, "messages": [message(one) for one in values["messages"]]}


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each text in JSON data; a key is itself a text, under the empty key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield "", name
            yield from _texts(each, name)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, key)


def _places(text: str, characters: Set[str], begin: int = 0) -> Iterator[int]:
    """Yield the places of ``characters`` in ``text`` from ``begin`` on."""
    return (at for at in range(begin, len(text)) if text[at] in characters)


def _is_symbol(character: str) -> bool:
    """Return whether ``character`` can be replaced wherever it stands: letters and blanks mean something to
    templates.
    """
    return not (character.isalnum() or character.isspace() or character in "_▁")
