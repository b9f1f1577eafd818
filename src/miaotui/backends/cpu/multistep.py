"""Runs of passes that draft: the table that compiled code reads, and the log that it leaves there.

Owns the table (`kernels.draft.draft_fields`). Knows addresses and numbers, neither requests nor where chances and
costs come from. Invariant: `begin` fills the table anew before each run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.drafting import PassLog, PolicyInputs
from miaotui.backends.options import MOST_PASSES
from miaotui.kernels.draft import draft_fields as df
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, fields_of

MOST_TOKENS = 96  # of one run


class HeadTables(NamedTuple):
    """The memory of a head's program: operations of its first step and of the others in turn, its run, its row."""

    operations: Sequence[int]
    counts: Sequence[int]
    run: NDArray[np.int64]
    sources: NDArray[np.int64]
    rows: NDArray[np.int64]
    drafted: NDArray[np.int64]


class CompiledDraftRun:
    """The `DraftRun` of one head; used by the engine's thread alone."""

    def __init__(self, head: HeadTables, vocabulary: int) -> None:
        self._head, self._vocabulary = head, vocabulary
        table = aligned_int64(df.table_fields(MOST_PASSES))
        table[df.TABLES : df.TABLES + len(head.operations)] = head.operations
        table[df.COUNTS : df.COUNTS + len(head.counts)] = head.counts
        table[df.HEAD_RUN] = address_of(head.run)
        table[df.HEAD_SOURCES], table[df.HEAD_ROWS] = address_of(head.sources), address_of(head.rows)
        table[df.HEAD_DRAFTED] = address_of(head.drafted)
        self.address = address_of(table)
        self._fields, self._numbers = fields_of(table), fields_of(table).cast("B").cast("d")

    @property
    def run(self) -> NDArray[np.int64]:
        """Return the table of the head's own runs."""
        return self._head.run

    def begin(self, row: int, token: int, position: int, most: int, inputs: PolicyInputs) -> None:
        """Prepare a run of up to ``most`` tokens after ``token``.

        ``token`` is at ``position`` and was drawn from ``row`` of the last pass.
        """
        fields, numbers = self._fields, self._numbers
        fields[df.ROW], fields[df.TOKEN], fields[df.POSITION] = row, token, position
        fields[df.LEFT], fields[df.TOTAL], fields[df.BROKEN] = most, 0, -1
        fields[df.IS_QUOTE_REQUESTED] = 0
        numbers[df.HEAD_STEP] = inputs.head_step
        for at, number in enumerate(inputs.mean_rates, df.MEAN_RATES):
            numbers[at] = number
        for at, number in enumerate(inputs.costs, df.COSTS):
            numbers[at] = number
        for at, number in enumerate(inputs.rates, df.RATES):
            numbers[at] = number

    def bound(self, rows: int, quote: int) -> None:
        """Limit passes to ``rows`` rows; ``quote`` is the address of a C function that calls `Quotes`."""
        self._fields[df.MAX_LENGTH] = min(rows - 1, df.MAX_HEAD_DRAFT)
        self._fields[df.ROOM], self._fields[df.QUOTE] = min(rows - 1, df.MAX_DRAFT), quote

    def request_quote(self) -> None:
        """Let `Quotes` be called before the next pass."""
        self._fields[df.IS_QUOTE_REQUESTED] = 1

    @property
    def is_quote_requested(self) -> bool:
        """Return whether `Quotes` is to be called before the next pass."""
        return bool(self._fields[df.IS_QUOTE_REQUESTED])

    @property
    def room(self) -> int:
        """Return tokens that may be drafted now."""
        return int(min(self._fields[df.ROOM], self._fields[df.LEFT] - 1))

    def put(self, tokens: Sequence[int], chances: Sequence[float]) -> int:
        """Set the draft of the next pass; returns its number of tokens.

        ``chances`` are the probabilities that all tokens up to each are accepted. The draft has at most `room`
        tokens. It ends before a token that the model does not have, for the pass trusts its tokens.
        """
        most = min(len(tokens), len(chances), self.room)
        known = (0 <= token < self._vocabulary for token in tokens[:most])
        count = next((at for at, is_known in enumerate(known) if not is_known), most)
        fields, numbers = self._fields, self._numbers
        for at, token in enumerate(tokens[:count], df.TOKENS):
            fields[at] = token
        for at, chance in enumerate(chances[:count], df.CHANCES):
            numbers[at] = chance
        return count

    @property
    def total(self) -> int:
        """Return tokens that this run has brought so far."""
        return int(self._fields[df.TOTAL])

    @property
    def row(self) -> int:
        """Return the row of the last pass that the newest token was drawn from."""
        return int(self._fields[df.ROW])

    @property
    def broken(self) -> int:
        """Return the row of the last pass whose logits are no numbers; -1: none."""
        return int(self._fields[df.BROKEN])

    def log(self, passes: int) -> Iterator[PassLog]:
        """Yield the log of each of the ``passes`` of the last run."""
        for start in range(df.LOG, df.LOG + passes * df.LOG_FIELDS, df.LOG_FIELDS):
            log = self._fields[start : start + df.LOG_FIELDS].tolist()
            drafted = 0 if log[df.LOG_QUOTED] else log[df.LOG_LENGTH]
            yield PassLog(
                log[df.LOG_TOKENS : df.LOG_TOKENS + drafted],
                log[df.LOG_EVIDENCE : df.LOG_EVIDENCE + drafted],
                log[df.LOG_VERIFIED],
                log[df.LOG_BROUGHT],
                bool(log[df.LOG_QUOTED]),
            )
