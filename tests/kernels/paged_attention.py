"""Attention passes over a small paged cache, for the tests: what runner and program do, by hand.

`Cache` owns pages of one layer and runs `Row`s over them; `expected` is what the reference says of
a whole sequence. A row is a token's queries, keys and values, as a product would have left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from kernel_pass import Floating, Quantized, run_pass
from numpy.typing import NDArray

from miaotui.kernels import reference
from miaotui.kernels.attention import fields as att
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.reference import Bytes, Floats, Views
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes, aligned_int64
from miaotui.model.alibi import alibi_slopes

POSITIONS = 128
EPS = 1e-6
BESIDE = 192  # bytes of other layers between two pages


@dataclass(frozen=True)
class Kind:
    """One kind of attention."""

    kv_heads: int = 2
    group: int = 2
    dim: int = 64
    rotated: int | None = None  # None: all dimensions
    window: int = 0
    cap: float = 0.0
    int8: bool = False
    normed: bool = False
    biased: bool = False  # scores fall with distance
    values_normed: bool = False

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group

    @property
    def width(self) -> int:
        """Floats of a row: queries, keys, values."""
        return (self.heads + 2 * self.kv_heads) * self.dim

    @property
    def turned(self) -> int:
        return self.dim if self.rotated is None else self.rotated

    @property
    def scale(self) -> float:
        return float(np.float32(self.dim**-0.5))

    def angles(self) -> tuple[Floats, Floats]:
        """Cosines and sines ``[positions, turned / 2]``."""
        half = self.turned // 2
        turns = np.arange(POSITIONS)[:, None] * 100.0 ** -(np.arange(half) / max(half, 1))
        return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)

    def norms(self) -> tuple[Floats, Floats]:
        rng = np.random.default_rng(5)
        query, key = (1 + rng.normal(0, 0.2, (2, self.dim))).astype(np.float32)
        return query, key

    def tokens(self, count: int, seed: int = 0) -> Floats:
        """Queries, keys and values of ``count`` tokens."""
        rng = np.random.default_rng([seed, count, self.dim])
        return rng.standard_normal((count, self.width), np.float32) * np.float32(2)


@dataclass(frozen=True)
class Row:
    """One row of a pass; ``pages`` is the list it sees, ``stores`` the pages its key goes to."""

    values: Floats
    position: int
    pages: tuple[int, ...]
    end: int | None = None  # of its view; None: itself
    stores: tuple[int, ...] | None = None  # None: its own page of the list

    def targets(self) -> tuple[int, ...]:
        return (self.pages[self.position // PAGE_TOKENS],) if self.stores is None else self.stores


@dataclass
class Cache:
    """Pages of one layer."""

    kind: Kind
    n_pages: int = 12
    threads: int = 1
    data: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        kind = self.kind
        values = PAGE_TOKENS * kind.dim
        self.half_bytes = values + 4 * PAGE_TOKENS if kind.int8 else 2 * values
        self.page_bytes = 2 * self.half_bytes * kind.kv_heads
        self.stride = self.page_bytes + BESIDE
        self.data = aligned_bytes(self.n_pages * self.stride)
        self._cos, self._sin = kind.angles()
        self._norms = kind.norms()
        self._slopes, self._ones = alibi_slopes(kind.heads), np.ones(kind.dim, np.float32)

    def pages(self) -> NDArray[np.uint8]:
        """The pages' bytes ``[pages, heads, bytes]``; what lies between them is untouched."""
        table = self.data.reshape(self.n_pages, self.stride)
        assert not table[:, self.page_bytes :].any(), "written beside a page"
        return table[:, : self.page_bytes].reshape(self.n_pages, self.kind.kv_heads, -1)

    def run(
        self, rows: Sequence[Row], blocks: Sequence[int], copies: Sequence[tuple[int, int]] = (), single: bool = False
    ) -> Bytes:
        """One pass over rows in blocks of the given sizes; int8 ``[rows, groups, 32]``."""
        kind = self.kind
        source = Floating(len(rows), kind.width, np.stack([row.values for row in rows]))
        out = Quantized(len(rows), kind.heads * kind.dim)
        suffix = "int8" if kind.int8 else "f16"
        names = ["kv_copy", f"kv_store_{suffix}"]
        names.append(f"attention_{suffix}{'_biased' if kind.biased else '_capped' if kind.cap else ''}")
        fields = self._fields(source, out)
        tables = _tables(rows, blocks, copies)
        run = {name: address_of(table) for name, table in tables.items()} | {
            ops.RUN_ROWS: len(rows),
            ops.RUN_BLOCKS: len(blocks),
            ops.RUN_COPIES: len(copies),
            ops.RUN_STORES: len(tables[ops.RUN_STORE_TABLE]),
            ops.RUN_SINGLE: int(single),
        }
        lists = _page_lists(rows, tables[ops.RUN_ROW_TABLE])
        run_pass([(f"attention.paged_attention:{name}", fields) for name in names], run, self.threads)
        del lists
        return out.read(len(rows))

    def _fields(self, source: Floating, out: Quantized) -> dict[int, int]:
        kind = self.kind
        key = 4 * kind.heads * kind.dim
        query_norm, key_norm = (address_of(n) if kind.normed else 0 for n in self._norms)
        return {
            att.QKV: source.address,
            att.QKV_STRIDE: source.stride,
            att.KEY_OFFSET: key,
            att.VALUE_OFFSET: key + 4 * kind.kv_heads * kind.dim,
            att.KV_HEADS: kind.kv_heads,
            att.GROUP_HEADS: kind.group,
            att.DIM: kind.dim,
            att.PAGES: address_of(self.data),
            att.PAGE_STRIDE: self.stride,
            att.HEAD_STRIDE: 2 * self.half_bytes,
            att.VALUES_IN_HEAD: self.half_bytes,
            att.COS: address_of(self._cos),
            att.SIN: address_of(self._sin),
            att.ROTATED: kind.turned,
            att.QUERY_NORM: query_norm,
            att.KEY_NORM: key_norm,
            att.NORM_EPS: float_field(EPS),
            att.SLOPES: address_of(self._slopes) if kind.biased else 0,
            att.VALUE_NORM: address_of(self._ones) if kind.values_normed else 0,
            att.SCALE: float_field(kind.scale),
            att.WINDOW: kind.window,
            att.CAP: float_field(kind.cap),
            att.OUT: out.integers.address,
            att.OUT_STRIDE: out.integers.stride,
            att.OUT_HEADERS: out.headers.address,
            att.OUT_HEADER_STRIDE: out.headers.stride,
        }

    def chunk(self, tokens: Floats, start: int, pages: Sequence[int], end: int | None = None) -> Bytes:
        """Consecutive tokens from position ``start`` on, in blocks of 8 as the runner makes them."""
        rows = chunk_rows(tokens, start, pages, end)
        return self.run(rows, block_sizes(len(rows)), single=len(rows) <= ops.BLOCK_ROWS)


