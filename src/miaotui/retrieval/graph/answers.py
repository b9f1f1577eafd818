"""Answers from a knowledge graph: a question's entity and relations, the paths that prove them, or "not in the graph".

Owns the order: mentions, words, sequences, paths, probability, threshold. Knows an embedder's protocol. Invariants: an
answer is the end of paths that the graph has; where the likeliest reading has no path, another one answers only if
its probability is at least the threshold's share of the likeliest one's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError
from miaotui.retrieval.graph.kept_vectors import KeptVectors
from miaotui.retrieval.graph.lexicon import MAX_HOPS, PRIOR_SHARE, Lexicon, WordReader, log_hops
from miaotui.retrieval.graph.name_vectors import NameVectors
from miaotui.retrieval.graph.names import MAX_QUESTION_WORDS, EntityNames, Mention, words_of
from miaotui.retrieval.graph.paths import Reached, follow, log_likelihood, outward, sequences
from miaotui.retrieval.graph.store import KnowledgeGraph
from miaotui.retrieval.graph.triples import Triple
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.meaning.protocols import TextEmbedder

MAX_QUESTION_CHARACTERS = 2_000
THRESHOLD = 0.1
LEAST_PROBABILITY = 0.05  # of a reading that answers
LEAST_ASKED = 0.1  # probability with which some word has to speak of the last relation of a reading, which is asked for
LEAST_WORD = 0.05  # of the relations before it
UNMET_TRIPLES = 10.0  # that make two relations beside each other half as likely, if none of them meets the second
_MENTIONS = 3  # of a question that are tried
_WORD_WORTH = 3.0  # log-odds of each word that a mention explains
_MASK = "the"  # in the place of the entity's words, which speak of no relation
_SHOWN = 50  # entities of an answer


_NO_ENTITY = {False: "the question names none of its entities", True: "问题没有提到其中的实体"}


@dataclass(frozen=True)
class GraphAnswer:
    """Answer with its proof. ``found`` is False where the graph does not have it; ``reading`` is what was looked for.

    ``likeness``: of the question's words and the subject's name, 1 if they are equal. ``entities``: the answers.
    ``paths``: triples that lead to them. ``probability``: of the reading among all readings.
    """

    question: str
    found: bool
    entities: tuple[str, ...] = ()
    subject: str = ""
    likeness: float = 0.0
    reading: tuple[str, ...] = ()
    probability: float = 0.0
    paths: tuple[tuple[Triple, ...], ...] = ()
    complete: bool = True
    took_ms: float = 0.0
    reason: str = ""

    @property
    def text(self) -> str:
        """Return the answer in words: the entities, or that they are not in the graph."""
        if self.found:
            between = "、" if is_chinese(self.question) else ", "
            return between.join(each.replace("_", " ") for each in self.entities)
        return f"图谱中没有：{self.reason}。" if is_chinese(self.question) else f"Not in the graph: {self.reason}."

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them, with the text."""
        return {**asdict(self), "paths": [[list(each) for each in path] for path in self.paths], "text": self.text}


def _no_edge(question: str, subject: str, asked: Sequence[str]) -> str:
    """Return why there is no answer, in the question's language: no such path, or, without relations, no clear one."""
    if is_chinese(question):
        return f"{subject}的{'的'.join(asked)}" if asked else f"问题没有说清要问{subject}的什么"
    if asked:
        return f"it has no {' of '.join(asked[::-1])} of {subject}"
    return f"the question does not say clearly what it asks of {subject}"


@dataclass(frozen=True)
class _Reading:
    """One way to read a question: a mention, relations by number, its log score and its probability."""

    mention: Mention
    relations: tuple[int, ...]
    score: float
    probability: float = 0.0


