"""Collaborative parts: EASE over the spectrum of the log, and nearest items by shared users.

Owns both models and how they are fitted. Knows events as a sparse matrix ``[users, items]``, no names. EASE: Steck,
"Embarrassingly Shallow Autoencoders for Sparse Data", 2019. Its closed form needs the inverse of ``X'X + penalty``,
items by items. With ``X = U S V'`` that inverse is ``(1 - V diag(s² / (s² + penalty)) V') / penalty``, so ``V`` and
``s`` are enough: exactly where users or items are few, beyond `EXACT` of both with the leading `RANK` directions.
Invariant: a fit is a function of the matrix alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.libraries import need

EXACT = 2_048  # users or items, the fewer of them, up to which the spectrum is whole
RANK = 512
NEIGHBOURS = 50
SHRINKAGE = 10.0  # shared users that count as none
_BLOCK = 1_024
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Spectrum:
    """Right singular vectors of the log, float32 ``[items, rank]``, and squared singular values, ``[rank]``."""

    directions: Floats
    squares: Floats


@dataclass(frozen=True)
class EaseModel:
    """EASE for one penalty: item ``j`` scores ``x V diag(gains) V_j / scale_j`` for a history ``x``."""

    directions: Floats
    gains: Floats
    scale: Floats

    @classmethod
    def of(cls, spectrum: Spectrum, penalty: float) -> EaseModel:
        """Return the model of a penalty; no new decomposition is needed."""
        gains: Any = (spectrum.squares / (spectrum.squares + penalty)).astype(np.float32)
        scale: Any = np.maximum(1.0 - (spectrum.directions**2) @ gains, 1e-6)
        return cls(spectrum.directions, gains, scale.astype(np.float32))

    def scores(self, places: NDArray[np.int32], weights: Floats) -> Floats:
        """Return the score of every item, ``[items]``, for items ``places`` of a history with their weights."""
        found: Floats = self.scores_of(self.profile(places, weights)[None])[0]
        return found

    def scores_of(self, profiles: Floats) -> Any:
        """Return the scores of every item, ``[n, items]``, for ``n`` profiles."""
        return np.asarray((profiles @ self.directions.T) / self.scale, np.float32)

    def profile(self, places: NDArray[np.int32], weights: Floats) -> Floats:
        """Return a history in the directions of the spectrum, ``[rank]``."""
        found: Floats = np.asarray((weights @ self.directions[places]) * self.gains, np.float32)
        return found

    def effects(self, items: NDArray[np.int64], places: NDArray[np.int32], weights: Floats) -> Floats:
        """Return what each item of a history adds to the scores of some items, ``[items, history]``.

        The sum of a row is the item's score. The history's rows are gathered once for all items: of a long history
        that is most of the work.
        """
        alike = (self.gains * self.directions[items]) @ self.directions[places].T
        found: Floats = np.asarray(weights * alike / self.scale[items, None], np.float32)
        return found


@dataclass(frozen=True)
class ItemNeighbours:
    """Nearest items of each item, int32 ``[items, k]``, and their cosines, float32 ``[items, k]``; 0: none."""

    places: NDArray[np.int32]
    cosines: Floats

    def scores(self, places: NDArray[np.int32], weights: Floats) -> Floats:
        """Return the score of every item, ``[items]``: the weighted cosines of those items whose neighbour it is."""
        found = np.bincount(
            self.places[places].ravel(), (self.cosines[places] * weights[:, None]).ravel(), len(self.places)
        )
        return found.astype(np.float32)


def matrix_of(user: Any, item: Any, weight: Any, users: int, items: int) -> Any:
    """Return a sparse matrix ``[users, items]``. Raises `MissingLibraryError` without scipy."""
    sparse = need("scipy.sparse")
    return sparse.csr_matrix((np.asarray(weight, np.float32), (user, item)), shape=(users, items))


def spectrum_of(matrix: Any) -> Spectrum:
    """Decompose a log's matrix ``[users, items]``, exactly where it is small, by Lanczos' method where it is large."""
    users, items = matrix.shape
    if min(users, items) <= EXACT:
        return _whole_spectrum(matrix, users <= items)
    start = np.ones(min(users, items))
    _, values, rows = need("scipy.sparse.linalg").svds(matrix.astype(np.float64), k=RANK, v0=start)
    order = np.argsort(-values)
    return Spectrum(rows[order].T.astype(np.float32), (values[order] ** 2).astype(np.float32))


def _whole_spectrum(matrix: Any, by_users: bool) -> Spectrum:
    gram = (matrix @ matrix.T if by_users else matrix.T @ matrix).toarray().astype(np.float64)
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > 1e-6 * max(squares[-1], 1e-9)
    squares, vectors = squares[kept], vectors[:, kept]
    directions = (matrix.T @ vectors) / np.sqrt(squares) if by_users else vectors
    return Spectrum(np.ascontiguousarray(directions, np.float32), squares.astype(np.float32))


def neighbours_of(matrix: Any, count: int = NEIGHBOURS, shrinkage: float = SHRINKAGE) -> ItemNeighbours:
    """Find the nearest items of each item by shrunk cosine (Sarwar et al. 2001); ties go to the lower number.

    Memory is a block of `_BLOCK` items by all items.
    """
    items = matrix.shape[1]
    count = min(count, max(items - 1, 1))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    columns = matrix.T.tocsr()
    places = np.zeros((items, count), np.int32)
    cosines = np.zeros((items, count), np.float32)
    for first in range(0, items, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, items))
        shared = (columns[rows] @ matrix).toarray()
        shared /= lengths[rows, None] * lengths[None] + shrinkage
        shared[rows - first, rows] = 0.0
        best = np.argpartition(-shared, count - 1, axis=1)[:, :count]
        order = np.lexsort((best, -np.take_along_axis(shared, best, 1)), axis=1)
        best = np.take_along_axis(best, order, 1)
        places[rows], cosines[rows] = best, np.take_along_axis(shared, best, 1)
    return ItemNeighbours(places, cosines)
