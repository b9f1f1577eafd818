"""Layout of weight matrices in memory: 16 output rows side by side, so that one 64-byte load feeds 16 rows.

A *tile* is 16 rows of a matrix ``[rows, inputs]``; a *group* is 32 inputs. A tile is a sequence of *records*. A
record is one line of 64 bytes with scales (float16, 16 per group) and then its groups' integers: two groups in ``q4``
and ``q8``; one in ``q4m``, whose line holds 16 scales and 16 minimums. So a tile is read strictly forwards, which is
what memory does fastest. Within a group, one 64-byte load carries 4 inputs of 16 rows (``q8``) or, low nibbles first,
2 x 4 inputs (``q4``). Rows are padded with zeros to 32, groups to whole records.

    format  value                           bytes of a record   weights
    q4      (nibble - 8) * scale            64 + 2 x 256        1024
    q4m     nibble * scale + minimum        64 + 256            512
    q8      (byte - 128) * scale            64 + 2 x 512        1024
    f32     float32                         2048                512
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16
GROUP = 32
UNIT_ROWS = 32  # rows padded to this: two tiles, and one group of the next layer's inputs
LINE = 64


class Format(Enum):
    """Packed weight format."""

    Q4 = "q4"
    Q4M = "q4m"
    Q8 = "q8"
    F32 = "f32"

    @property
    def record_groups(self) -> int:
        """Return the number of groups in a record."""
        return 2 if self in (Format.Q4, Format.Q8) else 1

    @property
    def integer_bytes(self) -> int:
        """Return the bytes of one tile's group without scales and minimums."""
        return {"q4": 256, "q4m": 256, "q8": 512, "f32": 2048}[self.value]

    @property
    def head_bytes(self) -> int:
        """Return the bytes of a record before its integers."""
        return 0 if self is Format.F32 else LINE

    @property
    def record_bytes(self) -> int:
        """Return the bytes of a record."""
        return self.head_bytes + self.record_groups * self.integer_bytes

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of memory read per weight."""
        return self.record_bytes * 8 / (TILE_ROWS * GROUP * self.record_groups)


@dataclass(frozen=True)
class Blocks:
    """Matrix as integers and scales, one row of groups after another.

    ``integers`` uint8 ``[rows, groups, 32]`` (nibbles 0..15, or value + 128), ``scales`` and ``minimums`` float16
    ``[rows, groups]``; for f32 ``integers`` is float32 and the others are None.
    """

    format: Format
    integers: NDArray[np.uint8] | NDArray[np.float32]
    scales: NDArray[np.float16] | None = None
    minimums: NDArray[np.float16] | None = None


def records(form: Format, inputs: int) -> int:
    """Return the number of records in a tile of rows of ``inputs`` values."""
    return -(-(inputs // GROUP) // form.record_groups)


def tile_stride(form: Format, inputs: int) -> int:
    """Return the bytes from one tile to the next, for rows of ``inputs`` values (a multiple of 32).

    The result is a multiple of 64.
    """
    return records(form, inputs) * form.record_bytes


def packed_bytes(form: Format, rows: int, inputs: int) -> int:
    """Return the bytes of a packed matrix."""
    return padded_rows(rows) // TILE_ROWS * tile_stride(form, inputs)


def padded_rows(rows: int) -> int:
    """Round a number of rows up to whole units of 32."""
    return -(-rows // UNIT_ROWS) * UNIT_ROWS


def pack(blocks: Blocks, out: NDArray[np.uint8]) -> None:
    """Write ``blocks`` (rows a multiple of 16) into ``out``, uint8 ``[rows / 16, tile stride]``."""
    form = blocks.format
    rows, groups = blocks.integers.shape[:2]
    tiles = rows // TILE_ROWS
    cells = _cells(form, out, groups)
    missing = cells.shape[1] * form.record_groups - groups
    heads = [values for values in (blocks.scales, blocks.minimums) if values is not None]
    if heads:
        lanes = [v.reshape(tiles, TILE_ROWS, groups).transpose(0, 2, 1) for v in heads]
        line = _grown(np.concatenate(lanes, axis=2), missing)
        cells[:, :, : form.head_bytes] = _bytes(line).reshape(*cells.shape[:2], -1)
    integers = _grown(_interleave(blocks).reshape(tiles, groups, -1), missing)
    cells[:, :, form.head_bytes :] = integers.reshape(*cells.shape[:2], -1)


def unpack(form: Format, packed: NDArray[np.uint8], inputs: int) -> Blocks:
    """Unpack a matrix (the inverse of `pack`), for tests and the reference kernels."""
    tiles, groups = packed.shape[0], inputs // GROUP
    rows = tiles * TILE_ROWS
    cells = _cells(form, packed, groups)
    flat = np.ascontiguousarray(cells[:, :, form.head_bytes :]).reshape(tiles, -1, form.integer_bytes)
    flat = flat[:, :groups]
    if form is Format.F32:
        lanes = flat.view(np.float32).reshape(tiles, groups, GROUP, TILE_ROWS).transpose(0, 3, 1, 2)
        return Blocks(form, lanes.reshape(rows, groups, GROUP))
    raw = flat.reshape(tiles, groups, -1, TILE_ROWS, 4)
    if form is not Format.Q8:
        raw = np.stack([raw & 15, raw >> 4], axis=3)  # [tiles, groups, 4, 2, 16, 4]
        raw = raw.reshape(tiles, groups, 8, TILE_ROWS, 4)
    integers = raw.transpose(0, 3, 1, 2, 4).reshape(rows, groups, GROUP)
    heads = np.ascontiguousarray(cells[:, :, : form.head_bytes]).view(np.float16)
    if form is Format.Q4M:
        halves = heads.reshape(tiles, groups, 2, TILE_ROWS)
        return Blocks(form, integers, *(_rows(halves[:, :, i]) for i in range(2)))
    return Blocks(form, integers, _rows(heads.reshape(tiles, -1, TILE_ROWS)[:, :groups]))


def _cells(form: Format, packed: NDArray[np.uint8], groups: int) -> NDArray[np.uint8]:
    """View a packed matrix as ``[tiles, records, bytes of a record]``."""
    return packed.reshape(packed.shape[0], records(form, groups * GROUP), form.record_bytes)


def _rows(lanes: NDArray[np.float16]) -> NDArray[np.float16]:
    """Reshape ``[tiles, groups, 16]`` to ``[rows, groups]``."""
    rows: NDArray[np.float16] = lanes.transpose(0, 2, 1).reshape(-1, lanes.shape[1])
    return rows


def _grown(array: NDArray[Any], missing: int) -> NDArray[Any]:
    """Append groups of zeros up to a whole record."""
    return np.pad(array, [(0, 0), (0, missing), (0, 0)]) if missing else array


def values(blocks: Blocks) -> NDArray[np.float32]:
    """Return the matrix that the blocks stand for, float32 ``[rows, inputs]``."""
    integers = blocks.integers.astype(np.float32)
    rows = integers.shape[0]
    if blocks.scales is None:
        return integers.reshape(rows, -1)
    offset = {Format.Q4: 8, Format.Q4M: 0, Format.Q8: 128}[blocks.format]
    scales = blocks.scales.astype(np.float32)[..., None]
    result: NDArray[np.float32] = (integers - np.float32(offset)) * scales
    if blocks.minimums is not None:
        result += blocks.minimums.astype(np.float32)[..., None]
    return result.reshape(rows, -1)


def quantize(form: Format, matrix: NDArray[np.float32]) -> Blocks:
    """Round float32 ``[rows, inputs]`` to a format, with one scale per 32 inputs.

    ``q4`` puts the value of largest magnitude at -8, as GGML's Q4_0 does; ``q4m`` spans minimum to maximum; ``q8`` is
    symmetric in -127..127.
    """
    rows = matrix.shape[0]
    groups = matrix.reshape(rows, -1, GROUP)
    if form is Format.F32:
        return Blocks(form, groups)
    if form is Format.Q4M:
        low, high = groups.min(axis=2), groups.max(axis=2)
        scales, minimums = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
        shifted = (groups - minimums.astype(np.float32)[..., None]) * _inverse(scales)
        return Blocks(form, np.rint(shifted).clip(0, 15).astype(np.uint8), scales, minimums)
    top = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[..., 0]
    scales = (top / -8 if form is Format.Q4 else np.abs(top) / 127).astype(np.float16)
    offset, most = (8, 15) if form is Format.Q4 else (128, 255)
    integers = np.rint(groups * _inverse(scales)) + offset
    return Blocks(form, integers.clip(0, most).astype(np.uint8), scales)


def _inverse(scales: NDArray[np.float16]) -> NDArray[np.float32]:
    wide = scales.astype(np.float32)[..., None]
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)


def _interleave(blocks: Blocks) -> NDArray[np.uint8]:
    rows, groups = blocks.integers.shape[:2]
    tiles = rows // TILE_ROWS
    if blocks.format is Format.F32:
        lanes = blocks.integers.reshape(tiles, TILE_ROWS, groups * GROUP).transpose(0, 2, 1)
        return _bytes(lanes)
    raw = blocks.integers.reshape(tiles, TILE_ROWS, groups, 8, 4).transpose(0, 2, 3, 1, 4)
    if blocks.format is Format.Q8:
        return _bytes(raw)
    return _bytes(raw[:, :, 0::2] | (raw[:, :, 1::2] << 4))


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8)
