"""Memory of a pass: activations for the most rows, pages of keys and values, rotation tables.

All of it is reserved once and touched as needed: a pass allocates nothing. Knows sizes, not operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.options import KvKind
from miaotui.errors import EngineError
from miaotui.kernels.attention.fields import COS, PAGE_TOKENS, ROTATED, SIN
from miaotui.kernels.experts.fields import ROUTE_FIELDS, table_fields
from miaotui.kernels.linear.formats import UNIT_ROWS, padded_rows
from miaotui.kernels.pointwise.fields import ALONE
from miaotui.kernels.runtime.ops import HEADER_BYTES, OWN_BYTES
from miaotui.kernels.runtime.thread_pool import aligned_bytes, aligned_int64, fields_of, huge_bytes
from miaotui.kernels.sampling.peaks_fields import PEAK_FIELDS, PEAK_ID, PEAK_VALUE, parts_of
from miaotui.model.config import ExpertsConfig, LatentConfig, ModelConfig, StreamsConfig
from miaotui.model.head_layout import VECTOR, HeadLayout, Places
from miaotui.model.rope import RopeConfig

_TABLE_STEP = 1024  # positions computed at a time


class Rows(NamedTuple):
    """A buffer of ``rows`` rows, ``stride`` bytes apart."""

    data: NDArray[np.uint8]
    stride: int

    @property
    def address(self) -> int:
        """Return where row 0 begins."""
        return int(self.data.ctypes.data)

    def floats(self, rows: int, width: int) -> NDArray[np.float32]:
        """Return the first rows as a float32 view ``[rows, width]``."""
        table = self.data.reshape(-1, self.stride)[:rows]
        return table.view(np.float32)[:, :width]


def float_rows(rows: int, width: int) -> Rows:
    """Return rows of ``width`` float32 values."""
    stride = -(-width * 4 // 64) * 64
    return Rows(aligned_bytes(rows * stride), stride)


class Quantized(NamedTuple):
    """Rows of int8 values (int16 if ``wide``) and, per 32 of them, a header.

    Up to ``own_rows`` are kept by each thread for itself.
    """

    integers: Rows
    headers: Rows
    own_rows: int = 0
    wide: bool = False

    @classmethod
    def of(cls, rows: int, width: int, normed: int = 0, wide: bool = False) -> Quantized:
        """Room for ``rows`` rows of ``width`` values, made by norms of ``normed`` values (0: by products)."""
        stride, header = -(-width * (1 + wide) // 64) * 64, -(-width // 32 * HEADER_BYTES // 64) * 64
        own_rows = min(ALONE // normed, OWN_BYTES // (stride + header)) if normed else 0
        return cls(
            Rows(aligned_bytes(rows * stride), stride), Rows(aligned_bytes(rows * header), header), own_rows, wide
        )

    @property
    def own_headers(self) -> int:
        """Return where in its own memory a thread has the headers: behind the integers."""
        return self.own_rows * self.integers.stride


Activations = Quantized | Rows  # inputs of a product: of float32 weights float32 rows


class Workspace:
    """Activation buffers for up to ``max_rows`` rows, logits for up to ``max_logits``."""

    def __init__(self, config: ModelConfig, max_rows: int, max_logits: int) -> None:
        self.max_rows, self.max_logits = max_rows, max_logits
        hidden, shapes = config.hidden_size, [config.at(layer) for layer in range(config.n_layers)]
        layouts = [HeadLayout(shape) for shape in shapes]
        heads = max(shape.n_heads * shape.value_dim for shape in shapes)
        self.residual = [float_rows(max_rows, hidden) for _ in range(2 if config.post_norms else 1)]
        self.normed = Quantized.of(max_rows, hidden, normed=hidden)
        self.qkv = float_rows(max_rows, max(sum(layout.part_widths) for layout in layouts))
        self.latent = None if config.latent is None else LatentSpace(config.latent, config.rope.dim, max_rows)
        self.attended = Quantized.of(max_rows, heads)
        is_plain = all(layout.is_plain for layout in layouts)
        self.joined_heads = float_rows(1 if is_plain else max_rows, heads)  # before they are quantized
        self.mixed = float_rows(max_rows if config.post_norms else 1, hidden)
        self.fed = Quantized.of(max_rows, config.ffn_size)
        self.mixture = MixtureSpace(config.experts, hidden, max_rows) if config.experts is not None else None
        self.streams = None if config.streams is None else StreamSpace(config.streams, hidden, max_rows, max_logits)
        self.inputs = None
        if config.layer_inputs is not None:
            self.inputs = InputSpace(config.layer_inputs.width, config.n_layers, max_rows)
        self.wide = float_rows(max_rows if config.cutoffs else 1, 2 * config.ffn_size)  # gates and ups, if sparse
        self.last = Quantized.of(max_logits, hidden, normed=hidden)
        self.logits = float_rows(max_logits, padded_rows(config.vocab_size))
        self.part_peaks = float_rows(max_logits, 2 * parts_of(config.vocab_size))
        self.peaks = aligned_int64(max_logits * PEAK_FIELDS).reshape(-1, PEAK_FIELDS)


class LatentSpace:
    """Buffers of latent attention: the small vectors of a row side by side, and those that are normed."""

    def __init__(self, latent: LatentConfig, rotated: int, max_rows: int) -> None:
        self.widths = {"q_a": latent.query_rank, "kv_a": latent.rank, "k_rope": rotated}
        self.small = float_rows(max_rows, sum(self.widths.values()))
        self.queries = Quantized.of(max_rows, latent.query_rank or UNIT_ROWS, normed=latent.query_rank or UNIT_ROWS)
        self.keys = Quantized.of(max_rows, latent.rank, normed=latent.rank)

    def part(self, name: str) -> Rows:
        """Return the rows of one small vector."""
        first = 0
        for other, width in self.widths.items():
            if other == name:
                break
            first += 4 * width
        return self.small._replace(data=self.small.data[first:])


class StreamSpace:
    """Buffers of several residual streams: a row's lie one after the other."""

    def __init__(self, streams: StreamsConfig, hidden: int, max_rows: int, max_logits: int) -> None:
        self.count = streams.number
        width = streams.number * hidden
        self.states, self.predictions, self.corrected = (float_rows(max_rows, width) for _ in range(3))
        self.lifted = float_rows(max_rows, width - hidden)
        self.read, self.sum, self.low = (float_rows(max_rows, hidden) for _ in range(3))
        self.small = float_rows(max_rows, padded_rows(streams.rank))
        self.small_inputs = Quantized.of(max_rows, streams.rank, normed=streams.rank)
        self.last = Quantized.of(max_logits, hidden, normed=hidden)
        self.last_lifted, self.merged = float_rows(max_logits, width - hidden), float_rows(max_logits, hidden)


