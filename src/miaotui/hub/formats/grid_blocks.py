"""Decodes GGML's blocks of one to three bits, whose weights come from a grid: points of 4 or 8 small integers.

A block names points by number; signs and scales lie beside them. The points are those of GGML (MIT licence,
``ggml-common.h``), kept in ``grids.npz`` as int8 ``[points, 4 or 8]``. Decoders give the same `Codes` as `blocks`: an
integer per weight, an odd integer scale of 16 or 32 weights, a factor of the block. Invariant: weights equal, bit for
bit, those of the C reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.blocks import Bytes, Codes, Floats, f16_to_float32, fields, in_order, pieces

EIGHTH, QUARTER = np.float32(0.125), np.float32(0.25)
TERNARY_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)  # a byte is a fraction of 256, whose five digits are ternary


@functools.cache
def _grids() -> dict[str, NDArray[np.int8]]:
    with np.load(Path(__file__).with_name("grids.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _signs(bits: NDArray[Any]) -> NDArray[np.int8]:
    """Return -1 where a bit is set, of bytes ``(n, b)``: ``(n, 8 b)``."""
    return (1 - 2 * np.unpackbits(bits.astype(np.uint8), axis=1, bitorder="little").view(np.int8)).astype(np.int8)


def _even_signs(sevens: NDArray[Any]) -> NDArray[np.int8]:
    """Return eight signs for each 7 bits ``(n, b)``: the last one makes the number of minuses even."""
    sevens = sevens.astype(np.uint8)
    parity = sevens ^ sevens >> 4
    parity = parity ^ parity >> 2
    return _signs(sevens | (parity ^ parity >> 1) << 7)


def _codes(points: NDArray[np.int8], signs: NDArray[np.int8], factor: Floats, scales: NDArray[Any]) -> Codes:
    """Join points and signs ``(n, 256)``, and scales ``(n, groups)``, of which twice plus one counts."""
    groups = scales.shape[1]
    q = (points.reshape(len(points), -1) * signs).reshape(len(points), groups, -1)
    return Codes(q, factor, subs=(2 * scales.astype(np.int8) + 1).astype(np.int8))


def _iq2_xxs(blocks: Bytes) -> Codes:
    d, qs = fields(blocks, 2, 64)
    words = qs.view("<u4").reshape(-1, 8, 2)
    points = _grids()["iq2_xxs"][np.ascontiguousarray(words[..., 0]).view(np.uint8)]
    sevens = words[..., 1, None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    return _codes(points, _even_signs(sevens.reshape(-1, 32)), f16_to_float32(d) * EIGHTH, words[..., 1] >> 28)


def _iq2_xs(blocks: Bytes) -> Codes:
    d, qs, scales = fields(blocks, 2, 64, 8)
    words = qs.view("<u2")
    signs = _even_signs(words >> 9)
    return _codes(_grids()["iq2_xs"][words & 511], signs, f16_to_float32(d) * EIGHTH, in_order(scales, 4))


def _iq2_s(blocks: Bytes) -> Codes:
    d, qs, signs, qh, scales = fields(blocks, 2, 32, 32, 8, 8)
    index = qs.astype(np.uint16) | in_order(qh, 2).astype(np.uint16) << 8
    return _codes(_grids()["iq2_s"][index], _signs(signs), f16_to_float32(d) * EIGHTH, in_order(scales, 4))


def _iq3_xxs(blocks: Bytes) -> Codes:
    d, qs, scales = fields(blocks, 2, 64, 32)
    words = scales.view("<u4")
    sevens = words[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    signs = _even_signs(sevens.reshape(-1, 32))
    return _codes(_grids()["iq3_xxs"][qs], signs, f16_to_float32(d) * QUARTER, words >> 28)


def _iq3_s(blocks: Bytes) -> Codes:
    d, qs, qh, signs, scales = fields(blocks, 2, 64, 8, 32, 4)
    index = qs.astype(np.uint16) | in_order(qh, 1).astype(np.uint16) << 8
    return _codes(_grids()["iq3_s"][index], _signs(signs), f16_to_float32(d), in_order(scales, 4))


def _iq1_s(blocks: Bytes) -> Codes:
    d, qs, qh = fields(blocks, 2, 32, 16)
    words = qh.view("<u2")
    high = words[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
    points = _grids()["iq1"][qs.astype(np.uint16) | high.reshape(-1, 32) << 8].reshape(-1, 8, 32)
    moved = 8 * points + np.where(words & 0x8000, -1, 1).astype(np.int8)[..., None]  # an eighth up or down
    return _codes(moved, np.ones((len(moved), 256), np.int8), f16_to_float32(d) * EIGHTH, words >> 12 & 7)


def _iq1_m(blocks: Bytes) -> Codes:
    qs, qh, scales = fields(blocks, 32, 16, 8)
    words = scales.view("<u2")
    quarters = (words & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)  # of the float16 factor
    factor = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).astype("<u2").view(np.uint8)
    high = in_order(qh, 4)
    points = _grids()["iq1"][qs.astype(np.uint16) | (high & 7).astype(np.uint16) << 8]
    moved = 8 * points + np.where(high & 8, -1, 1).astype(np.int8)[..., None]
    subs = words[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
    signs = np.ones((len(moved), 256), np.int8)
    return _codes(moved, signs, f16_to_float32(factor) * EIGHTH, subs.reshape(-1, 16))


def _tq1_0(blocks: Bytes) -> Codes:
    qs, qh, d = fields(blocks, 48, 4, 2)
    parts = (qs[:, None, :32], qs[:, None, 32:], qh[:, None])
    digits = [part * TERNARY_POWERS[: 4 if part.shape[2] == 4 else 5, None] for part in parts]
    ternary = np.concatenate([each.reshape(len(qs), -1) for each in digits], axis=1)
    return _ternary((ternary.astype(np.uint16) * 3 >> 8).astype(np.int8), d)


def _tq2_0(blocks: Bytes) -> Codes:
    qs, d = fields(blocks, 64, 2)
    return _ternary(pieces(qs.reshape(-1, 2, 32), 2).astype(np.int8), d)


def _ternary(codes: NDArray[np.int8], d: Bytes) -> Codes:
    q = codes.reshape(len(d), 8, 32) - np.int8(1)
    return Codes(q, f16_to_float32(d), subs=np.ones((len(d), 8), np.int8))


GRID_DECODERS: dict[str, Callable[[Bytes], Codes]] = {
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
}
