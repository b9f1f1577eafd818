"""Scales and minimums of groups of weights, searched so that the weighted error of rounding is small.

Owns the search for one group, and the rounding of groups' scales to a block's integers. Knows no order of columns and
no error feedback (`rounding`). Invariant: what comes out is exactly representable: float16 factors, integers in range.
Method: weighted least squares for fixed codes, over several starting scales (as ``make_qx_quants`` and
``make_qkx2_quants`` of ggml do with fewer); a block's factor is searched the same way, each group weighing as much as
its codes let its scale matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.blocks import Codes
from miaotui.optimize.quantization.block_grids import BlockGrid

Array = NDArray[np.float32]
STARTS = np.linspace(0.8, 1.2, 9, dtype=np.float32)  # how far the extreme weight lies from the extreme code, as a ratio
FACTOR_STARTS = np.linspace(0.7, 1.1, 9, dtype=np.float32)
TINY = np.float32(1e-30)


@dataclass(eq=False)
class Scales:
    """Scales of ``n`` rows: ``weight = scale * code - minimum``, float32 ``[n, groups]`` each.

    ``factor`` and ``least`` ``[n, blocks]`` are what a block stores; where it has several groups, ``subs`` and
    ``sub_minimums`` ``[n, groups]`` are integers (as floats) that multiply them.
    """

    grid: BlockGrid
    scale: Array
    minimum: Array | None
    factor: Array
    least: Array | None
    subs: Array | None = None
    sub_minimums: Array | None = None

    def weights(self, codes: Array) -> Array:
        """Return the weights of codes ``[n, cols]``."""
        found = codes.reshape(len(codes), -1, self.grid.group) * self.scale[..., None]
        if self.minimum is not None:
            found -= self.minimum[..., None]
        return found.reshape(codes.shape)

    def round(self, weights: Array) -> Array:
        """Return the nearest codes of weights ``[n, cols]``, as floats."""
        x = weights.reshape(len(weights), -1, self.grid.group)
        if self.minimum is not None:
            x = x + self.minimum[..., None]
        return self.grid.nearest(x * _inverse(self.scale)[..., None]).reshape(weights.shape)

    def codes(self, codes: Array) -> Codes:
        """Return codes ``[n, cols]`` in the form that is packed: one entry for each block."""
        groups, group = self.grid.groups, self.grid.group

        def integers(values: Array | None) -> NDArray[np.int8] | None:
            return None if values is None else values.reshape(-1, groups).astype(np.int8)

        return Codes(
            codes.reshape(-1, groups, group).astype(np.int8),
            self.factor.reshape(-1, 1),
            None if self.least is None else self.least.reshape(-1, 1),
            integers(self.subs),
            integers(self.sub_minimums),
        )


def fit_scales(grid: BlockGrid, weights: Array, importance: Array) -> Scales:
    """Return scales for weights ``[n, cols]`` whose squared errors count by ``importance [cols]``."""
    x = weights.reshape(len(weights), -1, grid.group)
    w = np.maximum(importance, TINY).astype(np.float32).reshape(1, -1, grid.group)
    scale, minimum = _with_minimum(grid, x, w) if grid.minimums else (_symmetric(grid, x, w), None)
    if grid.groups == 1:
        factor = _halved(scale)
        least = None if minimum is None else _halved(minimum)
        return Scales(grid, factor, least, factor, least)
    return _in_blocks(grid, x, w, scale, minimum)


def _in_blocks(grid: BlockGrid, x: Array, w: Array, scale: Array, minimum: Array | None) -> Scales:
    """Round groups' scales to integers times one factor of each block."""
    shifted = x if minimum is None else x + minimum[..., None]
    codes = grid.nearest(shifted * _inverse(scale)[..., None])
    subs, factor = _integers(scale, (w * codes * codes).sum(-1), grid.sub_low, grid.sub_high, grid.groups)
    scale = subs * np.repeat(factor, grid.groups, axis=1)
    if minimum is None:
        return Scales(grid, scale, None, factor, None, subs)
    codes = grid.nearest((x + minimum[..., None]) * _inverse(scale)[..., None])
    total = w.sum(-1)
    wanted = np.maximum((w * (codes * scale[..., None] - x)).sum(-1) / total, 0)  # best for these codes
    integers, least = _integers(wanted, np.broadcast_to(total, wanted.shape), 0, grid.minimum_high, grid.groups)
    return Scales(grid, scale, integers * np.repeat(least, grid.groups, axis=1), factor, least, subs, integers)