class GraphReader:
    """Answers questions from a graph; safe to use from several threads.

    ``backward`` names relations that may be followed from object to subject too. Without ``embedder`` words that are
    neither in a relation's name nor learned say nothing.
    """

    def __init__(
        self, graph: KnowledgeGraph, embedder: TextEmbedder | None = None, backward: Iterable[str] = ()
    ) -> None:
        self.graph = graph
        self.embedder = None if embedder is None else KeptVectors(embedder)
        self._backward = frozenset(backward)
        self._lock = threading.RLock()
        self._version = -1
        self._names = EntityNames(())
        self._name_vectors = NameVectors(self._names, None)
        self._reader = WordReader(Lexicon.from_names(()))
        self._unmet = np.zeros((0, 0))

    def read_words_with(self, embedder: TextEmbedder) -> None:
        """Read unknown words by an embedder from now on; nothing changes where it is the one in use."""
        with self._lock:
            if self.embedder is None or self.embedder.identity != embedder.identity:
                self.embedder, self._version = KeptVectors(embedder), -1

    def learn(self, examples: Iterable[tuple[str, str, Sequence[str]]]) -> int:
        """Learn words from questions, each with its entity and its relations; return how many could be used.

        The graph keeps what was learned, also in its file.
        """
        with self._lock:
            self._refresh()
            pairs = []
            for question, subject, relations in examples:
                words = words_of(question)[:MAX_QUESTION_WORDS]
                own = [m for m in self._names.mentions(words) if subject in self._entities(m)]
                if own and 1 <= len(relations) <= MAX_HOPS and set(relations) <= set(self.graph.relations):
                    around = [words[at] for at in outward(words, own[0].start, own[0].end)]
                    pairs.append((around, tuple(relations)))
            if pairs:
                self.graph.lexicon = Lexicon.learn(self.graph.relations, pairs).to_json()
                self._version = -1
            return len(pairs)

    def ask(self, question: str, *, threshold: float = THRESHOLD, hops: int = MAX_HOPS) -> GraphAnswer:
        """Answer a question. Raises `FieldError` for one that is empty or too long, or for wrong parameters."""
        began_s = time.perf_counter()
        _check(question, threshold, hops)
        with self._lock:
            self._refresh()
            words = words_of(question)[:MAX_QUESTION_WORDS]
            mentions = self._mentions(words)
            found = self._answer(question, words, mentions, threshold, hops)
        return GraphAnswer(**{**vars(found), "took_ms": (time.perf_counter() - began_s) * 1e3})

    def _mentions(self, words: Sequence[str]) -> list[Mention]:
        found = self._names.mentions(words)[:_MENTIONS]
        return found or self._name_vectors.mentions(words, self._reader.lexicon.words.keys())

    def _answer(
        self, question: str, words: Sequence[str], mentions: Sequence[Mention], threshold: float, hops: int
    ) -> GraphAnswer:
        if not mentions:
            return GraphAnswer(question, False, reason=_NO_ENTITY[is_chinese(question)])
        readings = self._readings(words, mentions, hops)
        likeliest = readings[0]
        least = max(LEAST_PROBABILITY, threshold * likeliest.probability)
        for reading in readings:
            if reading.probability < least:
                break
            reached = self._follow(reading)
            if reached.entities:
                return self._found(question, reading, reached)
        subject, asked = self._entities(likeliest.mention)[0], self._relations(likeliest)
        is_clear = likeliest.probability >= LEAST_PROBABILITY
        return GraphAnswer(
            question,
            False,
            subject=subject,
            likeness=likeliest.mention.likeness,
            reading=asked,
            probability=likeliest.probability,
            reason=_no_edge(question, subject, asked if is_clear else ()),
        )

    def _readings(self, words: Sequence[str], mentions: Sequence[Mention], hops: int) -> list[_Reading]:
        """Return the readings of a question, likeliest first, with probabilities that sum to 1."""
        tried: list[_Reading] = []
        lexicon = self._reader.lexicon
        for mention in mentions:
            masked = [_MASK if mention.start <= at < mention.end else word for at, word in enumerate(words)]
            odds = self._reader.log_odds(masked)[outward(words, mention.start, mention.end)]
            said = np.exp((odds + PRIOR_SHARE * np.log(lexicon.prior)).max(axis=0, initial=-np.inf))
            worth = _WORD_WORTH * (mention.end - mention.start) * mention.likeness
            for each in sequences(odds, hops):
                scores = log_likelihood(odds, each) + log_hops(lexicon, each.shape[1]) + worth
                said_enough = (said[each] >= LEAST_WORD).all(axis=1) & (said[each[:, -1]] >= LEAST_ASKED)
                scores = np.where(said_enough, scores, -np.inf)
                scores -= PRIOR_SHARE * (each.shape[1] - 1) * np.log(len(lexicon.relations))
                scores += self._unmet[each[:, :-1] - 1, each[:, 1:] - 1].sum(axis=1)
                for row in np.argsort(-scores, kind="stable")[:64].tolist():
                    if not np.isfinite(scores[row]):
                        break
                    numbers = tuple(int(number) - 1 for number in each[row])
                    tried.append(_Reading(mention, numbers, float(scores[row])))
        scores = np.array([each.score for each in tried])
        if not len(scores):
            return [_Reading(mentions[0], (), -np.inf)]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        order = np.lexsort((np.arange(len(tried)), -weights))
        return [
            _Reading(tried[at].mention, tried[at].relations, tried[at].score, float(weights[at]))
            for at in order[:256].tolist()
        ]

    def _follow(self, reading: _Reading) -> Reached:
        names = self.graph.relations
        backward = frozenset(number for number, name in enumerate(names) if name in self._backward)
        return (
            follow(self.graph, reading.mention.entities, reading.relations, backward)
            if reading.relations
            else Reached((), ())
        )

    def _found(self, question: str, reading: _Reading, reached: Reached) -> GraphAnswer:
        entities, relations = self.graph.entities, self.graph.relations
        paths = tuple(
            tuple(
                Triple(entities[path[at]], relations[path[at + 1]], entities[path[at + 2]])
                for at in range(0, len(path) - 2, 2)
            )
            for path in reached.paths
        )
        return GraphAnswer(
            question,
            True,
            entities=tuple(entities[each] for each in reached.entities[:_SHOWN]),
            subject=entities[reached.paths[0][0]],
            likeness=reading.mention.likeness,
            reading=self._relations(reading),
            probability=reading.probability,
            paths=paths,
            complete=reached.complete and len(reached.entities) <= _SHOWN,
        )

    def _relations(self, reading: _Reading) -> tuple[str, ...]:
        return tuple(self.graph.relations[number] for number in reading.relations)

    def _entities(self, mention: Mention) -> list[str]:
        return [self.graph.entities[number] for number in mention.entities]

    def _refresh(self) -> None:
        """Index names and words anew where the graph has changed."""
        graph = self.graph
        if self._version == graph.version:
            return
        self._names = EntityNames([*((name, n) for n, name in enumerate(graph.entities)), *graph.aliases])
        lexicon = Lexicon.from_names(graph.relations)
        if graph.lexicon is not None:
            learned = Lexicon.from_json(graph.lexicon)
            lexicon = learned if learned.relations == tuple(graph.relations) else lexicon
        self._name_vectors = NameVectors(self._names, self.embedder)
        self._reader = WordReader(lexicon, self.embedder)
        self._unmet = log_unmet(*graph.meetings())
        self._version = graph.version


def log_unmet(met: NDArray[np.bool_], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log prior of two relations beside each other, ``[first, second]``: 0 where they meet in the graph.

    Where none of the first one's triples leads to the second relation, it falls with their number. So relations whose
    objects are texts or numbers are not read before others, and one edge that is missing changes little.
    """
    return np.where(met, 0.0, -np.log1p((counts / UNMET_TRIPLES) ** 2)[:, None])


def _check(question: str, threshold: float, hops: int) -> None:
    if not isinstance(question, str) or not question.strip():
        raise FieldError("question", "must be a text, and not empty")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise FieldError("question", f"has {len(question):,} characters, and may have {MAX_QUESTION_CHARACTERS:,}")
    if not 0 <= threshold <= 1:
        raise FieldError("threshold", f"must be a number from 0 to 1, not {threshold!r}")
    if isinstance(hops, bool) or not isinstance(hops, int) or not 1 <= hops <= MAX_HOPS:
        raise FieldError("hops", f"must be 1 to {MAX_HOPS}, not {hops!r}")
