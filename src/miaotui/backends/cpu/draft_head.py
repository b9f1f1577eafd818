"""A draft head on the CPU: its compiled steps, started from what the model's last pass has left.

One step is a table of operations: a state and a token become the next state and logits.

    a = [norm(state), norm(embedding of the token), norm(middle)]
    next state = carry * norm(state) + down(silu(gate a) * up a)
    logits = outputs(norm(next state))

A recurrent drafter (Cheng et al. 2024, "Recurrent Drafter for Fast Speculative Decoding", section 3.1) with a gated
layer as its cell. ``middle`` is the model's state before one of its layers, and stays the same for all tokens of a
draft: a middle layer tells the subject of a text better than the last one (Li et al. 2025, "EAGLE-3", section 3.1).
A head with attention adds to it, once for each draft, values of that layer's cache: middle += mix attention(query a)
(after Du et al. 2024, "GliDe with a CaPE", which does so in each step). A head with masks drafts the tokens after the
first one in a single pass: each row continues from the state of the first step, with a mask in the place of the token
before it, which nothing knows yet (after Chen, Liang and Liu 2026, "DFlash: Block Diffusion for Flash Speculative
Decoding").

Owns the head's buffers and tables. The first step reads the states that the model's pass has left; the others read
one state buffer and write the other. Knows rows, tokens and choices, neither requests nor chances. Invariant: a head
drafts the token that the model would draw if its distribution were the head's, with the noise of that very position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import TokenChoice
from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.pass_tables import ChoiceTable, CompiledDraftRun, HeadTables
from miaotui.backends.cpu.workspace import Quantized, Rows, float_rows
from miaotui.kernels.attention import fields as att
from miaotui.kernels.draft.draft_fields import DRAFTED_EVIDENCE, DRAFTED_FIELDS, DRAFTED_TOKEN
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import padded_rows
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.ops import HEADER_BYTES, float_field
from miaotui.kernels.runtime.thread_pool import ThreadPool, aligned_int64, fields_of
from miaotui.kernels.sampling import peaks_fields as pk
from miaotui.kernels.sampling.draw_fields import BLOCK
from miaotui.model.draft_head.weights import INPUTS, MASKS, HeadWeights
from miaotui.model.packed import Matrix

if TYPE_CHECKING:
    from miaotui.backends.cpu.backend import Runner

Row = tuple[int, int, int]  # token, position of the one to be drafted, address of its choice table
Start = tuple[int, int, int]  # row of the model's last pass, address of its pages, tokens to see there
Attention = tuple[str, Mapping[int, int]]  # kernel and fields (see `Program.attention`)

EPS = 1e-5  # of its norms, as in training


class HeadProgram:
    """A head's buffers and tables for up to ``most_rows`` rows.

    ``embedding`` is the model's. Its passes leave their states in ``last`` and ``middle``; ``attention`` is that of
    the layer whose keys and values a head with attention reads.
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
        self._ahead: list[list[tuple[int, int]]] = []  # of each row, the tokens of its block with their evidence
        most_rows *= MASKS if weights.masks else 1
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
        self._drafted = aligned_int64(most_rows * DRAFTED_FIELDS)
        drafted = fields_of(self._drafted)
        self._tokens, self._evidence = (drafted[at::DRAFTED_FIELDS] for at in (DRAFTED_TOKEN, DRAFTED_EVIDENCE))
        programs = [self._build(table) for table in range(2 if weights.masks else 3)]
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
        """Return the program's memory, for compiled code."""
        return HeadTables(self._addresses, self._counts, self._run, self._sources, self._rows, self._drafted)

    def begin(self, starts: Sequence[Start]) -> None:
        """Let the next step, of depth 0, start from these rows of the model's last pass."""
        for index, (source, pages, end) in enumerate(starts):
            self._source_fields[index] = source
            at = index * ops.ROW_FIELDS
            self._fields[at + ops.ROW_PAGES], self._fields[at + ops.ROW_VIEW_END] = pages, end

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """Keep some rows alone for the step of ``depth``, which is not the first."""
        if depth > 1 and self._weights.masks:
            self._ahead = [self._ahead[row] for row in rows]
            return
        for buffer in (self._states[(depth - 1) % 2], self._middle):
            table = buffer.data.reshape(-1, buffer.stride)
            table[: len(rows)] = table[list(rows)]

    def step(self, depth: int, rows: Sequence[Row]) -> list[tuple[int, int]]:
        """Draft one token for each row; returns the tokens, each with its evidence.

        ``rows`` are the tokens before, the positions of those to be drafted, and how the model will choose them
        (addresses of `draw.choice_table`).
        """
        if depth and self._weights.masks:
            if depth == 1:
                self._ahead = self._fill_block(rows)
            return [block[depth - 1] for block in self._ahead]
        return self._pass(depth, rows)

    def _fill_block(self, rows: Sequence[Row]) -> list[list[tuple[int, int]]]:
        """Draft all tokens after the first one, for each row."""
        for buffer in (self._states[0], self._middle):
            table = buffer.data.reshape(-1, buffer.stride)
            table[: len(rows) * MASKS] = np.repeat(table[: len(rows)], MASKS, axis=0)
        masked = [(mask, position + mask, choice) for _, position, choice in rows for mask in range(MASKS)]
        found = self._pass(1, masked)
        return [found[at : at + MASKS] for at in range(0, len(found), MASKS)]

    def _pass(self, depth: int, rows: Sequence[Row]) -> list[tuple[int, int]]:
        fields, at, count = self._fields, 0, len(rows)
        for token, position, choice in rows:
            fields[at + ops.ROW_TOKEN], fields[at + ops.ROW_POSITION] = token, position - 1
            fields[at + ops.ROW_CHOICE] = choice
            at += ops.ROW_FIELDS
        run = self._run_fields
        run[ops.RUN_ROWS] = run[ops.RUN_LOGIT_ROWS] = run[ops.RUN_BLOCKS] = count
        table = 1 + (depth - 1) % 2 if depth else 0
        self._team.run(self._addresses[table], self._counts[table], self._run, brief=True)
        return list(zip(self._tokens[:count].tolist(), self._evidence[:count].tolist(), strict=True))

    def _build(self, table: int) -> OperationTable:
        """Make the table of the first step, which fetches the model's states, or of the two others in turn."""
        weights, operations, logits = self._weights, OperationTable(), self._logits
        inputs = self._inputs
        state, middle, after = self._outside[0], self._outside[1], self._states[0]
        if table:
            state, middle, after = (self._states[table - 1], self._middle, self._states[2 - table])
        first, attends = int(table == 0), table == 0 and weights.query is not None
        masks = None if first else weights.masks
        self._embed(operations, masks or self._embedding)
        self._norm(operations, state, self._ones, inputs, gather=first, keep_going=1)
        self._norm(operations, self._embedded, self._ones, inputs, part=1, keep_going=1)
        kept = self._middle if first else None
        self._norm(operations, middle, self._ones, inputs, kept, part=2, gather=first, keep_going=int(not attends))
        if attends:
            self._attend(operations)
        self._norm(operations, state, weights.carry, inputs, after, part=INPUTS, gather=first)
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
            {lin.MODE: lin.ADD, lin.OUT: after.address, lin.OUT_STRIDE: after.stride},
            kept=True,
        )
        self._norm(operations, after, weights.norm, self._last)
        operations.add_linear(
            weights.outputs,
            self._last,
            {lin.MODE: lin.STORE, lin.OUT: logits.address, lin.OUT_STRIDE: logits.stride},
            kept=True,
        )
        operations.add(
            "draft.draft:draft_rows",
            {
                pk.X: logits.address,
                pk.X_STRIDE: logits.stride,
                pk.WIDTH: len(weights.tokens),
                pk.LISTED: int(weights.tokens.ctypes.data),
                pk.OUT: int(self._drafted.ctypes.data),
            },
        )
        return operations

    def _attend(self, table: OperationTable) -> None:
        """Add to the middle state what attention over the text so far finds for the newest token."""
        weights, queries, found = self._weights, self._queries, self._found
        assert weights.query is not None, "a head with attention has both"
        assert weights.mix is not None, "a head with attention has both"
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

    def _embed(self, table: OperationTable, matrix: Matrix) -> None:
        out = self._embedded
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
        """Add a norm that writes one part of the inputs of the cell, or those of the last product."""
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


