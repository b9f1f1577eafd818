"""The tables that passes read: rows, blocks of rows, stores, copies, lists of pages, how each sequence chooses, and
what a run of passes drafts by.

Owns their memory, which is reserved for the largest pass, and how planned rows and parameters fill them. Knows pages
and positions as the plan gives them, and neither weights nor threads, nor where chances and costs come from.
Invariants: a row's fields depend on its token, its position and its pages alone; a run's table is filled anew before
each run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Words
from miaotui.backends.drafting import PassLog, PolicyInputs
from miaotui.backends.options import MOST_PASSES
from miaotui.backends.sampling import PLAIN, Distribution, seed_start
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.draft import draft_fields as df
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, fields_of
from miaotui.kernels.sampling.draw_fields import (
    ALL_ALLOWED,
    CHOICE_ENDS,
    CHOICE_FIELDS,
    CHOICE_LEAST,
    CHOICE_MASK,
    CHOICE_NOISY,
    CHOICE_SCALE,
    CHOICE_START,
    NOT_HERE,
)
from miaotui.schedule.plan import Chunk

MOST_TOKENS = 96  # of one run
ROOM = 32  # a list has room for a multiple of so many pages, so that one that grows moves no other

# first row, tokens, position, pages, and where the view of each row ends; (): after itself
Line = tuple[int, Sequence[int], int, tuple[int, ...], Sequence[int]]


class PageLists:
    """The lists of one pass after another, each in the order in which they are placed."""

    def __init__(self, fields: int) -> None:
        self._table = aligned_int64(fields)
        self._outgrown: list[NDArray[np.int64]] = []  # in use until the next `begin`
        self._address = address_of(self._table)
        self._known: list[tuple[Sequence[int], int]] = []  # what lies in the table, with its room
        self._next = self._end = 0  # the number of the next list, and where it begins

    def begin(self) -> None:
        """Begin a new pass: its lists are placed from the first field on."""
        self._outgrown.clear()
        self._next = self._end = 0

    def place(self, pages: tuple[int, ...]) -> int:
        """Return the address at which ``pages`` lie as int64."""
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


class PassTables:
    """Tables for up to ``rows`` rows, ``logits`` of them with logits, over ``n_pages`` pages."""

    def __init__(self, rows: int, logits: int, n_pages: int) -> None:
        self.rows, self.logits = rows, logits
        self.run = aligned_int64(ops.RUN_FIELDS)
        self._rows = aligned_int64(rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self._logit_rows = aligned_int64(logits)
        self._blocks = aligned_int64(rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        most = rows + logits * PAGE_TOKENS  # a branch of drafts stores up to a page of its path again
        self._stores = aligned_int64(most * ops.STORE_FIELDS).reshape(-1, ops.STORE_FIELDS)
        self._lists = PageLists(n_pages + 1024)
        self._copies = aligned_int64(logits * ops.COPY_FIELDS).reshape(-1, ops.COPY_FIELDS)
        self.row_fields, self._store_fields, self._block_fields, self._logit_fields = (
            fields_of(table) for table in (self._rows, self._stores, self._blocks, self._logit_rows)
        )
        self.run_fields = fields_of(self.run)
        self._numbers = np.arange(rows)
        for field, table in (
            (ops.RUN_ROW_TABLE, self._rows),
            (ops.RUN_LOGIT_TABLE, self._logit_rows),
            (ops.RUN_BLOCK_TABLE, self._blocks),
            (ops.RUN_STORE_TABLE, self._stores),
            (ops.RUN_COPY_TABLE, self._copies),
        ):
            self.run[field] = table.ctypes.data

    def pages_of(self, row: int) -> int:
        """Return the address of the page numbers that a row of the last pass sees, good until the next one."""
        return self.row_fields[row * ops.ROW_FIELDS + ops.ROW_PAGES]

    def fill(self, chunks: Sequence[Chunk], choices: Sequence[int], passes: int) -> tuple[int, int]:
        """Fill all tables; return the number of rows with logits, and the position that all rows are below.

        ``choices`` are addresses of choice tables, by chunk; 0, or none: only look.
        """
        row = wanted = blocks = reach = 0
        single = True
        branched: list[tuple[int, Chunk]] = []
        logit_rows, lists = self._logit_fields, self._lists
        lists.begin()
        for chunk in chunks:
            _, start, tokens, pages, n_logits, branches, n_scored, _, _, _, n_after = chunk
            count = len(tokens)
            if count == 1:  # most of them: an answer goes on
                self._fill_one(row, blocks, tokens[0], start, pages)
                blocks += 1
                reach = max(reach, start + passes)
            else:
                single &= count <= ops.BLOCK_ROWS and not branches
                if branches:
                    branched.append((row, chunk))
                for line in tree_lines(row, chunk):
                    reach = max(reach, line[2] + len(line[1]))
                    blocks = self._fill_line(line, blocks)
            row += count
            end = row - n_after
            for index in range(end - n_logits - n_scored, end):
                logit_rows[wanted] = index
                wanted += 1
        run = self.run_fields
        run[ops.RUN_ROWS], run[ops.RUN_LOGIT_ROWS], run[ops.RUN_BLOCKS] = row, wanted, blocks
        run[ops.RUN_STORES], run[ops.RUN_COPIES], run[ops.RUN_SINGLE] = row, 0, int(single)
        if branched:
            self._fill_branches(branched)
        self._fill_choices(chunks, choices)
        return wanted, reach

    def _fill_choices(self, chunks: Sequence[Chunk], choices: Sequence[int]) -> None:
        rows, row = self.row_fields, 0
        for chunk, choice in zip(chunks, choices or itertools.repeat(0), strict=False):
            row += len(chunk.tokens)
            end = (row - chunk.n_after) * ops.ROW_FIELDS + ops.ROW_CHOICE
            for at in range(end - (chunk.n_logits + chunk.n_scored) * ops.ROW_FIELDS, end, ops.ROW_FIELDS):
                rows[at] = choice

    def name_adapters(self, chunks: Sequence[Chunk], tables: Sequence[int]) -> None:
        """Write the address of each chunk's adapter, 0 for none, into the tables of its rows."""
        rows, row = self.row_fields, 0
        for chunk, table in zip(chunks, tables, strict=True):
            end = row + len(chunk.tokens)
            for at in range(row * ops.ROW_FIELDS + ops.ROW_ADAPTER, end * ops.ROW_FIELDS, ops.ROW_FIELDS):
                rows[at] = table
            row = end

    def _fill_one(self, row: int, block: int, token: int, position: int, pages: tuple[int, ...]) -> None:
        """Fill the tables of a row that nothing follows."""
        rows, stores, blocks = self.row_fields, self._store_fields, self._block_fields
        at = row * ops.ROW_FIELDS
        rows[at + ops.ROW_TOKEN], rows[at + ops.ROW_POSITION] = token, position
        rows[at + ops.ROW_PAGES], rows[at + ops.ROW_VIEW_END] = (self._lists.place(pages), position + 1)
        at = row * ops.STORE_FIELDS
        stores[at], stores[at + 1] = row, pages[position // PAGE_TOKENS]
        stores[at + 2] = position % PAGE_TOKENS
        at = block * ops.BLOCK_FIELDS
        blocks[at + ops.BLOCK_ROW], blocks[at + ops.BLOCK_COUNT] = row, 1

    def _fill_line(self, line: Line, blocks: int) -> int:
        """Fill the tables of rows that follow each other, cut into blocks; return the number of blocks so far."""
        row, tokens, *_ = line
        count = len(tokens)
        if count <= ops.BLOCK_ROWS:
            self._fill_few(line, blocks)
            return blocks + 1
        self._fill_many(line)
        for first in range(0, count, ops.BLOCK_ROWS):
            self._blocks[blocks] = (row + first, min(ops.BLOCK_ROWS, count - first))
            blocks += 1
        return blocks

    def _fill_few(self, line: Line, block: int) -> None:
        """Fill the tables of a line that fits one block, mostly a draft: field by field, without NumPy."""
        row, tokens, start, pages, views = line
        rows, stores, blocks = self.row_fields, self._store_fields, self._block_fields
        at = block * ops.BLOCK_FIELDS
        blocks[at + ops.BLOCK_ROW], blocks[at + ops.BLOCK_COUNT] = row, len(tokens)
        listed, at, store = self._lists.place(pages), row * ops.ROW_FIELDS, row * ops.STORE_FIELDS
        for position, token in enumerate(tokens, start):
            rows[at + ops.ROW_TOKEN], rows[at + ops.ROW_POSITION] = token, position
            rows[at + ops.ROW_PAGES], rows[at + ops.ROW_VIEW_END] = listed, position + 1
            stores[store], stores[store + 1] = row, pages[position // PAGE_TOKENS]
            stores[store + 2] = position % PAGE_TOKENS
            row, at, store = row + 1, at + ops.ROW_FIELDS, store + ops.STORE_FIELDS
        for at, end in enumerate(views, line[0]):
            rows[at * ops.ROW_FIELDS + ops.ROW_VIEW_END] = end

    def _fill_many(self, line: Line) -> None:
        row, tokens, start, pages, views = line
        count = len(tokens)
        positions = self._numbers[:count] + start
        rows, stores = self._rows[row : row + count], self._stores[row : row + count]
        rows[:, ops.ROW_TOKEN] = tokens
        rows[:, ops.ROW_POSITION] = positions
        rows[:, ops.ROW_PAGES] = self._lists.place(pages)
        rows[:, ops.ROW_VIEW_END] = views or positions + 1
        stores[:, 0] = self._numbers[row : row + count]
        stores[:, 1] = np.array(pages)[positions // PAGE_TOKENS]
        stores[:, 2] = positions % PAGE_TOKENS

    def _fill_branches(self, branched: Sequence[tuple[int, Chunk]]) -> None:
        """Fill the tables of stores and copies of each branch's first private page, besides its own rows."""
        stores, copies = int(self.run[ops.RUN_STORES]), 0
        for row, chunk in branched:
            for branch in chunk.branches:
                page = branch.pages[branch.own]
                if branch.copied is not None:
                    self._copies[copies] = (branch.copied, page)
                    copies += 1
                for back, each in enumerate(reversed(branch.again), 1):
                    slot = (branch.start - back) % PAGE_TOKENS
                    self._stores[stores] = (row + each, page, slot)
                    stores += 1
        self.run[ops.RUN_STORES], self.run[ops.RUN_COPIES] = stores, copies


def tree_lines(row: int, chunk: Chunk) -> list[Line]:
    """Return the lines of a chunk's trunk and branches; ``row`` is where the chunk begins."""
    trunk = (row, chunk.tokens[: chunk.trunk], chunk.start, chunk.pages, chunk.views)
    sides = [(row + b.row, chunk.tokens[b.row : b.row + b.count], b.start, b.pages, ()) for b in chunk.branches]
    return [trunk, *sides]


class ChoiceTable:
    """The `TokenChoice` of compiled passes: a table of `draw_fields`, then its end tokens; ``address`` is its place.

    ``shape`` None: the greatest logit is chosen.
    """

    def __init__(self, shape: Distribution | None, seed: int, ends: Sequence[int]) -> None:
        self._table = table = np.zeros(CHOICE_FIELDS + len(ends), np.int64)
        self._words: Words | None = None  # keeps alive what the mask points to
        table[CHOICE_FIELDS:], table[CHOICE_ENDS] = ends, len(ends)
        table[CHOICE_NOISY], shape = shape is not None, shape or PLAIN
        table.view(np.uint64)[CHOICE_START] = seed_start(seed)
        numbers = table.view(np.float64)[CHOICE_SCALE : CHOICE_LEAST + 1]
        numbers[:] = shape.scale, shape.top_k, shape.top_p, shape.least
        self.address = address_of(table)

    def allow(self, words: Words | None) -> None:
        """Choose among these tokens at the next position; None: among all."""
        self._table[CHOICE_MASK] = ALL_ALLOWED if words is None else address_of(words)
        self._words = words

    def leave(self) -> None:
        """Choose nothing in the next pass and leave its logits as they are."""
        self._table[CHOICE_MASK], self._words = NOT_HERE, None


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
