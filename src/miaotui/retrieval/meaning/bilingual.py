"""Vectors in two spaces: of a multilingual model, and of a better one for English.

Owns which space a question and a passage are compared in: that of English if both are English, that of all languages
otherwise. Knows each space by `PassageVectors`. Invariant: similarities of both spaces are on one scale, so passages
in several languages are ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from miaotui.retrieval.document import Document
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.meaning.languages import is_english, is_english_passage
from miaotui.retrieval.meaning.protocols import Floats, TextEmbedder
from miaotui.retrieval.meaning.vectors import PassageVectors, SentenceMatch, VectorSpace
from miaotui.types import Progress

# The line gives similarities the mean and the deviation that multilingual-e5-small's have over all pairs of a question
# and a sentence of the English calibration sets (tests/retrieval/questions/calibration).
ENGLISH = VectorSpace("vectors-en", is_english_passage, factor=0.31, offset=0.695)


@dataclass(frozen=True)
class QueryVectors:
    """Vectors of a question, in each space that it is needed in."""

    multilingual: Floats | None
    english: Floats | None = None


class MeaningVectors:
    """Vectors of an open index's sentences, in one or two spaces. Safe to use from several threads.

    Without ``english`` every question is compared in the space of all languages.
    """

    def __init__(self, index: Index, embedder: TextEmbedder, english: TextEmbedder | None = None) -> None:
        self.index = index
        self._multilingual = PassageVectors(index, embedder)
        self._english = None if english is None else PassageVectors(index, english, ENGLISH)
        self._spaces = [self._multilingual, *([] if self._english is None else [self._english])]

    def __len__(self) -> int:
        return max(map(len, self._spaces))

    @property
    def state(self) -> str:
        """Return the name of what these vectors hold. It changes with them."""
        return "+".join(space.state for space in self._spaces)

    @property
    def is_current(self) -> bool:
        """Return whether every passage of the index has its vectors."""
        return all(space.is_current for space in self._spaces)

    def embed_query(self, text: str) -> QueryVectors:
        """Return the vectors of a question, in the spaces where passages are compared with it."""
        if self._english is None or not is_english(text) or not self._english.passages:
            return QueryVectors(self._multilingual.embed_query(text))
        needs_both = self._english.passages < self._multilingual.passages
        return QueryVectors(
            self._multilingual.embed_query(text) if needs_both else None, self._english.embed_query(text)
        )

    def nearest(self, vectors: QueryVectors, count: int) -> dict[str, float]:
        """Return the passages with the sentences nearest to a question: their ids and best similarities, best first."""
        found: dict[str, float] = {}
        for space, vector in self._compared(vectors):
            for name, similarity in space.nearest(vector, count).items():
                if self._is_compared_in(space, name, vectors):
                    found[name] = similarity
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count])

    def best(self, vectors: QueryVectors, ids: Iterable[str]) -> dict[str, float]:
        """Return the best similarity of each passage among ``ids`` that has vectors."""
        names = list(ids)
        found: dict[str, float] = {}
        for space, vector in self._compared(vectors):
            found |= space.best(vector, [name for name in names if self._is_compared_in(space, name, vectors)])
        return found

    def sentences(self, vectors: QueryVectors, passage: Document) -> list[SentenceMatch]:
        """Return the passage's sentences with their similarities, in order; none if it has no vectors yet."""
        for space, vector in self._compared(vectors):
            if self._is_compared_in(space, passage.id, vectors) and (found := space.sentences(vector, passage)):
                return found
        return []

    def is_in_english(self, vectors: QueryVectors, passage: Document) -> bool:
        """Return whether a question and a passage are compared in the space of English."""
        return vectors.english is not None and self._english is not None and self._english.has(passage.id)

    def update(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> int:
        """Make the vectors that are missing in each space; see `PassageVectors.update`. Returns how many passages got
        vectors in the space where most did.
        """
        return max(space.update(progress, stop) for space in self._spaces)

    def purge(self) -> None:
        """Delete the vectors of passages that are gone, from memory and from the files."""
        for space in self._spaces:
            space.purge()

    def _compared(self, vectors: QueryVectors) -> list[tuple[PassageVectors, Floats]]:
        spaces = [(self._english, vectors.english), (self._multilingual, vectors.multilingual)]
        return [(space, vector) for space, vector in spaces if space is not None and vector is not None]

    def _is_compared_in(self, space: PassageVectors, passage: str, vectors: QueryVectors) -> bool:
        """Return whether this is the space for a passage: that of English for all that it has vectors of."""
        in_english = vectors.english is not None and self._english is not None and self._english.has(passage)
        return space is (self._english if in_english else self._multilingual)
