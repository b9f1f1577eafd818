"""Encoders of text: what a `Tokenizer` asks of one, and the parts that encoders are made of.

Owns the protocol, the search for special tokens written in text (``<|im_start|>``, ``<bos>``, runs of spaces; leftmost
first and longest at each place, as the `tokenizers` library does it), the encoder that cuts text around them, and the
one that goes word by word, with its cache. Knows no file format, and not how a word is encoded. Invariants: `encode_at`
makes control tokens at the given places only, and with all places of a text it gives the ids of `encode` with
``special=True``; the texts of the parts that `SpecialTokens.split` yields, joined, are the text, but for whitespace
that certain tokens swallow.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import NamedTuple, Protocol

MAX_WORDS = 1 << 15  # that a `WordEncoder` remembers
MAX_WORD_LENGTH = 48  # longer words rarely repeat


class ControlSpan(NamedTuple):
    """Characters ``start`` to ``end`` of a text that are the control token ``token``."""

    start: int
    end: int
    token: int


class TextEncoder(Protocol):
    """Encoder of text into token ids. Safe to use from several threads."""

    @property
    def control_texts(self) -> Mapping[str, int]:
        """Return the ids of the control tokens that can be written in a text, by their texts."""

    @property
    def added_texts(self) -> Mapping[str, int]:
        """Return the ids of the other tokens that are recognised in any text before it is cut, by their texts."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Return the ids of ``text``, with the control tokens written in it recognised or not."""

    def encode_at(self, text: str, spans: Sequence[ControlSpan]) -> list[int]:
        """Return the ids of ``text`` with control tokens at ``spans`` only."""


class SpecialTokens:
    """A set of texts to look for. `swallowing`: ids that swallow the whitespace behind them."""

    def __init__(self, ids: Mapping[str, int], swallowing: Set[int] = frozenset()) -> None:
        self._ids = {text: token for text, token in ids.items() if text}
        self._swallowing = swallowing
        lengths: dict[str, set[int]] = defaultdict(set)
        for text in self._ids:
            lengths[text[:2]].add(len(text))
        for start, found in lengths.items():
            if start[0] in self._ids:  # a token of one character is a candidate wherever it starts
                found.add(1)
        # Thousands of tokens share few beginnings: look for those, then try whole lengths.
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        starts = sorted(lengths, key=len, reverse=True)
        self._start = re.compile("|".join(map(re.escape, starts))) if starts else None

    def find(self, text: str, spaces: str = "") -> Iterator[ControlSpan]:
        """Yield the places of the tokens in `text`, in order; they do not overlap. `spaces`: see `split`."""
        at = 0
        while self._start and (found := self._start.search(text, at)):
            at = found.start()
            match = self._longest(text, at, found.group())
            if match:
                token = self._ids[match]
                yield ControlSpan(at, at + len(match), token)
                at = self._behind(text, at + len(match), token, spaces)
            else:
                at += 1

    def split(self, text: str, spaces: str = "") -> Iterator[str | int]:
        """Yield the text between special tokens (never empty) and their ids, in order.

        `spaces` are characters that count as whitespace besides the usual ones.
        """
        return self._cut(text, self.find(text, spaces), spaces)

    def split_at(self, text: str, spans: Sequence[ControlSpan], spaces: str = "") -> Iterator[str | int]:
        """Yield as `split` does, with the control tokens at `spans` besides the tokens of this set."""
        for part in self._cut(text, iter(spans), spaces):
            if isinstance(part, int):
                yield part
            else:
                yield from self.split(part, spaces)

    def _cut(self, text: str, spans: Iterator[ControlSpan], spaces: str) -> Iterator[str | int]:
        begin = 0
        for start, end, token in spans:
            if start > begin:
                yield text[begin:start]
            yield token
            begin = self._behind(text, end, token, spaces)
        if begin < len(text):
            yield text[begin:]

    def _behind(self, text: str, end: int, token: int, spaces: str) -> int:
        """Return where `text` goes on after `token`, which ends at `end` and may swallow whitespace."""
        if token in self._swallowing:
            while end < len(text) and (text[end].isspace() or text[end] in spaces):
                end += 1
        return end

    def _longest(self, text: str, at: int, start: str) -> str:
        candidates = (text[at : at + length] for length in self._lengths[start])
        return next((candidate for candidate in candidates if candidate in self._ids), "")


class MarkedTextEncoder:
    """`TextEncoder` that cuts text around special tokens and encodes the parts between.

    `controls` are control tokens, `users` tokens that are found in any text; `ordinary` encodes a part; `write` writes
    text in the vocabulary's alphabet, character by character, where `spaces` count as whitespace. `aliases` are other
    texts of control tokens.
    """

    def __init__(
        self,
        controls: Mapping[str, int],
        users: Mapping[str, int],
        swallowing: Set[int],
        ordinary: Callable[[str], list[int]],
        *,
        write: Callable[[str], str],
        spaces: str,
        aliases: Mapping[str, int],
    ) -> None:
        self._everything, self._users = (
            SpecialTokens({write(text): token for text, token in some.items()}, swallowing)
            for some in ({**controls, **users}, users)
        )
        self._ordinary, self._write, self._spaces = ordinary, write, spaces
        self.control_texts, self.added_texts = {**controls, **aliases}, users

    def encode(self, text: str, special: bool) -> list[int]:
        """Return the ids of ``text``, with the control tokens written in it recognised or not."""
        tokens = self._everything if special else self._users
        return self._ids(tokens.split(self._write(text), self._spaces))

    def encode_at(self, text: str, spans: Sequence[ControlSpan]) -> list[int]:
        """Return the ids of ``text`` with control tokens at ``spans`` only."""
        return self._ids(self._users.split_at(self._write(text), spans, self._spaces))

    def _ids(self, parts: Iterator[str | int]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._ordinary(part)
        return ids


class WordEncoder:
    """Encoder of text word by word, with a cache of the short words that came last; the ids are those without it.

    ``split`` cuts text into words that are encoded each on its own; ``encode_word`` returns the ids of one.
    """

    def __init__(self, split: Callable[[str], Iterable[str]], encode_word: Callable[[str], tuple[int, ...]]) -> None:
        self._split, self._fresh = split, encode_word
        self._remembered = lru_cache(MAX_WORDS)(encode_word)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``."""
        remembered, fresh = self._remembered, self._fresh
        ids: list[int] = []
        for word in self._split(text):
            ids += remembered(word) if len(word) <= MAX_WORD_LENGTH else fresh(word)
        return ids


def words_alone(cut: Callable[[str], Iterable[tuple[str, object]]]) -> Callable[[str], list[str]]:
    """Return a splitter into words from one of the `tokenizers` library, which gives the place of each word too."""
    return lambda text: [word for word, _ in cut(text)]
