"""Rounding of a matrix to a block type with error feedback: what one column lost is made up for by later ones.

Owns the order of columns and the sweeps. Knows `fit_scales`, no model and no file. ``H = X^T X`` of the inputs says how
much an error of the matrix changes its outputs: ``tr(E H E^T)`` for ``E = W - W'``. Two steps lower it:

- feedback (GPTQ, Frantar et al. 2022, in the form of LDLQ, Chee et al. 2023, section 3): column by column, each
  takes over the errors of those before it, by the factors of ``H = (I + A) D (I + A)^T``;
- sweeps (coordinate descent, Behdin et al. 2023): each code, and each scale, moves to its best value given all others.

Invariant: no sweep makes the error greater; rows do not depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType
from miaotui.hub.writers.blocks import pack
from miaotui.optimize.quantization.block_grids import GRIDS, BlockGrid
from miaotui.optimize.quantization.scales import Array, Scales, fit_scales

DAMPING = 0.003  # of the mean of H's diagonal, added to it
SWEEPS = 2
INNER = 32  # columns between two products with the whole matrix
SLICE_WEIGHTS = 1 << 22  # of rows rounded at a time


@dataclass(frozen=True, eq=False)
class Feedback:
    """Damped ``H`` and its factors: ``H = (I + A) D (I + A)^T`` with ``A`` strictly upper, float32 ``[cols, cols]``."""

    hessian: Array
    above: Array
    diagonal: Array

    @classmethod
    def of(cls, hessian: Array, tokens: int | None = None) -> Feedback:
        """Factor ``H``, symmetric ``[cols, cols]``, of so many tokens (None: it is known exactly).

        Few tokens show correlations that other texts do not have, and feedback by them makes other texts worse.
        Therefore ``H`` is drawn towards its diagonal by `shrinkage`. A column without inputs counts as little as the
        damping.
        """
        mean = float(np.trace(hessian, dtype=np.float64)) / len(hessian) or 1.0
        damped = hessian * np.float32((1 - shrinkage(len(hessian), tokens)) / mean)
        damped[np.diag_indices(len(damped))] = np.diag(hessian) / np.float32(mean) + np.float32(DAMPING)
        upper = np.linalg.cholesky(damped[::-1, ::-1].astype(np.float64))[::-1, ::-1]  # H = R R^T, R upper
        scale = np.diag(upper).copy()
        above = (upper / scale).astype(np.float32)
        above[np.diag_indices(len(above))] = 0
        return cls(damped, above, (scale * scale).astype(np.float32))


def shrinkage(cols: int, tokens: int | None) -> float:
    """Return the share of a moment's off-diagonal values that is left out: ``2 cols / (tokens + 2 cols)``.

    The error on held-out texts is flat around it (see docs/optimize.md).
    """
    return 0.0 if tokens is None else 2 * cols / (tokens + 2 * cols)


class Rounded(NamedTuple):
    """Blocks, uint8 ``[rows, row bytes]``, and the error ``tr(E H E^T)`` relative to ``tr(W H W^T)``."""

    data: NDArray[np.uint8]
    error: float


def round_matrix(weights: Array, kind: BlockType, feedback: Feedback, sweeps: int = SWEEPS) -> Rounded:
    """Round ``weights [rows, cols]`` to ``kind``, whose blocks must divide a row."""
    grid = GRIDS[kind]
    step = max(1, SLICE_WEIGHTS // weights.shape[1])
    parts, lost, total = [], 0.0, 0.0
    for start in range(0, len(weights), step):
        slice_ = _Slice(grid, np.ascontiguousarray(weights[start : start + step].T), feedback)
        slice_.feed_back()
        for _ in range(sweeps):
            slice_.sweep()
        parts.append(slice_.packed())
        lost, total = lost + slice_.error(), total + slice_.energy()
    return Rounded(np.concatenate(parts), lost / total if total else 0.0)


def round_plainly(weights: Array, kind: BlockType, importance: Array) -> tuple[NDArray[np.uint8], Array]:
    """Round each weight to the nearest value under searched scales, without feedback; return blocks and weights."""
    scales = fit_scales(GRIDS[kind], weights, importance)
    codes = scales.round(weights)
    return pack(kind, scales.codes(codes)).reshape(len(weights), -1), scales.weights(codes)


class _Slice:
    """Rows being rounded. All matrices are transposed, ``[cols, rows]``, so that a column's rows lie together."""

    def __init__(self, grid: BlockGrid, weights: Array, feedback: Feedback) -> None:
        self.grid, self.weights, self.feedback = grid, weights, feedback
        self.codes = np.zeros_like(weights)
        self.rest = np.zeros_like(weights)  # E: weights less rounded ones
        self.scales: list[Scales] = []  # of each block, all rows

    # feedback

    def feed_back(self) -> None:
        """Round block by block; each block's scales are chosen when the errors before it are known."""
        size = self.grid.kind.block_size
        above = self.feedback.above
        for start in range(0, len(self.weights), size):
            block = slice(start, start + size)
            target = self.weights[block] + above[:start, block].T @ self.rest[:start]
            scales = fit_scales(self.grid, np.ascontiguousarray(target.T), self.feedback.diagonal[block])
            self.scales.append(scales)
            for inner in range(0, size, INNER):
                self._feed_columns(start, inner, target, scales)

    def _feed_columns(self, start: int, inner: int, target: Array, scales: Scales) -> None:
        """Round columns ``inner …`` of the block at ``start``, then let its later ones take over their errors."""
        above, group = self.feedback.above, self.grid.group
        for column in range(inner, inner + INNER):
            at = start + column
            code, value = _nearest(scales, column // group, target[column])
            self.codes[at] = code
            self.rest[at] = self.weights[at] - value
            later = slice(column + 1, inner + INNER)
            target[later] += above[at, start + column + 1 : start + inner + INNER, None] * self.rest[at]
        done = slice(start + inner, start + inner + INNER)
        later = slice(start + inner + INNER, start + len(target))
        target[inner + INNER :] += above[done, later].T @ self.rest[done]

    # sweeps

    def sweep(self) -> None:
        """Move every code, then every scale, to its best value given all others."""
        hessian, size = self.feedback.hessian, self.grid.kind.block_size
        pull = hessian @ self.rest  # minus half the error's slope at each weight
        for number, scales in enumerate(self.scales):
            for inner in range(0, size, INNER):
                at = number * size + inner
                self._sweep_columns(at, inner, scales, pull)
            self._move_scales(number, scales, pull)

    def _sweep_columns(self, at: int, inner: int, scales: Scales, pull: Array) -> None:
        hessian, columns = self.feedback.hessian, slice(at, at + INNER)
        near, local = pull[columns].copy(), hessian[columns, columns]
        before = self.rest[columns].copy()
        for i in range(INNER):
            old = self.weights[at + i] - self.rest[at + i]
            code, value = _nearest(scales, (inner + i) // self.grid.group, old + near[i] / local[i, i])
            change = value - old
            self.codes[at + i] = code
            self.rest[at + i] -= change
            near -= local[:, i, None] * change
        pull += hessian[:, columns] @ (self.rest[columns] - before)

    def _move_scales(self, number: int, scales: Scales, pull: Array) -> None:
        size, group = self.grid.kind.block_size, self.grid.group
        for index in range(self.grid.groups):
            start = number * size + index * group
            columns = slice(start, start + group)
            before = self.rest[columns].copy()
            self._move_scale(scales, index, columns, pull[columns])
            if scales.least is not None:
                local = pull[columns] + self.feedback.hessian[columns, columns] @ (self.rest[columns] - before)
                self._move_minimum(scales, index, columns, local)
            pull += self.feedback.hessian[:, columns] @ (self.rest[columns] - before)

    def _move_scale(self, scales: Scales, index: int, columns: slice, pull: Array) -> None:
        """Change a group's scale by as much as lowers the error, where the stored form allows it."""
        codes, local = self.codes[columns], self.feedback.hessian[columns, columns]
        slope, curve = (codes * pull).sum(0), (codes * (local @ codes)).sum(0)
        old = scales.scale[:, index]
        wanted = old + np.where(curve > 0, slope / np.where(curve > 0, curve, 1), 0)
        stored, new = _storable(scales.factor, scales.subs, wanted, self.grid.sub_low, self.grid.sub_high)
        change = new - old
        change = np.where(change * (curve * change - 2 * slope) < 0, change, 0)
        moved = change != 0
        scales.scale[moved, index] = new[moved]
        if scales.subs is not None:
            scales.subs[moved, index] = stored[moved]
        self.rest[columns] -= codes * change

    def _move_minimum(self, scales: Scales, index: int, columns: slice, pull: Array) -> None:
        """Change a group's minimum likewise."""
        assert scales.minimum is not None
        assert scales.least is not None
        local = self.feedback.hessian[columns, columns]
        slope, curve = -pull.sum(0), local.sum()
        old = scales.minimum[:, index]
        stored, new = _storable(scales.least, scales.sub_minimums, old + slope / curve, 0, self.grid.minimum_high)
        change = new - old
        change = np.where(change * (curve * change - 2 * slope) < 0, change, 0)
        moved = change != 0
        scales.minimum[moved, index] = new[moved]
        if scales.sub_minimums is not None:
            scales.sub_minimums[moved, index] = stored[moved]
        self.rest[columns] += change

    # results

    def error(self) -> float:
        """Return ``tr(E H E^T)``."""
        return float(np.vdot(self.rest, self.feedback.hessian @ self.rest))

    def energy(self) -> float:
        """Return ``tr(W H W^T)``."""
        return float(np.vdot(self.weights, self.feedback.hessian @ self.weights))

    def packed(self) -> NDArray[np.uint8]:
        """Return the blocks, uint8 ``[rows, row bytes]``."""
        size, kind = self.grid.kind.block_size, self.grid.kind
        blocks = [
            pack(kind, scales.codes(np.ascontiguousarray(self.codes[i * size : (i + 1) * size].T)))
            for i, scales in enumerate(self.scales)
        ]
        return np.concatenate(blocks, axis=1)


def _nearest(scales: Scales, index: int, values: Array) -> tuple[Array, Array]:
    """Return the codes of one column's ``values [rows]`` in group ``index``, and the weights that they stand for."""
    scale = scales.scale[:, index]
    minimum = None if scales.minimum is None else scales.minimum[:, index]
    shifted = values if minimum is None else values + minimum
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = scales.grid.nearest(np.where(scale == 0, np.float32(0), shifted / scale))
    found = codes * scale
    return codes, found if minimum is None else found - minimum


def _storable(factor: Array, integers: Array | None, wanted: Array, low: int, high: int) -> tuple[Array, Array]:
    """Return the integers that would be stored for ``wanted [rows]`` (None: a float16), and the values they give."""
    if integers is None:
        half = np.clip(wanted, -65504, 65504).astype(np.float16).astype(np.float32)
        return half, half
    one = factor[:, 0]
    stored = np.clip(np.rint(np.where(one == 0, 0, wanted / np.where(one == 0, 1, one))), low, high).astype(np.float32)
    return stored, stored * one
