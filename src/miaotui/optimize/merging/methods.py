"""The methods: how the values of one tensor follow from those of several models.

Owns the equations. Reads tensors by blocks of rows, through a function, and knows neither files nor tokenizers.
Invariants: memory follows the block and not the tensor; a result does not depend on how rows are cut into blocks, but
for SLERP's angle, whose sums are in float64.

Sources: linear, Wortsman et al. 2022, "Model soups", section 2; SLERP, Shoemake 1985, section 3; task arithmetic,
Ilharco et al. 2023, section 2; TIES, Yadav et al. 2023, algorithm 1; DARE, Yu et al. 2024, section 3.2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.model.writing.layout import BLOCK_WEIGHTS
from miaotui.optimize.merging.recipe import MergeRecipe, value_at
from miaotui.training.noise import Noise

Array = NDArray[np.float32]
Rows = NDArray[np.intp]
Read = Callable[[int, Rows], Array]  # a model's number (`BASE`: the base) and rows of the tensor: their values
Merged = Callable[[Rows], Array]
BASE = -1
PARALLEL = 0.9995  # cosine from which on SLERP is linear: the sine of the angle is too small to divide by


def merged_tensor(recipe: MergeRecipe, name: str, shape: tuple[int, ...], place: float, read: Read) -> Merged:
    """Return the merged values of the tensor ``name``, by rows. ``place`` is its layer's, from 0 to 1."""
    weights = [value_at(recipe.weight_curve(i), place) for i in range(len(recipe.models))]
    if recipe.method == "linear":
        return _linear(weights, recipe.normalize, read)
    if recipe.method == "slerp":
        return _slerp(value_at(recipe.t, place), shape, read)
    total = sum(weights) if recipe.normalize else 1.0
    if recipe.method in ("ties", "dare-ties"):
        vector = _elected(weights, _task_vectors(recipe, name, shape, read), recipe.normalize)
    else:
        vector = _summed([weight / total for weight in weights], _task_vectors(recipe, name, shape, read))
    scale = np.float32(recipe.scale)

    def values(rows: Rows) -> Array:
        changed: Array = read(BASE, rows) + scale * vector(rows)
        return changed

    return values


