"""Runs planned rows: fills the tables a pass reads, starts the team, hands back logits.

Knows pages and positions as the plan gives them, and nothing of requests or sampling. A step takes
no memory: every table is reserved for the largest pass. Invariant: a row's logits depend on its
tokens and positions alone, not on the plan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels import ops
from miaotui.kernels.attention_fields import PAGE_TOKENS
from miaotui.kernels.team import Team, aligned_int64
from miaotui.model.program import Program
from miaotui.schedule.plan import Chunk

Line = tuple[int, Sequence[int], int, Sequence[int]]  # first row, tokens, position, pages


class Runner:
    """One model's passes. `run` may be called by one thread at a time."""

    def __init__(self, program: Program, team: Team) -> None:
        self.program, self.team = program, team
        self.last_s = 0.0  # what the last pass took
        space = program.workspace
        rows, logits = space.max_rows, space.max_logits
        self._run = aligned_int64(ops.RUN_FIELDS)
        self._rows = aligned_int64(rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self._logit_rows = aligned_int64(logits)
        self._blocks = aligned_int64(rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        most = (
            rows + logits * PAGE_TOKENS
        )  # a branch of drafts stores up to a page of its path again
        self._stores = aligned_int64(most * ops.STORE_FIELDS).reshape(-1, ops.STORE_FIELDS)
        self._pages = aligned_int64(program.pages.n_pages + 64)
        self._copies = aligned_int64(logits * ops.COPY_FIELDS).reshape(-1, ops.COPY_FIELDS)
        self._numbers = np.arange(rows)
        for field, table in (
            (ops.RUN_ROW_TABLE, self._rows),
            (ops.RUN_LOGIT_TABLE, self._logit_rows),
            (ops.RUN_BLOCK_TABLE, self._blocks),
            (ops.RUN_STORE_TABLE, self._stores),
            (ops.RUN_COPY_TABLE, self._copies),
        ):
            self._run[field] = table.ctypes.data
        vocab = program.config.vocab_size
        self._logits = space.logits.floats(logits, vocab)
        self._tables = list({id(t): t for t in program.rotations.values()}.values())

    def run(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Run one pass over the chunks.

        Returns float32 ``[logits, vocab]`` in their order, valid until the next call.
        """
        wanted = self._fill(chunks)
        start_s = time.perf_counter()
        self.team.run(self.program.address, self.program.count, self._run)
        self.last_s = time.perf_counter() - start_s
        return self._logits[:wanted]

    def _fill(self, chunks: Sequence[Chunk]) -> int:
        row = wanted = blocks = used = reach = 0
        single = True
        branched: list[tuple[int, Chunk]] = []
        listed = 0
        for chunk in chunks:
            listed += len(chunk.pages)
            for branch in chunk.branches:
                listed += len(branch.pages)
        if listed > len(self._pages):  # many sequences that share pages
            self._pages = aligned_int64(2 * listed)
        for chunk in chunks:
            count = len(chunk.tokens)
            lines: Sequence[Line] = ((row, chunk.tokens, chunk.start, chunk.pages),)
            if chunk.branches:
                single = False
                branched.append((row, chunk))
                lines = tree_lines(row, chunk)
            for first, tokens, start, pages in lines:
                table = self._pages[used : used + len(pages)]
                table[:] = pages
                used += len(pages)
                reach = max(reach, start + len(tokens))
                single &= len(tokens) == 1
                blocks = self._fill_line(first, tokens, start, table, blocks)
            for index in range(count - chunk.n_logits, count):
                self._logit_rows[wanted] = row + index
                wanted += 1
            row += count
        for rotation in self._tables:
            rotation.reach(reach)
        run = self._run
        run[ops.RUN_ROWS], run[ops.RUN_LOGIT_ROWS], run[ops.RUN_BLOCKS] = row, wanted, blocks
        run[ops.RUN_STORES], run[ops.RUN_COPIES], run[ops.RUN_SINGLE] = row, 0, int(single)
        if branched:
            self._fill_branches(branched)
        return wanted

    def _fill_line(
        self, row: int, tokens: Sequence[int], start: int, pages: NDArray[np.int64], blocks: int
    ) -> int:
        """The tables of rows that follow each other, cut into blocks; how many of those there are."""
        count = len(tokens)
        if count == 1:
            page, slot = divmod(start, PAGE_TOKENS)
            self._rows[row] = (tokens[0], start, pages.ctypes.data, start + 1, -1, 0, 0, 0)
            self._stores[row] = (row, pages[page], slot)
            self._blocks[blocks] = (row, 1)
            return blocks + 1
        self._fill_many(row, tokens, start, pages)
        for first in range(0, count, ops.BLOCK_ROWS):
            self._blocks[blocks] = (row + first, min(ops.BLOCK_ROWS, count - first))
            blocks += 1
        return blocks

    def _fill_many(
        self, row: int, tokens: Sequence[int], start: int, pages: NDArray[np.int64]
    ) -> None:
        count = len(tokens)
        positions = self._numbers[:count] + start
        rows, stores = self._rows[row : row + count], self._stores[row : row + count]
        rows[:, ops.ROW_TOKEN] = tokens
        rows[:, ops.ROW_POSITION] = positions
        rows[:, ops.ROW_PAGES] = pages.ctypes.data
        rows[:, ops.ROW_VIEW_END] = positions + 1
        rows[:, ops.ROW_ADAPTER] = -1
        stores[:, 0] = self._numbers[row : row + count]
        stores[:, 1] = pages[positions // PAGE_TOKENS]
        stores[:, 2] = positions % PAGE_TOKENS

    def _fill_branches(self, branched: Sequence[tuple[int, Chunk]]) -> None:
        """What the first private page of each branch holds besides its own rows' keys and values."""
        stores, copies = int(self._run[ops.RUN_STORES]), 0
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
        self._run[ops.RUN_STORES], self._run[ops.RUN_COPIES] = stores, copies


def tree_lines(row: int, chunk: Chunk) -> list[Line]:
    """The lines of a chunk's trunk and branches; ``row`` is where the chunk begins."""
    trunk = (row, chunk.tokens[: chunk.trunk], chunk.start, chunk.pages)
    sides = [
        (row + b.row, chunk.tokens[b.row : b.row + b.count], b.start, b.pages)
        for b in chunk.branches
    ]
    return [trunk, *sides]
