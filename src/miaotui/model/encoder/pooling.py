"""From the states of one text to its embedding, in float32 NumPy: pooling, dense modules, normalization.

Knows a `PoolingConfig` and plain arrays; no tokenizer. Products go through `rows_product`. Invariant: an embedding is a
function of its own text's states alone; no library's threads change its bytes. Follows sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.activations import ACTIVATIONS
from miaotui.model.encoder.heads import PoolingConfig, PoolingMode
from miaotui.model.encoder.oracle import decoded

Array = NDArray[np.float32]

BLOCK_ROWS = 16
BLOCK_PRODUCTS = 1 << 18  # multiplications below which OpenBLAS takes one thread


class Pooler:
    """Pooling of one model, with its dense modules' weights in float32."""

    def __init__(
        self, pooling: PoolingConfig, weights: Mapping[str, StoredTensor] | Mapping[str, Array], hidden_size: int
    ) -> None:
        self.pooling = pooling
        self.dimensions = pooling.dimensions(hidden_size)
        self._weights = {name: decoded(weights[name]) for name in weights if name.startswith("head.dense.")}

    def embedding(self, states: Array, dimensions: int | None = None, prompt_rows: int = 0) -> Array:
        """Return a text's embedding ``[dimensions]`` from its states ``[n, hidden]``, n at least 1.

        ``prompt_rows`` is how many of them are left out (see `PoolingConfig.include_prompt`).

        ``dimensions`` keeps only the first so many, and normalizes those. Raises `RequestError` if there are fewer.
        """
        x = np.concatenate([pooled(states, mode, prompt_rows) for mode in self.pooling.modes])
        for index, dense in enumerate(self.pooling.dense):
            name = f"head.dense.{index}"
            x = head_linear(x[None], self._weights[name], self._weights.get(f"{name}_bias"))[0]
            if dense.activation is not None:
                x = ACTIVATIONS[dense.activation](x)
        if dimensions is not None and not 1 <= dimensions <= self.dimensions:
            raise RequestError(f"dimensions must be 1 to {self.dimensions} for this model, not {dimensions}")
        x = x[: dimensions or self.dimensions]
        return normalized(x) if self.pooling.normalize or dimensions else x


def pooled(states: Array, mode: PoolingMode, skipped: int = 0) -> Array:
    """Return one vector ``[hidden]`` for the states ``[n, hidden]``; modes of many rows leave ``skipped`` out."""
    result: Array
    if mode not in ("cls", "last"):
        skipped = min(skipped, len(states) - 1)
        states = states[skipped:]
    n = np.float32(len(states))
    if mode in ("cls", "last"):
        result = states[0 if mode == "cls" else -1]
    elif mode == "max":
        result = states.max(axis=0)
    elif mode == "weighted_mean":  # by position (SGPT, Muennighoff, 2022)
        weights = np.arange(skipped + 1, skipped + len(states) + 1, dtype=np.float32)[:, None]
        result = (states * weights).sum(axis=0) / weights.sum()
    else:
        result = states.sum(axis=0) / (n if mode == "mean" else np.sqrt(n))
    return result


def normalized(x: Array) -> Array:
    """Return ``x`` divided by its Euclidean norm over the last axis; zeros stay zeros."""
    norm = np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
    y: Array = x / np.maximum(norm, np.float32(1e-12))
    return y


def head_linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``x @ weight.T + bias`` for ``x [n, inputs]``."""
    y = rows_product(x, weight)
    return y if bias is None else y + bias


def rows_product(x: Array, weight: Array) -> Array:
    """Return ``x @ weight.T``, ``[n, outputs]``, in blocks that BLAS computes on one thread.

    BLAS shares larger products out over threads, and its sums then depend on their number. One row alone, for which
    BLAS has other loops, goes through NumPy's own.
    """
    n, inputs = x.shape
    rows = min(n, BLOCK_ROWS)
    columns = max(BLOCK_PRODUCTS // (rows * inputs) // 8 * 8, 8)
    y = np.empty((n, len(weight)), np.float32)
    x = np.ascontiguousarray(x)
    for left in range(0, len(weight), columns):
        part = weight[left : left + columns]
        for top in range(0, n, rows):
            block, out = x[top : top + rows], y[top : top + rows, left : left + columns]
            if len(block) == 1:
                out[...] = np.einsum("nk,ok->no", block, part)
            else:
                np.matmul(block, part.T, out=out)
    return y
