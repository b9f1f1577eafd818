"""How weight matrices lie in memory: 16 output rows side by side, so that one 64-byte load feeds 16 rows.

A *tile* is 16 rows of a matrix ``[rows, inputs]``; a *group* is 32 inputs. A tile holds its groups' integers, then its
groups' scales (float16, 16 per group), then for ``q4m`` its minimums. Within a group, one 64-byte load carries 4 inputs of
16 rows (``q8``) or, low nibbles first, 2 x 4 inputs (``q4``). Tiles begin at multiples of 64 bytes; rows are padded with
zeros to 32.

    format  value                           bytes per group of 16 x 32
    q4      (nibble - 8) * scale            256 + 32
    q4m     nibble * scale + minimum        256 + 64
    q8      (byte - 128) * scale            512 + 32
    f32     float32                         2048
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16
GROUP = 32
UNIT_ROWS = 32  # rows padded to this: two tiles, and one group of the next layer's inputs
LINE = 64


class Format(Enum):
    """A packed weight format."""

    Q4 = "q4"
    Q4M = "q4m"
    Q8 = "q8"
    F32 = "f32"

    @property
    def group_bytes(self) -> int:
        """Bytes of one tile's group, scales included."""
        return {"q4": 288, "q4m": 320, "q8": 544, "f32": 2048}[self.value]

    @property
    def integer_bytes(self) -> int:
        """Bytes of one tile's group without scales and minimums."""
        return {"q4": 256, "q4m": 256, "q8": 512, "f32": 2048}[self.value]

    @property
    def bits_per_weight(self) -> float:
        """Memory read per weight."""
        return self.group_bytes * 8 / (TILE_ROWS * GROUP)


@dataclass(frozen=True)
class Blocks:
    """A matrix as integers and scales, one row of groups after another.

    ``integers`` uint8 ``[rows, groups, 32]`` (nibbles 0..15, or value + 128), ``scales`` and ``minimums`` float16
    ``[rows, groups]``; for f32 ``integers`` is float32 and the others are None.
    """

    format: Format
    integers: NDArray[np.uint8] | NDArray[np.float32]
    scales: NDArray[np.float16] | None = None
    minimums: NDArray[np.float16] | None = None


def tile_stride(form: Format, inputs: int) -> int:
    """Bytes from one tile to the next, for rows of ``inputs`` values (a multiple of 32)."""
    return -(-(inputs // GROUP) * form.group_bytes // LINE) * LINE


def packed_bytes(form: Format, rows: int, inputs: int) -> int:
    """Bytes of a packed matrix."""
    return padded_rows(rows) // TILE_ROWS * tile_stride(form, inputs)


def padded_rows(rows: int) -> int:
    """Rows rounded up to whole units of 32."""
    return -(-rows // UNIT_ROWS) * UNIT_ROWS


def pack(blocks: Blocks, out: NDArray[np.uint8]) -> None:
    """Write ``blocks`` (rows a multiple of 16) into ``out``, uint8 ``[rows / 16, tile stride]``."""
    rows, groups = blocks.integers.shape[:2]
    tiles = rows // TILE_ROWS
    size = blocks.format.integer_bytes * groups
    out[:, :size] = _interleave(blocks).reshape(tiles, size)
    for values in (blocks.scales, blocks.minimums):
        if values is not None:
            lanes = values.reshape(tiles, TILE_ROWS, groups).transpose(0, 2, 1)
            out[:, size : size + 32 * groups] = _bytes(lanes).reshape(tiles, 32 * groups)
            size += 32 * groups
    out[:, size:] = 0


def unpack(form: Format, packed: NDArray[np.uint8], inputs: int) -> Blocks:
    """The inverse of `pack`, for tests and the reference kernels."""
    tiles, groups = packed.shape[0], inputs // GROUP
    size = form.integer_bytes * groups
    rows = tiles * TILE_ROWS
    if form is Format.F32:
        lanes = np.ascontiguousarray(packed[:, :size]).view(np.float32)
        values = lanes.reshape(tiles, groups, GROUP, TILE_ROWS).transpose(0, 3, 1, 2)
        return Blocks(form, values.reshape(rows, groups, GROUP))
    raw = packed[:, :size].reshape(tiles, groups, -1, TILE_ROWS, 4)
    if form is not Format.Q8:
        raw = np.stack([raw & 15, raw >> 4], axis=3)  # [tiles, groups, 4, 2, 16, 4]
        raw = raw.reshape(tiles, groups, 8, TILE_ROWS, 4)
    integers = raw.transpose(0, 3, 1, 2, 4).reshape(rows, groups, GROUP)
    extra = []
    for _ in range(2 if form is Format.Q4M else 1):
        lanes16 = np.ascontiguousarray(packed[:, size : size + 32 * groups]).view(np.float16)
        extra.append(lanes16.reshape(tiles, groups, TILE_ROWS).transpose(0, 2, 1).reshape(rows, groups))
        size += 32 * groups
    return Blocks(form, integers, *extra)


def values(blocks: Blocks) -> NDArray[np.float32]:
    """The matrix the blocks stand for, float32 ``[rows, inputs]``."""
    integers = blocks.integers.astype(np.float32)
    rows = integers.shape[0]
    if blocks.scales is None:
        return integers.reshape(rows, -1)
    offset = {Format.Q4: 8, Format.Q4M: 0, Format.Q8: 128}[blocks.format]
    result = (integers - np.float32(offset)) * blocks.scales.astype(np.float32)[..., None]
    if blocks.minimums is not None:
        result += blocks.minimums.astype(np.float32)[..., None]
    return result.reshape(rows, -1)


def quantize(form: Format, matrix: NDArray[np.float32]) -> Blocks:
    """Float32 ``[rows, inputs]`` rounded to a format, one scale per 32 inputs.

    ``q4`` puts the value of largest magnitude at -8, as GGML's Q4_0 does; ``q4m`` spans minimum to maximum;
    ``q8`` is symmetric in -127..127.
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
