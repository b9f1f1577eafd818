"""Texts as a masking rule sees them: token ids, where masks may be, and which tokens are one unit.

Owns the arithmetic of units (words, collocations, spans): their beginnings, lengths, and a number for each drawn over
all of its tokens. Invariant: a unit never contains a token that must not be masked; a unit of one text never reaches
into another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.training.noise import Floats, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenBatch:
    """Texts of one width ``[B, n]``, padded.

    ``maskable`` is False at special tokens and padding. ``numbers [B]`` are the texts' numbers in their corpus, from
    which their noise follows. ``words`` and ``collocations`` number the unit of each token; tokens of one unit are
    neighbours. Without them each token is a unit. Raises `RequestError` for shapes that do not fit.
    """

    tokens: Ints
    maskable: Bools
    numbers: Ints
    words: Ints | None = None
    collocations: Ints | None = None

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        fits = len(shape) == 2 and self.numbers.shape == shape[:1]
        for array in (self.maskable, self.words, self.collocations):
            fits = fits and (array is None or array.shape == shape)
        if not fits:
            raise RequestError("a batch needs arrays of one shape [texts, tokens], and one number for each text")

    def starts(self, units: Ints | None) -> Bools:
        """Return where a unit begins, ``[B, n]``: units of ``units``, cut wherever masks must not be."""
        begins = np.ones(self.tokens.shape, bool)
        if units is not None:
            same = (units[:, 1:] == units[:, :-1]) & self.maskable[:, 1:] & self.maskable[:, :-1]
            begins[:, 1:] = ~same
        return begins


@dataclass(frozen=True)
class Units:
    """Place of each token in its unit, ``[B, n]``: the position at which the unit begins, and its length."""

    first: Ints
    lengths: Ints

    @classmethod
    def of(cls, starts: Bools) -> Units:
        """Return the units that begin at ``starts [B, n]``, of which the first column is True."""
        n = starts.shape[1]
        positions = np.arange(n)
        first = np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
        ends = np.where(np.roll(starts, -1, axis=1) | (positions == n - 1), positions + 1, n)
        ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        return cls(first, ends - first)

    def spread(self, values: Floats) -> Floats:
        """Give each token its unit's value, which is that at the unit's first position."""
        return np.take_along_axis(values, self.first, axis=1)

    def within(self, values: Floats) -> Floats:
        """Return the mean of ``values`` over each unit, at each of its tokens."""
        sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
        totals = np.take_along_axis(sums, self.first + self.lengths, 1) - np.take_along_axis(sums, self.first, 1)
        means: Floats = totals / self.lengths
        return means