class InputSpace:
    """Buffers of the inputs of layers; a row's lie one layer after another."""

    def __init__(self, width: int, n_layers: int, max_rows: int) -> None:
        self.own, self.made, self.all = (float_rows(max_rows, padded_rows(n_layers * width)) for _ in range(3))
        self.gate = float_rows(max_rows, width)
        self.gated = Quantized.of(max_rows, width)


class MixtureSpace:
    """Buffers of the layers with experts: router inputs and logits, routes, and a row for each route."""

    def __init__(self, experts: ExpertsConfig, hidden: int, max_rows: int) -> None:
        routes = max_rows * experts.chosen
        self.inputs = float_rows(max_rows, hidden)
        self.logits = float_rows(max_rows, padded_rows(experts.count) + UNIT_ROWS)
        self.picks = aligned_int64(routes * ROUTE_FIELDS)
        self.used = aligned_int64(table_fields(experts.count))
        self.routes = aligned_int64(routes * ROUTE_FIELDS)
        self.gathered = Quantized.of(routes, hidden)
        self.fed = Quantized.of(routes, experts.size)
        beside = max_rows if experts.beside else 1
        self.dense, self.sum, self.both = (float_rows(beside, hidden) for _ in range(3))
        self.shared = aligned_int64(table_fields(1))
        self.shared_routes = aligned_int64(max_rows * ROUTE_FIELDS)
        self.shared_fed = Quantized.of(max_rows, experts.shared_size or UNIT_ROWS)


def peaks_of(table: NDArray[np.int64]) -> tuple[memoryview[int], memoryview[float]]:
    """Return the ids in a table of peaks, and their values."""
    fields = fields_of(table)
    values = fields.cast("B").cast("f")[2 * PEAK_VALUE :: 2 * PEAK_FIELDS]  # low halves
    return fields[PEAK_ID::PEAK_FIELDS], values


class PageHeads:
    """Heads of one layer in a page: ``start`` bytes from the page's begin, each head's keys before its values."""

    def __init__(self, layout: HeadLayout, kind: KvKind, start: int) -> None:
        self.layout, self.start, self.n_heads = layout, start, layout.config.n_kv_heads
        values = PAGE_TOKENS * layout.dim
        self.half_bytes = 2 * values if kind == "f16" else values + 4 * PAGE_TOKENS
        self.head_bytes = 2 * self.half_bytes


