"""Books of what a backend keeps: runs of panels for sources, and a tree of slots for the rows of targets.

Integers only; knows no memory. A row's slot is its number. Invariants: a slot is free again once its row was released
and no kept row continues it; of free slots and panels the lowest are taken, so that memory in use stays dense.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from miaotui.backends.seq2seq_backend import NO_PREFIX
from miaotui.errors import RequestError


@dataclass(eq=False)
class KeptRow:
    """A target's row. ``slots`` are those of all rows up to it; ``uses`` counts its holder and the rows behind it."""

    slots: array[int]
    parent: int
    uses: int = 1


class RowTree:
    """Rows of targets, by the number of their slot."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))  # a heap
        self._rows: dict[int, KeptRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def free(self) -> int:
        """Return the number of free slots."""
        return len(self._free)

    def add(self, parent: int) -> int:
        """Add a row behind ``parent`` (`NO_PREFIX`: none) and return its number. Raises `RequestError` if none fits."""
        if not self._free:
            raise RequestError("there is no room for another target row: release rows first")
        slots = array("q")
        if parent != NO_PREFIX:
            before = self._rows[parent]
            before.uses += 1
            slots.extend(before.slots)
        slot = heapq.heappop(self._free)
        slots.append(slot)
        self._rows[slot] = KeptRow(slots, parent)
        return slot

    def slots(self, number: int) -> array[int]:
        """Return the slots of a row and of those before it, in order; unchanged as long as the row is kept."""
        return self._rows[number].slots

    def length(self, number: int) -> int:
        """Return how many rows a target has up to this one; 0 for `NO_PREFIX`."""
        return 0 if number == NO_PREFIX else len(self._rows[number].slots)

    def release(self, number: int) -> None:
        """Let a row go; it, and those before it, are forgotten once nothing continues them."""
        while number != NO_PREFIX:
            row = self._rows[number]
            row.uses -= 1
            if row.uses:
                return
            del self._rows[number]
            heapq.heappush(self._free, number)
            number = row.parent

    def clear(self) -> None:
        """Forget all rows."""
        for number in self._rows:
            heapq.heappush(self._free, number)
        self._rows.clear()


@dataclass(frozen=True)
class KeptSource:
    """A source: its first panel, how many it has, and its tokens."""

    panel: int
    panels: int
    tokens: int


@dataclass
class PanelRuns:
    """Sources by number, each in a run of panels: the first that is long enough."""

    panels: int
    _sources: dict[int, KeptSource] = field(default_factory=dict)
    _next: int = 0

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, number: int) -> KeptSource:
        return self._sources[number]

    def fitting(self, sizes: Sequence[int]) -> int:
        """Return how many runs of ``sizes`` panels, first come first served, have room together."""
        taken = self._taken()
        for index, size in enumerate(sizes):
            start = _first_gap(taken, size, self.panels)
            if start is None:
                return index
            taken = sorted([*taken, (start, start + size)])
        return len(sizes)

    def add(self, panels: int, tokens: int) -> int:
        """Add a source and return its number. Raises `RequestError` if it has no room."""
        start = _first_gap(self._taken(), panels, self.panels)
        if start is None:
            raise RequestError("there is no room for another source: release sources first")
        self._next += 1
        self._sources[self._next] = KeptSource(start, panels, tokens)
        return self._next

    def release(self, number: int) -> None:
        """Forget a source."""
        del self._sources[number]

    def clear(self) -> None:
        """Forget all sources."""
        self._sources.clear()

    def _taken(self) -> list[tuple[int, int]]:
        return sorted((each.panel, each.panel + each.panels) for each in self._sources.values())


def _first_gap(taken: Sequence[tuple[int, int]], size: int, end: int) -> int | None:
    """Return where the first gap of ``size`` begins among sorted runs below ``end``; None if there is none."""
    start = 0
    for first, last in taken:
        if first - start >= size:
            return start
        start = last
    return start if end - start >= size else None
