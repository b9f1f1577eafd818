"""Decodes GGML's weight blocks, a whole array of them at a time, in NumPy.

Every quantized type is affine in groups: ``weight = scale * q - minimum`` with a small integer q,
one scale and perhaps one minimum per group of 16 or 32 weights. Each decoder only unpacks bits into
that form (`Codes`); one formula makes floats of all of them. Decoders take blocks as uint8 (n,
block_bytes) and know nothing of tensors or files. Invariant: results equal, bit for bit, those of
the C reference (`ggml-quants.c`), whose layouts these follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# The 16 values of IQ4_NL, denser around zero than a uniform grid.
IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
# Twice the values of OCP's E2M1, whose scales are powers of two (GGML halves those instead).
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


@dataclass(frozen=True, eq=False)
class Codes:
    """Unpacked blocks: ``weight = scale * q - minimum``, each indexed by (block or row, group).

    ``q`` is int8 (n, groups, weights per group). ``factor`` is float32 (n, groups): the scales; or, where a block has
    integer scales ``subs`` int8 (n, groups), (n, blocks). ``least`` and ``sub_minimums`` likewise make the minimums,
    and are None where the type has none.
    """

    q: NDArray[np.int8]
    factor: Floats
    least: Floats | None = None
    subs: NDArray[np.int8] | None = None
    sub_minimums: NDArray[np.int8] | None = None

    @property
    def scale(self) -> Floats:
        """Return the groups' scales, float32 (n, groups)."""
        return _product(self.factor, self.subs)

    @property
    def minimum(self) -> Floats | None:
        """Return the groups' minimums, float32 (n, groups), or None."""
        return None if self.least is None else _product(self.least, self.sub_minimums)

    def by_row(self, rows: int) -> Codes:
        """Join the groups of all blocks of a row: (rows, groups per row, weights per group)."""

        def joined(array: Any) -> Any:
            return None if array is None else array.reshape(rows, -1)

        rest = (self.factor, self.least, self.subs, self.sub_minimums)
        return Codes(self.q.reshape(rows, -1, self.q.shape[-1]), *[joined(array) for array in rest])

    def float32(self) -> Floats:
        """Return the weights, float32 (n, groups * weights per group); each operation is rounded once."""
        weights = self.q.astype(np.float32)
        weights *= self.scale[..., None]
        minimum = self.minimum
        if minimum is not None:
            weights -= minimum[..., None]
        return weights.reshape(weights.shape[0], -1)


