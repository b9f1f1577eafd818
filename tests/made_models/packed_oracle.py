"""The oracle on exactly the numbers that the engine works with: packed weights, rounded inputs.

`unpacked` turns packed weights back into canonical float32 tensors. `PackedOracle` rounds where the
engine rounds: inputs of products to int8 in groups of 32, keys and values to float16 or int8. What
then still differs from the engine is the order of float32 sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.linear.packed_blocks import unpack, values
from miaotui.model.config import ModelConfig
from miaotui.model.formulas import softcapped
from miaotui.model.head_layout import HeadLayout
from miaotui.model.oracle import Heads, Oracle
from miaotui.model.packed import NUMBERS, SMALL_PARTS, Matrix, PackedModel
from miaotui.model.reading.names import tensor_shapes

Array = NDArray[np.float32]


def unpacked(config: ModelConfig, weights: PackedModel) -> dict[str, Array]:
    """Canonical tensors, with the values that the kernels see."""
    return {name: _tensor(config, weights, name, s) for name, s in tensor_shapes(config).items()}


def _tensor(config: ModelConfig, weights: PackedModel, name: str, shape: tuple[int, ...]) -> Array:
    prefix, _, part = name.rpartition(".")
    prefix += "." if prefix else ""
    layer = int(prefix.split(".")[1]) if prefix else 0
    layout = HeadLayout(config.at(layer))
    queries, keys, _ = layout.part_widths
    starts = {"q": 0, "k": queries, "v": queries + keys} if config.latent is None else {"q": 0, "k": 0, "v": keys}

    def heads(rows: Array) -> Array:
        """The rows of a part that hold values of heads, in the order of the values."""
        letter, start = part[0], starts[part[0]]
        places = layout.values if letter == "v" else layout.keys(layer)
        if letter == "k" and config.latent is not None:
            places = np.where(places < config.rope.dim, -1, places)
        inside = np.argsort(places)[np.count_nonzero(places < 0) :]
        first = np.arange(0, shape[0] // len(inside)) * layout.dim + start
        found: NDArray[np.float32] = rows[(first[:, None] + inside).reshape(-1)]
        return found

    if len(shape) == 1 or part in NUMBERS:
        of_heads = part.endswith("_bias") and part[0] in starts and part[1] == "_"
        return (
            heads(weights.vector(prefix + "qkv_bias"))
            if of_heads
            else _vector(weights, prefix, part)[: math.prod(shape)].reshape(shape)
        )
    joined = ("qkv" if config.has_keys(layer) else "q") if config.latent is None else "q" if part == "q" else "kv"
    if part in starts and prefix + joined in weights:
        return heads(matrix_values(weights.matrix(prefix + joined)))
    if config.latent is not None and part in SMALL_PARTS:
        return _small(weights.matrix(prefix + "latent"), config, part)
    kind, _, side = part.rpartition("_")
    kind += "_" if kind else ""
    if side in ("gate", "up") and f"{prefix}{kind}gate_up" in weights:
        both = matrix_values(weights.matrix(f"{prefix}{kind}gate_up")).reshape(-1, 2, 32, shape[1])
        return both[:, int(side == "up")].reshape(-1, shape[1])[: shape[0]]
    if part == "shared_router":  # a unit of its own, behind the router's
        return matrix_values(weights.matrix(prefix + "router"))[-32:][: shape[0]]
    return matrix_values(weights.matrix(name))[: shape[0]]


def _small(matrix: Matrix, config: ModelConfig, part: str) -> Array:
    """The rows of one of the products to small vectors."""
    assert config.latent is not None
    widths = dict(zip(SMALL_PARTS, (config.latent.query_rank, config.latent.rank, config.rope.dim), strict=True))
    first = sum(widths[each] for each in SMALL_PARTS[: SMALL_PARTS.index(part)])
    return matrix_values(matrix)[first : first + widths[part]]


def _vector(weights: PackedModel, prefix: str, part: str) -> Array:
    if part not in ("expert_gate_bias", "expert_up_bias"):
        return weights.vector(prefix + part)
    both = weights.vector(f"{prefix}expert_gate_up_bias").reshape(-1, 2, 32)
    return both[:, int(part == "expert_up_bias")].reshape(-1)


def matrix_values(matrix: Matrix) -> Array:
    """A packed matrix as float32 ``[rows, inputs]``, padding included."""
    tiles = matrix.data.reshape(-1, matrix.tile_stride)
    return values(unpack(matrix.format, tiles, matrix.inputs))


class PackedOracle(Oracle):
    """The oracle, rounding where the engine does."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Array], kv: str = "f16") -> None:
        super().__init__(config, weights)
        self._kv = kv

    def head(self, x: Array) -> Array:
        """The logits ``[n, vocab]`` from what the last layer gave."""
        x = rounded_groups(self.normed(x))
        logits = x @ self._weights["embed" if self.config.tied_head else "head"].T
        if "head" in self._adapter:
            logits = logits + self._adapter["head"].product(x)
        if self.config.head_bias:
            logits = logits + self._weights["head_bias"][: logits.shape[1]]
        return softcapped(logits, self.config.logit_softcap)

    def project(self, x: Array, layer: int, positions: NDArray[np.int64]) -> tuple[Array, Heads | None]:
        """Queries, and keys and values as the pages hold them."""
        queries, own = super().project(x, layer, positions)
        if own is None:
            return queries, None
        keys, values_ = own
        if self.config.rotated_qk_norm:  # the pages hold keys without the norm's weights
            weights = self._weights[f"layers.{layer}.k_norm"]
            return queries, Heads(self._stored(keys / weights) * weights, self._stored(values_))
        return queries, Heads(self._stored(keys), self._stored(values_))

    def _linear(self, x: Array, name: str, part: int = 0, parts: int = 1) -> Array:
        return super()._linear(rounded_groups(x), name, part, parts)

    def _router_logits(self, x: Array, name: str) -> Array:
        """The router reads floats, and what an adapter adds rounded ones."""
        logits = super()._router_logits(x, name)
        pair = self._adapter.get(name)
        return logits if pair is None else logits + pair.product(rounded_groups(x)) - pair.product(x)

    def _stored(self, heads: Array) -> Array:
        """Keys or values ``[n, heads, dim]`` as the pages hold them."""
        if self._kv == "f16":
            return heads.astype(np.float16).astype(np.float32)
        return _rounded(heads)


def rounded_groups(x: Array) -> Array:
    """``[n, width]`` rounded to int8 with one scale per 32 values."""
    return _rounded(x.reshape(len(x), -1, 32)).reshape(x.shape)


def _rounded(groups: Array) -> Array:
    """The last axis rounded to 255 steps of its largest magnitude."""
    top = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    result: Array = np.rint(groups * inverse) * (top / np.float32(127))
    return result
