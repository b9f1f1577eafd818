"""Formulas of a forward pass in NumPy: positions, views, softmax, activations.

Knows arrays alone, neither weights nor layers. Invariant: each function is the textbook formula, and a row's result
depends on that row alone.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from miaotui.model.alibi import alibi_slopes
from miaotui.model.rope import RopeConfig

Array = NDArray[np.float32]


def rotated(heads: Array, rope: RopeConfig, positions: NDArray[np.int64]) -> Array:
    """Return ``[n, heads, head_dim]`` with each pair ``(i, i + dim/2)`` turned by position times frequency."""
    half = rope.dim // 2
    angles = positions[:, None, None] * _frequencies(rope)  # [n, 1, half]
    cos = (np.cos(angles) * rope.magnitude()).astype(np.float32)
    sin = (np.sin(angles) * rope.magnitude()).astype(np.float32)
    first, second, rest = heads[..., :half], heads[..., half : rope.dim], heads[..., rope.dim :]
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return np.concatenate(turned, axis=-1)


@functools.cache
def _frequencies(rope: RopeConfig) -> NDArray[np.float64]:
    return rope.inverse_frequencies()


def visible(
    positions: NDArray[np.int64], count: int, window: int, bidirectional: bool, block: int = 1
) -> NDArray[np.bool_]:
    """Return which of the first ``count`` positions each position sees, ``[n, count]``; a window counts itself.

    Positions of one ``block`` see each other, and all blocks before theirs.
    """
    back = positions[:, None] - np.arange(count)[None, :]
    seen = np.full(back.shape, True)
    if not bidirectional:
        seen = positions[:, None] // block >= np.arange(count)[None, :] // block
    return seen & (np.abs(back) < window) if window else seen


def distance_bias(n_heads: int, seen: NDArray[np.bool_]) -> Array:
    """Return what ALiBi adds to scores, ``[heads, n, m]``: a head's slope times (key's position - query's position).

    A query is at the last of the m positions that it sees.
    """
    count = seen.shape[1]
    positions = count - 1 - np.argmax(seen[:, ::-1], axis=1)
    back = (np.arange(count)[None, :] - positions[:, None]).astype(np.float32)
    bias: Array = alibi_slopes(n_heads)[:, None, None] * back
    return bias


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    weights: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def sparse(gate: Array, cutoff: float | None) -> Array:
    """Return what lies above ``cutoff`` standard deviations over a row's mean, less that bound, else 0; None: all.

    Gemma 3n's stand-in for the largest values of a row that is distributed normally.
    """
    if cutoff is None:
        return gate
    bound = gate.mean(axis=-1, keepdims=True) + np.float32(cutoff) * gate.std(axis=-1, keepdims=True)
    above: Array = np.maximum(gate - bound, np.float32(0))
    return above


def softcapped(x: Array, cap: float) -> Array:
    """Squash into ``(-cap, cap)``; a cap of 0 changes nothing."""
    return np.tanh(x / np.float32(cap)) * np.float32(cap) if cap else x


def silu(x: Array) -> Array:
    """Return ``x * sigmoid(x)``, written with tanh, which cannot overflow."""
    y: Array = x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return y


def gelu_tanh(x: Array) -> Array:
    """GELU in its tanh approximation (Hendrycks and Gimpel, 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    y: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y