class CpuDraftHead:
    """The `DraftHeadSteps` of one model's runner, for up to ``most_rows`` sequences."""

    def __init__(self, weights: HeadWeights, runner: Runner, most_rows: int) -> None:
        middle = runner.tap(weights.layer)
        program = runner.program
        last, embedding = program.workspace.residual[0], program.weights.matrix("embed")
        attention = program.attention(weights.layer)
        self._program = HeadProgram(weights, embedding, last, middle, attention, most_rows, runner.team)
        self._runner = runner
        self.most_rows = most_rows
        self.draft_run = None  # a run of passes knows steps of one token
        if weights.masks is None:
            self.draft_run = CompiledDraftRun(self._program.tables, program.config.vocab_size)

    def begin(self, starts: Sequence[tuple[int, int]]) -> None:
        """See `DraftHeadSteps.begin`."""
        self._runner.reach(max(position for _, position in starts))
        pages_of = self._runner.pages_of
        self._program.begin([(row, pages_of(row), position - 1) for row, position in starts])

    def keep(self, depth: int, rows: Sequence[int]) -> None:
        """See `DraftHeadSteps.keep`."""
        self._program.keep(depth, rows)

    def step(self, depth: int, rows: Sequence[tuple[int, int, TokenChoice]]) -> list[tuple[int, int]]:
        """See `DraftHeadSteps.step`."""
        choices = cast("Sequence[tuple[int, int, ChoiceTable]]", rows)
        return self._program.step(depth, [(token, position, choice.address) for token, position, choice in choices])
