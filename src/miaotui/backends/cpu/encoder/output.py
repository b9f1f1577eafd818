"""Products of a head's rows with the token embedding: the logits of masked language models and SPLADE.

Owns a program of two operations, which rounds rows and multiplies them by the packed embedding, and its memory. Knows
no heads. Invariant: a row's logits depend on that row alone, not on how many there are, nor on threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import Quantized, float_rows
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, aligned_int64
from miaotui.model.packed import Matrix

BLOCK_ROWS = 16  # computed together; their logits must have room


class OutputProduct:
    """Product of float32 rows ``[n, inputs]`` with a packed matrix, ``[n, outputs]``. One thread at a time calls it.

    ``order`` is that of the matrix's inputs, where they are not in the rows' order.
    """

    def __init__(self, matrix: Matrix, outputs: int, pool: ThreadPool, order: NDArray[np.int64] | None = None) -> None:
        self._matrix, self._outputs, self._pool, self._order = matrix, outputs, pool, order
        self._rows = float_rows(BLOCK_ROWS, matrix.inputs)
        self._logits = float_rows(BLOCK_ROWS, 32 * matrix.units)
        self._inputs = self._rows.floats(BLOCK_ROWS, matrix.inputs)
        self._found = self._logits.floats(BLOCK_ROWS, outputs)
        self._operations = self._program()
        compiled.prepare(self._operations.kernels)
        self._table = self._operations.link()
        self._run = aligned_int64(ops.RUN_FIELDS)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply ``rows``, which are any number."""
        found = np.empty((len(rows), self._outputs), np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            some = rows[start : start + BLOCK_ROWS]
            self._inputs[: len(some)] = some if self._order is None else some[:, self._order]
            self._run[ops.RUN_ROWS] = len(some)
            self._pool.run(int(self._table.ctypes.data), len(self._operations), self._run)
            found[start : start + len(some)] = self._found[: len(some)]
        return found

    def _program(self) -> OperationTable:
        operations, source, width = OperationTable(), self._rows, self._matrix.inputs
        store = {lin.MODE: lin.STORE, lin.OUT: self._logits.address, lin.OUT_STRIDE: self._logits.stride}
        if self._matrix.format is Format.F32:
            operations.add_linear(self._matrix, source, store)
            return operations
        self._quantized = Quantized.of(BLOCK_ROWS, width, width, wide=True)
        out = self._quantized
        fields = {
            pw.KIND: pw.PLAIN_WIDE,
            pw.X: source.address,
            pw.X_STRIDE: source.stride,
            pw.WIDTH: width,
            pw.OUT: out.integers.address,
            pw.OUT_STRIDE: out.integers.stride,
            pw.OUT_HEADERS: out.headers.address,
            pw.OUT_HEADER_STRIDE: out.headers.stride,
            pw.OWN_ROWS: out.own_rows,
            pw.OWN_HEADERS_AT: out.own_headers,
        }
        operations.add("pointwise.rows:norm", fields)
        operations.add_linear(self._matrix, out, store)
        return operations