class KvPages:
    """Keys and values of every layer, or of some ``layers``: ``n_pages`` pages of 16 tokens. Fresh pages are zero;
    memory is taken when touched.

    All layers of a page lie together, in huge pages of the operating system where it has them: what
    a short text touches is dense, and a pass needs few address translations.
    """

    def __init__(self, config: ModelConfig, n_pages: int, kind: KvKind, layers: range | None = None) -> None:
        self.kind, self.n_pages = kind, n_pages
        self._heads: dict[int, PageHeads] = {}
        first, layers = 0, range(config.n_layers) if layers is None else layers
        for layer in filter(config.has_keys, layers):
            heads = PageHeads(HeadLayout(config.at(layer)), kind, first)
            self._heads[layer] = heads
            first += heads.n_heads * heads.head_bytes
        for layer in layers:
            self._heads[layer] = self._heads[config.kv_layer(layer)]
        self.page_bytes = first
        self._data = huge_bytes(n_pages * self.page_bytes)

    def heads(self, layer: int) -> PageHeads:
        """Return how the heads that a layer sees lie in a page."""
        return self._heads[layer]

    def layer_address(self, layer: int) -> int:
        """Return where one layer's part of page 0 begins; the next page's part is ``page_bytes`` further."""
        return int(self._data.ctypes.data) + self._heads[layer].start

    def read(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values of a sequence's first tokens, ``[count, 2, heads, head_dim]``; of f16."""
        assert self.kind == "f16", "scaled integers are read by kernels alone"
        heads, listed = self._heads[layer], list(pages[: -(-count // PAGE_TOKENS)])
        dim, end = heads.layout.dim, heads.start + heads.n_heads * heads.head_bytes
        table = self._data[: self.n_pages * self.page_bytes].reshape(self.n_pages, self.page_bytes)
        some = np.ascontiguousarray(table[listed, heads.start : end]).view(np.float16)
        some = some.reshape(len(listed), heads.n_heads, 2, PAGE_TOKENS * dim)
        keys = some[:, :, 0].reshape(-1, heads.n_heads, dim, PAGE_TOKENS).transpose(0, 3, 1, 2)
        values = some[:, :, 1].reshape(-1, heads.n_heads, PAGE_TOKENS, dim).transpose(0, 2, 1, 3)
        both = [each.reshape(-1, heads.n_heads, dim)[:count] for each in (keys, values)]
        if not heads.layout.is_plain:
            places = heads.layout.keys(layer), heads.layout.values
            both = [each[..., _in_order(at)] for each, at in zip(both, places, strict=True)]
            missing = both[0].shape[-1] - both[1].shape[-1]  # of latent attention, whose values are narrower
            both[1] = np.pad(both[1], [(0, 0), (0, 0), (0, missing)])
        return np.ascontiguousarray(np.stack(both, 1))

    @staticmethod
    def bytes_per_token(config: ModelConfig, kind: KvKind, layers: range | None = None) -> int:
        """Return the bytes of one token's keys and values in all layers, or in ``layers``."""
        layers = range(config.n_layers) if layers is None else layers
        own = [config.at(layer) for layer in layers if config.has_keys(layer)]
        dims = [(heads.n_kv_heads, HeadLayout(heads).dim) for heads in own]
        return sum(2 * count * (2 * dim if kind == "f16" else dim + 4) for count, dim in dims)


def _in_order(places: Places) -> Places:
    """Return the places of a head's values, in the order of the values."""
    return np.argsort(places)[np.count_nonzero(places < 0) :]


class RotationTable:
    """Cosines and sines ``[positions, dim / 2]`` of one rope, computed as far as positions have been asked for.

    They have whole vectors of columns; those beyond the rope's are of an angle of 0.
    """

    def __init__(self, rope: RopeConfig, positions: int) -> None:
        half = -(-rope.dim // (2 * VECTOR)) * VECTOR
        self.cos = np.empty((positions, half), np.float32)
        self.sin = np.empty((positions, half), np.float32)
        frequencies = rope.inverse_frequencies()
        self._frequencies = np.pad(frequencies, (0, half - len(frequencies)))
        self._magnitude = rope.magnitude()
        self.known = 0  # positions from the first on

    def fields(self) -> dict[int, int]:
        """Return the fields by which attention finds the table."""
        return {ROTATED: 2 * self.cos.shape[1], COS: int(self.cos.ctypes.data), SIN: int(self.sin.ctypes.data)}

    def reach(self, end: int) -> None:
        """Make positions below ``end`` ready. Raises `EngineError` beyond the table."""
        if end > len(self.cos):
            raise EngineError(
                f"position {end - 1} is beyond the context of {len(self.cos)} tokens: "
                "load the model with a larger context"
            )
        while self.known < end:
            stop = min(self.known + _TABLE_STEP, len(self.cos))
            angles = np.arange(self.known, stop, dtype=np.float64)[:, None] * self._frequencies
            self.cos[self.known : stop] = np.cos(angles) * self._magnitude
            self.sin[self.known : stop] = np.sin(angles) * self._magnitude
            self.known = stop


class LayerRopes(Protocol):
    """Configuration of a model whose layers may each have a rope of their own."""

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""

    def layer_rope(self, layer: int) -> RopeConfig | None:
        """Return the position encoding of one layer, or None where it has none."""


def rotation_tables(config: LayerRopes, positions: int) -> dict[int, RotationTable]:
    """Return the rotation table of each layer that rotates; layers with the same rope share one."""
    shared: dict[RopeConfig, RotationTable] = {}
    result = {}
    for layer in range(config.n_layers):
        rope = config.layer_rope(layer)
        if rope is not None:
            if rope not in shared:
                shared[rope] = RotationTable(rope, positions)
            result[layer] = shared[rope]
    return result