def _product(factor: Floats, integers: NDArray[np.int8] | None) -> Floats:
    """Multiply blocks' factors by their groups' integers: exact, since a factor has 11 bits."""
    if integers is None:
        return factor
    return np.repeat(factor, integers.shape[1] // factor.shape[1], axis=1) * integers.astype(np.float32)


def f32_to_float32(raw: Bytes) -> Floats:
    """Return little-endian float32 bytes (..., 4n) as an aligned copy (..., n)."""
    return raw.view("<f4").astype(np.float32)


def f16_to_float32(raw: Bytes) -> Floats:
    """Return little-endian IEEE half bytes (..., 2n) as float32 (..., n), exact."""
    return raw.view("<f2").astype(np.float32)


def bf16_to_float32(raw: Bytes) -> Floats:
    """Return little-endian bfloat16 bytes (..., 2n) as float32 (..., n), whose upper half they are."""
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def fields(blocks: Bytes, *sizes: int) -> list[Bytes]:
    """Cut the columns of ``blocks`` into contiguous fields of the given byte sizes."""
    ends = np.cumsum(sizes)
    return [np.ascontiguousarray(blocks[:, e - s : e]) for s, e in zip(sizes, ends, strict=True)]


def pieces(packed: Bytes, bits: int) -> Bytes:
    """Split each byte into 8 / bits fields, lowest first, as a new axis before the last one."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields: Bytes = packed[..., None, :] >> shifts & np.uint8((1 << bits) - 1)
    return fields


def _bits(packed: Bytes) -> Bytes:
    """Return the bits of little-endian bytes (n, b) as (n, 8 * b), lowest first."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _signed(values: NDArray[Any], offset: int) -> NDArray[np.int8]:
    """Return codes below 128 as int8, moved down by ``offset``."""
    q: NDArray[np.int8] = values.view(np.int8) - np.int8(offset)
    return q


def _q4_0(blocks: Bytes) -> Codes:
    d, qs = fields(blocks, 2, 16)
    return Codes(_signed(pieces(qs, 4).reshape(-1, 1, 32), 8), f16_to_float32(d))


def _q4_1(blocks: Bytes) -> Codes:
    d, m, qs = fields(blocks, 2, 2, 16)
    q = _signed(pieces(qs, 4).reshape(-1, 1, 32), 0)
    return Codes(q, f16_to_float32(d), -f16_to_float32(m))


def _q5_0(blocks: Bytes) -> Codes:
    d, qh, qs = fields(blocks, 2, 4, 16)
    q = pieces(qs, 4).reshape(-1, 32) | _bits(qh) << 4
    return Codes(_signed(q, 16)[:, None], f16_to_float32(d))


def _q5_1(blocks: Bytes) -> Codes:
    d, m, qh, qs = fields(blocks, 2, 2, 4, 16)
    q = pieces(qs, 4).reshape(-1, 32) | _bits(qh) << 4
    return Codes(_signed(q, 0)[:, None], f16_to_float32(d), -f16_to_float32(m))


def _q8_0(blocks: Bytes) -> Codes:
    d, qs = fields(blocks, 2, 32)
    return Codes(qs.view(np.int8)[:, None], f16_to_float32(d))


def _iq4_nl(blocks: Bytes) -> Codes:
    d, qs = fields(blocks, 2, 16)
    return Codes(IQ4_NL_VALUES[pieces(qs, 4).reshape(-1, 1, 32)], f16_to_float32(d))


def _iq4_xs(blocks: Bytes) -> Codes:
    d, high, low, qs = fields(blocks, 2, 2, 4, 128)
    # Low nibbles of eight scales, two in a byte, and above them two bits each.
    scale = _signed(in_order(low, 4) | in_order(high, 2) << 4, 32)
    return Codes(IQ4_NL_VALUES[pieces(qs.reshape(-1, 8, 16), 4).reshape(-1, 8, 32)], f16_to_float32(d), subs=scale)


def _mxfp4(blocks: Bytes) -> Codes:
    e, qs = fields(blocks, 1, 16)
    scale = np.ldexp(np.float32(1), e.astype(np.int32) - 128)
    return Codes(MXFP4_VALUES[pieces(qs, 4).reshape(-1, 1, 32)], scale)


def in_order(packed: Bytes, bits: int) -> Bytes:
    """Return the fields of bytes (n, b) as (n, 8 b / bits), each byte's lowest first."""
    return pieces(packed[..., None], bits).reshape(len(packed), -1)


def _q2_k(blocks: Bytes) -> Codes:
    scales, qs, d, dmin = fields(blocks, 16, 64, 2, 2)
    q = pieces(qs.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    subs, least = _signed(scales & 15, 0), _signed(scales >> 4, 0)
    return Codes(_signed(q, 0), f16_to_float32(d), f16_to_float32(dmin), subs, least)


def _q3_k(blocks: Bytes) -> Codes:
    hmask, qs, scales, d = fields(blocks, 32, 64, 12, 2)
    low = pieces(qs.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    high = pieces(hmask, 1).reshape(-1, 16, 16)
    # 16 scales of 6 bits: low nibbles of bytes 0-7, then their high ones; top bits in bytes 8-11.
    top = pieces(scales[:, 8:], 2).reshape(-1, 16)
    subs = _signed(pieces(scales[:, :8], 4).reshape(-1, 16) | top << 4, 32)
    return Codes(_signed(low | high << 2, 4), f16_to_float32(d), subs=subs)


def _scales_and_minimums(packed: Bytes) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Unpack the 8 scales and 8 minimums, 6 bits each in 12 bytes, that Q4_K and Q5_K share.

    Bytes 0-3 and 4-7 hold the first four scales and minimums; their top bit pairs complete the last
    four, whose low nibbles are in bytes 8-11.
    """
    first, second, last = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([first & 63, last & 15 | first >> 6 << 4], axis=1)
    minimum = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], axis=1)
    return _signed(scale, 0), _signed(minimum, 0)


def _q4_k(blocks: Bytes) -> Codes:
    d, dmin, scales, qs = fields(blocks, 2, 2, 12, 128)
    q = pieces(qs.reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return Codes(_signed(q, 0), f16_to_float32(d), f16_to_float32(dmin), *_scales_and_minimums(scales))


def _q5_k(blocks: Bytes) -> Codes:
    d, dmin, scales, qh, qs = fields(blocks, 2, 2, 12, 32, 128)
    q = pieces(qs.reshape(-1, 4, 32), 4).reshape(-1, 8, 32) | pieces(qh, 1) << 4
    return Codes(_signed(q, 0), f16_to_float32(d), f16_to_float32(dmin), *_scales_and_minimums(scales))


def _q6_k(blocks: Bytes) -> Codes:
    ql, qh, scales, d = fields(blocks, 128, 64, 16, 2)
    low = pieces(ql.reshape(-1, 2, 64), 4).reshape(-1, 16, 16)
    high = pieces(qh.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    return Codes(_signed(low | high << 4, 32), f16_to_float32(d), subs=scales.view(np.int8))


DECODERS: dict[str, Callable[[Bytes], Codes]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}

FLOATS: dict[str, Callable[[Bytes], Floats]] = {"F32": f32_to_float32, "F16": f16_to_float32, "BF16": bf16_to_float32}
