"""Matrices as codes and scales: packed into a format's layout, unpacked, and as the values that they stand for.

Knows every `Layout` and no kernel. Invariant: `values` gives, bit for bit, what GGML's reference decoder gives for the
blocks that a format holds exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.linear.formats import GROUP, TILE_ROWS, Format, Layout, records

Codes8 = NDArray[np.uint8]
_FLOATS = {Format.F32: np.float32, Format.BF16: np.uint16}  # as which floats are stored


@dataclass(frozen=True)
class Blocks:
    """Matrix as codes and scales, one row of groups after another.

    ``integers`` uint8 ``[rows, groups, 32]`` are codes (see `formats`), for f32 float32, for bf16 the upper halves of
    float32, uint16. ``scales`` and ``minimums``
    are float16 ``[rows, groups]``; in formats with integer scales ``[rows, groups / 8]``, beside ``subs`` and
    ``sub_minimums`` uint8 ``[rows, groups, subs]`` (``subs`` holds int8 bits). Scales of mxfp4 are uint8 exponents.
    """

    format: Format
    integers: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    scales: NDArray[np.float16] | NDArray[np.uint8] | None = None
    minimums: NDArray[np.float16] | None = None
    subs: NDArray[np.uint8] | None = None
    sub_minimums: NDArray[np.uint8] | None = None

    def mapped(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Blocks:
        """Return the blocks with ``change`` applied to every array."""

        def changed(array: NDArray[Any] | None) -> Any:
            return None if array is None else change(array)

        rest = (self.scales, self.minimums, self.subs, self.sub_minimums)
        return Blocks(self.format, change(self.integers), *(changed(array) for array in rest))

    def whole_codes(self) -> NDArray[np.int32]:
        """Return the integers that codes stand for, int32 ``[rows, groups, 32]``."""
        layout = self.format.layout
        if layout.table:
            found: NDArray[np.int32] = np.array(layout.table, np.int32)[self.integers.astype(np.intp)]
            return found
        whole: NDArray[np.int32] = self.integers.astype(np.int32) - np.int32(layout.offset)
        return whole

    def float_scales(self) -> NDArray[np.float32]:
        """Return the scales that are no integers, float32 of the shape of ``scales``."""
        assert self.scales is not None
        if self.format.layout.exponents:
            powers: NDArray[np.float32] = np.ldexp(np.float32(1), self.scales.astype(np.int32) - 128)
            return powers
        scales: NDArray[np.float32] = self.scales.astype(np.float32) * np.float32(self.format.layout.unit)
        return scales


def pack(blocks: Blocks, out: NDArray[np.uint8]) -> None:
    """Write ``blocks`` (rows a multiple of 16) into ``out``, uint8 ``[rows / 16, tile stride]``."""
    form, layout = blocks.format, blocks.format.layout
    rows, groups = blocks.integers.shape[:2]
    tiles, count = rows // TILE_ROWS, records(form, groups * GROUP)
    whole = count * form.record_bytes
    cells = out[:, :whole].reshape(tiles, count, form.record_bytes)
    missing = count * layout.groups - groups
    out[:, whole:] = 0
    at = 0
    for part in _head_parts(blocks):
        lanes = part.reshape(tiles, TILE_ROWS, *part.shape[1:]).swapaxes(1, 2)  # [tiles, groups, 16, …]
        grown = _bytes(_grown(lanes, missing if part.shape[1] == groups else 0)).reshape(tiles, count, -1)
        cells[:, :, at : at + grown.shape[2]] = grown
        at += grown.shape[2]
    codes = _grown(_interleave(blocks).reshape(tiles, groups, -1), missing)
    cells[:, :, form.head_bytes :] = codes.reshape(tiles, count, -1)


def unpack(form: Format, packed: NDArray[np.uint8], inputs: int) -> Blocks:
    """Unpack a matrix (the inverse of `pack`), for tests and the reference kernels."""
    tiles, groups, layout = packed.shape[0], inputs // GROUP, form.layout
    rows, count = tiles * TILE_ROWS, records(form, inputs)
    cells = packed[:, : count * form.record_bytes].reshape(tiles, count, form.record_bytes)
    flat = np.ascontiguousarray(cells[:, :, form.head_bytes :]).reshape(tiles, -1, form.integer_bytes)[:, :groups]
    if form.is_float:
        lanes = flat.view(_FLOATS[form]).reshape(tiles, groups, GROUP, TILE_ROWS).transpose(0, 3, 1, 2)
        return Blocks(form, lanes.reshape(rows, groups, GROUP))
    steps = _from_planes(flat, layout)  # [tiles, groups, 8, 16, 4]
    blocks = Blocks(form, steps.transpose(0, 3, 1, 2, 4).reshape(rows, groups, GROUP))
    return _with_heads(blocks, np.ascontiguousarray(cells[:, :, : form.head_bytes]), groups)


def values(blocks: Blocks) -> NDArray[np.float32]:
    """Return the matrix that the blocks stand for, float32 ``[rows, inputs]``; each operation is rounded once."""
    rows, groups = blocks.integers.shape[:2]
    if blocks.scales is None:
        if blocks.format is Format.BF16:
            floats: NDArray[np.float32] = (blocks.integers.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return floats.reshape(rows, -1)
        return blocks.integers.astype(np.float32).reshape(rows, -1)
    scales, minimums = group_scales(blocks)
    parts = blocks.whole_codes().astype(np.float32).reshape(rows, groups, scales.shape[2], -1)
    result: NDArray[np.float32] = parts * scales[..., None]
    if minimums is not None:
        result += minimums[..., None]
    return result.reshape(rows, -1)


def group_scales(blocks: Blocks) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return scales and minimums in float32, ``[rows, groups, one or two]``: products with integers are exact."""
    scales = blocks.float_scales()
    minimums = None if blocks.minimums is None else blocks.minimums.astype(np.float32)
    if blocks.subs is None:
        return scales[..., None], None if minimums is None else minimums[..., None]
    wide = np.repeat(scales, blocks.format.record_groups, axis=1)[..., None] * blocks.subs.view(np.int8)
    if minimums is None or blocks.sub_minimums is None:
        return wide, None
    return wide, np.repeat(minimums, blocks.format.record_groups, axis=1)[..., None] * blocks.sub_minimums


