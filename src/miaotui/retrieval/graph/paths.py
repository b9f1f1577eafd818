"""Sequences of relations that a question may mean, and the paths of a graph that follow them.

Owns how words are shared out over relations and the bounded search of paths. Knows words as log-odds. Words count from
the entity outwards, which is the order in which "the son of X's wife" names relations: wife, son. Their probability is
summed over all ways to share them out in that order (forward algorithm). Invariants: a path visits at most `MAX_NODES`
entities at each hop, in a fixed order; a graph with cycles ends like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from miaotui.retrieval.graph.store import KnowledgeGraph
from miaotui.retrieval.meaning.protocols import Floats

MAX_NODES = 10_000  # entities of one hop
MAX_PATHS = 16  # that an answer shows
WIDTHS = (64, 24, 7)  # relations that sequences of one, two and three hops are made of
REPEATED = np.log(0.05)  # a word that stands for the same relation twice, as grandson does


@dataclass(frozen=True)
class Reached:
    """Entities at the end of a sequence of relations, and some paths to them: entity, relation, entity and so on."""

    entities: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    complete: bool = True


def outward(words: Sequence[str], start: int, end: int) -> list[int]:
    """Return the places of words around a mention ``[start, end)`` in the order in which they name relations.

    Those behind it come first, then those before it, backwards: "the son of X's wife". Where ``of`` binds the mention
    to what is before it and nothing behind does, that comes first: "where did the son of X die".
    """
    before, behind = list(range(start - 1, -1, -1)), list(range(end, len(words)))
    bound = words[start - 1 : start] == ["of"] and words[end : end + 1] not in (["'s"], ["的"])
    return [*before, *behind] if bound else [*behind, *before]


def sequences(odds: Floats, hops: int) -> list[NDArray[np.int64]]:
    """Return the sequences of relations to be tried, int64 ``[n, h]`` for 1 to ``hops`` hops.

    ``odds``: float32 ``[words, 1 + relations]``. Of many relations those are taken that a word speaks for most.
    """
    best = np.argsort(-odds[:, 1:].max(axis=0, initial=-np.inf), kind="stable") + 1
    return [
        np.array(list(product(sorted(best[: WIDTHS[h - 1]].tolist()), repeat=h)), np.int64).reshape(-1, h)
        for h in range(1, hops + 1)
    ]


def log_likelihood(odds: Floats, tried: NDArray[np.int64]) -> Floats:
    """Return the log-likelihood of each sequence, ``[n]``: each relation has a word, in the sequence's order."""
    count, hops = tried.shape
    best = np.full((count, hops + 1), -np.inf)
    best[:, 0] = 0.0
    repeats = np.zeros((count, hops + 1), bool)
    repeats[:, 2:] = tried[:, 1:] == tried[:, :-1]
    for word in odds.astype(np.float64):
        said = word[tried]
        after = best + word[0]
        arriving = np.logaddexp(best[:, :-1], best[:, 1:])
        twice = np.full_like(arriving, -np.inf)
        twice[:, 1:] = np.where(repeats[:, 2:], best[:, :-2] + REPEATED, -np.inf)
        after[:, 1:] = np.logaddexp(after[:, 1:], np.logaddexp(arriving, twice) + said)
        best = after
    found: Floats = best[:, hops].astype(np.float32)
    return found


def follow(
    graph: KnowledgeGraph, starts: Sequence[int], relations: Sequence[int], backward: frozenset[int] = frozenset()
) -> Reached:
    """Return what a sequence of relations leads to. Relations in ``backward`` are followed from object to subject
    where none leads on.
    """
    ends: dict[int, list[tuple[int, ...]]] = {start: [(start,)] for start in starts}
    complete = True
    for relation in relations:
        reached: dict[int, list[tuple[int, ...]]] = {}
        for node, paths in ends.items():
            targets = graph.objects(node, relation)
            if not targets and relation in backward:
                targets = graph.subjects(node, relation)
            for target in targets:
                if target not in reached and len(reached) >= MAX_NODES:
                    complete = False
                    break
                known = reached.setdefault(target, [])
                room = MAX_PATHS - len(known)
                if room > 0:
                    known += [(*path, relation, target) for path in paths[:room]]
        ends = reached
    shown = [path for paths in ends.values() for path in paths][:MAX_PATHS]
    return Reached(tuple(ends), tuple(shown), complete)
