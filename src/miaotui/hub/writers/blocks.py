"""Packs integer codes and scales into GGML's blocks, a whole array of them at a time: the inverse of `formats.blocks`.

Owns the bits of a block. Knows neither how codes are chosen (`optimize`) nor files. Invariant: for each type,
``pack(kind, unpack(blocks)) == blocks``, bit for bit, wherever the scales are numbers.
Source of the layouts: ``ggml-quants.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.blocks import IQ4_NL_VALUES, Bytes, Codes
from miaotui.hub.formats.tensors import BlockType


def encode_floats(weights: NDArray[np.float32], kind: BlockType) -> Bytes:
    """Return float32 weights as F32, F16 or BF16 bytes, flat, rounded to the nearest, ties to even."""
    if kind is BlockType.BF16:
        bits = np.ascontiguousarray(weights, "<f4").view("<u4")
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return np.frombuffer((rounded >> 16).astype("<u2").tobytes(), np.uint8)
    numbers = np.ascontiguousarray(weights.astype("<f4" if kind is BlockType.F32 else "<f2"))
    return np.frombuffer(numbers.tobytes(), np.uint8)


def pack(kind: BlockType, codes: Codes) -> Bytes:
    """Return blocks, uint8 ``[n, block_bytes]``, of ``codes`` indexed by block; `PACKERS` has the types.

    Scales and minimums are rounded to float16; whoever chose the codes rounded them before.
    """
    return PACKERS[kind](codes)


def _half(values: NDArray[np.float32]) -> Bytes:
    """Return float32 ``[n, 1]`` as float16 bytes ``[n, 2]``."""
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(len(values), -1)


def _joined(values: NDArray[Any], bits: int) -> Bytes:
    """Join small integers ``[n, ..., k, m]`` over the axis before the last, the first one lowest: ``[n, bytes]``."""
    values = values.astype(np.uint8)
    shifts = (np.arange(values.shape[-2], dtype=np.uint8) * np.uint8(bits))[:, None]
    joined: Bytes = np.bitwise_or.reduce(values << shifts, axis=-2)
    return joined.reshape(len(values), -1)


def _up(q: NDArray[np.int8], offset: int) -> Bytes:
    """Return codes moved up by ``offset``, as unsigned bytes ``[n, weights]``."""
    return (q.reshape(len(q), -1).astype(np.int16) + offset).astype(np.uint8)


def _fifth_bits(stored: Bytes) -> Bytes:
    return np.packbits(stored >> 4 & 1, axis=1, bitorder="little")


def _nibbles(stored: Bytes) -> Bytes:
    """Return 32 codes of 4 bits: the first sixteen low, the others above them."""
    return _joined((stored & 15).reshape(-1, 2, 16), 4)


def _least(codes: Codes) -> NDArray[np.float32]:
    assert codes.least is not None
    return codes.least


def _subs(codes: Codes) -> NDArray[np.int8]:
    assert codes.subs is not None
    return codes.subs


def _q4_0(codes: Codes) -> Bytes:
    return np.concatenate([_half(codes.factor), _nibbles(_up(codes.q, 8))], axis=1)


def _q4_1(codes: Codes) -> Bytes:
    return np.concatenate([_half(codes.factor), _half(-_least(codes)), _nibbles(_up(codes.q, 0))], axis=1)


def _q5_0(codes: Codes) -> Bytes:
    stored = _up(codes.q, 16)
    return np.concatenate([_half(codes.factor), _fifth_bits(stored), _nibbles(stored)], axis=1)


def _q5_1(codes: Codes) -> Bytes:
    stored = _up(codes.q, 0)
    parts = [_half(codes.factor), _half(-_least(codes)), _fifth_bits(stored), _nibbles(stored)]
    return np.concatenate(parts, axis=1)


def _q8_0(codes: Codes) -> Bytes:
    return np.concatenate([_half(codes.factor), codes.q.reshape(len(codes.q), -1).view(np.uint8)], axis=1)


def _places(q: NDArray[np.int8]) -> Bytes:
    """Return the places of values in the table of IQ4_NL, ``[n, weights]``."""
    places = np.zeros(256, np.uint8)
    places[IQ4_NL_VALUES.view(np.uint8)] = np.arange(16)
    return places[q.reshape(len(q), -1).view(np.uint8)]


def _iq4_nl(codes: Codes) -> Bytes:
    return np.concatenate([_half(codes.factor), _nibbles(_places(codes.q))], axis=1)


def _iq4_xs(codes: Codes) -> Bytes:
    scale = _up(_subs(codes), 32)
    low = _joined((scale & 15).reshape(-1, 4, 2, 1), 4)
    high = _joined((scale >> 4).reshape(-1, 2, 4, 1), 2)
    stored = _joined(_places(codes.q).reshape(-1, 8, 2, 16), 4)
    return np.concatenate([_half(codes.factor), high, low, stored], axis=1)


def _q2_k(codes: Codes) -> Bytes:
    assert codes.sub_minimums is not None
    scales = _up(_subs(codes), 0) | _up(codes.sub_minimums, 0) << 4
    stored = _joined(_up(codes.q, 0).reshape(-1, 2, 4, 32), 2)
    return np.concatenate([scales, stored, _half(codes.factor), _half(_least(codes))], axis=1)


def _q3_k(codes: Codes) -> Bytes:
    stored, scale = _up(codes.q, 4), _up(_subs(codes), 32)
    high = _joined((stored >> 2).reshape(-1, 8, 32), 1)
    low = _joined((stored & 3).reshape(-1, 2, 4, 32), 2)
    scales = [_joined((scale & 15).reshape(-1, 2, 8), 4), _joined((scale >> 4).reshape(-1, 4, 4), 2)]
    return np.concatenate([high, low, *scales, _half(codes.factor)], axis=1)


def _scales_and_minimums(codes: Codes) -> Bytes:
    assert codes.sub_minimums is not None
    scale, minimum = _up(_subs(codes), 0), _up(codes.sub_minimums, 0)
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = minimum[:, :4] | minimum[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4], axis=1)


def _q4_k(codes: Codes) -> Bytes:
    stored = _joined(_up(codes.q, 0).reshape(-1, 4, 2, 32), 4)
    return np.concatenate([_half(codes.factor), _half(_least(codes)), _scales_and_minimums(codes), stored], axis=1)


def _q5_k(codes: Codes) -> Bytes:
    stored = _up(codes.q, 0)
    high = _joined((stored >> 4).reshape(-1, 8, 32), 1)
    low = _joined((stored & 15).reshape(-1, 4, 2, 32), 4)
    halves = [_half(codes.factor), _half(_least(codes))]
    return np.concatenate([*halves, _scales_and_minimums(codes), high, low], axis=1)


def _q6_k(codes: Codes) -> Bytes:
    stored = _up(codes.q, 32)
    low = _joined((stored & 15).reshape(-1, 2, 2, 64), 4)
    high = _joined((stored >> 4).reshape(-1, 2, 4, 32), 2)
    return np.concatenate([low, high, _subs(codes).view(np.uint8), _half(codes.factor)], axis=1)


PACKERS: Mapping[BlockType, Callable[[Codes], Bytes]] = {
    BlockType.Q4_0: _q4_0,
    BlockType.Q4_1: _q4_1,
    BlockType.Q5_0: _q5_0,
    BlockType.Q5_1: _q5_1,
    BlockType.Q8_0: _q8_0,
    BlockType.Q2_K: _q2_k,
    BlockType.Q3_K: _q3_k,
    BlockType.Q4_K: _q4_k,
    BlockType.Q5_K: _q5_k,
    BlockType.Q6_K: _q6_k,
    BlockType.IQ4_NL: _iq4_nl,
    BlockType.IQ4_XS: _iq4_xs,
}