def quantize(form: Format, matrix: NDArray[np.float32]) -> Blocks:
    """Round float32 ``[rows, inputs]`` to a format whose scales are of 32 inputs.

    ``q4``, ``q5_0`` and ``q6`` put the value of largest magnitude at the lowest code, as GGML's Q4_0 does; ``q4m``
    spans minimum to maximum; ``q8`` is symmetric in -127..127. Values that
    bfloat16 holds stay as they are in ``bf16``.
    """
    rows = matrix.shape[0]
    groups = matrix.reshape(rows, -1, GROUP)
    if form is Format.F32:
        return Blocks(form, groups)
    if form is Format.BF16:
        return Blocks(form, _upper_halves(groups))
    if form is Format.Q4M:
        low, high = groups.min(axis=2), groups.max(axis=2)
        scales, minimums = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
        shifted = (groups - minimums.astype(np.float32)[..., None]) * _inverse(scales)
        return Blocks(form, np.rint(shifted).clip(0, 15).astype(np.uint8), scales, minimums)
    top = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[..., 0]
    offset = form.layout.offset
    scales = (np.abs(top) / 127 if form is Format.Q8 else top / -offset).astype(np.float16)
    integers = np.rint(groups * _inverse(scales)) + offset
    return Blocks(form, integers.clip(0, 2 * offset - 1).astype(np.uint8), scales)


