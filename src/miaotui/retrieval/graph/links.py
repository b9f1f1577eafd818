"""Predicted links: which triples a graph lacks are likely.

Owns an embedding of entities and relations and how it is fitted. ComplEx (Trouillon et al., "Complex Embeddings for
Simple Link Prediction", 2016) with reciprocal relations, the full multiclass loss and the N3 penalty (Lacroix, Usunier
and Obozinski, "Canonical Tensor Decomposition for Knowledge Base Completion", 2018), by Adagrad. Knows no questions: a
prediction is never an answer. Invariant: a fit is a function of the triples, their order and the options.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError, RequestError
from miaotui.retrieval.graph.triples import Triple

MAX_ENTITIES = 50_000  # scores of a batch are entities by triples
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LinkOptions:
    """Options of a fit: complex numbers of an embedding, passes over the triples, and Adagrad's and N3's strengths."""

    rank: int = 64
    epochs: int = 60
    batch: int = 256
    rate: float = 0.1
    penalty: float = 0.01
    seed: int = 0


class LinkPredictor:
    """Embeddings of entities, float32 ``[n, 2 rank]``, and of relations and their reciprocals, ``[2 r, 2 rank]``; real
    parts come first.
    """

    def __init__(self, entities: Sequence[str], relations: Sequence[str], vectors: Floats, turns: Floats) -> None:
        self.entities, self.relations = list(entities), list(relations)
        self.vectors, self.turns = vectors, turns
        self._entity = {name: number for number, name in enumerate(self.entities)}
        self._relation = {name: number for number, name in enumerate(self.relations)}

    @classmethod
    def fit(cls, triples: Iterable[Triple], options: LinkOptions | None = None) -> LinkPredictor:
        """Fit embeddings to triples. Raises `RequestError` for none, or for too many entities."""
        chosen = options or LinkOptions()
        rows = list(dict.fromkeys(map(Triple._make, triples)))
        entities = list(dict.fromkeys(name for row in rows for name in (row.subject, row.object)))
        relations = list(dict.fromkeys(row.relation for row in rows))
        if not rows or len(entities) > MAX_ENTITIES:
            raise RequestError(f"a fit needs 1 to {MAX_ENTITIES:,} entities, not {len(entities):,}")
        draw = np.random.default_rng(chosen.seed)
        vectors, turns = (
            draw.normal(0, 0.1, (count, 2 * chosen.rank)).astype(np.float32)
            for count in (len(entities), 2 * len(relations))
        )
        found = cls(entities, relations, vectors, turns)
        numbers = found._numbers(rows)
        turned = np.stack([numbers[:, 2], numbers[:, 1] + len(relations), numbers[:, 0]], axis=1)
        _train(vectors, turns, np.concatenate([numbers, turned]), chosen, draw)
        return found

    def predict(self, subject: str, relation: str, n: int = 10) -> list[tuple[str, float]]:
        """Return the likeliest objects of a subject and a relation, with probabilities. Raises `FieldError`."""
        if subject not in self._entity:
            raise FieldError("subject", f"there is no entity {subject!r}")
        if relation not in self._relation:
            raise FieldError("relation", f"there is no relation {relation!r}")
        scores = self._scores(np.array([[self._entity[subject], self._relation[relation]]]))[0]
        weights = np.exp(scores - scores.max())
        order = np.argsort(-scores, kind="stable")[:n]
        return [(self.entities[at], float(weights[at] / weights.sum())) for at in order]

    def evaluate(self, tests: Iterable[Triple], known: Iterable[Triple]) -> dict[str, float]:
        """Return the filtered MRR and hits@1, 3, 10 over both directions (Bordes et al. 2013).

        Other objects that ``known`` has are left out; a tie counts by its mean rank. Triples with an entity that the
        fit lacked are left out.
        """
        count = len(self.relations)
        numbers = self._numbers(tests)
        both = np.concatenate([numbers, numbers[:, ::-1] + np.array([0, count, 0])])
        others: dict[tuple[int, int], list[int]] = defaultdict(list)
        for s, r, o in self._numbers(known).tolist():
            others[s, r].append(o)
            others[o, r + count].append(s)
        ranks = []
        for s, r, o in both.tolist():
            scores = self._scores(np.array([[s, r]]))[0]
            own = scores[o]
            scores[others[s, r]] = -np.inf
            ranks.append(1 + int((scores > own).sum()) + 0.5 * int((scores == own).sum()))
        found = np.array(ranks)
        quality = {"mrr": float((1 / found).mean()), "triples": float(len(numbers))}
        return quality | {f"hits{k}": float((found <= k).mean()) for k in (1, 3, 10)}

    def _numbers(self, triples: Iterable[Triple]) -> NDArray[np.int64]:
        rows = [
            (self._entity[s], self._relation[r], self._entity[o])
            for s, r, o in triples
            if s in self._entity and o in self._entity and r in self._relation
        ]
        return np.array(rows, np.int64).reshape(-1, 3)

    def _scores(self, queries: NDArray[np.int64]) -> Floats:
        """Return the scores of all objects, ``[n, entities]``, for pairs of subject and relation ``[n, 2]``."""
        made: Any = _product(self.vectors[queries[:, 0]], self.turns[queries[:, 1]])
        found: Floats = made @ self.vectors.T
        return found


def _product(a: Floats, b: Floats) -> Floats:
    """Multiply rows of complex numbers, real parts first. Its real scalar product with a vector is ComplEx's score."""
    rank = a.shape[1] // 2
    x, y, u, v = a[:, :rank], a[:, rank:], b[:, :rank], b[:, rank:]
    found: Floats = np.asarray(np.concatenate([x * u - y * v, x * v + y * u], axis=1), np.float32)
    return found