def _symmetric(grid: BlockGrid, x: Array, w: Array) -> Array:
    """Return the scale of each group ``[n, groups]`` of a grid without minimums; it may be negative."""
    place = np.abs(x).argmax(-1)[..., None]
    extreme: Array = np.take_along_axis(x, place, -1)[..., 0] / np.float32(grid.low)
    best = np.zeros_like(extreme)
    gained = np.zeros_like(extreme)
    for start in STARTS:
        scale = extreme * start
        for _ in range(2):
            codes = grid.nearest(x * _inverse(scale)[..., None])
            weighted = w * codes
            product, square = (weighted * x).sum(-1), (weighted * codes).sum(-1)
            scale = product * _inverse(square)
            gain = product * scale  # how much less the error is than that of zeros
            better = gain > gained
            best[better], gained[better] = scale[better], gain[better]
    return best


def _with_minimum(grid: BlockGrid, x: Array, w: Array) -> tuple[Array, Array]:
    """Return scales and minimums ``[n, groups]``; minimums are at least 0 where a block stores them as integers."""
    low, high = x.min(-1), x.max(-1)
    if grid.groups > 1:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    width = (high - low) / np.float32(grid.high)
    total, mean = w.sum(-1), (w * x).sum(-1)
    best_scale, best_minimum = width.copy(), -low
    least_error = np.full_like(width, np.inf)
    for start in STARTS:
        scale, minimum = width * start, -low * start
        for _ in range(2):
            codes = grid.nearest((x + minimum[..., None]) * _inverse(scale)[..., None])
            weighted = w * codes
            first, second, product = weighted.sum(-1), (weighted * codes).sum(-1), (weighted * x).sum(-1)
            determinant = total * second - first * first
            usable = determinant > 1e-6 * total * second
            safe = np.where(usable, determinant, 1)
            scale = np.where(usable, (total * product - first * mean) / safe, scale)
            minimum = np.where(usable, (first * product - second * mean) / safe, minimum)
            if grid.groups > 1:
                none = minimum < 0
                scale = np.where(none, product * _inverse(second), scale)
                minimum = np.where(none, 0, minimum)
            rest = codes * scale[..., None]
            rest -= minimum[..., None]
            rest -= x
            error = (w * rest * rest).sum(-1)
            better = error < least_error
            best_scale[better], best_minimum[better] = scale[better], minimum[better]
            least_error[better] = error[better]
    return best_scale, best_minimum


def _integers(values: Array, weight: Array, low: int, high: int, groups: int) -> tuple[Array, Array]:
    """Return integers ``[n, groups]`` and float16 factors ``[n, blocks]`` whose products are near ``values``."""
    v, a = (each.reshape(len(each), -1, groups) for each in (values, np.ascontiguousarray(weight)))
    place = np.abs(v).argmax(-1)[..., None]
    signed = low < 0
    extreme = np.take_along_axis(v, place, -1)[..., 0] / np.float32(low if signed else high)
    best, gained = np.zeros_like(extreme), np.zeros_like(extreme)
    for start in FACTOR_STARTS:
        factor = extreme * start
        for _ in range(2):
            k = np.clip(np.rint(v * _inverse(factor)[..., None]), low, high)
            product, square = (a * k * v).sum(-1), (a * k * k).sum(-1)
            factor = product * _inverse(square)
            gain = product * factor
            better = gain > gained
            best[better], gained[better] = factor[better], gain[better]
    factor = _halved(best)
    k = np.clip(np.rint(v * _inverse(factor)[..., None]), low, high)
    return k.reshape(values.shape), factor


def _halved(values: Array) -> Array:
    """Return the values rounded to float16's, as float32."""
    return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)


def _inverse(values: Array) -> Array:
    """Return ``1 / values``, and 0 for 0."""
    zero = np.abs(values) < TINY
    found: Array = np.where(zero, np.float32(0), np.float32(1) / np.where(zero, np.float32(1), values))
    return found
