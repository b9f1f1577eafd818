"""Clusters of unit vectors: spherical k-means over vectors that their neighbours have smoothed.

Owns smoothing, the choice of centres, and the choice of how many. Knows no texts. Invariant: a seed gives equal
clusters. Sources: Dhillon and Modha 2001 (spherical k-means); Arthur and Vassilvitskii 2007 (k-means++, here with
several tries for each centre); Hruschka, de Castro and Campello 2004 (simplified silhouette).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError
from miaotui.tasks.groups.neighbours import nearest

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
SMOOTHED_BY = 10  # neighbours, the vector itself among them
RESTARTS = 6
MOST_ROUNDS = 50
TRIES = 4  # candidates for each first centre
MOST_GROUPS = 1024
MOST_CANDIDATES = 10  # numbers of groups that are tried where none is given


class Clusters(NamedTuple):
    """Cluster ``[n]`` of each vector, unit centres ``[k, d]``, and the sum of cosines to the own centre."""

    members: Places
    centres: Floats
    cohesion: float


def smoothed(vectors: Floats, count: int = SMOOTHED_BY) -> Floats:
    """Return unit vectors, each the mean of its nearest ones, weighted by the squares of their cosines.

    Groups move apart by it: what a text has alone among its neighbours is averaged away.
    """
    near = nearest(vectors, vectors, count)
    weights = np.square(np.maximum(near.cosines, 0.0))
    return units(np.einsum("nk,nkd->nd", weights, vectors[near.places]))


def cluster(vectors: Floats, count: int, seed: int = 0) -> Clusters:
    """Return the most cohesive of several clusterings of unit vectors ``[n, d]``. Raises `FieldError`."""
    if not 1 <= count <= min(len(vectors), MOST_GROUPS):
        most = min(len(vectors), MOST_GROUPS)
        raise FieldError("groups", f"must be a whole number from 1 to {most:,}, not {count!r}")
    rng = np.random.default_rng(seed)
    found = [_settled(vectors, _first_centres(vectors, count, rng)) for _ in range(RESTARTS)]
    return max(found, key=lambda each: each.cohesion)


def cluster_by_silhouette(vectors: Floats, seed: int = 0) -> Clusters:
    """Return clusters in the number, of up to ten numbers tried, whose simplified silhouette is greatest."""
    most = min(len(vectors) // 2, MOST_GROUPS)
    if most < 2:
        return cluster(vectors, 1, seed)
    counts = np.unique(np.geomspace(2, min(most, max(int(np.sqrt(len(vectors)) * 2), 2)), MOST_CANDIDATES).astype(int))
    found = [cluster(vectors, int(count), seed) for count in counts]
    return max(found, key=lambda each: silhouette(vectors, each))


def silhouette(vectors: Floats, clusters: Clusters) -> float:
    """Return the mean over vectors of how much nearer the own centre is than the next one, from -1 to 1."""
    distances = 1.0 - vectors @ clusters.centres.T
    rows = np.arange(len(vectors))
    own = distances[rows, clusters.members].copy()
    distances[rows, clusters.members] = np.inf
    other = distances.min(axis=1)
    return float(np.mean((other - own) / np.maximum(np.maximum(other, own), 1e-12)))


def _first_centres(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return vectors that lie far from each other, drawn by k-means++."""
    chosen = [int(rng.integers(len(vectors)))]
    far = _distances(vectors, chosen[0])
    while len(chosen) < count:
        total = float(far.sum())
        share = None if total <= 0.0 else far / total
        tries = rng.choice(len(vectors), TRIES, p=share)
        options = [np.minimum(far, _distances(vectors, int(each))) for each in tries]
        best = int(np.argmin([float(each.sum()) for each in options]))
        chosen.append(int(tries[best]))
        far = options[best]
    return vectors[chosen]


def _distances(vectors: Floats, place: int) -> NDArray[np.float64]:
    return np.asarray(np.maximum(1.0 - (vectors @ vectors[place]).astype(np.float64), 0.0))


def _settled(vectors: Floats, centres: Floats) -> Clusters:
    """Move centres to the means of their members until no vector changes its cluster."""
    members = np.full(len(vectors), -1, np.int64)
    for _ in range(MOST_ROUNDS):
        cosines = vectors @ centres.T
        nearest_now = cosines.argmax(axis=1)
        if np.array_equal(nearest_now, members):
            break
        members = nearest_now
        sums = np.zeros(centres.shape, np.float32)
        np.add.at(sums, members, vectors)
        empty = np.bincount(members, minlength=len(centres)) == 0
        sums[empty] = centres[empty]
        centres = units(sums)
    cosines = vectors @ centres.T
    members = cosines.argmax(axis=1)
    return Clusters(members, centres, float(cosines.max(axis=1).sum(dtype=np.float64)))


def units(vectors: Floats) -> Floats:
    """Return rows of length 1 in the same directions; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
