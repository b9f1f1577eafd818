"""One step of a draft head as a table of operations: a state and a token become the next state and logits.

    a = [norm(state), norm(embedding of the token), norm(middle)]
    next = carry * norm(state) + down(silu(gate a) * up a)
    logits = outputs(norm(next))

A recurrent drafter (Cheng et al. 2024, "Recurrent Drafter for Fast Speculative Decoding", section 3.1) with a
gated layer as its cell. ``middle`` is the state of the row before one of the model's layers, the same for all of
a guess: what a text is about is clearer there than at the end (as EAGLE-3 found; Li et al. 2025, section 3.1).

A head that looks back asks that layer's keys and values of the text so far what the newest token is about, once
for all of a guess (after GliDe, which does in each step; Du et al. 2024):

    middle += mix attention(query a)

Owns buffers and tables: the first step reads what the model's pass has left, the others read one state
buffer and write the other. Knows neither requests nor
which token is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.multistep import HeadTables
from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import Quantized, Rows, float_rows, peaks_of
from miaotui.kernels.attention import fields as att
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import padded_rows
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.ops import HEADER_BYTES, float_field
from miaotui.kernels.runtime.thread_pool import ThreadPool, aligned_int64, fields_of
from miaotui.kernels.sampling import peaks_fields as pk
from miaotui.kernels.sampling.draw_fields import BLOCK
from miaotui.kernels.sampling.peaks_fields import PEAK_FIELDS
from miaotui.model.draft_head.weights import INPUTS, HeadWeights
from miaotui.model.packed import Matrix

Row = tuple[int, int, int]  # token, position of the one to be guessed, its choice
Start = tuple[int, int, int]  # row of the model's last pass, address of its pages, tokens to see there
Attention = tuple[str, Mapping[int, int]]  # kernel and fields (see `Program.attention`)

EPS = 1e-5  # of its norms, as in training


class HeadProgram:
    """A head's buffers and tables for up to ``most_rows`` rows.

    ``embedding`` is the model's; ``last`` and ``middle`` are where its passes leave states, ``attention``
    is its own in the layer at which a head looks back.
    """

    def __init__(
        self,
        weights: HeadWeights,
        embedding: Matrix,
        last: Rows,
        middle: Rows,
        attention: Attention,
        most_rows: int,
        team: ThreadPool,
    ) -> None:
        self._weights, self._embedding, self._team = weights, embedding, team
        self._outside, self._attention = (last, middle), attention  # of the model
        self.hidden = embedding.inputs
        self._states = [float_rows(most_rows, self.hidden) for _ in range(2)]
        self._embedded, self._middle = (float_rows(most_rows, self.hidden) for _ in range(2))
        parts = INPUTS + 1  # a norm quantizes, wanted or not: the last part is not read
        self._inputs = Quantized.of(most_rows, parts * self.hidden, normed=self.hidden)
        self._fed = Quantized.of(most_rows, weights.width)
        heads = weights.mix.inputs if weights.mix else 0
        self._queries, self._found = (float_rows(most_rows, padded_rows(heads)), Quantized.of(most_rows, heads))
        self._last = Quantized.of(most_rows, self.hidden, normed=self.hidden)
        self._logits = float_rows(most_rows, padded_rows(len(weights.tokens)))
        self._ones = np.ones(self.hidden, np.float32)
        self._guesses = aligned_int64(most_rows * PEAK_FIELDS)
        self._guessed, self._leads = peaks_of(self._guesses)
        programs = [self._build(table) for table in range(3)]
        compiled.prepare(programs[0].kernels)
        self._tables = [program.link() for program in programs]
        self._addresses = [int(table.ctypes.data) for table in self._tables]
        self._counts = [len(program) for program in programs]
        self._rows = aligned_int64(most_rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self._sources = aligned_int64(most_rows)
        self._blocks = aligned_int64(most_rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        self._blocks[:, ops.BLOCK_ROW], self._blocks[:, ops.BLOCK_COUNT] = range(most_rows), 1
        self._draws = aligned_int64(team.size * BLOCK)
        self._run = aligned_int64(ops.RUN_FIELDS)
        self._run[ops.RUN_ROW_TABLE] = self._rows.ctypes.data
        self._run[ops.RUN_LOGIT_TABLE] = self._sources.ctypes.data
        self._run[ops.RUN_BLOCK_TABLE] = self._blocks.ctypes.data
        self._run[ops.RUN_DRAW], self._run[ops.RUN_DRAW_STRIDE] = self._draws.ctypes.data, 8 * BLOCK
        self._fields, self._run_fields, self._source_fields = map(fields_of, (self._rows, self._run, self._sources))

    @property
    def tables(self) -> HeadTables:
        """Where compiled code finds it."""
        return HeadTables(self._addresses, self._counts, self._run, self._sources, self._rows, self._guesses)

    def begin(self, starts: Sequence[Start]) -> None:
        """The next step, of depth 0, sets out from these rows of the model's last pass."""
        for index, (source, pages, end) in enumerate(starts):
            self._source_fields[index] = source
            at = index * ops.ROW_FIELDS
            self._fields[at + ops.ROW_PAGES], self._fields[at + ops.ROW_VIEW_END] = pages, end

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """Let the step of ``depth``, which is not the first, go on with some rows alone."""
        for buffer in (self._states[(depth - 1) % 2], self._middle):
            table = buffer.data.reshape(-1, buffer.stride)
            table[: len(rows)] = table[list(rows)]

    def step(self, depth: int, rows: Sequence[Row]) -> list[tuple[int, float]]:
        """One token deeper, a row for each that goes on.

        ``rows`` are tokens, the positions of those that are to be guessed, and how they will be chosen
        (addresses of `draw.choice_table`). Returns each guess with its lead, in octaves.
        """
        fields, at, count = self._fields, 0, len(rows)
        for token, position, choice in rows:
            fields[at + ops.ROW_TOKEN], fields[at + ops.ROW_POSITION] = token, position - 1
            fields[at + ops.ROW_CHOICE] = choice
            at += ops.ROW_FIELDS
        run = self._run_fields
        run[ops.RUN_ROWS] = run[ops.RUN_LOGIT_ROWS] = run[ops.RUN_BLOCKS] = count
        table = 1 + (depth - 1) % 2 if depth else 0
        self._team.run(self._addresses[table], self._counts[table], self._run, brief=True)
        return list(zip(self._guessed[:count].tolist(), self._leads[:count].tolist(), strict=True))

    def _build(self, table: int) -> OperationTable:
        """The first step's, which fetches the model's states, or that of one of the two others in turn."""
        weights, operations, logits = self._weights, OperationTable(), self._logits
        inputs = self._inputs
        state, middle, following = self._outside[0], self._outside[1], self._states[0]
        if table:
            state, middle, following = (self._states[table - 1], self._middle, self._states[2 - table])
        first, looks = int(table == 0), table == 0 and weights.query is not None
        self._embed(operations)
        self._norm(operations, state, self._ones, inputs, gather=first, keep_going=1)
        self._norm(operations, self._embedded, self._ones, inputs, part=1, keep_going=1)
        kept = self._middle if first else None
        self._norm(operations, middle, self._ones, inputs, kept, part=2, gather=first, keep_going=int(not looks))
        if looks:
            self._look_back(operations)
        self._norm(operations, state, weights.carry, inputs, following, part=INPUTS, gather=first)
        operations.add_linear(
            weights.gate_up,
            inputs,
            {
                lin.MODE: lin.GATED_SILU,
                lin.OUT: self._fed.integers.address,
                lin.OUT_STRIDE: self._fed.integers.stride,
                lin.OUT_HEADERS: self._fed.headers.address,
                lin.OUT_HEADER_STRIDE: self._fed.headers.stride,
            },
            kept=True,
        )
        operations.add_linear(
            weights.down,
            self._fed,
            {lin.MODE: lin.ADD, lin.OUT: following.address, lin.OUT_STRIDE: following.stride},
            kept=True,
        )
        self._norm(operations, following, weights.norm, self._last)
        operations.add_linear(
            weights.outputs,
            self._last,
            {lin.MODE: lin.STORE, lin.OUT: logits.address, lin.OUT_STRIDE: logits.stride},
            kept=True,
        )
        operations.add(
            "draft.draft:guess_rows",
            {
                pk.X: logits.address,
                pk.X_STRIDE: logits.stride,
                pk.WIDTH: len(weights.tokens),
                pk.LISTED: int(weights.tokens.ctypes.data),
                pk.OUT: int(self._guesses.ctypes.data),
            },
        )
        return operations

    def _look_back(self, table: OperationTable) -> None:
        """Add what the text so far says of the newest token to the middle state."""
        weights, queries, found = self._weights, self._queries, self._found
        assert weights.query is not None, "asked only if there are both"
        assert weights.mix is not None, "asked only if there are both"
        table.add_linear(
            weights.query,
            self._inputs,
            {lin.MODE: lin.STORE, lin.OUT: queries.address, lin.OUT_STRIDE: queries.stride},
            kept=True,
        )
        kernel, fields = self._attention
        table.add(
            kernel,
            {
                **fields,
                att.QKV: queries.address,
                att.QKV_STRIDE: queries.stride,
                att.OUT: found.integers.address,
                att.OUT_STRIDE: found.integers.stride,
                att.OUT_HEADERS: found.headers.address,
                att.OUT_HEADER_STRIDE: found.headers.stride,
            },
        )
        table.add_linear(
            weights.mix,
            found,
            {lin.MODE: lin.ADD, lin.OUT: self._middle.address, lin.OUT_STRIDE: self._middle.stride},
            kept=True,
        )
        self._norm(table, self._middle, self._ones, self._inputs, part=2, keep_going=1)

    def _embed(self, table: OperationTable) -> None:
        matrix, out = self._embedding, self._embedded
        table.add(
            f"pointwise.rows:embed_{matrix.format.value}",
            {
                pw.TABLE: matrix.address,
                pw.TABLE_STRIDE: matrix.tile_stride,
                pw.WIDTH: self.hidden,
                pw.TABLE_GROUPS: matrix.inputs // 32,
                pw.TABLE_SCALE: float_field(1.0),
                pw.TABLE_OUT: out.address,
                pw.TABLE_OUT_STRIDE: out.stride,
            },
        )

    def _norm(
        self,
        table: OperationTable,
        source: Rows,
        weight: NDArray[np.float32],
        out: Quantized,
        also: Rows | None = None,
        *,
        part: int = 0,
        gather: int = 0,
        keep_going: int = 0,
    ) -> None:
        """A norm to one part of what the cell, or the last product, is given."""
        at, headers_at = part * self.hidden, part * self.hidden // 32 * HEADER_BYTES
        table.add(
            "pointwise.rows:norm",
            {
                pw.X: source.address,
                pw.X_STRIDE: source.stride,
                pw.WIDTH: self.hidden,
                pw.WEIGHT: int(weight.ctypes.data),
                pw.EPS: float_field(EPS),
                pw.KIND: pw.RMS,
                pw.OUT: out.integers.address + at,
                pw.OUT_STRIDE: out.integers.stride,
                pw.OUT_HEADERS: out.headers.address + headers_at,
                pw.OUT_HEADER_STRIDE: out.headers.stride,
                pw.OWN_ROWS: out.own_rows,
                pw.OWN_AT: at,
                pw.OWN_HEADERS_AT: out.own_headers + headers_at,
                pw.OUT_FLOAT: also.address if also else 0,
                pw.OUT_FLOAT_STRIDE: also.stride if also else 0,
                ops.KEEP_GOING: keep_going,
                pw.GATHER: gather,
            },
        )
