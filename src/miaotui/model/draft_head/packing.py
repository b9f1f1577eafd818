"""Packing a draft head's matrices in the layout that kernels read, and unpacking rows of packed ones.

Knows formats, neither files nor what matrices mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.linear.formats import TILE_ROWS, UNIT_ROWS, Format, padded_rows, tile_stride
from miaotui.kernels.linear.packed_blocks import Blocks, pack, quantize, unpack, values
from miaotui.kernels.runtime.thread_pool import aligned_bytes
from miaotui.model.packed import Matrix


def rows_of(matrix: Matrix, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unpack some rows of a packed matrix: float32 ``[rows, inputs]``."""
    tiles = matrix.data.reshape(-1, matrix.tile_stride)
    used, place = np.unique(rows // TILE_ROWS, return_inverse=True)
    some = values(unpack(matrix.format, np.ascontiguousarray(tiles[used]), matrix.inputs))
    return np.ascontiguousarray(some[place * TILE_ROWS + rows % TILE_ROWS])


def padded(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append rows of zeros up to whole units."""
    rows, inputs = matrix.shape
    whole = np.zeros((padded_rows(rows), inputs), np.float32)
    whole[:rows] = matrix
    return whole


def packed(blocks: Blocks) -> Matrix:
    """Pack blocks of whole units into a matrix."""
    return _matrix(blocks.format, [blocks])


def alternating(form: Format, gate: NDArray[np.float32], up: NDArray[np.float32]) -> Matrix:
    """Pack two matrices as gated products read them: a unit of each in turn."""
    return _matrix(form, [quantize(form, padded(each)) for each in (gate, up)])


def _matrix(form: Format, parts: list[Blocks]) -> Matrix:
    rows, groups, group = parts[0].integers.shape
    inputs, each = groups * group, UNIT_ROWS // TILE_ROWS
    units, tiles, stride = rows // UNIT_ROWS, each * len(parts), tile_stride(form, inputs)
    data = aligned_bytes(units * tiles * stride).reshape(units, tiles, stride)
    for index, blocks in enumerate(parts):
        some = np.empty((rows // TILE_ROWS, stride), np.uint8)
        pack(blocks, some)
        data[:, each * index : each * (index + 1)] = some.reshape(units, each, stride)
    return Matrix(form, data, inputs)
