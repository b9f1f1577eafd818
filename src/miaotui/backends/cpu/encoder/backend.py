"""The CPU backend of encoders: whole texts go into compiled passes, their states come out.

Owns the tables of a pass: which rows belong to which text, and the blocks in which they attend. Knows nothing of
queues or heads. Invariant: a text's states depend on its own tokens and types alone, not on the other texts, the
threads, or its place in the pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.output import OutputProduct
from miaotui.backends.cpu.encoder.packed import CHANNEL_ORDER
from miaotui.backends.cpu.encoder.program import EncoderProgram
from miaotui.backends.cpu.workspace import RotationTable
from miaotui.backends.encoder_backend import EncodeResult, EncoderIdentity, EncoderLimits, TextRows, check_texts
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import SCRATCH_BYTES, ThreadPool, aligned_int64

ARITHMETIC = (
    "int16, int8 or float32 activations, float32 attention, 3"  # changes whenever equal weights give other states
)
NARROW = ", int8 after norms"  # where `EncoderWorkspace.wide` is not set
PASS_ROWS = 128  # of a compiled pass, if it has several texts: more leave the second-level cache of a core
BLOCK_ROWS = 24  # of one text that attend together: two or four groups of queries
FEW_BLOCKS = 2  # blocks for each thread and head, below which they are cut smaller

_PANEL_BYTES = 4 * PAGE_TOKENS  # scores of one query and one panel


class CpuEncoder:
    """An `EncoderBackend` over one encoder's compiled program. One thread at a time calls `encode`.

    Threads may be shared with other models: a pool lets one pass run at a time.
    """

    def __init__(self, program: EncoderProgram, pool: ThreadPool, limits: EncoderLimits) -> None:
        self.program, self.pool, self.limits = program, pool, limits
        formats = tuple(sorted(form.value for form in program.weights.formats))
        narrow = not program.workspace.wide and not program.workspace.floating
        self.identity = EncoderIdentity("cpu", formats, ARITHMETIC + (NARROW if narrow else ""))
        self._run = aligned_int64(ops.RUN_FIELDS)
        rows = program.workspace.rows
        self._rows = aligned_int64(rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self._blocks = aligned_int64(rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        self._run[ops.RUN_ROW_TABLE] = self._rows.ctypes.data
        self._run[ops.RUN_BLOCK_TABLE] = self._blocks.ctypes.data
        self._states = program.states.floats(rows, program.config.hidden_size)
        self._tables: list[RotationTable] = list({id(t): t for t in program.rotations.values()}.values())
        self._order: NDArray[np.int64] | None = None
        if CHANNEL_ORDER in program.weights:
            self._order = program.weights.vector(CHANNEL_ORDER).astype(np.int64)
            self._places = np.argsort(self._order)
            self._put_back = np.empty_like(self._states)

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        """Compute the states of whole texts. Raises `RequestError`, see `EncoderBackend.encode`."""
        config = self.program.config
        check_texts(texts, self.limits, config.vocab_size, config.type_vocab_size)
        start_s = time.perf_counter()
        groups = list(self._groups(texts))
        states: list[NDArray[np.float32]] = []
        for group in groups:
            self._pass(group)
            found = self._cut(group)
            states += found if len(groups) == 1 else [each.copy() for each in found]
        return EncodeResult(states, time.perf_counter() - start_s)

    def output_product(self) -> OutputProduct:
        """Return the product of rows with the token embedding, ``[n, vocabulary]``."""
        config = self.program.config
        return OutputProduct(self.program.weights.matrix("embed"), config.vocab_size, self.pool, self._order)

    def close(self) -> None:
        """Unmap the weights; the backend must not be used after."""
        self.program.weights.close()

    def _groups(self, texts: Sequence[TextRows]) -> Iterator[Sequence[TextRows]]:
        """Yield texts for one compiled pass each, as they come: as many as its rows and panels of keys have room for.

        One long text makes a pass alone.
        """
        most_rows, most_panels = pass_rows(self.pool.size), self.program.workspace.cache.panels
        first = rows = panels = 0
        for index, text in enumerate(texts):
            count = len(text.tokens)
            if rows and (rows + count > most_rows or panels + _panels(count) > most_panels):
                yield texts[first:index]
                first, rows, panels = index, 0, 0
            rows, panels = rows + count, panels + _panels(count)
        yield texts[first:]

    def _pass(self, texts: Sequence[TextRows]) -> None:
        rows = self._fill(texts)
        run = self._run
        run[ops.RUN_ROWS] = rows
        self.pool.run(self.program.address, self.program.count, run)

    def _fill(self, texts: Sequence[TextRows]) -> int:
        """Fill the tables of rows and blocks. Returns the number of rows."""
        sizes = [len(text.tokens) for text in texts]
        for table in self._tables:
            table.reach(max(sizes))
        row = panel = blocks = 0
        for text, size in zip(texts, sizes, strict=True):
            rows = self._rows[row : row + size]
            rows[:, ops.ROW_TOKEN] = text.tokens
            rows[:, ops.ROW_TYPE] = text.types if text.types else 0
            rows[:, ops.ROW_POSITION] = np.arange(size)
            rows[:, ops.ROW_PANEL], rows[:, ops.ROW_VIEW_END] = panel, size
            row, panel = row + size, panel + _panels(size)
        most = self._block_rows(sizes)
        row = 0
        for size in sizes:
            at = min(most, rows_with_room(size, self.program.config.head_dim))
            firsts = np.arange(row, row + size, at)
            some = self._blocks[blocks : blocks + len(firsts)]
            some[:, ops.BLOCK_ROW] = firsts
            some[:, ops.BLOCK_COUNT] = np.minimum(row + size - firsts, at)
            row, blocks = row + size, blocks + len(firsts)
        self._run[ops.RUN_BLOCKS] = blocks
        return row

    def _block_rows(self, sizes: Sequence[int]) -> int:
        """Return the rows of a block: fewer where threads would share few blocks unevenly."""
        most = BLOCK_ROWS
        wanted = FEW_BLOCKS * self.pool.size
        while most > BLOCK_ROWS // 4 and sum(-(-n // most) for n in sizes) * self.program.config.n_heads < wanted:
            most //= 2
        return most

    def _cut(self, texts: Sequence[TextRows]) -> list[NDArray[np.float32]]:
        """Return each text's states, views of the last pass's."""
        ends = np.cumsum([len(text.tokens) for text in texts]).tolist()
        states = self._states
        if self._order is not None:
            states = np.take(states[: ends[-1]], self._places, axis=1, out=self._put_back[: ends[-1]], mode="clip")
        return [states[end - len(text.tokens) : end] for end, text in zip(ends, texts, strict=True)]


def _panels(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


def pass_rows(threads: int) -> int:
    """Return the rows of a compiled pass of several texts: many threads need more."""
    return max(PASS_ROWS, 32 * threads)


def reserved(limits: EncoderLimits, threads: int) -> tuple[int, int]:
    """Return the rows and panels of keys to reserve: for the longest text, and for several of 4 tokens on average."""
    several = pass_rows(threads)
    return max(limits.tokens, min(several, limits.rows)), max(_panels(limits.tokens), several // 4)


def rows_with_room(tokens: int, head_dim: int) -> int:
    """Return the most rows of a block of such a text for which a thread's scratch memory has room."""
    return (SCRATCH_BYTES - _PANEL_BYTES) // (4 * head_dim + (_panels(tokens) + 1) * _PANEL_BYTES)


def most_tokens(head_dim: int) -> int:
    """Return the most tokens of a text for which scratch memory has room."""
    return ((SCRATCH_BYTES - _PANEL_BYTES - 4 * head_dim) // _PANEL_BYTES - 1) * PAGE_TOKENS
