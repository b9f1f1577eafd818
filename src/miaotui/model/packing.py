"""From a stored tensor to packed weights. Block types whose values a packed format can hold are packed without loss.

    Q4_0 -> q4, Q4_1 -> q4m, Q8_0, Q5_0, IQ4_NL -> q8      exact
    Q4_K -> q4m                                            scales and minimums rounded to float16
    Q2_K, Q3_K, Q5_1, Q5_K, Q6_K -> q8                     rounded to 8 bits per weight
    F32, F16, BF16 -> the format asked for                 rounded

Knows encodings and formats, not layers. Works in slices of rows, so memory stays bounded. Invariant: packed weights
are finite; a tensor with other values is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.blocks import Codes
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.kernels.linear.formats import UNIT_ROWS, Blocks, Format, pack, padded_rows, quantize

SLICE_ROWS = 2048

_EXACT = {
    BlockType.Q4_0: (Format.Q4, 8),
    BlockType.Q4_1: (Format.Q4M, 0),
    BlockType.Q4_K: (Format.Q4M, 0),
    BlockType.Q5_0: (Format.Q8, 128),
    BlockType.Q8_0: (Format.Q8, 128),
    BlockType.IQ4_NL: (Format.Q8, 128),
}


def packed_format(kind: BlockType, wanted: Format) -> Format:
    """Return the format a tensor is packed in; ``wanted`` counts for floats only."""
    if kind in _EXACT:
        return _EXACT[kind][0]
    return wanted if kind.is_float else Format.Q8


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
    known = _EXACT.get(tensor.kind)
    with np.errstate(all="ignore"):  # what comes out is looked at
        if known is None or known[0] is not form:
            blocks = quantize(form, tensor.float32(start, stop))
        else:
            blocks = _recoded(tensor.codes(start, stop), *known)
    require_finite(tensor, blocks.scales, blocks.minimums)
    return blocks


def _recoded(codes: Codes, form: Format, offset: int) -> Blocks:
    integers = (codes.q.view(np.uint8) + np.uint8(offset)).astype(np.uint8)
    minimums = None if codes.minimum is None else (-codes.minimum).astype(np.float16)
    return Blocks(form, integers, codes.scale.astype(np.float16), minimums)


def _padded(blocks: Blocks) -> Blocks:
    """Return rows of zeros up to a whole unit (scale 0 makes any integer a zero)."""
    rows = blocks.integers.shape[0]
    extra = padded_rows(rows) - rows
    if not extra:
        return blocks

    def grow(array: Any) -> Any:
        return None if array is None else np.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1))

    return Blocks(blocks.format, grow(blocks.integers), grow(blocks.scales), grow(blocks.minimums))
