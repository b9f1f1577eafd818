"""Lists of page numbers in memory, where compiled code looks them up.

Owns that memory. Knows nothing of sequences. Between two steps most lists stay the same, and what
stays is not written again: long contexts would cost a step more than its arithmetic's share of
Python. Invariant: a list's address is good until the next `begin`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64

ROOM = 32  # a list has room for a multiple of so many pages, so that one that grows moves no other


class PageLists:
    """The lists of one pass after another, each in the order in which they are placed."""

    def __init__(self, fields: int) -> None:
        self._table = aligned_int64(fields)
        self._outgrown: list[NDArray[np.int64]] = []  # in use until the next `begin`
        self._address = address_of(self._table)
        self._known: list[tuple[Sequence[int], int]] = []  # what lies in the table, with its room
        self._next = self._end = 0  # the number of the next list, and where it begins

    def begin(self) -> None:
        """A new pass: its lists come from the first on."""
        self._outgrown.clear()
        self._next = self._end = 0

    def place(self, pages: tuple[int, ...]) -> int:
        """The address at which ``pages`` lie as int64."""
        index, start, known = self._next, self._end, self._known
        if index < len(known) and known[index][0] is pages:
            self._next, self._end = index + 1, start + known[index][1]
            return self._address + 8 * start
        return self._write(pages)

    def _write(self, pages: tuple[int, ...]) -> int:
        room = -(-len(pages) // ROOM) * ROOM
        if self._end + room > len(self._table):  # many sequences that share pages
            self._outgrown.append(self._table)
            self._table = aligned_int64(2 * (len(self._table) + room))
            self._address = address_of(self._table)
            self._known, self._next, self._end = [], 0, 0
        index, start, known = self._next, self._end, self._known
        if index == len(known) or known[index][1] != room:
            del known[index:]  # what follows would lie elsewhere
            known.append((pages, room))
        known[index] = (pages, room)
        self._table[start : start + len(pages)] = pages
        self._next, self._end = index + 1, start + room
        return self._address + 8 * start
