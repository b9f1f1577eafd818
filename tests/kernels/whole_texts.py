"""Passes of attention over whole texts, for the tests: what the encoder's program and backend do, by hand.

`run_whole` runs texts in blocks of rows; `expected` is what the reference says of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from kernel_pass import Floating, Quantized, run_pass

from miaotui.kernels import reference
from miaotui.kernels.attention import fields as att
from miaotui.kernels.reference import Floats, Views
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes, aligned_int64

KERNELS = ("attention.bidirectional:store_keys", "attention.bidirectional:attend")
POSITIONS = 128


@dataclass(frozen=True)
class Whole:
    """One kind of attention over whole texts."""

    heads: int = 2
    dim: int = 32
    rotated: int = 0
    window: int = 0
    biased: bool = False
    relative: bool = False

    @property
    def scale(self) -> float:
        return float(np.float32(self.dim**-0.5))

    def tokens(self, count: int, seed: int = 0) -> Floats:
        """Queries, keys and values of a text's tokens: ``[count, 3 x heads x dim]``."""
        rng = np.random.default_rng([seed, count, self.dim])
        return rng.standard_normal((count, 3 * self.heads * self.dim), np.float32) * np.float32(2)

    def angles(self) -> tuple[Floats, Floats]:
        """Cosines and sines ``[positions, rotated / 2]``."""
        half = self.rotated // 2
        turns = np.arange(POSITIONS)[:, None] * 100.0 ** -(np.arange(half) / max(half, 1))
        return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)

    def bias(self) -> Floats:
        """Bias by distance of key and query, which begins at ``1 - POSITIONS``; with room for a panel."""
        return np.random.default_rng(8).standard_normal((self.heads, 2 * POSITIONS + 15), np.float32)

    def positions(self) -> tuple[Floats, Floats]:
        """Keys and queries of positions ``[heads, dim, distances]``, which begin at ``1 - POSITIONS``."""
        rng = np.random.default_rng(9)
        keys, queries = rng.standard_normal((2, self.heads, self.dim, 2 * POSITIONS + 15), np.float32)
        return keys, queries


def blocks_of(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Blocks ``(first row, count)`` of texts of these sizes."""
    starts = np.cumsum([0, *sizes])
    return [
        (start + at, min(most, n - at)) for start, n in zip(starts, sizes, strict=False) for at in range(0, n, most)
    ]


def run_whole(
    kind: Whole, texts: Sequence[Floats], most: int = 24, threads: int = 1, floating: bool = False
) -> Quantized | Floating:
    """One pass over whole texts, each in blocks of at most ``most`` rows."""
    sizes = [len(text) for text in texts]
    width, panels = kind.heads * kind.dim, [-(-n // 16) for n in sizes]
    table = aligned_int64(sum(sizes) * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
    table[:, ops.ROW_POSITION] = np.concatenate([np.arange(n) for n in sizes])
    table[:, ops.ROW_VIEW_END] = np.repeat(sizes, sizes)
    table[:, ops.ROW_PANEL] = np.repeat(np.cumsum([0, *panels])[:-1], sizes)
    blocks = blocks_of(sizes, most)
    block_table = aligned_int64(2 * len(blocks)).reshape(-1, 2)
    block_table[:] = blocks
    qkv = Floating(sum(sizes), 3 * width, np.concatenate(texts))
    out = Floating(sum(sizes), width) if floating else Quantized(sum(sizes), width)
    head_bytes = sum(panels) * 16 * kind.dim * 4
    cache = aligned_bytes(2 * kind.heads * head_bytes)
    cache.view(np.float32)[:] = np.nan  # of another text, whose states were no numbers
    cos, sin = kind.angles()
    bias = kind.bias()
    fields = {
        att.QKV: qkv.address,
        att.QKV_STRIDE: qkv.stride,
        att.KEY_OFFSET: 4 * width,
        att.VALUE_OFFSET: 8 * width,
        att.KV_HEADS: kind.heads,
        att.DIM: kind.dim,
        att.KEYS: address_of(cache),
        att.VALUES: address_of(cache) + kind.heads * head_bytes,
        att.HEAD_BYTES: head_bytes,
        att.COS: address_of(cos),
        att.SIN: address_of(sin),
        att.ROTATED: kind.rotated,
        att.SCALE: float_field(kind.scale),
        att.WINDOW: kind.window,
    }
    if kind.biased:
        fields |= {att.BIAS_TABLE: address_of(bias) + 4 * (POSITIONS - 1), att.BIAS_STRIDE: bias.strides[0]}
    position_keys, position_queries = kind.positions()
    if kind.relative:
        fields |= {
            att.RELATIVE_KEYS: address_of(position_keys) + 4 * (POSITIONS - 1),
            att.RELATIVE_QUERIES: address_of(position_queries) + 4 * (POSITIONS - 1),
            att.RELATIVE_STRIDE: position_keys.strides[1],
            att.RELATIVE_HEAD_BYTES: position_keys.strides[0],
        }
    if isinstance(out, Floating):
        fields |= {att.OUT: out.address, att.OUT_STRIDE: out.stride}
    else:
        fields |= {att.OUT: out.integers.address, att.OUT_STRIDE: out.integers.stride}
        fields |= {att.OUT_HEADERS: out.headers.address, att.OUT_HEADER_STRIDE: out.headers.stride}
    run_fields = {
        ops.RUN_ROWS: sum(sizes),
        ops.RUN_ROW_TABLE: address_of(table),
        ops.RUN_BLOCKS: len(blocks),
        ops.RUN_BLOCK_TABLE: address_of(block_table),
    }
    run_pass([(name, {**fields, ops.ROWS: ops.RUN_ROWS}) for name in KERNELS], run_fields, threads)
    return out


def expected(kind: Whole, tokens: Floats) -> Floats:
    """What the reference says of one text."""
    count, positions = len(tokens), np.arange(len(tokens))
    window = kind.window or POSITIONS
    views = Views(np.maximum(positions - window + 1, 0), np.minimum(positions + window, count))
    heads = tokens.reshape(count, 3, kind.heads, kind.dim)
    cos, sin = (each[:count] for each in kind.angles())
    outputs = []
    for head in range(kind.heads):
        queries = reference.rotate(heads[:, 0, head], cos, sin, kind.scale)
        keys = reference.rotate(heads[:, 1, head], cos, sin)
        distances = positions[None, :] - positions[:, None]
        bias = kind.bias()[head][distances + POSITIONS - 1] if kind.biased else None
        pair = None
        if kind.relative:
            tables = [table[head].T[distances + POSITIONS - 1] for table in kind.positions()]
            pair = (tables[0], tables[1])
        outputs.append(reference.whole_text_attention(queries, keys, heads[:, 2, head], views, bias, pair))
    return np.concatenate(outputs, axis=1)