def blocks_of(shape: tuple[int, ...]) -> Iterator[Rows]:
    """Yield the rows of a tensor in blocks."""
    step = shape[0] if len(shape) == 1 else max(1, BLOCK_WEIGHTS // shape[-1])
    for start in range(0, shape[0], step):
        yield np.arange(start, min(start + step, shape[0]))


def _linear(weights: Sequence[float], normalize: bool, read: Read) -> Merged:
    total = sum(weights) if normalize else 1.0
    return _summed([weight / total for weight in weights], [_reader(read, i) for i in range(len(weights))])


def _reader(read: Read, model: int) -> Merged:
    return lambda rows: read(model, rows)


def _summed(weights: Sequence[float], terms: Sequence[Merged]) -> Merged:
    def values(rows: Rows) -> Array:
        total: Array = np.float32(weights[0]) * terms[0](rows)
        for weight, term in zip(weights[1:], terms[1:], strict=True):
            total += np.float32(weight) * term(rows)
        return total

    return values


def _slerp(t: float, shape: tuple[int, ...], read: Read) -> Merged:
    """Interpolate on the arc between two tensors, taken as vectors; the lengths are interpolated with them."""
    dot = first = second = 0.0
    for rows in blocks_of(shape):
        a, b = (read(model, rows).astype(np.float64).ravel() for model in (0, 1))
        dot, first, second = dot + float(a @ b), first + float(a @ a), second + float(b @ b)
    cosine = dot / math.sqrt(first * second) if first and second else 1.0
    if abs(cosine) > PARALLEL:
        factors = [1 - t, t]
    else:
        angle = math.acos(cosine)
        factors = [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    return _summed(factors, [_reader(read, 0), _reader(read, 1)])


def _task_vectors(recipe: MergeRecipe, name: str, shape: tuple[int, ...], read: Read) -> list[Merged]:
    """Return each model's difference from the base, trimmed or dropped as the method does."""
    vectors = [_difference(read, model) for model in range(len(recipe.models))]
    if recipe.method == "ties":
        return [_trimmed(vector, shape, recipe.density(i)) for i, vector in enumerate(vectors)]
    if recipe.method in ("dare-linear", "dare-ties"):
        return [_dropped(vector, name, i, recipe) for i, vector in enumerate(vectors)]
    return vectors


def _difference(read: Read, model: int) -> Merged:
    return lambda rows: read(model, rows) - read(BASE, rows)


def _trimmed(vector: Merged, shape: tuple[int, ...], density: float) -> Merged:
    """Keep the largest magnitudes; those equal to the smallest that stays, stay too."""
    count = math.prod(shape)
    kept = min(count, max(1, round(density * count)))
    if kept == count:
        return vector
    least = _kth_largest(vector, shape, kept)

    def values(rows: Rows) -> Array:
        found = vector(rows)
        kept: Array = np.where(np.abs(found) >= least, found, np.float32(0))
        return kept

    return values


def _kth_largest(vector: Merged, shape: tuple[int, ...], k: int) -> np.float32:
    """Return the k-th largest magnitude exactly: two passes, each over 16 bits of the float's representation.

    Magnitudes of IEEE floats are ordered as their bits are.
    """
    high = _digit(vector, shape, k, shift=16, prefix=None)
    low = _digit(vector, shape, high[1], shift=0, prefix=high[0])
    magnitude: np.float32 = np.uint32(high[0] << 16 | low[0]).view(np.float32)
    return magnitude


def _digit(vector: Merged, shape: tuple[int, ...], k: int, shift: int, prefix: int | None) -> tuple[int, int]:
    """Return 16 bits of the k-th largest magnitude among those with ``prefix``, and its rank among equal ones."""
    counts = np.zeros(1 << 16, np.int64)
    for rows in blocks_of(shape):
        bits = np.abs(vector(rows)).ravel().view(np.uint32)
        if prefix is not None:
            bits = bits[bits >> 16 == prefix]
        counts += np.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k))
    before = int(above[place - 1]) if place else 0
    return (1 << 16) - 1 - place, k - before


def _dropped(vector: Merged, name: str, model: int, recipe: MergeRecipe) -> Merged:
    """Drop values at random and enlarge the others, so that the expectation stays; a function of seed and place."""
    density, digest = recipe.density(model), hashlib.sha256(name.encode()).digest()
    noise = Noise(recipe.seed, int.from_bytes(digest[:7], "big"))

    def values(rows: Rows) -> Array:
        found = vector(rows)
        width = math.prod(found.shape[1:])
        kept = noise.uniform(rows.astype(np.int64), width, model).reshape(found.shape) < density
        enlarged: Array = np.where(kept, found / np.float32(density), np.float32(0))
        return enlarged

    return values


def _elected(weights: Sequence[float], vectors: Sequence[Merged], normalize: bool) -> Merged:
    """Average, value by value, the task vectors whose sign is that of the weighted sum (TIES, steps 2 and 3)."""

    def values(rows: Rows) -> Array:
        found = [np.float32(weight) * vector(rows) for weight, vector in zip(weights, vectors, strict=True)]
        sign = np.sign(sum(found[1:], start=found[0].copy()))
        total, shares = np.zeros_like(found[0]), np.zeros_like(found[0])
        for weight, each in zip(weights, found, strict=True):
            agrees = (np.sign(each) == sign) & (sign != 0)
            total += np.where(agrees, each, np.float32(0))
            shares += np.where(agrees, np.float32(abs(weight)), np.float32(0))
        mean: Array = total / np.where(shares > 0, shares, np.float32(1)) if normalize else total
        return mean

    return values