def _upper_halves(matrix: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16, of two equally near ones to the even one; return its bits."""
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    upper: NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    return upper


def _inverse(scales: NDArray[np.float16]) -> NDArray[np.float32]:
    wide = scales.astype(np.float32)[..., None]
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)


def _head_parts(blocks: Blocks) -> list[NDArray[Any]]:
    """Return what a record's head holds, in order, each ``[rows, groups or records, …]``."""
    subs, least = blocks.subs, blocks.sub_minimums
    if blocks.format.layout.nibbles and subs is not None and least is not None:
        subs, least = subs | least << np.uint8(4), None
    return [each for each in (blocks.scales, blocks.minimums, subs, least) if each is not None]


def _with_heads(blocks: Blocks, heads: Codes8, groups: int) -> Blocks:
    """Return ``blocks`` with the scales that ``heads`` ``[tiles, records, bytes]`` hold."""
    form, layout = blocks.format, blocks.format.layout
    tiles, count = heads.shape[:2]
    per_record = 1 if layout.subs else layout.groups
    size = TILE_ROWS * per_record * (1 if layout.exponents else 2)
    kept = count if layout.subs else groups

    def numbers(index: int) -> NDArray[Any]:
        raw = _bytes(heads[:, :, index * size : (index + 1) * size])
        lanes = raw if layout.exponents else raw.view(np.float16)
        return _rows(lanes.reshape(tiles, -1, TILE_ROWS, 1)[:, :kept])[..., 0]

    scales, minimums = numbers(0), numbers(1) if layout.minimums else None
    if not layout.subs:
        return replace(blocks, scales=scales, minimums=minimums)
    raw = _bytes(heads[:, :, layout.float_bytes :]).reshape(tiles, count, -1, layout.groups, TILE_ROWS, layout.subs)
    kinds = [_rows(raw[:, :, k].reshape(tiles, -1, TILE_ROWS, layout.subs)) for k in range(raw.shape[2])]
    if layout.nibbles:
        kinds = [kinds[0] & 15, kinds[0] >> 4]
    least = kinds[1] if layout.minimums else None
    return Blocks(form, blocks.integers, scales, minimums, kinds[0], least)


def _rows(lanes: NDArray[Any]) -> NDArray[Any]:
    """Reshape ``[tiles, groups, 16, n]`` to ``[rows, groups, n]``."""
    rows: NDArray[Any] = lanes.swapaxes(1, 2).reshape(-1, lanes.shape[1], lanes.shape[3])
    return rows


def _grown(array: NDArray[Any], missing: int) -> NDArray[Any]:
    """Append groups of zeros up to a whole record."""
    return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)) if missing else array


def _interleave(blocks: Blocks) -> Codes8:
    rows, groups = blocks.integers.shape[:2]
    tiles, layout = rows // TILE_ROWS, blocks.format.layout
    if blocks.format.is_float:
        return _bytes(blocks.integers.reshape(tiles, TILE_ROWS, groups * GROUP).transpose(0, 2, 1))
    steps = blocks.integers.astype(np.uint8, copy=False).reshape(tiles, TILE_ROWS, groups, 8, 4)
    steps = steps.transpose(0, 2, 3, 1, 4)  # [tiles, groups, 8, 16, 4]
    planes = [_plane(steps & np.uint8((1 << layout.low) - 1), layout.low)]
    if layout.high:
        planes.append(_plane(steps >> np.uint8(layout.low), layout.high))
    return _bytes(np.concatenate(planes, axis=2))


def _plane(steps: Codes8, bits: int) -> Codes8:
    """Put 8 / bits steps into each byte, the first one lowest: ``[tiles, groups, bits, 16, 4]``."""
    plane = np.zeros_like(steps[:, :, ::8] if bits == 1 else steps[:, :, :: 8 // bits])
    for field in range(8 // bits):
        plane |= steps[:, :, field :: 8 // bits] << np.uint8(bits * field)
    return plane


def _from_planes(flat: Codes8, layout: Layout) -> Codes8:
    """Read codes ``[tiles, groups, 8, 16, 4]`` from planes ``[tiles, groups, bytes]``."""
    planes = flat.reshape(*flat.shape[:2], -1, TILE_ROWS, 4)
    result = np.zeros((*flat.shape[:2], 8, TILE_ROWS, 4), np.uint8)
    first, shift = 0, 0
    for bits in _bits(layout):
        for step in range(8):
            plane = planes[:, :, first + step * bits // 8]
            field = plane >> np.uint8(step * bits % 8) & np.uint8((1 << bits) - 1)
            result[:, :, step] |= field << np.uint8(shift)
        first, shift = first + bits, shift + bits
    return result


def _bits(layout: Layout) -> Sequence[int]:
    return (layout.low, layout.high) if layout.high else (layout.low,)


def _bytes(array: NDArray[Any]) -> Codes8:
    return np.ascontiguousarray(array).view(np.uint8)
