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


@dataclass(frozen=True, eq=False)
class Codes:
    """Unpacked blocks: ``weight = scale * q - minimum``, each indexed by (block or row, group).

    ``q`` is int8 (n, groups, weights per group); ``scale`` is float32 (n, groups); ``minimum``
    likewise, or None where the type has none.
    """

    q: NDArray[np.int8]
    scale: Floats
    minimum: Floats | None = None

    def by_row(self, rows: int) -> Codes:
        """Join the groups of all blocks of a row: (rows, groups per row, weights per group)."""
        minimum = None if self.minimum is None else self.minimum.reshape(rows, -1)
        q = self.q.reshape(rows, -1, self.q.shape[-1])
        return Codes(q, self.scale.reshape(rows, -1), minimum)

    def float32(self) -> Floats:
        """Return the weights, float32 (n, groups * weights per group); each operation is rounded once."""
        weights = self.q.astype(np.float32)
        weights *= self.scale[..., None]
        if self.minimum is not None:
            weights -= self.minimum[..., None]
        return weights.reshape(weights.shape[0], -1)


def f32_to_float32(raw: Bytes) -> Floats:
    """Return little-endian float32 bytes (..., 4n) as an aligned copy (..., n)."""
    return raw.view("<f4").astype(np.float32)


def f16_to_float32(raw: Bytes) -> Floats:
    """Return little-endian IEEE half bytes (..., 2n) as float32 (..., n), exact."""
    return raw.view("<f2").astype(np.float32)


def bf16_to_float32(raw: Bytes) -> Floats:
    """Return little-endian bfloat16 bytes (..., 2n) as float32 (..., n), whose upper half they are."""
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _fields(blocks: Bytes, *sizes: int) -> list[Bytes]:
    """Cut the columns of ``blocks`` into contiguous fields of the given byte sizes."""
    ends = np.cumsum(sizes)
    return [np.ascontiguousarray(blocks[:, e - s : e]) for s, e in zip(sizes, ends, strict=True)]


def _pieces(packed: Bytes, bits: int) -> Bytes:
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
    d, qs = _fields(blocks, 2, 16)
    return Codes(_signed(_pieces(qs, 4).reshape(-1, 1, 32), 8), f16_to_float32(d))


def _q4_1(blocks: Bytes) -> Codes:
    d, m, qs = _fields(blocks, 2, 2, 16)
    q = _signed(_pieces(qs, 4).reshape(-1, 1, 32), 0)
    return Codes(q, f16_to_float32(d), -f16_to_float32(m))


def _q5_0(blocks: Bytes) -> Codes:
    d, qh, qs = _fields(blocks, 2, 4, 16)
    q = _pieces(qs, 4).reshape(-1, 32) | _bits(qh) << 4
    return Codes(_signed(q, 16)[:, None], f16_to_float32(d))


def _q5_1(blocks: Bytes) -> Codes:
    d, m, qh, qs = _fields(blocks, 2, 2, 4, 16)
    q = _pieces(qs, 4).reshape(-1, 32) | _bits(qh) << 4
    return Codes(_signed(q, 0)[:, None], f16_to_float32(d), -f16_to_float32(m))


def _q8_0(blocks: Bytes) -> Codes:
    d, qs = _fields(blocks, 2, 32)
    return Codes(qs.view(np.int8)[:, None], f16_to_float32(d))


def _iq4_nl(blocks: Bytes) -> Codes:
    d, qs = _fields(blocks, 2, 16)
    return Codes(IQ4_NL_VALUES[_pieces(qs, 4).reshape(-1, 1, 32)], f16_to_float32(d))


def _q2_k(blocks: Bytes) -> Codes:
    scales, qs, d, dmin = _fields(blocks, 16, 64, 2, 2)
    q = _pieces(qs.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    scale = f16_to_float32(d) * (scales & 15).astype(np.float32)
    minimum = f16_to_float32(dmin) * (scales >> 4).astype(np.float32)
    return Codes(_signed(q, 0), scale, minimum)


def _q3_k(blocks: Bytes) -> Codes:
    hmask, qs, scales, d = _fields(blocks, 32, 64, 12, 2)
    low = _pieces(qs.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    high = _pieces(hmask, 1).reshape(-1, 16, 16)
    # 16 scales of 6 bits: low nibbles of bytes 0-7, then their high ones; top bits in bytes 8-11.
    top = _pieces(scales[:, 8:], 2).reshape(-1, 16)
    scale = _signed(_pieces(scales[:, :8], 4).reshape(-1, 16) | top << 4, 32)
    return Codes(_signed(low | high << 2, 4), f16_to_float32(d) * scale.astype(np.float32))


def _scales_and_minimums(d: Bytes, dmin: Bytes, packed: Bytes) -> tuple[Floats, Floats]:
    """Unpack the 8 scales and 8 minimums, 6 bits each in 12 bytes, that Q4_K and Q5_K share.

    Bytes 0-3 and 4-7 hold the first four scales and minimums; their top bit pairs complete the last
    four, whose low nibbles are in bytes 8-11.
    """
    first, second, last = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([first & 63, last & 15 | first >> 6 << 4], axis=1)
    minimum = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], axis=1)
    return (f16_to_float32(d) * scale.astype(np.float32), f16_to_float32(dmin) * minimum.astype(np.float32))


def _q4_k(blocks: Bytes) -> Codes:
    d, dmin, scales, qs = _fields(blocks, 2, 2, 12, 128)
    q = _pieces(qs.reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return Codes(_signed(q, 0), *_scales_and_minimums(d, dmin, scales))


def _q5_k(blocks: Bytes) -> Codes:
    d, dmin, scales, qh, qs = _fields(blocks, 2, 2, 12, 32, 128)
    q = _pieces(qs.reshape(-1, 4, 32), 4).reshape(-1, 8, 32) | _pieces(qh, 1) << 4
    return Codes(_signed(q, 0), *_scales_and_minimums(d, dmin, scales))


def _q6_k(blocks: Bytes) -> Codes:
    ql, qh, scales, d = _fields(blocks, 128, 64, 16, 2)
    low = _pieces(ql.reshape(-1, 2, 64), 4).reshape(-1, 16, 16)
    high = _pieces(qh.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    scale = f16_to_float32(d) * scales.view(np.int8).astype(np.float32)
    return Codes(_signed(low | high << 4, 32), scale)


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
}

FLOATS: dict[str, Callable[[Bytes], Floats]] = {"F32": f32_to_float32, "F16": f16_to_float32, "BF16": bf16_to_float32}
