"""Words of relations: how likely a word of a question speaks of each relation, or of none.

Owns the table of words, made of the relations' names or learned from questions with their relations by expectation
maximisation (IBM model 1; Brown et al., "The Mathematics of Statistical Machine Translation", 1993). A word that the
table lacks gets the mean of the words whose vectors are near. Knows no graph. Invariant: the probabilities of a word,
over none and all relations, sum to 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from miaotui.retrieval.graph.names import words_of
from miaotui.retrieval.meaning.protocols import Floats, TextEmbedder, checked_vectors

MAX_HOPS = 3
MAX_LEARNED = 200_000  # examples
_STRUCTURE_TEXT = "a an and did do does is of the to was 's 的 之 是"
_FUNCTION_TEXT = """any are about answer ask at be by can could find for from get give had has have he her hers him his
how i in it its know let like list look me may my name named off on one or our please question s say she should show
tell than that their them then there these they this those up us want we were what when where which who whom whose why
will wish with wonder would you your 什 么 谁 吗 呢 请 问 哪 里 个 了 有 在 与 和 几 多 少 一"""
STRUCTURE = frozenset(_STRUCTURE_TEXT.split())  # words that never name a relation
FUNCTION_WORDS = STRUCTURE | frozenset(_FUNCTION_TEXT.split())
PRIOR_SHARE = 0.5  # of log priors: with all of it doubtful words would speak of rare relations
_PAIR_GAIN = 0.08  # of cosines, from which two words count as one
_NULL_FUNCTION, _NULL_CONTENT = 2.0, 0.4  # how readily function words and others are taken to speak of no relation
_ROUNDS = 12
_SMOOTHING = 0.02  # counts of every word with every relation
_NEARNESS = 0.05  # temperature of cosines
_FAR, _NEAR = 0.13, 0.53  # cosines of words that say nothing of each other, and of words that say as much
_ADVERBS = frozenset(["where", "when", "why", "how"])
_FUNCTION_COUNTS = 20.0  # examples that a function word's own row is worth
_NAME_SHARE = 0.9  # of a word in a relation's name: probability that it speaks of it
_FUNCTION_SHARE = 0.97  # of a function word: probability that it speaks of none
_NO_IDEA = 0.5  # of a word without near ones: probability that it speaks of none
_CACHED_WORDS = 20_000
_UNSEEN_HOPS = 1e-3


@dataclass(frozen=True)
class Lexicon:
    """Table of words.

    ``table``: P(none or relation | word), float32 ``[words, 1 + relations]``; ``prior``: the share of each among all
    words, ``[1 + relations]``; ``hops``: P(number of relations), ``[MAX_HOPS]``.
    """

    relations: tuple[str, ...]
    words: Mapping[str, int]
    table: Floats
    prior: Floats
    hops: Floats
    learned: bool = False

    @classmethod
    def from_names(cls, relations: Sequence[str]) -> Lexicon:
        """Return a lexicon of the relations' names alone."""
        named: dict[str, set[int]] = defaultdict(set)
        for number, name in enumerate(relations, 1):
            words = words_of(name)
            for word in [each for each in words if each not in FUNCTION_WORDS] or words:
                named[word].add(number)
        width = 1 + len(relations)
        rows: dict[str, Floats] = {word: _function_row(width) for word in sorted(FUNCTION_WORDS - named.keys())}
        for word, numbers in named.items():
            row = np.full(width, (1 - _NAME_SHARE) / width, np.float32)
            row[sorted(numbers)] += _NAME_SHARE / len(numbers)
            rows[word] = row / row.sum()
        prior = np.full(width, 0.5 / max(len(relations), 1), np.float32)
        prior[0] = 0.5
        hops = np.array([0.45, 0.45, 0.1], np.float32)
        return cls(tuple(relations), _numbered(rows), _stacked(rows, width), prior, hops)

    @classmethod
    def learn(cls, relations: Sequence[str], examples: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Lexicon:
        """Return a lexicon learned from questions' words, the entity's left out, with the relations of their paths."""
        numbers = {name: number for number, name in enumerate(relations, 1)}
        pairs = [
            ([word for word in words if word not in STRUCTURE], [0, *(numbers[each] for each in path)])
            for words, path in examples[:MAX_LEARNED]
        ]
        counts = _aligned(pairs, 1 + len(relations))
        named = cls.from_names(relations)
        rows = {word: named.table[number] for word, number in named.words.items()}
        blank = _blank(named.prior)
        for word, found in counts.items():
            before = (_FUNCTION_COUNTS if word in FUNCTION_WORDS - _ADVERBS else 0.5) * rows.get(word, blank)
            rows[word] = np.asarray((found + before + _SMOOTHING / len(found)), np.float32)
            rows[word] = rows[word] / rows[word].sum()
        prior = np.sum(list(counts.values()), axis=0) + 1.0
        lengths = Counter(len(path) - 1 for _, path in pairs)
        hops = np.array([lengths[n] for n in range(1, MAX_HOPS + 1)], np.float32) / max(len(pairs), 1)
        hops = np.maximum(hops, _UNSEEN_HOPS)
        table = _stacked(rows, 1 + len(relations))
        return cls(
            tuple(relations),
            _numbered(rows),
            table,
            (prior / prior.sum()).astype(np.float32),
            (hops / hops.sum()).astype(np.float32),
            True,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the lexicon as JSON has it."""
        return {
            "relations": list(self.relations),
            "words": list(self.words),
            "table": [[round(float(each), 6) for each in row] for row in self.table],
            "prior": self.prior.tolist(),
            "hops": self.hops.tolist(),
            "learned": self.learned,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Lexicon:
        """Read what `to_json` gives. Raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        relations, words = tuple(map(str, values["relations"])), [str(each) for each in values["words"]]
        arrays = [np.array(values[name], np.float32) for name in ("table", "prior", "hops")]
        width = 1 + len(relations)
        shapes = [(len(words), width), (width,), (MAX_HOPS,)]
        if [each.shape for each in arrays] != shapes or not all(np.all(each >= 0) for each in arrays):
            raise ValueError("its lexicon does not fit its relations")
        table, prior, hops = arrays
        numbered = {word: at for at, word in enumerate(words)}
        return cls(relations, numbered, table, prior, hops, bool(values["learned"]))


@dataclass
class WordReader:
    """Log-odds of words by a lexicon and, for words that it lacks, by an embedder's vectors."""

    lexicon: Lexicon
    embedder: TextEmbedder | None = None
    _vectors: Floats | None = field(default=None, repr=False)
    _floor: float = 0.0
    _known: dict[str, tuple[Floats, float]] = field(default_factory=dict, repr=False)

    def log_odds(self, words: Sequence[str]) -> Floats:
        """Return log P(none or relation | word) less part of its log prior, float32 ``[words, 1 + relations]``.

        Two words beside each other of which the lexicon lacks one count as one where the pair is nearer to a known word
        than they are alone, as "pass away" is to "die".
        """
        lexicon = self.lexicon
        new = [at for at, word in enumerate(words) if word not in lexicon.words]
        pairs = {at for place in new for at in (place - 1, place) if self._may_pair(words, at)}
        texts = [*(words[at] for at in new), *(f"{words[at]} {words[at + 1]}" for at in sorted(pairs))]
        self._guess(texts)
        rows = np.stack([self._row(word) for word in words]) if words else np.zeros((0, len(lexicon.prior)), np.float32)
        gains = {at: self._gain(words, at) for at in pairs}
        taken: set[int] = set()
        for at in sorted(gains, key=lambda at: (-gains[at], at)):
            if gains[at] >= _PAIR_GAIN and not taken & {at, at + 1}:
                row = self._known[f"{words[at]} {words[at + 1]}"][0]
                rows[at], rows[at + 1] = row, _function_row(len(row))
                taken |= {at, at + 1}
        found: Floats = (np.log(np.maximum(rows, 1e-6)) - PRIOR_SHARE * np.log(lexicon.prior)).astype(np.float32)
        return found

    def _gain(self, words: Sequence[str], at: int) -> float:
        """Return by how much a pair is nearer to a known word than its two words are on average."""
        alone = [self._known[word][1] if word in self._known else _NEAR for word in words[at : at + 2]]
        return self._known[f"{words[at]} {words[at + 1]}"][1] - sum(alone) / 2

    def _may_pair(self, words: Sequence[str], at: int) -> bool:
        return self.embedder is not None and 0 <= at < len(words) - 1 and not STRUCTURE & {words[at], words[at + 1]}

    def _row(self, word: str) -> Floats:
        number = self.lexicon.words.get(word)
        return self._known[word][0] if number is None else self.lexicon.table[number]

    def _guess(self, texts: Sequence[str]) -> None:
        """Make the rows of words and pairs that the lexicon lacks, with the cosine of the nearest word."""
        new = [each for each in dict.fromkeys(texts) if each not in self._known]
        lexicon = self.lexicon
        blank = _blank(lexicon.prior)
        if self.embedder is None or not len(lexicon.table) or not new:
            self._known |= dict.fromkeys(new, (blank, 0.0))
        else:
            if self._vectors is None:
                self._vectors = self._embed(list(lexicon.words))
                self._floor = mean_cosine(self._vectors)
            cosines = (self._embed(new) @ self._vectors.T - self._floor) / (1 - self._floor)
            best = cosines.max(axis=1, keepdims=True)
            weights = np.exp((cosines - best) / _NEARNESS)
            near = (weights / weights.sum(axis=1, keepdims=True)) @ lexicon.table
            trust = np.clip((best - _FAR) / (_NEAR - _FAR), 0.0, 1.0)
            rows = (trust * near + (1 - trust) * blank).astype(np.float32)
            self._known |= {each: (row, float(cosine)) for each, row, cosine in zip(new, rows, best[:, 0], strict=True)}
        while len(self._known) > _CACHED_WORDS:
            del self._known[next(iter(self._known))]

    def _embed(self, words: Sequence[str]) -> Floats:
        assert self.embedder is not None
        return checked_vectors(self.embedder.embed(list(words), "query"), len(words))


def _aligned(pairs: Sequence[tuple[list[str], list[int]]], width: int) -> dict[str, Any]:
    """Return how often each word speaks of none and of each relation, float64 ``[width]`` for each word."""
    counts: dict[str, Any] = {}
    uses = np.zeros(width)
    for words, states in pairs:
        for word in words:
            counts.setdefault(word, np.zeros(width))[states] += 1.0 / len(states)
    for _ in range(_ROUNDS):
        totals = np.maximum(sum(counts.values(), uses), 1e-9)
        given = {word: (row + 1e-4) / totals for word, row in counts.items()}
        counts = {word: np.zeros(width) for word in counts}
        for words, states in pairs:
            for word in words:
                odds = given[word][states]
                odds[0] *= _NULL_FUNCTION if word in FUNCTION_WORDS else _NULL_CONTENT
                counts[word][states] += odds / odds.sum()
    return counts


def _blank(prior: Floats) -> Floats:
    """Return the row of a word of which nothing is known."""
    row = prior * (1 - _NO_IDEA) / max(1e-6, 1 - float(prior[0]))
    row[0] = _NO_IDEA
    return np.asarray(row, np.float32)


def _function_row(width: int) -> Floats:
    row = np.full(width, (1 - _FUNCTION_SHARE) / max(width - 1, 1), np.float32)
    row[0] = _FUNCTION_SHARE
    return row


def mean_cosine(vectors: Floats) -> float:
    """Return the mean cosine of two different rows of unit length; 0 for fewer than two rows.

    Some encoders give any two texts a cosine of 0.8: a cosine says something only beside this one.
    """
    count = len(vectors)
    total = float(np.square(vectors.sum(axis=0, dtype=np.float64)).sum())
    return min((total - count) / (count * (count - 1)), 0.99) if count > 1 else 0.0


def _numbered(rows: Mapping[str, Any]) -> dict[str, int]:
    return {word: number for number, word in enumerate(rows)}


def _stacked(rows: Mapping[str, Any], width: int) -> Floats:
    return np.stack(list(rows.values())).astype(np.float32) if rows else np.zeros((0, width), np.float32)


def log_hops(lexicon: Lexicon, hops: int) -> float:
    """Return the log probability of a number of relations."""
    return math.log(max(float(lexicon.hops[hops - 1]), 1e-9))
