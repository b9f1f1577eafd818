"""Tagger of spans: which words of a message are the value of which slot, learned from labelled messages.

Owns tokens, features and weights: a linear model with Viterbi decoding, trained as an averaged structured perceptron
(Collins 2002, Discriminative Training Methods for Hidden Markov Models). Knows no dialogue. Invariants: training is
the same for the same messages in the same order; tags always form whole spans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

TOKEN = re.compile(r"[^\W\d_\u3400-\u9fff]+|\d|[^\s\w]|[\w]")
ROUNDS = 12
_NEVER = np.float32(-1e9)


@dataclass(frozen=True)
class Token:
    """Word, sign, digit or Chinese character of a message, with its place in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class ValueSpan:
    """Part of a message, in characters, and its label."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class TaggedMessage:
    """Message to learn from: its text, what is known of its place in the dialogue, and its spans."""

    text: str
    context: tuple[str, ...]
    spans: tuple[ValueSpan, ...]
    reply: str = ""


def tokens_of(text: str) -> list[Token]:
    """Cut a message into words, single digits, single Chinese characters and signs."""
    return [Token(found[0].casefold(), found.start(), found.end()) for found in TOKEN.finditer(text)]


def features_of(tokens: Sequence[Token], text: str, context: Sequence[str], reply: str = "") -> list[list[str]]:
    """Return the names of the features of each token; ``reply`` is what the message answers."""
    words = ["<<", "<", *(token.text for token in tokens), ">", ">>"]
    shapes = ["<<", "<", *(_shape(text[token.start : token.end]) for token in tokens), ">", ">>"]
    openings = _openings(tokens)
    quoted = _quoted(tokens, reply)
    rows = []
    for index in range(len(tokens)):
        at = index + 2
        a, b, word, c, d = words[at - 2 : at + 3]
        row = [
            "bias",
            f"w={word}",
            f"-1={b}",
            f"+1={c}",
            f"-2={a}",
            f"+2={d}",
            f"-1,0={b} {word}",
            f"0,+1={word} {c}",
            f"-2,-1={a} {b}",
            f"+1,+2={c} {d}",
            f"-1,+1={b} {c}",
            f"s={shapes[at]}",
            f"s3={shapes[at - 1]} {shapes[at]} {shapes[at + 1]}",
            f"e={word[-3:]}",
            f"o={openings[index]} {word}",
        ]
        row += [f"b={each}" for each in dict.fromkeys(words[max(at - 6, 0) : at])]
        row += [f"q={quoted[index]}", f"q3={quoted[index]} {b} {c}"]
        row += [f"c={each}" for each in context]
        row += [f"c,s={each} {shapes[at]}" for each in context]
        row += [f"c,w={each} {word}" for each in context]
        row += [f"c,-1={each} {b}" for each in context]
        rows.append(row)
    return rows


def _shape(text: str) -> str:
    if text.isdigit():
        return "9"
    if len(text) == 1 and "\u3400" <= text <= "\u9fff":
        return "字"
    if text.isalpha():
        return "Aa" if text[0].isupper() else "a"
    return text


def _quoted(tokens: Sequence[Token], reply: str) -> list[int]:
    """Return, for each token, how many tokens around it stand in the reply as well, in this order; at most 4."""
    said = [token.text for token in tokens_of(reply)]
    runs = {tuple(said[first : first + size]) for size in (1, 2, 3, 4) for first in range(len(said) - size + 1)}
    found = [0] * len(tokens)
    for size in (1, 2, 3, 4):
        for first in range(len(tokens) - size + 1):
            if tuple(token.text for token in tokens[first : first + size]) in runs:
                found[first : first + size] = [size] * size
    return found


def _openings(tokens: Sequence[Token]) -> list[str]:
    """Return, for each token, the word that opens its clause and the sign that closes it."""
    found, start = [], 0
    for index, token in enumerate(tokens):
        if token.text in ".?!。？！；;" or index == len(tokens) - 1:
            opening = f"{tokens[start].text} {token.text if not token.text.isalnum() else ''}"
            found += [opening] * (index + 1 - start)
            start = index + 1
    return found


class SpanTagger:
    """Tagger of spans with the labels it was trained on. Make it with `fit`."""

    def __init__(self, labels: Sequence[str], names: Sequence[str], weights: NDArray[np.float32]) -> None:
        self.labels, self.names = tuple(labels), tuple(names)
        self._index = {name: row for row, name in enumerate(self.names)}
        self._emit, self._move = weights[: len(names)], weights[len(names) :]
        self._allowed = _allowed(len(self.labels))

    @property
    def weights(self) -> NDArray[np.float32]:
        """Return the weights: ``[features + tags, tags]``; the last rows are those of a tag after another."""
        return np.concatenate([self._emit, self._move])

    @staticmethod
    def fit(messages: Sequence[TaggedMessage], rounds: int = ROUNDS) -> SpanTagger:
        """Train on messages. A span that does not begin and end with tokens is widened to them."""
        labels = sorted({span.label for message in messages for span in message.spans})
        read = list[tuple[list[NDArray[np.intp]], list[int]]]()
        index: dict[str, int] = {}
        for message in messages:
            tokens = tokens_of(message.text)
            if tokens:
                rows = features_of(tokens, message.text, message.context, message.reply)
                ids = [np.array([index.setdefault(name, len(index)) for name in row]) for row in rows]
                read.append((ids, _tags(tokens, message.spans, labels)))
        return _Training(len(index), labels).run(read, list(index), rounds)

    def tag(self, text: str, context: Sequence[str], reply: str = "") -> list[ValueSpan]:
        """Find the spans of a message, from left to right."""
        tokens = tokens_of(text)
        if not tokens or not self.labels:
            return []
        rows = features_of(tokens, text, context, reply)
        known = [[self._index[name] for name in row if name in self._index] for row in rows]
        scores = np.stack([self._emit[row].sum(axis=0) for row in known])
        return _spans(tokens, viterbi(scores, self._move + self._allowed), self.labels)


class _Training:
    """Averaged perceptron over tags 0 (outside), 2i + 1 (a span of label i begins) and 2i + 2 (it goes on)."""

    def __init__(self, features: int, labels: Sequence[str]) -> None:
        tags = 2 * len(labels) + 1
        self._labels, self._features = labels, features
        self._weights = np.zeros((features + tags, tags), np.float32)
        self._sums = np.zeros((features + tags, tags), np.float64)
        self._allowed = _allowed(len(labels))
        self._steps = 1.0

    def run(
        self, read: Sequence[tuple[list[NDArray[np.intp]], list[int]]], names: Sequence[str], rounds: int
    ) -> SpanTagger:
        order = np.random.default_rng(0)
        for _ in range(rounds):
            for at in order.permutation(len(read)):
                ids, gold = read[at]
                scores = np.stack([self._weights[row].sum(axis=0) for row in ids])
                found = viterbi(scores, self._weights[self._features :] + self._allowed)
                if found != gold:
                    self._correct(ids, gold, 1.0)
                    self._correct(ids, found, -1.0)
                self._steps += 1.0
        mean = self._weights - (self._sums / self._steps).astype(np.float32)
        used = np.flatnonzero(np.abs(mean[: self._features]).max(axis=1) > 1e-6)
        rows = np.concatenate([used, np.arange(self._features, len(mean))])
        return SpanTagger(self._labels, [names[int(row)] for row in used], mean[rows])

    def _correct(self, ids: Sequence[NDArray[np.intp]], tags: Sequence[int], by: float) -> None:
        for row, tag in zip(ids, tags, strict=True):
            self._weights[row, tag] += by
            self._sums[row, tag] += by * self._steps
        for before, tag in pairwise(tags):
            self._weights[self._features + before, tag] += by
            self._sums[self._features + before, tag] += by * self._steps


def viterbi(scores: NDArray[np.float32], moves: NDArray[np.float32]) -> list[int]:
    """Return the best tags, given scores ``[tokens, tags]`` and those of one tag after another ``[tags, tags]``."""
    best = scores[0] + np.where(np.arange(scores.shape[1]) % 2 == 0, _NEVER, 0).astype(np.float32)
    best[0] = scores[0][0]
    back = []
    for row in scores[1:]:
        total = best[:, None] + moves
        back.append(total.argmax(axis=0))
        best = total.max(axis=0) + row
    tags = [int(best.argmax())]
    for pointers in reversed(back):
        tags.append(int(pointers[tags[-1]]))
    return tags[::-1]


def _allowed(labels: int) -> NDArray[np.float32]:
    """Return 0 where a tag may follow another, and a number that no score outweighs elsewhere."""
    allowed = np.zeros((2 * labels + 1, 2 * labels + 1), np.float32)
    for label in range(labels):
        allowed[:, 2 * label + 2] = _NEVER
        allowed[2 * label + 1 : 2 * label + 3, 2 * label + 2] = 0.0
    return allowed


def _tags(tokens: Sequence[Token], spans: Sequence[ValueSpan], labels: Sequence[str]) -> list[int]:
    tags = [0] * len(tokens)
    for span in spans:
        inside = [i for i, token in enumerate(tokens) if token.start < span.end and token.end > span.start]
        if inside and not any(tags[i] for i in inside):
            label = labels.index(span.label)
            for i in inside:
                tags[i] = 2 * label + (1 if i == inside[0] else 2)
    return tags


def _spans(tokens: Sequence[Token], tags: Sequence[int], labels: Sequence[str]) -> list[ValueSpan]:
    found: list[ValueSpan] = []
    for token, tag in zip(tokens, tags, strict=True):
        if tag == 0:
            continue
        label = labels[(tag - 1) // 2]
        if tag % 2:
            found.append(ValueSpan(label, token.start, token.end))
        else:
            found[-1] = ValueSpan(label, found[-1].start, token.end)
    return found
