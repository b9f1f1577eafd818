"""Nearest vectors among many, exactly: cosines in blocks.

Owns the order of blocks and of equals. Knows no texts. Invariants: neighbours are exact, and of equally near ones
those of lower places; memory does not grow with the square of the number of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
BLOCK_NUMBERS = 1 << 23  # cosines that are held at a time


class Neighbours(NamedTuple):
    """Places ``[n, k]`` of the nearest vectors of each of ``n``, nearest first, and their cosines."""

    places: Places
    cosines: Floats


def nearest(queries: Floats, vectors: Floats, count: int) -> Neighbours:
    """Return the ``count`` nearest of unit ``vectors [m, d]`` for each of ``queries [n, d]``, each one itself too."""
    count = min(count, len(vectors))
    places = np.zeros((len(queries), count), np.int64)
    cosines = np.zeros((len(queries), count), np.float32)
    for first, block in cosine_blocks(queries, vectors):
        if count < block.shape[1]:
            some = np.argpartition(-block, count - 1, axis=1)[:, :count]
        else:
            some = np.broadcast_to(np.arange(count), block.shape).copy()
        values = np.take_along_axis(block, some, axis=1)
        order = np.lexsort((some, -values), axis=1)
        last = first + len(block)
        places[first:last] = np.take_along_axis(some, order, axis=1)
        cosines[first:last] = np.take_along_axis(values, order, axis=1)
    return Neighbours(places, cosines)


def near_pairs(vectors: Floats, least: float) -> Iterator[tuple[Places, Places, Floats]]:
    """Yield pairs of places, the first one lower, whose cosines are ``least`` or more, with their cosines."""
    for first, block in cosine_blocks(vectors, vectors):
        rows, columns = np.nonzero(block >= least)
        later = columns > rows + first
        rows, columns = rows[later], columns[later]
        yield rows + first, columns, block[rows, columns]


def cosine_blocks(queries: Floats, vectors: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield the cosines ``[some, m]`` of queries from a place on with all unit vectors ``[m, d]``."""
    size = max(BLOCK_NUMBERS // max(len(vectors), 1), 1)
    for first in range(0, len(queries), size):
        yield first, queries[first : first + size] @ vectors.T
