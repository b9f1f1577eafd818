"""From vectors of texts to nearest texts, duplicates and groups.

Owns the way from places of vectors to places of texts, and unions of pairs. Knows no encoder: the caller gives the
vectors. Invariant: texts without a vector are left out of all arithmetic and come back with their errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError
from miaotui.tasks.groups.clusters import Clusters, cluster, cluster_by_silhouette, smoothed, units
from miaotui.tasks.groups.naming import group_words
from miaotui.tasks.groups.neighbours import near_pairs, nearest
from miaotui.tasks.groups.results import GroupedText, Grouping, SimilarText, SimilarTexts, TextGroup
from miaotui.tasks.vectors import TextVectors

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
MOST_TEXTS = 50_000
DUPLICATE_FROM = 0.9  # cosine
TOP = 5
MOST_FOUND = 1000
NAME_CHARACTERS = 80  # of a group without words


def similar_texts(
    queries: TextVectors, read: TextVectors, texts: Sequence[str], *, top: int = TOP, least: float = -1.0, model: str
) -> list[SimilarTexts]:
    """Return for each query the ``top`` texts whose cosine is greatest and ``least`` or more. Raises `FieldError`."""
    if not 1 <= top <= MOST_FOUND:
        raise FieldError("top", f"must be a whole number from 1 to {MOST_FOUND:,}, not {top!r}")
    sound = np.array(read.sound, np.int64)
    near = nearest(queries.values, read.values[sound], top)
    found = []
    for index, error in enumerate(queries.errors):
        if error is not None:
            found.append(SimilarTexts(index=index, model=model, error=error))
            continue
        places, cosines = sound[near.places[index]].tolist(), near.cosines[index].tolist()
        those = (SimilarText(p, texts[p], c) for p, c in zip(places, cosines, strict=True) if c >= least)
        found.append(SimilarTexts(index=index, found=tuple(those), model=model))
    return found


def duplicate_groups(read: TextVectors, texts: Sequence[str], *, least: float = DUPLICATE_FROM, model: str) -> Grouping:
    """Return groups of texts that a chain of pairs with cosines of ``least`` or more connects.

    Texts that are like no other one have no group. Raises `FieldError`.
    """
    if not 0.0 < least <= 1.0:
        raise FieldError("least", f"must be a number above 0 and up to 1, not {least!r}")
    sound = np.array(read.sound, np.int64)
    vectors = read.values[sound]
    parents = list(range(len(sound)))
    for first, second, _ in near_pairs(vectors, least - 1e-6):
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            _join(parents, one, other)
    roots = np.array([_root(parents, place) for place in range(len(sound))], np.int64)
    sizes = np.bincount(roots, minlength=max(len(sound), 1))
    kept = np.flatnonzero(sizes > 1)
    numbers = np.full(max(len(sound), 1), -1, np.int64)
    numbers[kept] = np.arange(len(kept))
    members = numbers[roots] if len(roots) else roots
    sums = np.zeros((len(kept), vectors.shape[1]), np.float32)
    np.add.at(sums, members[members >= 0], vectors[members >= 0])
    return grouping(read, texts, vectors, Clusters(members, units(sums), 0.0), model)


def topic_groups(read: TextVectors, texts: Sequence[str], *, groups: int | None = None, model: str) -> Grouping:
    """Return texts in ``groups`` clusters; None: in a number that fits them. Raises `FieldError`."""
    sound = read.sound
    vectors = read.values[sound]
    if not sound:
        return grouping(read, texts, vectors, Clusters(np.zeros(0, np.int64), vectors, 0.0), model)
    even = smoothed(vectors)
    found = cluster_by_silhouette(even) if groups is None else cluster(even, groups)
    return grouping(read, texts, even, found, model)


def grouping(read: TextVectors, texts: Sequence[str], vectors: Floats, clusters: Clusters, model: str) -> Grouping:
    """Return the groups, the largest first, of clusters over the vectors of sound texts; member -1 is in none."""
    sound, members = read.sound, clusters.members
    grouped = members >= 0
    own = np.zeros(len(sound), np.float32)
    own[grouped] = np.einsum("nd,nd->n", vectors[grouped], clusters.centres[members[grouped]])
    sizes = np.bincount(members[grouped], minlength=len(clusters.centres))
    by_place = np.argsort(members, kind="stable")
    inside = np.split(by_place, np.searchsorted(members[by_place], np.arange(len(sizes) + 1)))[1:]
    rows = sorted(filter(len, inside[: len(sizes)]), key=lambda each: (-len(each), int(each[0])))
    words = group_words([[texts[sound[place]] for place in each.tolist()] for each in rows])
    groups = tuple(_described(number, each, own, sound, texts, words[number]) for number, each in enumerate(rows))
    found = [GroupedText(index=index, error=error) for index, error in enumerate(read.errors)]
    for each, group in zip(rows, groups, strict=True):
        for place in each.tolist():
            index = sound[place]
            found[index] = GroupedText(index=index, group=group.number, name=group.name, similarity=float(own[place]))
    counts = {"texts": len(sound), "groups": len(groups), "errors": len(read) - len(sound)}
    return Grouping(texts=tuple(found), groups=groups, model=model, counts=counts)


def _described(
    number: int, places: Places, own: Floats, sound: Sequence[int], texts: Sequence[str], words: Sequence[str]
) -> TextGroup:
    """Return a group of the texts at ``places``, with the one that is nearest to its centre."""
    example = sound[int(places[own[places].argmax()])]
    return TextGroup(
        number=number,
        name=" ".join(words) or texts[example][:NAME_CHARACTERS],
        words=tuple(words),
        members=tuple(sound[place] for place in places.tolist()),
        example=example,
        cohesion=float(own[places].mean()),
    )


def require_few(count: int, field: str = "texts") -> None:
    """Raise `FieldError` for more texts than are compared with each other."""
    if count > MOST_TEXTS:
        raise FieldError(field, f"{count:,} texts exceed {MOST_TEXTS:,}: give a sample, or parts")


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def _join(parents: list[int], one: int, other: int) -> None:
    """Put two places into one set; the lower root stays."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
