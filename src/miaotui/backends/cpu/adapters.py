"""Low-rank adapters in memory, as compiled passes read them: both thin matrices of each pair in 8 bits.

The first matrix is packed as `Format.Q8`, in tiles of 16 ranks. The second lies in units of 32 outputs: a float32 scale
for each output, then 32 codes for each rank (`kernels.adapters.fields`). Matrices lie in the order of a pass, so that
memory streams. Knows configurations and pairs, not passes. Invariant: memory is known, and bounded, before it is taken;
an adapter is here whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.workspace import float_rows
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.kernels.adapters import fields as ad
from miaotui.kernels.linear.formats import LINE, TILE_ROWS, UNIT_ROWS, Format, padded_rows, tile_stride
from miaotui.kernels.linear.packed_blocks import pack, quantize
from miaotui.kernels.runtime.thread_pool import address_of, aligned_int64, huge_bytes
from miaotui.model.adapters.adapter import Array, LowRankPair, require_per_request
from miaotui.model.config import ModelConfig
from miaotui.model.head_layout import HeadLayout

OPERATIONS = {  # of a layer, with parts
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "up": ("gate", "up"),
    "down": ("down",),
    "router": ("router", "shared_router"),
    "latent": ("q_a", "kv_a", "k_rope"),
    "kv": ("k", "v"),  # of latent attention, whose queries alone are those of "qkv"
}
EXPERT_PARTS = ("gate", "up", "down")  # of each expert, in the order of their records
_MOST_CODE = 127


class PairPlace(NamedTuple):
    """Place of a pair's record: which operation of a pass, and which part of its outputs."""

    operation: int
    part: int


