"""Runs of passes in which tokens are guessed: what goes in, and what came of it.

Owns the table that compiled code reads (`kernels.draft.draft_fields`). Knows addresses and numbers, neither
requests nor where chances come from. Invariant: a table is filled anew before each run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.drafting import Odds, Told
from miaotui.backends.options import MOST_PASSES
from miaotui.kernels.draft import draft_fields as gf
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, fields_of

MOST_TOKENS = 96  # of one run


@dataclass(frozen=True)
class HeadTables:
    """Where a head's program lies: operations of its first step and of the others in turn, its run, its row."""

    operations: Sequence[int]
    counts: Sequence[int]
    run: NDArray[np.int64]
    sources: NDArray[np.int64]
    rows: NDArray[np.int64]
    guesses: NDArray[np.int64]


class CompiledDraftRun:
    """One head's runs; used by the engine's thread alone."""

    def __init__(self, head: HeadTables, classes: Sequence[int], vocabulary: int) -> None:
        """``classes`` are those of evidence 0 to `MOST_EVIDENCE`; ``vocabulary`` is the model's."""
        self._head, self._vocabulary = head, vocabulary
        table = aligned_int64(gf.guess_fields(MOST_PASSES))
        table[gf.TABLES : gf.TABLES + len(head.operations)] = head.operations
        table[gf.COUNTS : gf.COUNTS + len(head.counts)] = head.counts
        table[gf.HEAD_RUN] = address_of(head.run)
        table[gf.SOURCES], table[gf.HEAD_ROWS] = address_of(head.sources), address_of(head.rows)
        table[gf.GUESSED] = address_of(head.guesses)
        table[gf.CLASS_OF : gf.CLASS_OF + gf.MOST_EVIDENCE + 1] = classes
        self.address = address_of(table)
        self._fields, self._numbers = fields_of(table), fields_of(table).cast("B").cast("d")

    @property
    def run(self) -> NDArray[np.int64]:
        """The table of the head's own runs."""
        return self._head.run

    def set_out(self, row: int, token: int, position: int, most: int, odds: Odds) -> None:
        """Before a run: up to ``most`` tokens after ``token``, at ``position``, drawn from ``row`` of the last pass."""
        fields, numbers = self._fields, self._numbers
        fields[gf.ROW], fields[gf.TOKEN], fields[gf.POSITION] = row, token, position
        fields[gf.LEFT], fields[gf.TOTAL], fields[gf.BROKEN] = most, 0, -1
        fields[gf.IS_WISHED] = 0
        numbers[gf.SHARE], numbers[gf.STEP_MARGIN] = odds.share, odds.step_margin
        numbers[gf.PASS_MARGIN] = odds.pass_margin
        numbers[gf.MEANS], numbers[gf.MEANS + 1] = odds.means
        for at, number in enumerate(odds.ratios, gf.RATIOS):
            numbers[at] = number
        for at, number in enumerate(odds.chances, gf.CHANCES):
            numbers[at] = number

    def bound(self, rows: int, quote: int) -> None:
        """Passes have room for so many rows; ``quote`` is the address of a function that calls `Quotes`."""
        self._fields[gf.MOST] = min(rows - 1, gf.DEEPEST)
        self._fields[gf.ROOM], self._fields[gf.QUOTE] = min(rows - 1, gf.LONGEST), quote

    def wish(self) -> None:
        """Before the next pass, ask what a text goes on with."""
        self._fields[gf.IS_WISHED] = 1

    @property
    def is_wished(self) -> bool:
        """Whether that will be asked."""
        return bool(self._fields[gf.IS_WISHED])

    @property
    def room(self) -> int:
        """Tokens that may be drafted now."""
        return int(min(self._fields[gf.ROOM], self._fields[gf.LEFT] - 1))

    def put(self, tokens: Sequence[int], chances: Sequence[float]) -> int:
        """A draft for the next pass: tokens, and how likely all up to each are. How many there are.

        At most `room`; they end before one that the model does not have, for the pass trusts them.
        """
        most = min(len(tokens), len(chances), self.room)
        known = (0 <= token < self._vocabulary for token in tokens[:most])
        count = next((at for at, is_known in enumerate(known) if not is_known), most)
        fields, numbers = self._fields, self._numbers
        for at, token in enumerate(tokens[:count], gf.GUESSES):
            fields[at] = token
        for at, chance in enumerate(chances[:count], gf.CHAIN):
            numbers[at] = chance
        return count

    @property
    def total(self) -> int:
        """Tokens that have come so far in this run."""
        return int(self._fields[gf.TOTAL])

    @property
    def row(self) -> int:
        """The row of the last pass that the newest token was drawn from."""
        return int(self._fields[gf.ROW])

    @property
    def broken(self) -> int:
        """The row of the last pass whose logits are no numbers; -1: none."""
        return int(self._fields[gf.BROKEN])

    def told(self, passes: int) -> Iterator[Told]:
        """What each of the ``passes`` of the last run was about."""
        for start in range(gf.LOG, gf.LOG + passes * gf.LOG_FIELDS, gf.LOG_FIELDS):
            log = self._fields[start : start + gf.LOG_FIELDS].tolist()
            guessed = 0 if log[gf.LOG_QUOTED] else log[gf.LOG_GUESSED]
            yield Told(
                log[gf.LOG_TOKENS : gf.LOG_TOKENS + guessed],
                log[gf.LOG_EVIDENCE : gf.LOG_EVIDENCE + guessed],
                log[gf.LOG_DRAFTED],
                log[gf.LOG_CAME],
                bool(log[gf.LOG_QUOTED]),
            )
