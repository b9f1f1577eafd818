"""Runs planned rows: fills the tables a pass reads, starts the threads, returns logits.

Knows pages and positions as the plan gives them, and nothing of requests or sampling. A step takes
no memory: every table is reserved for the largest pass. Invariant: a row's logits depend on its
tokens and positions alone, not on the plan.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Masks
from miaotui.backends.cpu.multistep import MOST_TOKENS, CompiledDraftRun
from miaotui.backends.cpu.program import Program
from miaotui.backends.cpu.workspace import PageLists, Rows, float_rows, peaks_of
from miaotui.backends.drafting import Quotes
from miaotui.backends.options import MOST_PASSES
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, aligned_int64, fields_of
from miaotui.kernels.sampling.draw_fields import NUMBERS, scratch_fields
from miaotui.schedule.plan import Chunk

_ASK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

Line = tuple[int, Sequence[int], int, tuple[int, ...]]  # first row, tokens, position, pages


class Runner:
    """One model's passes. `run` may be called by one thread at a time, `halt` by any.

    ``last_s`` is what the last run took, of ``done`` passes.
    """

    def __init__(self, program: Program, team: ThreadPool) -> None:
        self.program, self.team = program, team
        self.last_s, self.done = 0.0, 1
        space = program.workspace
        rows, logits = space.max_rows, space.max_logits
        self._run = aligned_int64(ops.RUN_FIELDS)
        self._rows = aligned_int64(rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self._logit_rows = aligned_int64(logits)
        self._blocks = aligned_int64(rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        most = rows + logits * PAGE_TOKENS  # a branch of drafts stores up to a page of its path again
        self._stores = aligned_int64(most * ops.STORE_FIELDS).reshape(-1, ops.STORE_FIELDS)
        self._lists = PageLists(program.pages.n_pages + 1024)
        self._copies = aligned_int64(logits * ops.COPY_FIELDS).reshape(-1, ops.COPY_FIELDS)
        self._row_fields, self._store_fields, self._block_fields, self._logit_fields = (
            fields_of(table) for table in (self._rows, self._stores, self._blocks, self._logit_rows)
        )
        self._run_fields = fields_of(self._run)
        self._numbers = np.arange(rows)
        self._taps: dict[int, Rows] = {}
        self._operations = program.address, program.count
        for field, table in (
            (ops.RUN_ROW_TABLE, self._rows),
            (ops.RUN_LOGIT_TABLE, self._logit_rows),
            (ops.RUN_BLOCK_TABLE, self._blocks),
            (ops.RUN_STORE_TABLE, self._stores),
            (ops.RUN_COPY_TABLE, self._copies),
        ):
            self._run[field] = table.ctypes.data
        vocab = program.config.vocab_size
        self._set_choosing(space.peaks, NUMBERS + scratch_fields(vocab), logits)
        self._logits = space.logits.floats(logits, vocab)
        self._best, self._tops = peaks_of(space.peaks)
        self._wanted = 0
        self._masks: Masks | None = None
        self._fault: BaseException | None = None
        self._draft_run: CompiledDraftRun | None = None
        self._seen = 0  # tokens of the current run that `_new_tokens` has returned
        self._ask = _ASK(self._asked)
        self._ask_address = ctypes.cast(self._ask, ctypes.c_void_p).value or 0
        self._quotes: Quotes | None = None
        self._ask_quote = _ASK(self._asked_to_quote)
        self._quote_address = ctypes.cast(self._ask_quote, ctypes.c_void_p).value or 0
        self._tables = list({id(t): t for t in program.rotations.values()}.values())

    def _set_choosing(self, peaks: NDArray[np.int64], fields: int, logits: int) -> None:
        """Return where tokens chosen in the pass go, and the memory in which each thread draws them."""
        self._draws = aligned_int64(self.team.size * fields)
        self._chosen = aligned_int64(max(MOST_PASSES * logits, MOST_TOKENS))
        self._chosen_fields = fields_of(self._chosen)
        run = self._run
        run[ops.RUN_BEST], run[ops.RUN_TOKENS] = peaks.ctypes.data, self._chosen.ctypes.data
        run[ops.RUN_DRAW], run[ops.RUN_DRAW_STRIDE] = self._draws.ctypes.data, 8 * fields

    def run(
        self,
        chunks: Sequence[Chunk],
        choices: Sequence[int] = (),
        passes: int = 1,
        masks: Masks | None = None,
        cut: int | None = None,
    ) -> NDArray[np.float32]:
        """Run a pass over the chunks, or up to ``passes`` where each is one row (see `kernels.runtime.multistep`).

        ``choices`` are addresses of how each chunk's tokens are chosen in the pass (`draw.choice_table`), 0
        for one whose logits are only looked at; none: all. Returns the last pass's logits, float32
        ``[logits, vocab]`` in the chunks' order, valid until the next call; rows that were drawn from are
        written over.

        ``masks``, if given, is called in each pass before it chooses, with the tokens of the pass before in
        this run, if any, a row each: it sets the masks of the choices, and says whether another pass may
        follow. What it raises is raised here. ``cut`` is the number of passes where they bring several tokens.
        """
        self._wanted = wanted = self._fill(chunks, choices, passes)
        run = self._run_fields
        run[ops.RUN_PASSES], run[ops.RUN_DONE] = cut or passes, 0
        run[ops.RUN_ASK] = 0 if masks is None else self._ask_address
        self._masks = masks
        start_s = time.perf_counter()
        beside = None if self._draft_run is None else self._draft_run.run
        self.team.run(*self._operations, self._run, passes, beside=beside)
        self.last_s = time.perf_counter() - start_s
        run[ops.RUN_HALT] = 0
        self.done = run[ops.RUN_DONE] if passes > 1 else 1
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return self._logits[:wanted]

    def run_drafting(
        self,
        chunk: Chunk,
        choice: int,
        most: int,
        passes: int,
        draft_run: CompiledDraftRun,
        watch: Masks | None,
        quotes: Quotes,
    ) -> list[int]:
        """Run up to ``passes`` passes over one sequence, which bring up to ``most`` tokens; draft between them.

        ``draft_run`` has begun. ``watch`` is called like ``masks`` of `run`, with all the tokens since the last call.
        So is ``quotes``, between two passes where `DraftRun.request_quote` was called: it puts a draft into
        ``draft_run`` and returns its number of tokens. Logits of the last pass that are no numbers are
        `DraftRun.broken`.
        """
        self._draft_run, self._seen, self._quotes = draft_run, 0, quotes
        draft_run.bound(min(len(self._rows), len(self._logit_rows)), self._quote_address)
        try:
            run = self._run_fields
            run[ops.RUN_DRAFT] = draft_run.address
            self.run([chunk], [choice], most, watch, passes)
        finally:
            self._draft_run, run[ops.RUN_DRAFT] = None, 0
        return self._chosen_fields[: draft_run.total].tolist()

    def _asked(self, *_: int) -> int:
        """Call back from compiled code, in the thread that runs it, which holds the interpreter lock meanwhile."""
        assert self._masks is not None, "asked only where there is somebody to ask"
        try:
            if self._draft_run is not None:
                return int(self._masks(self._new_tokens(self._draft_run)))
            end = self._wanted * self._run_fields[ops.RUN_DONE]
            start = max(end - self._wanted, 0)
            return int(self._masks(self._chosen_fields[start:end].tolist()))
        except BaseException as fault:  # compiled code knows no exceptions: it goes on from `run`
            self._fault = fault
            return 0

    def _asked_to_quote(self, *_: int) -> int:
        """Let `Quotes` draft; called by compiled code between two passes."""
        assert self._quotes is not None, "called only in runs that draft"
        assert self._draft_run is not None, "called only in runs that draft"
        try:
            return self._quotes(self._new_tokens(self._draft_run))
        except BaseException as fault:  # as above; the run ends with its next pass
            self._fault = fault
            self.halt()
            return 0

    def _new_tokens(self, draft_run: CompiledDraftRun) -> list[int]:
        """Return the tokens that the run has brought since the last call."""
        start, self._seen = self._seen, draft_run.total
        return self._chosen_fields[start : self._seen].tolist()

    def tap(self, layer: int) -> Rows:
        """Let passes store the states before ``layer`` from now on, one row for each of theirs."""
        if layer not in self._taps:
            program = self.program
            space = program.workspace
            self._taps[layer] = float_rows(space.max_rows, program.config.hidden_size)
            self.program = program.with_taps(self._taps)
            self._operations = self.program.address, self.program.count
        return self._taps[layer]

    def reach(self, end: int) -> None:
        """Make ready to rotate what is at positions below ``end``. Raises `EngineError` beyond the context."""
        for rotation in self._tables:
            rotation.reach(end)

    def pages_of(self, row: int) -> int:
        """Return the address of the page numbers that a row of the last pass sees, good until the next run."""
        return self._row_fields[row * ops.ROW_FIELDS + ops.ROW_PAGES]

    def halt(self) -> None:
        """End a run of several passes with the pass under way, because a caller waits for it."""
        self._run_fields[ops.RUN_HALT] = 1

    def earlier(self) -> list[list[int]]:
        """Return, for each row of the last run, the tokens of all its passes but the last."""
        count, end = self._wanted, self._wanted * (self.done - 1)
        tokens = self._chosen_fields[:end].tolist()
        return [tokens[row::count] for row in range(count)]

    def peak(self, row: int) -> tuple[int, float]:
        """Return the peak of one row of the last pass."""
        return int(self._best[row]), float(self._tops[row])

    def peaks(self) -> list[tuple[int, float]]:
        """For each row of the last pass, the token chosen, and the highest logit.

        Unless a choice says otherwise the token is the best one: the first of equals, and the first NaN
        if there is one.
        """
        count = self._wanted
        return list(zip(self._best[:count].tolist(), self._tops[:count].tolist(), strict=True))

    def _fill(self, chunks: Sequence[Chunk], choices: Sequence[int], passes: int) -> int:
        row = wanted = blocks = reach = 0
        single = True
        branched: list[tuple[int, Chunk]] = []
        logit_rows, lists = self._logit_fields, self._lists
        lists.begin()
        for chunk in chunks:
            _, start, tokens, pages, n_logits, branches, n_scored, *_ = chunk
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
            for index in range(row - n_logits - n_scored, row):
                logit_rows[wanted] = index
                wanted += 1
        self.reach(reach)
        run = self._run_fields
        run[ops.RUN_ROWS], run[ops.RUN_LOGIT_ROWS], run[ops.RUN_BLOCKS] = row, wanted, blocks
        run[ops.RUN_STORES], run[ops.RUN_COPIES], run[ops.RUN_SINGLE] = row, 0, int(single)
        if branched:
            self._fill_branches(branched)
        self._fill_choices(chunks, choices)
        return wanted

    def _fill_choices(self, chunks: Sequence[Chunk], choices: Sequence[int]) -> None:
        rows, row = self._row_fields, 0
        for chunk, choice in zip(chunks, choices or itertools.repeat(0), strict=False):
            row += len(chunk.tokens)
            end = row * ops.ROW_FIELDS + ops.ROW_CHOICE
            for at in range(end - (chunk.n_logits + chunk.n_scored) * ops.ROW_FIELDS, end, ops.ROW_FIELDS):
                rows[at] = choice

    def _fill_one(self, row: int, block: int, token: int, position: int, pages: tuple[int, ...]) -> None:
        """Return the tables of a row that nothing follows."""
        rows, stores, blocks = self._row_fields, self._store_fields, self._block_fields
        at = row * ops.ROW_FIELDS
        rows[at + ops.ROW_TOKEN], rows[at + ops.ROW_POSITION] = token, position
        rows[at + ops.ROW_PAGES], rows[at + ops.ROW_VIEW_END] = (self._lists.place(pages), position + 1)
        at = row * ops.STORE_FIELDS
        stores[at], stores[at + 1] = row, pages[position // PAGE_TOKENS]
        stores[at + 2] = position % PAGE_TOKENS
        at = block * ops.BLOCK_FIELDS
        blocks[at + ops.BLOCK_ROW], blocks[at + ops.BLOCK_COUNT] = row, 1

    def _fill_line(self, line: Line, blocks: int) -> int:
        """Return the tables of rows that follow each other, cut into blocks; how many of those there are."""
        row, tokens, _, _ = line
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
        row, tokens, start, pages = line
        rows, stores, blocks = self._row_fields, self._store_fields, self._block_fields
        at = block * ops.BLOCK_FIELDS
        blocks[at + ops.BLOCK_ROW], blocks[at + ops.BLOCK_COUNT] = row, len(tokens)
        listed, at, store = self._lists.place(pages), row * ops.ROW_FIELDS, row * ops.STORE_FIELDS
        for position, token in enumerate(tokens, start):
            rows[at + ops.ROW_TOKEN], rows[at + ops.ROW_POSITION] = token, position
            rows[at + ops.ROW_PAGES], rows[at + ops.ROW_VIEW_END] = listed, position + 1
            stores[store], stores[store + 1] = row, pages[position // PAGE_TOKENS]
            stores[store + 2] = position % PAGE_TOKENS
            row, at, store = row + 1, at + ops.ROW_FIELDS, store + ops.STORE_FIELDS

    def _fill_many(self, line: Line) -> None:
        row, tokens, start, pages = line
        count = len(tokens)
        positions = self._numbers[:count] + start
        rows, stores = self._rows[row : row + count], self._stores[row : row + count]
        rows[:, ops.ROW_TOKEN] = tokens
        rows[:, ops.ROW_POSITION] = positions
        rows[:, ops.ROW_PAGES] = self._lists.place(pages)
        rows[:, ops.ROW_VIEW_END] = positions + 1
        stores[:, 0] = self._numbers[row : row + count]
        stores[:, 1] = np.array(pages)[positions // PAGE_TOKENS]
        stores[:, 2] = positions % PAGE_TOKENS

    def _fill_branches(self, branched: Sequence[tuple[int, Chunk]]) -> None:
        """Fill the tables of stores and copies of each branch's first private page, besides its own rows."""
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
    """Return the lines of a chunk's trunk and branches; ``row`` is where the chunk begins."""
    trunk = (row, chunk.tokens[: chunk.trunk], chunk.start, chunk.pages)
    sides = [(row + b.row, chunk.tokens[b.row : b.row + b.count], b.start, b.pages) for b in chunk.branches]
    return [trunk, *sides]
