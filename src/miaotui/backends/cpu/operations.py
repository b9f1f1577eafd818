"""A table of operations, as passes read it: built entry by entry, then linked to compiled code.

Owns the form of the table and what every matrix product in it has in common. Knows nothing of the
order in which a model needs them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.workspace import Activations, Quantized, Rows
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.thread_pool import aligned_int64
from miaotui.model.packed import Matrix

_QUICK = ("pointwise.rows:norm", "adapters.low_rank:project")  # operations that no meeting of few rows follows


class OperationTable:
    """Operations in the order of a pass; `link` gives the table."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, dict[int, int]]] = []
        self._products: list[int] = []  # entries that are matrix products

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def kernels(self) -> list[str]:
        """Return the kernels they call."""
        return list(dict.fromkeys(name for name, _ in self._entries))

    def add(self, kernel: str, fields: Mapping[int, int], rows: int = ops.RUN_ROWS) -> None:
        """Append one; ``rows`` is the field of a run that says how many rows it has."""
        slot = len(self._entries) % ops.CLAIM_SLOTS
        self._entries.append((kernel, {ops.SLOT: slot, ops.ROWS: rows, **fields}))

    def add_linear(
        self,
        matrix: Matrix,
        source: Quantized | Rows,
        fields: Mapping[int, int],
        rows: int = ops.RUN_ROWS,
        kept: bool = False,
    ) -> None:
        """Append a matrix product; ``fields`` say what becomes of its outputs.

        Weights of float32 multiply float32 ``source`` rows, all others quantized ones. ``kept``: the matrix is small,
        and caches are to keep it.
        """
        self._products.append(len(self._entries))
        wide = isinstance(source, Quantized) and source.wide
        self.add(
            f"linear.matmul:linear_{matrix.format.value}{'_wide' if wide else '_kept' if kept else ''}",
            {
                lin.WEIGHTS: matrix.address,
                lin.TILE_STRIDE: matrix.tile_stride,
                lin.GROUPS: matrix.inputs // 32,
                lin.UNITS: matrix.units,
                **source_fields(source),
                **fields,
            },
            rows,
        )

    def link(self) -> NDArray[np.int64]:
        """Return the table, int64 ``[operations, 32]``, with the addresses of compiled kernels."""
        table = aligned_int64(len(self._entries) * ops.OP_FIELDS).reshape(-1, ops.OP_FIELDS)
        for row, (kernel, fields) in zip(table, self._entries, strict=True):
            row[ops.FUNCTION] = compiled.address(kernel)
            for field, value in fields.items():
                row[field] = value
        self._ask_ahead(table)
        return table

    def _ask_ahead(self, table: NDArray[np.int64]) -> None:
        """Let the operation before a product, or before the quick ones before it, ask for its first weights."""
        for at in self._products:
            if at == 0:
                continue
            fields, before = self._entries[at][1], at - 1
            while self._entries[before][0] in _QUICK and before:
                before -= 1
            tiles = 4 if lin.is_gated(fields[lin.MODE]) else 2
            row = table[before]
            row[ops.AHEAD], row[ops.AHEAD_UNITS] = fields[lin.WEIGHTS], fields[lin.UNITS]
            row[ops.AHEAD_BYTES] = tiles * fields[lin.TILE_STRIDE]


def source_fields(source: Quantized | Rows) -> dict[int, int]:
    """Return the fields by which a product finds its inputs."""
    if isinstance(source, Rows):
        return {lin.X: source.address, lin.X_STRIDE: source.stride}
    return {
        lin.X: source.integers.address,
        lin.X_STRIDE: source.integers.stride,
        lin.HEADERS: source.headers.address,
        lin.HEADER_STRIDE: source.headers.stride,
        lin.OWN_ROWS: source.own_rows,
        lin.OWN_HEADERS_AT: source.own_headers,
    }


def quantized_fields(out: Quantized) -> dict[int, int]:
    """Return the fields that say where a norm's int8 results go."""
    fields = target_fields(out, pw.OUT, pw.OUT_STRIDE, pw.OUT_HEADERS, pw.OUT_HEADER_STRIDE)
    return fields | {pw.OWN_ROWS: out.own_rows, pw.OWN_HEADERS_AT: out.own_headers}


def target_fields(out: Activations, address: int, stride: int, headers: int, header_stride: int) -> dict[int, int]:
    """Return the fields that say where results go: int8 rows with headers, or float32 rows without."""
    if isinstance(out, Rows):
        return {address: out.address, stride: out.stride}
    return {
        address: out.integers.address,
        stride: out.integers.stride,
        headers: out.headers.address,
        header_stride: out.headers.stride,
    }
