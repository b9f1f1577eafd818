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
        self._stores = aligned_int64(rows * ops.STORE_FIELDS).reshape(-1, ops.STORE_FIELDS)
        self._pages = aligned_int64(program.pages.n_pages + 64)
        self._numbers = np.arange(rows)
        for field, table in (
            (ops.RUN_ROW_TABLE, self._rows),
            (ops.RUN_LOGIT_TABLE, self._logit_rows),
            (ops.RUN_BLOCK_TABLE, self._blocks),
            (ops.RUN_STORE_TABLE, self._stores),
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
        listed = sum(len(chunk.pages) for chunk in chunks)
        if listed > len(self._pages):  # many sequences that share pages
            self._pages = aligned_int64(2 * listed)
        for chunk in chunks:
            count, start = len(chunk.tokens), chunk.start
            pages = self._pages[used : used + len(chunk.pages)]
            pages[:] = chunk.pages
            used += len(chunk.pages)
            if count == 1:
                self._fill_one(row, chunk, pages)
                blocks = self._block(blocks, row, 1)
            else:
                single = False
                self._fill_many(row, chunk, pages)
                for first in range(0, count, ops.BLOCK_ROWS):
                    blocks = self._block(blocks, row + first, min(ops.BLOCK_ROWS, count - first))
            for index in range(count - chunk.n_logits, count):
                self._logit_rows[wanted] = row + index
                wanted += 1
            row += count
            reach = max(reach, start + count)
        for table in self._tables:
            table.reach(reach)
        run = self._run
        run[ops.RUN_ROWS], run[ops.RUN_LOGIT_ROWS], run[ops.RUN_BLOCKS] = row, wanted, blocks
        run[ops.RUN_STORES], run[ops.RUN_COPIES], run[ops.RUN_SINGLE] = row, 0, int(single)
        return wanted

    def _fill_one(self, row: int, chunk: Chunk, pages: NDArray[np.int64]) -> None:
        start = chunk.start
        self._rows[row] = (chunk.tokens[0], start, pages.ctypes.data, start + 1, -1, 0, 0, 0)
        self._stores[row] = (row, chunk.pages[start // PAGE_TOKENS], start % PAGE_TOKENS)

    def _fill_many(self, row: int, chunk: Chunk, pages: NDArray[np.int64]) -> None:
        count = len(chunk.tokens)
        positions = self._numbers[:count] + chunk.start
        rows, stores = self._rows[row : row + count], self._stores[row : row + count]
        rows[:, ops.ROW_TOKEN] = chunk.tokens
        rows[:, ops.ROW_POSITION] = positions
        rows[:, ops.ROW_PAGES] = pages.ctypes.data
        rows[:, ops.ROW_VIEW_END] = positions + 1
        rows[:, ops.ROW_ADAPTER] = -1
        stores[:, 0] = self._numbers[row : row + count]
        stores[:, 1] = pages[positions // PAGE_TOKENS]
        stores[:, 2] = positions % PAGE_TOKENS

    def _block(self, number: int, row: int, count: int) -> int:
        self._blocks[number] = (row, count)
        return number + 1
