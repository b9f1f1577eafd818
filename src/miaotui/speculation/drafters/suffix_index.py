"""An index over token sequences that finds how the last tokens of a text went on before.

Owns the memory of a store; search and update are compiled (`kernels.draft.suffix`). Knows token ids alone. Invariant:
the tokens that `find` returns did follow, somewhere in the store, the very tokens that it matched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.draft.suffix_fields import (
    BRANCH_COUNT,
    BRANCH_FIELDS,
    BRANCH_TOKENS,
    BRANCHES,
    CAPACITY,
    FIRST,
    FOUND_FIELDS,
    MASK,
    NOTHING,
    ORDERS,
    PREVIOUS,
    STORE_FIELDS,
    TOKENS,
)
from miaotui.kernels.runtime import compiled

KERNELS = ("draft.suffix:extend", "draft.suffix:find")  # to prepare before the first request
LEAST_CAPACITY = 64
_NOTHING = (NOTHING,)
_FEW = 32


class SuffixMatch(NamedTuple):
    """One way in which a store goes on after a text, of which the last ``length`` tokens match.

    Of the places that were compared, ``agreeing`` go on with its first token and ``disagreeing`` with another.
    """

    length: int
    agreeing: int
    disagreeing: int
    tokens: list[int]  # at least one


class SuffixIndex:
    """A ring of up to ``capacity`` tokens, which forgets the oldest first; about 40 bytes each.

    Not safe for several threads at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = max(capacity, LEAST_CAPACITY)
        slots = 1 << (self.capacity - 1).bit_length()
        # One place more than tokens: the seam between the newest and the oldest.
        self._tokens = np.full(self.capacity + 1, NOTHING, np.int32)
        self._first = np.zeros(len(ORDERS) * slots, np.int32)
        self._previous = np.zeros(len(ORDERS) * (self.capacity + 1), np.int32)
        self._store = np.zeros(STORE_FIELDS, np.int64)
        self._store[CAPACITY], self._store[MASK] = self.capacity + 1, slots - 1
        for field, table in ((TOKENS, self._tokens), (FIRST, self._first), (PREVIOUS, self._previous)):
            self._store[field] = table.ctypes.data
        self._found = np.zeros(FOUND_FIELDS, np.int64)
        self.address = int(self._store.ctypes.data)
        self._found_address = int(self._found.ctypes.data)
        self._found_fields = memoryview(self._found.data)
        self._source = np.zeros(_FEW, np.int64)
        self._source_fields = memoryview(self._source.data)
        self._source_address = int(self._source.ctypes.data)
        self.size = 0  # tokens appended since the start, separators included

    @property
    def size_bytes(self) -> int:
        """Memory of the index."""
        return self._tokens.nbytes + self._first.nbytes + self._previous.nbytes

    def extend(self, tokens: Sequence[int] | NDArray[np.int64]) -> None:
        """Append tokens to the current text."""
        count = len(tokens)
        if count <= _FEW:  # every step of every request comes here
            for index, token in enumerate(tokens):
                self._source_fields[index] = token
            _extend()(self.address, self._source_address, count)
        else:
            source = np.ascontiguousarray(tokens, np.int64)
            _extend()(self.address, source.ctypes.data, count)
        self.size += count

    def end_text(self) -> None:
        """End the current text; matches never reach over its end."""
        self.extend(_NOTHING)

    def find(self, reader: SuffixIndex, most: int = BRANCHES, after: Sequence[int] = ()) -> list[SuffixMatch]:
        """How this index goes on after the last tokens of ``reader``'s text (which may be itself).

        A few tokens ``after`` them may be assumed. Returns the ``most`` longest matches, the longest first: one for
        each different next token of the latest places, at most `BRANCHES`.
        """
        if after:
            for index, token in enumerate(after):
                self._source_fields[index] = token
        count = _find()(self.address, reader.address, self._found_address, self._source_address, len(after))
        if not count:
            return []
        found = self._found_fields
        total = sum(found[1 + BRANCH_COUNT + i * BRANCH_FIELDS] for i in range(count)) if count > 1 else 0
        fields = found[: 1 + min(count, most) * BRANCH_FIELDS].tolist()
        matches = []
        for base in range(1, len(fields), BRANCH_FIELDS):
            length, agreeing, size = fields[base : base + BRANCH_TOKENS]
            first = base + BRANCH_TOKENS
            tokens = fields[first : first + size]
            matches.append(SuffixMatch(length, agreeing, max(total - agreeing, 0), tokens))
        return matches


@functools.cache
def _extend() -> Callable[..., int]:
    return compiled.function("draft.suffix:extend", arguments=3, brief=True)


@functools.cache
def _find() -> Callable[..., int]:
    return compiled.function("draft.suffix:find", arguments=5, brief=True)