def _back(given: Floats, b: Floats) -> Floats:
    """Return the gradient of `_product` by its first factor: the product with the second one's conjugate."""
    rank = b.shape[1] // 2
    return _product(given, np.concatenate([b[:, :rank], -b[:, rank:]], axis=1))


def _cubed(a: Floats) -> Floats:
    """Return the gradient of the sum of cubed moduli, by 3."""
    rank = a.shape[1] // 2
    modulus = np.sqrt(a[:, :rank] ** 2 + a[:, rank:] ** 2)
    found: Floats = a * np.concatenate([modulus, modulus], axis=1)
    return found


def _train(vectors: Floats, turns: Floats, rows: NDArray[np.int64], options: LinkOptions, draw: Any) -> None:
    """Fit in place: a softmax over all objects for each triple, N3 on the three embeddings of each."""
    seen_vectors, seen_turns = np.full_like(vectors, 1e-8), np.full_like(turns, 1e-8)
    for _ in range(options.epochs):
        order = draw.permutation(len(rows))
        for first in range(0, len(rows), options.batch):
            s, r, o = rows[order[first : first + options.batch]].T
            left, turn, right = vectors[s], turns[r], vectors[o]
            made = _product(left, turn)
            scores = made @ vectors.T
            scores -= scores.max(axis=1, keepdims=True)
            slope = np.exp(scores)
            slope /= slope.sum(axis=1, keepdims=True)
            slope[np.arange(len(s)), o] -= 1.0
            slope /= len(s)
            by_made = slope @ vectors
            by_vectors, by_turns = slope.T @ made, np.zeros_like(turns)
            strength = options.penalty / len(s)
            np.add.at(by_vectors, s, _back(by_made, turn) + strength * _cubed(left))
            np.add.at(by_vectors, o, strength * _cubed(right))
            np.add.at(by_turns, r, _back(by_made, left) + strength * _cubed(turn))
            _step(vectors, by_vectors, seen_vectors, options.rate)
            _step(turns, by_turns, seen_turns, options.rate)


def _step(values: Floats, slope: Floats, seen: Floats, rate: float) -> None:
    """Take one step of Adagrad (Duchi et al. 2011) in place."""
    seen += slope**2
    values -= rate * slope / np.sqrt(seen)