def chunk_rows(tokens: Floats, start: int, pages: Sequence[int], end: int | None = None) -> list[Row]:
    """Rows of consecutive tokens."""
    return [Row(token, start + i, tuple(pages), end) for i, token in enumerate(tokens)]


def block_sizes(rows: int) -> list[int]:
    """Blocks of 8, and the rest."""
    return [min(ops.BLOCK_ROWS, rows - first) for first in range(0, rows, ops.BLOCK_ROWS)]


def _tables(
    rows: Sequence[Row], blocks: Sequence[int], copies: Sequence[tuple[int, int]]
) -> dict[int, NDArray[np.int64]]:
    stores = [(number, page, row.position % PAGE_TOKENS) for number, row in enumerate(rows) for page in row.targets()]
    firsts = np.cumsum([0, *blocks])[:-1]
    return {
        ops.RUN_ROW_TABLE: _int64(np.zeros((len(rows), ops.ROW_FIELDS))),
        ops.RUN_BLOCK_TABLE: _int64(list(zip(firsts, blocks, strict=True))),
        ops.RUN_STORE_TABLE: _int64(stores),
        ops.RUN_COPY_TABLE: _int64(list(copies) or [(0, 0)]),
    }


def _page_lists(rows: Sequence[Row], table: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Fill the table of rows; the lists of pages must outlive the pass."""
    lists = {row.pages: _int64(row.pages) for row in rows}
    for entry, row in zip(table, rows, strict=True):
        entry[ops.ROW_POSITION], entry[ops.ROW_PAGES] = row.position, address_of(lists[row.pages])
        entry[ops.ROW_VIEW_END] = row.position + 1 if row.end is None else row.end
    return list(lists.values())


def _int64(values: object) -> NDArray[np.int64]:
    array = np.array(values, np.int64)
    out = aligned_int64(array.size).reshape(array.shape)
    out[:] = array
    return out


def expected(kind: Kind, tokens: Floats, ends: Sequence[int] | None = None) -> Bytes:
    """What attention over the whole sequence gives for each of its tokens."""
    count = len(tokens)
    positions = np.arange(count)
    starts = np.maximum(positions - kind.window + 1, 0) if kind.window else positions * 0
    views = Views(starts, positions + 1 if ends is None else np.asarray(ends))
    heads = tokens.reshape(count, -1, kind.dim)
    norms = kind.norms()
    outputs = []
    for head in range(kind.kv_heads):
        keys = turned(kind, heads[:, kind.heads + head], positions, norms[1], 1.0)
        values = heads[:, kind.heads + kind.kv_heads + head]
        if kind.values_normed:
            values = reference.norm_head(values, np.ones(kind.dim, np.float32), EPS)
        for query in range(head * kind.group, (head + 1) * kind.group):
            queries = turned(kind, heads[:, query], positions, norms[0], kind.scale)
            stored = (_stored(kind, keys), _stored(kind, values))
            slope = float(alibi_slopes(kind.heads)[query]) if kind.biased else 0.0
            outputs.append(reference.attention(queries, *stored, views, kind.cap, slope))
    return reference.quantize(np.concatenate(outputs, axis=1))


def turned(kind: Kind, heads: Floats, positions: NDArray[np.int64], weight: Floats, scale: float) -> Floats:
    """Heads of one row each, normed if the kind says so, rotated and scaled."""
    cos, sin = (table[positions] for table in kind.angles())
    if kind.normed:
        heads = reference.norm_head(heads, weight, EPS)
    return reference.rotate(heads, cos, sin, scale)


def _stored(kind: Kind, heads: Floats) -> Floats | Bytes:
    """Rows as the cache holds them, up to a whole page."""
    grown = np.pad(heads, [(0, -len(heads) % PAGE_TOKENS), (0, 0)])
    return reference.to_bytes(grown) if kind.int8 else reference.half(grown).astype(np.float32)