class PairSize(NamedTuple):
    """Sizes of a pair's packed matrices."""

    rank: int
    inputs: int
    outputs: int  # rows of the packed product: zeros between heads, and up to a whole unit, included

    @property
    def tiles(self) -> int:
        """Return the tiles of the first matrix."""
        return -(-self.rank // TILE_ROWS)

    @property
    def down_bytes(self) -> int:
        """Return the bytes of the first matrix."""
        return self.tiles * tile_stride(Format.Q8, self.inputs)

    @property
    def up_bytes(self) -> int:
        """Return the bytes of the second matrix, up to a whole line."""
        return -(-self.outputs // UNIT_ROWS * ad.up_unit_bytes(self.rank) // LINE) * LINE


class AdapterSpace:
    """Buffers of passes in which rows have adapters."""

    def __init__(self, config: ModelConfig, max_rows: int) -> None:
        self.hidden = float_rows(max_rows, ad.MOST_PARTS * ad.PART_VALUES)
        self.wide = float_rows(max_rows, config.ffn_size * (2 if config.gated else 1))
        routes = max_rows * config.experts.chosen if config.experts is not None else 1
        self.routes = float_rows(routes, 2 * ad.PART_VALUES)  # gate and up, then down


class PackedAdapter:
    """One adapter of a model. ``address`` is its table's, as rows name it."""

    def __init__(self, config: ModelConfig, pairs: Mapping[str, LowRankPair]) -> None:
        self.size_bytes = packed_size(config, pairs)
        self._data = huge_bytes(self.size_bytes)
        self._table = aligned_int64(n_operations(config) * ad.MOST_PARTS * ad.PART_FIELDS)
        self.address = address_of(self._table)
        self._fill(config, pairs)

    def _fill(self, config: ModelConfig, pairs: Mapping[str, LowRankPair]) -> None:
        records = self._table.reshape(-1, ad.MOST_PARTS, ad.PART_FIELDS)
        start, at = address_of(self._data), 0
        for names in _in_order(config, pairs):
            for name in names:
                place, size = place_of(config, name), size_of(config, name, pairs[name])
                pack_down(pairs[name].down, self._data[at : at + size.down_bytes])
                record = records[place.operation, place.part]
                record[ad.DOWN], record[ad.TILES], record[ad.RANK] = start + at, size.tiles, size.rank
                at += size.down_bytes
            for name in names:
                place, size = place_of(config, name), size_of(config, name, pairs[name])
                pack_up(spread(config, name, pairs[name].up), self._data[at : at + size.up_bytes])
                records[place.operation, place.part, ad.UP] = start + at
                at += size.up_bytes


def packed_size(config: ModelConfig, pairs: Mapping[str, LowRankPair]) -> int:
    """Return the bytes of packed pairs. Raises `UnsupportedModelError` for a matrix that no kernel can change."""
    require_per_request(pairs)
    sizes = [size_of(config, name, pair) for name, pair in pairs.items()]
    return sum(size.down_bytes + size.up_bytes for size in sizes)


def n_operations(config: ModelConfig) -> int:
    """Return the number of operations that an adapter may change: those of the layers, the head, then the experts."""
    return expert_operation(config, config.n_layers, 0)


def operation_of(config: ModelConfig, layer: int | None, name: str = "") -> int:
    """Return the number of a layer's operation; of the head without a layer."""
    if layer is None:
        return len(OPERATIONS) * config.n_layers
    return len(OPERATIONS) * layer + list(OPERATIONS).index(name)


def expert_operation(config: ModelConfig, layer: int, expert: int) -> int:
    """Return the number of an expert's operation; the shared one comes after the others of its layer."""
    each = 0 if config.experts is None else config.experts.count + 1
    return operation_of(config, None) + 1 + layer * each + expert


def place_of(config: ModelConfig, name: str) -> PairPlace:
    """Return the place of the matrix ``name``, one of `PER_REQUEST`."""
    if name == "head":
        return PairPlace(operation_of(config, None), 0)
    _, layer, matrix, *expert = name.split(".")
    kind, _, side = matrix.rpartition("_")
    if kind and side in EXPERT_PARTS:
        assert config.experts is not None, "its names are those of the model"
        number = int(expert[0]) if expert else config.experts.count
        return PairPlace(expert_operation(config, int(layer), number), EXPERT_PARTS.index(side))
    if matrix in OPERATIONS["kv"] and config.latent is not None:
        return PairPlace(operation_of(config, int(layer), "kv"), OPERATIONS["kv"].index(matrix))
    operation = next(each for each, parts in OPERATIONS.items() if matrix in parts)
    part = 0 if operation == "up" and not config.gated else OPERATIONS[operation].index(matrix)
    return PairPlace(operation_of(config, int(layer), operation), part)


def size_of(config: ModelConfig, name: str, pair: LowRankPair) -> PairSize:
    """Return the sizes of a pair's packed matrices."""
    outputs, matrix = len(pair.up), name.rpartition(".")[2]
    if matrix in ("q", "k", "v"):
        heads = HeadLayout(config.at(int(name.split(".")[1])))
        number = heads.config.n_heads if matrix == "q" or config.latent is not None else heads.config.n_kv_heads
        outputs = number * heads.dim
    return PairSize(pair.rank, pair.down.shape[1], padded_rows(outputs))


def spread(config: ModelConfig, name: str, up: Array) -> Array:
    """Return the rows of a second matrix as the packed product has them, padded to whole units."""
    matrix = name.rpartition(".")[2]
    if matrix in ("q", "k", "v"):
        raw = np.ascontiguousarray(up, np.float32).reshape(-1).view(np.uint8)
        stored = StoredTensor.from_bytes(name, up.shape, BlockType.F32, raw)
        layer = int(name.split(".")[1])
        up = HeadLayout(config.at(layer)).stored(stored, matrix, layer).float32()
    return np.pad(up, ((0, padded_rows(len(up)) - len(up)), (0, 0)))


def pack_down(down: Array, out: NDArray[np.uint8]) -> None:
    """Pack a first matrix ``[rank, inputs]`` into tiles of 16 ranks."""
    rank, inputs = down.shape
    rows = -(-rank // TILE_ROWS) * TILE_ROWS
    padded = np.pad(down, ((0, rows - rank), (0, 0)))
    pack(quantize(Format.Q8, padded), out.reshape(rows // TILE_ROWS, tile_stride(Format.Q8, inputs)))


def pack_up(up: Array, out: NDArray[np.uint8]) -> None:
    """Pack a second matrix ``[outputs, rank]``, outputs in whole units: each rounded to 8 bits, with a scale."""
    units, rank = len(up) // UNIT_ROWS, up.shape[1]
    scales = (np.abs(up).max(axis=1) / np.float32(_MOST_CODE)).astype(np.float32)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    codes = np.rint(up * inverse[:, None]).clip(-_MOST_CODE, _MOST_CODE).astype(np.int8)
    cells = out[: units * ad.up_unit_bytes(rank)].reshape(units, ad.up_unit_bytes(rank))
    cells[:, : ad.SCALE_BYTES] = scales.reshape(units, UNIT_ROWS).view(np.uint8)
    turned = codes.reshape(units, UNIT_ROWS, rank).transpose(0, 2, 1)
    cells[:, ad.SCALE_BYTES :] = np.ascontiguousarray(turned).reshape(units, -1).view(np.uint8)


def _in_order(config: ModelConfig, pairs: Mapping[str, LowRankPair]) -> Iterator[list[str]]:
    """Yield the names of each operation's pairs, in the order of a pass."""
    by_operation: dict[int, list[str]] = {}
    for name in pairs:
        by_operation.setdefault(place_of(config, name).operation, []).append(name)
    for operation in sorted(by_operation):
        yield sorted(by_operation[operation], key=lambda name: place_of(config, name).part)
