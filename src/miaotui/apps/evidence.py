"""Evidence for a question: passages, and the sentences of them that fit a budget of tokens.

Owns the choice of sentences, and the decision whether the documents say anything at all. Knows no index: passages are
handed in. Invariant: chosen sentences stay in their passage's order, word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from miaotui.apps.spans import ranked_sentences

MAX_PASSAGES = 8
MAX_PASSAGE_CHARS = 8_000
FOUND = 0.33  # of the question's weight, in its best sentence; below it nothing was found (benchmarks/apps.py)
NEAR_BEST = 0.6  # sentences that have less than this share of the best one's are of something else


@dataclass(frozen=True)
class Passage:
    """Found passage, in the form in which it is cited."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Passages found for a question, in one version of an index.

    ``strength`` is the share of the question that the best sentence has, in [0, 1].
    """

    question: str
    passages: tuple[Passage, ...]
    index: str = ""
    version: str = ""
    strength: float = 0.0
    ranked: tuple[tuple[int, int, int], ...] = ()  # sentences, best first: passage, start, end
    complete: bool = True  # no part of the index was missing

    @property
    def is_weak(self) -> bool:
        """Return whether the documents probably do not answer the question."""
        return self.strength < FOUND

    def excerpts(self, fits: Callable[[str], bool]) -> list[str]:
        """Return the best sentences of each passage, as many in all as `fits` allows.

        Sentences are added best first, each at its place. A passage without any gives "".
        """
        chosen: set[tuple[int, int, int]] = set()
        for sentence in self.ranked:
            if not fits("\n".join(self._written(chosen | {sentence}))):
                break
            chosen.add(sentence)
        return self._written(chosen)

    def _written(self, chosen: Iterable[tuple[int, int, int]]) -> list[str]:
        texts: list[list[str]] = [[] for _ in self.passages]
        for number, start, end in sorted(chosen):
            texts[number].append(self.passages[number].text[start:end])
        return [" ".join(parts) for parts in texts]


def gather(
    question: str, found: Iterable[Passage], index: str = "", version: str = "", complete: bool = True
) -> Evidence:
    """Collect evidence from the passages that a search found, best first."""
    passages = tuple(
        Passage(p.id, p.text[:MAX_PASSAGE_CHARS], p.title, p.source, p.score) for p in islice(found, MAX_PASSAGES)
    )
    texts: Sequence[str] = [passage.text for passage in passages]
    ranked = ranked_sentences(question, texts)
    strength = ranked[0][3] if ranked else 0.0
    near = [each for each in ranked if each[3] >= NEAR_BEST * strength]
    places = tuple((number, start, end) for number, start, end, _ in near)
    return Evidence(question, passages, index, version, strength, places, complete)
