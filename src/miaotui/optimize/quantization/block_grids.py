"""Values that a block type can hold, as numbers for the search: codes, groups, scales of scales.

Owns the table of types that are written, and which type stands in where rows are no whole blocks. Knows no bits
(`hub.writers.blocks`) and no models. Invariant: `stored_kind` always gives a type that holds the row.
Sources: ``ggml-quants.c`` (ranges), ``tensor_type_fallback`` in llama.cpp's ``llama-quant.cpp`` (fallbacks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.blocks import IQ4_NL_VALUES
from miaotui.hub.formats.tensors import BlockType

TABLE = tuple(int(value) for value in IQ4_NL_VALUES)


@dataclass(frozen=True)
class BlockGrid:
    """Codes ``low … high`` (or those of ``table``) of a group of weights, with a scale and perhaps a minimum.

    In a block of several groups the scales are integers ``sub_low … sub_high`` times one float16, and so are the
    minimums, ``0 … minimum_high``.
    """

    kind: BlockType
    group: int
    low: int
    high: int
    minimums: bool = False
    table: tuple[int, ...] = ()
    sub_low: int = 0
    sub_high: int = 0
    minimum_high: int = 0

    @property
    def groups(self) -> int:
        """Return the number of groups in a block."""
        return self.kind.block_size // self.group

    @property
    def bits(self) -> float:
        """Return the bits of a weight, scales included."""
        return 8 * self.kind.block_bytes / self.kind.block_size

    def nearest(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the nearest code to each value that was divided by its scale, as floats."""
        if not self.table:
            return np.clip(np.rint(values), self.low, self.high)
        halves = np.clip(np.floor(values * 2), -256, 255).astype(np.int16) + 256  # codes change at multiples of a half
        found: NDArray[np.float32] = _NEAREST[halves]
        return found


_TABLE = np.array(TABLE, np.float32)
_NEAREST = _TABLE[np.searchsorted((_TABLE[1:] + _TABLE[:-1]) / 2, np.arange(-256, 256) / 2, side="right")]

GRIDS: Mapping[BlockType, BlockGrid] = {
    grid.kind: grid
    for grid in (
        BlockGrid(BlockType.Q4_0, 32, -8, 7),
        BlockGrid(BlockType.Q4_1, 32, 0, 15, minimums=True),
        BlockGrid(BlockType.Q5_0, 32, -16, 15),
        BlockGrid(BlockType.Q5_1, 32, 0, 31, minimums=True),
        BlockGrid(BlockType.Q8_0, 32, -127, 127),
        BlockGrid(BlockType.IQ4_NL, 32, TABLE[0], TABLE[-1], table=TABLE),
        BlockGrid(BlockType.IQ4_XS, 32, TABLE[0], TABLE[-1], table=TABLE, sub_low=-32, sub_high=31),
        BlockGrid(BlockType.Q2_K, 16, 0, 3, minimums=True, sub_high=15, minimum_high=15),
        BlockGrid(BlockType.Q3_K, 16, -4, 3, sub_low=-32, sub_high=31),
        BlockGrid(BlockType.Q4_K, 32, 0, 15, minimums=True, sub_high=63, minimum_high=63),
        BlockGrid(BlockType.Q5_K, 32, 0, 31, minimums=True, sub_high=63, minimum_high=63),
        BlockGrid(BlockType.Q6_K, 16, -32, 31, sub_low=-128, sub_high=127),
    )
}

FALLBACKS: Mapping[BlockType, BlockType] = {
    BlockType.Q2_K: BlockType.Q4_0,
    BlockType.Q3_K: BlockType.Q4_0,
    BlockType.IQ4_XS: BlockType.IQ4_NL,
    BlockType.Q4_K: BlockType.Q5_0,
    BlockType.Q5_K: BlockType.Q5_1,
    BlockType.Q6_K: BlockType.Q8_0,
}


# Types that hold every value of another type's block: rounding to them changes nothing, and proves nothing.
HOLDING: Mapping[BlockType, frozenset[BlockType]] = {
    BlockType.Q4_0: frozenset({BlockType.Q4_0, BlockType.Q4_1, BlockType.Q5_0, BlockType.Q5_1, BlockType.Q8_0}),
    BlockType.Q4_1: frozenset({BlockType.Q4_1, BlockType.Q5_1}),
    BlockType.Q5_0: frozenset({BlockType.Q5_0, BlockType.Q5_1, BlockType.Q8_0}),
    BlockType.Q5_1: frozenset({BlockType.Q5_1}),
    BlockType.Q8_0: frozenset({BlockType.Q8_0}),
    BlockType.IQ4_NL: frozenset({BlockType.IQ4_NL, BlockType.Q8_0}),
    BlockType.Q2_K: frozenset({BlockType.Q2_K}),
    BlockType.Q3_K: frozenset({BlockType.Q3_K, BlockType.Q6_K}),
    BlockType.Q4_K: frozenset({BlockType.Q4_K, BlockType.Q5_K}),
    BlockType.Q5_K: frozenset({BlockType.Q5_K}),
    BlockType.Q6_K: frozenset({BlockType.Q6_K}),
    BlockType.IQ4_XS: frozenset({BlockType.IQ4_XS}),
}

# Types that hold them but for the rounding of scales: groups and codes are alike.
NEARLY_HOLDING: Mapping[BlockType, frozenset[BlockType]] = {
    BlockType.Q4_1: frozenset({BlockType.Q4_K, BlockType.Q5_K}),
    BlockType.Q4_K: frozenset({BlockType.Q4_1, BlockType.Q5_1}),
    BlockType.Q5_1: frozenset({BlockType.Q5_K}),
    BlockType.Q5_K: frozenset({BlockType.Q5_1}),
    BlockType.IQ4_NL: frozenset({BlockType.IQ4_XS}),
    BlockType.IQ4_XS: frozenset({BlockType.IQ4_NL}),
}


def off_grid_kinds(source: BlockType, cols: int) -> tuple[BlockType, ...]:
    """Return the types that hold rows of ``cols`` weights and not, nearly, every value of a ``source`` block."""
    same = HOLDING.get(source, frozenset()) | NEARLY_HOLDING.get(source, frozenset())
    return tuple(kind for kind in kinds_for(cols) if kind not in same)


def stored_kind(kind: BlockType, cols: int) -> BlockType:
    """Return the type in which rows of ``cols`` weights are stored when ``kind`` was asked for."""
    if cols % kind.block_size:
        kind = FALLBACKS.get(kind, BlockType.F16)
    return kind if cols % kind.block_size == 0 else BlockType.F16


def kinds_for(cols: int) -> tuple[BlockType, ...]:
    """Return the types that hold rows of ``cols`` weights, smallest first."""
    fitting = [grid for grid in GRIDS.values() if cols % grid.kind.block_size == 0]
    return tuple(grid.kind for grid in sorted(fitting, key=lambda grid: (grid.bits, grid.kind.name)))
