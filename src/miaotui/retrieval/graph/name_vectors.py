"""Names of entities in other words: "the USA" for United States, found by vectors where spelling fails.

Owns which runs of a question's words are tried and when a name is near enough. Knows an embedder's protocol, no graph.
Encoders differ in the cosine that any two texts have, so cosines are compared with the mean one of the names.
Invariant: a run and a name with different numbers ("Henry V", "Henry VI") never match.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from miaotui.retrieval.graph.lexicon import FUNCTION_WORDS, mean_cosine
from miaotui.retrieval.graph.names import MAX_QUESTION_WORDS, EntityNames, Mention, numbers_of
from miaotui.retrieval.meaning.protocols import Floats, TextEmbedder, checked_vectors

MAX_NAMES = 10_000  # of a graph whose names have vectors; they are made when the first one is needed
LEAST_NEARNESS = 0.68  # of a run and a name: 0 is the mean of two names, 1 is equal
LEAST_LEAD = 0.06  # of the nearest name over the next one of another entity
_LONGEST = 6  # words of a run
_MOST_RUNS = 64


class NameVectors:
    """Vectors of an index's names. Without an embedder, or with too many names, it finds nothing."""

    def __init__(self, names: EntityNames, embedder: TextEmbedder | None) -> None:
        self._names, self._embedder = names, embedder
        self._vectors: Floats | None = None
        self._floor = 0.0

    def mentions(self, words: Sequence[str], known: Collection[str]) -> list[Mention]:
        """Return the one mention that is nearest to a name, or none.

        ``known``: words that speak of relations; a run of them alone names no entity.
        """
        keys = self._names.keys
        runs = _runs(words[:MAX_QUESTION_WORDS], known)
        if self._embedder is None or not runs or not 1 <= len(keys) <= MAX_NAMES:
            return []
        if self._vectors is None:
            self._vectors = self._embed(keys)
            self._floor = mean_cosine(self._vectors)
        texts = [" ".join(words[start:end]) for start, end in runs]
        nearness = (self._embed(texts) @ self._vectors.T - self._floor) / (1 - self._floor)
        found = [self._nearest(run, text, row) for run, text, row in zip(runs, texts, nearness, strict=True)]
        best = max((each for each in found if each is not None), key=lambda each: each.likeness, default=None)
        return [] if best is None else [best]

    def _nearest(self, run: tuple[int, int], text: str, nearness: Floats) -> Mention | None:
        """Return the name that a run stands for; None where none is near enough, or two are about as near."""
        keys = self._names.keys
        wanted = numbers_of(text)
        near = [at for at in np.argsort(-nearness, kind="stable")[:16].tolist() if numbers_of(keys[at]) == wanted]
        if not near or nearness[near[0]] < LEAST_NEARNESS:
            return None
        entities = self._names.entities_of(keys[near[0]])
        others = (nearness[at] for at in near[1:] if not set(entities) & set(self._names.entities_of(keys[at])))
        if nearness[near[0]] - next(others, 0.0) < LEAST_LEAD:
            return None
        return Mention(*run, entities, min(float(nearness[near[0]]), 0.99))

    def _embed(self, texts: Sequence[str]) -> Floats:
        assert self._embedder is not None
        return checked_vectors(self._embedder.embed(list(texts), "query"), len(texts))


def _runs(words: Sequence[str], known: Collection[str]) -> list[tuple[int, int]]:
    """Return the runs of words that may name an entity, ``[start, end)``.

    A run begins and ends with new words, and the words around it are known: "Grace" alone is no run of "Grace Kelly".
    """
    new = [word not in FUNCTION_WORDS and (word not in known or bool(numbers_of(word))) for word in words]
    starts = [at for at in range(len(words)) if new[at] and not (at and new[at - 1])]
    ends = [at + 1 for at in range(len(words)) if new[at] and not (at + 1 < len(words) and new[at + 1])]
    return [(start, end) for start in starts for end in ends if 0 < end - start <= _LONGEST][:_MOST_RUNS]
