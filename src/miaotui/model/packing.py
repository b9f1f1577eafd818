"""From a stored tensor to packed weights. Block types whose values a packed format can hold are packed without loss.

    Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4 -> the format of the same name     exact
    Q4_0 -> q4, Q4_1 -> q4m, Q8_0 -> q8                                                                exact
    IQ1_S, IQ1_M -> iq1, IQ2_XXS, IQ2_XS, IQ2_S -> iq2, IQ3_XXS, IQ3_S -> the same, TQ1_0, TQ2_0 -> tq2   exact, larger
    F32, F16, BF16 -> the format asked for                                                             rounded

Encoders have kernels for three formats (`encoder_format`): Q5_0, IQ4_NL -> q8 are exact there, Q4_K -> q4m has scales
rounded to float16, the others are rounded to 8 bits. Knows encodings and formats, not layers. Works in slices of rows,
so memory stays bounded. Invariant: packed weights are finite; a tensor with other values is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.blocks import Codes
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.kernels.linear.formats import GROUP, UNIT_ROWS, Format, padded_rows
from miaotui.kernels.linear.packed_blocks import Blocks, pack, quantize, values

SLICE_ROWS = 2048

_EXACT = {
    BlockType.Q4_0: Format.Q4,
    BlockType.Q4_1: Format.Q4M,
    BlockType.Q8_0: Format.Q8,
    BlockType.Q5_0: Format.Q5_0,
    BlockType.Q5_1: Format.Q5_1,
    BlockType.Q2_K: Format.Q2_K,
    BlockType.Q3_K: Format.Q3_K,
    BlockType.Q4_K: Format.Q4_K,
    BlockType.Q5_K: Format.Q5_K,
    BlockType.Q6_K: Format.Q6_K,
    BlockType.IQ4_NL: Format.IQ4_NL,
    BlockType.IQ4_XS: Format.IQ4_XS,
    BlockType.MXFP4: Format.MXFP4,
    BlockType.IQ1_S: Format.IQ1,
    BlockType.IQ1_M: Format.IQ1,
    BlockType.IQ2_XXS: Format.IQ2,
    BlockType.IQ2_XS: Format.IQ2,
    BlockType.IQ2_S: Format.IQ2,
    BlockType.IQ3_XXS: Format.IQ3_XXS,
    BlockType.IQ3_S: Format.IQ3_S,
    BlockType.TQ1_0: Format.TQ2,
    BlockType.TQ2_0: Format.TQ2,
}
_WIDENED = {
    BlockType.Q4_0: Format.Q4,
    BlockType.Q4_1: Format.Q4M,
    BlockType.Q8_0: Format.Q8,
    BlockType.Q4_K: Format.Q4M,
    BlockType.Q5_0: Format.Q8,
    BlockType.IQ4_NL: Format.Q8,
}
_MOST_VALUE = np.float32(128)  # of a code: scales of mxfp4 can be so large that weights are infinite


def packed_format(kind: BlockType, wanted: Format) -> Format:
    """Return the format a tensor is packed in; ``wanted`` counts for floats only."""
    return wanted if kind.is_float else _EXACT.get(kind, Format.Q8)


def encoder_format(kind: BlockType, wanted: Format) -> Format:
    """Return the format an encoder's tensor is packed in; ``wanted`` counts for floats only."""
    return wanted if kind.is_float else _WIDENED.get(kind, Format.Q8)


def pack_matrix(tensor: StoredTensor, form: Format, out: NDArray[np.uint8]) -> None:
    """Pack a matrix into ``out``, uint8 ``[units, 2, tile stride]``, rows padded with zeros to whole units of 32.

    Raises `ModelFormatError` for weights that are not numbers, or that float16 scales cannot hold.
    """
    for start, blocks in _slices(tensor, form):
        units = blocks.integers.shape[0] // UNIT_ROWS
        view = out[start // UNIT_ROWS : start // UNIT_ROWS + units]
        tiles = np.empty((2 * units, out.shape[2]), np.uint8)
        pack(blocks, tiles)
        view[...] = tiles.reshape(units, 2, -1)


def _slices(tensor: StoredTensor, form: Format) -> Iterator[tuple[int, Blocks]]:
    for start in range(0, tensor.rows, SLICE_ROWS):
        stop = min(start + SLICE_ROWS, tensor.rows)
        yield start, _padded(_blocks(tensor, form, start, stop))


def require_finite(tensor: StoredTensor, *values: NDArray[Any] | None) -> None:
    """Raise `ModelFormatError`, naming ``tensor``, unless all ``values`` are finite."""
    if not all(np.isfinite(each).all() for each in values if each is not None):
        raise ModelFormatError(
            f"tensor {tensor.name!r} holds weights that are not numbers, or far too large: the file "
            "is damaged; download it again or choose another model"
        )


def _blocks(tensor: StoredTensor, form: Format, start: int, stop: int) -> Blocks:
    with np.errstate(all="ignore"):  # what comes out is looked at
        if _EXACT.get(tensor.kind) is form:
            blocks = _recoded(tensor.codes(start, stop), form)
        elif _WIDENED.get(tensor.kind) is form:
            blocks = _widened(tensor.codes(start, stop), form)
        else:
            blocks = quantize(form, tensor.float32(start, stop))
        largest = values(blocks) if blocks.scales is None else blocks.float_scales() * _MOST_VALUE
    require_finite(tensor, largest, blocks.minimums)
    return blocks


def _recoded(codes: Codes, form: Format) -> Blocks:
    """Return blocks as they are: codes, scales, and the scales of scales."""
    layout, rows = form.layout, len(codes.q)
    minimums = None if codes.least is None else (-codes.least).astype(np.float16)
    if layout.exponents:  # of powers of two
        return Blocks(form, _stored(codes, form), (np.frexp(codes.factor)[1] + 127).astype(np.uint8))

    def in_groups(integers: NDArray[np.int8] | None) -> NDArray[np.uint8] | None:
        if integers is None:
            return None
        each = layout.subs * codes.q.shape[2] // GROUP  # 2 where one scale of 32 weights stands for two of 16
        return np.repeat(integers.view(np.uint8), each, axis=1).reshape(rows, -1, layout.subs)

    subs, least = in_groups(codes.subs), in_groups(codes.sub_minimums)
    scales = (codes.factor / np.float32(layout.unit)).astype(np.float16)
    return Blocks(form, _stored(codes, form), scales, minimums, subs, least)


def _widened(codes: Codes, form: Format) -> Blocks:
    """Return blocks of 32 with scales of their own."""
    minimums = None if codes.minimum is None else (-codes.minimum).astype(np.float16)
    return Blocks(form, _stored(codes, form), codes.scale.astype(np.float16), minimums)


def _stored(codes: Codes, form: Format) -> NDArray[np.uint8]:
    """Return the codes by which ``form`` stands for the integers of ``codes``, uint8 ``[rows, groups, 32]``."""
    layout, integers = form.layout, codes.q.view(np.uint8)
    if layout.table:
        place = np.zeros(256, np.uint8)
        place[np.array(layout.table[::-1], np.int8).view(np.uint8)] = np.arange(15, -1, -1)
        integers = place[integers]
    else:
        integers = (integers + np.uint8(layout.offset)).astype(np.uint8)
    return integers.reshape(len(integers), -1, GROUP)


def _padded(blocks: Blocks) -> Blocks:
    """Return rows of zeros up to a whole unit (codes and scales of 0 count as nothing)."""
    rows = blocks.integers.shape[0]
    extra = padded_rows(rows) - rows
    if not extra:
        return blocks
    return blocks.mapped(lambda array: np.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1)))
