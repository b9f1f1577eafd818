"""The slow oracle: a whole forward pass in float32 NumPy, short enough to read and trust.

Everything the compiled engine computes is held to this. It knows a `ModelConfig` and plain arrays;
no quantization, batch or thread. `project` and `finish` are the halves of a layer, between which a caller may put
a cache of keys and values (`backends.reference`). Invariant: each step below is the textbook formula, in the
order in which the models' reference implementations apply it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.config import ModelConfig
from miaotui.model.experts import ExpertsConfig, route, sigmoid, swiglu_clamped
from miaotui.model.latent import LATENT_EPS, LatentConfig
from miaotui.model.rope import RopeConfig

Array = NDArray[np.float32]
OnProduct = Callable[[str, Array], None]


class Oracle:
    """A model's logits and hidden states in float32.

    ``weights`` has the canonical names; stored tensors are decoded: 4 bytes of memory per weight. ``on_product`` is
    called before each product of a matrix, with its name and its inputs ``[n, inputs]``.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, StoredTensor] | Mapping[str, Array],
        on_product: OnProduct | None = None,
    ) -> None:
        self.config = config
        self._on_product = on_product
        self._weights = {name: _decoded(weights[name]) for name in weights}
        self._adapter: Mapping[str, LowRankPair] = {}

    def with_adapter(self, adapter: Mapping[str, LowRankPair]) -> Oracle:
        """Return the model with an adapter's pairs added to its products; the weights are shared."""
        changed = copy.copy(self)
        changed._adapter = adapter
        return changed

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all weights as float32."""
        return sum(array.nbytes for array in self._weights.values())

    def logits(self, token_ids: Sequence[int], *, bidirectional: bool = False) -> Array:
        """Compute the unnormalized log-probabilities of the next token at each position, ``[n, vocab]``.

        With ``bidirectional`` every position also sees those after it (within its window). Models that restore masked
        tokens see as their configuration says.
        """
        return self.head(self.hidden_states(token_ids, bidirectional=bidirectional)[-1])

    def hidden_states(self, token_ids: Sequence[int], *, bidirectional: bool = False) -> list[Array]:
        """Compute the residual stream, ``[n, hidden]`` each: the embedding, then after every layer."""
        states = [self.embedded(token_ids)]
        for layer in range(self.config.n_layers):
            states.append(self.layer(states[-1], layer, bidirectional))
        return states

    def layer(self, x: Array, layer: int, bidirectional: bool = False) -> Array:
        """Compute the stream after one layer from the stream before it, ``x [n, hidden]`` of a whole text."""
        positions = np.arange(len(x))
        queries, keys, values = self.project(x, layer, positions)
        block = 0 if bidirectional else self.config.attention_block
        seen = visible(positions, len(x), self.config.windows[layer], block == 0, block)
        return self.finish(x, layer, queries, keys, values, seen)

    # the steps of a pass, for callers that keep keys and values between calls

    def embedded(self, token_ids: Sequence[int]) -> Array:
        """Look up the stream before the first layer, ``[n, hidden]``."""
        x: Array = self._weights["embed"][np.asarray(token_ids)] * np.float32(self.config.embedding_scale)
        return x

    def project(self, x: Array, layer: int, positions: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Compute queries, keys and values ``[n, heads, head_dim]`` of the stream ``x`` at ``positions``."""
        config, prefix = self.config, f"layers.{layer}."
        if config.pre_norms:
            x = self._norm(x, prefix + "attn_norm")
        if config.latent is not None:
            queries, keys, values = self._latent_heads(x, prefix, config.latent)
        else:
            queries, keys, values = (self._heads(x, prefix, name) for name in ("q", "k", "v"))
        if config.qk_norm:
            queries = self._norm(queries, prefix + "q_norm")
            keys = self._norm(keys, prefix + "k_norm")
        rope = config.layer_rope(layer)
        if rope is not None:
            queries, keys = rotated(queries, rope, positions), rotated(keys, rope, positions)
        if config.rotated_qk_norm:
            queries = self._norm(queries, prefix + "q_norm")
            keys = self._norm(keys, prefix + "k_norm")
        return queries, keys, values

    def finish(
        self, x: Array, layer: int, queries: Array, keys: Array, values: Array, seen: NDArray[np.bool_]
    ) -> Array:
        """Compute the stream after a layer: attention to all ``keys`` and ``values``, then feed-forward.

        ``seen`` says which of the m keys each of the n queries sees, ``[n, m]``.
        """
        config, prefix = self.config, f"layers.{layer}."
        sinks = self._weights.get(prefix + "sinks")
        mixed = self._linear(self._attended(queries, keys, values, seen, sinks), prefix + "o")
        if config.post_norms:
            mixed = self._norm(mixed, prefix + "attn_post_norm")
        read = self._norm(x, prefix + "attn_norm") if config.parallel else None
        x = x + mixed
        if read is None:
            read = self._norm(x, prefix + "ffn_norm") if config.pre_norms else x
        experts = config.layer_experts(layer)
        fed = self._feed_forward(read, prefix) if experts is None else self._mixture(read, experts, prefix)
        if config.post_norms:
            fed = self._norm(fed, prefix + "ffn_post_norm")
        return x + fed

    def head(self, x: Array) -> Array:
        """Compute the logits ``[n, vocab]`` from the stream after the last layer."""
        final, name = self.normed(x), "embed" if self.config.tied_head else "head"
        if self._on_product is not None:
            self._on_product(name, final)
        logits = final @ self._weights[name].T
        if "head" in self._adapter:
            logits = logits + self._adapter["head"].product(final)
        if self.config.head_bias:
            logits = logits + self._weights["head_bias"]
        return softcapped(logits, self.config.logit_softcap)

    def normed(self, x: Array) -> Array:
        """Apply the final norm to the stream after the last layer."""
        return self._norm(x, "final_norm")

    def _attended(
        self, queries: Array, keys: Array, values: Array, seen: NDArray[np.bool_], sinks: Array | None
    ) -> Array:
        """Grouped-query attention: query head h reads key/value head ``h // group``; ``[n, heads * value_dim]``.

        ``sinks [heads]`` are scores of a key without a value (Xiao et al. 2023).
        """
        n, config = len(queries), self.config
        shape = n, config.n_kv_heads, config.n_heads // config.n_kv_heads, config.head_dim
        grouped = queries.reshape(shape).transpose(1, 2, 0, 3)  # [kv heads, group, n, head_dim]
        scores = grouped @ keys.transpose(1, 2, 0)[:, None]  # [kv heads, group, n, m]
        scores = softcapped(scores * np.float32(config.attention_scale), config.attention_softcap)
        scores = np.where(seen, scores, np.float32(-np.inf))
        if sinks is not None:
            none = np.broadcast_to(sinks.reshape(shape[1], shape[2], 1, 1), (*scores.shape[:3], 1))
            scores = np.concatenate([scores, none], axis=-1)
        mixed = softmax(scores)[..., : len(keys)] @ values.transpose(1, 0, 2)[:, None]
        heads: Array = mixed.transpose(2, 0, 1, 3).reshape(n, -1)
        return heads

    def _heads(self, x: Array, prefix: str, name: str) -> Array:
        """Compute the heads ``[n, heads, head_dim]`` of ``x [n, hidden]``, normed together where the model does so."""
        y = self._linear(x, prefix + name)
        if self.config.joint_qk_norm and name != "v":
            y = self._norm(y, f"{prefix}{name}_norm")
        return y.reshape(len(x), -1, self.config.head_dim)

    def _latent_heads(self, x: Array, prefix: str, latent: LatentConfig) -> tuple[Array, Array, Array]:
        """Compute heads from small vectors: queries and keys ``[n, heads, head_dim]``, values ``[…, value_dim]``.

        The rotated part of a key, which lies first, is the same for all heads.
        """
        n, heads = len(x), self.config.n_heads
        small = self._norm(self._linear(x, prefix + "q_a"), prefix + "q_a_norm", LATENT_EPS) if latent.query_rank else x
        queries = self._linear(small, prefix + "q").reshape(n, heads, -1)
        both = self._norm(self._linear(x, prefix + "kv_a"), prefix + "kv_a_norm", LATENT_EPS)
        first = np.broadcast_to(self._linear(x, prefix + "k_rope")[:, None], (n, heads, self.config.rope.dim))
        keys = np.concatenate([first, self._linear(both, prefix + "k").reshape(n, heads, -1)], axis=-1)
        return queries, keys, self._linear(both, prefix + "v").reshape(n, heads, -1)

    def _feed_forward(self, x: Array, prefix: str) -> Array:
        up = self._linear(x, prefix + "up")
        inner = self._gated(self._linear(x, prefix + "gate"), up) if self.config.gated else self._activated(up)
        return self._linear(inner, prefix + "down")

    def _gated(self, gate: Array, up: Array) -> Array:
        return self._activated(gate) * up

    def _activated(self, x: Array) -> Array:
        return silu(x) if self.config.activation == "silu" else gelu_tanh(x)

    def _mixture(self, x: Array, experts: ExpertsConfig, prefix: str) -> Array:
        """Sum the results of the experts that each row chose, in ascending order, then that of the shared one."""
        logits = x @ self._weights[prefix + "router"].T + self._weights.get(prefix + "router_logit_bias", np.float32(0))
        numbers, weights = route(logits, experts, self._weights.get(prefix + "router_bias"))
        total = np.zeros_like(x)
        for expert in np.unique(numbers):
            rows, places = np.nonzero(numbers == expert)
            total[rows] += weights[rows, places, None] * self._expert(x[rows], prefix, int(expert), experts)
        if not experts.shared_size:
            return total
        shared = self._feed_forward(x, prefix + "shared_")
        return total + (
            sigmoid(x @ self._weights[prefix + "shared_router"].T) * shared if experts.shared_gate else shared
        )

    def _expert(self, x: Array, prefix: str, number: int, experts: ExpertsConfig) -> Array:
        """Compute one expert: the products of its part of the rows of each matrix."""
        gate, up = (self._linear(x, prefix + name, number, experts.count) for name in ("expert_gate", "expert_up"))
        inner = swiglu_clamped(gate, up) if experts.clamped else self._gated(gate, up)
        return self._linear(inner, prefix + "expert_down", number, experts.count)

    def _linear(self, x: Array, name: str, part: int = 0, parts: int = 1) -> Array:
        """Return ``x @ w.T + bias``, with what the adapter adds, and the bias if the model has one.

        Of ``parts`` equal parts of the rows of w, one is used.
        """
        if self._on_product is not None:
            self._on_product(name, x)
        weights, bias = self._weights[name], self._weights.get(name + "_bias")
        some = slice(len(weights) // parts * part, len(weights) // parts * (part + 1))
        y: Array = x @ weights[some].T
        if name in self._adapter:
            y = y + self._adapter[name].product(x)
        return y if bias is None else y + bias[some]

    def _norm(self, x: Array, name: str, eps: float | None = None) -> Array:
        """Norm over the last axis: by root mean square, or of mean and variance with a bias."""
        eps = self.config.norm_eps if eps is None else eps
        if self.config.norm == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        y: Array = x / np.sqrt(mean_square + np.float32(eps)) * self._weights[name]
        bias = self._weights.get(name + "_bias")
        return y if bias is None else y + bias


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


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    weights: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


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


def _decoded(weights: StoredTensor | Array) -> Array:
    return weights.float32() if isinstance(weights, StoredTensor) else weights
