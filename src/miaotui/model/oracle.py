"""The slow oracle: a whole forward pass in float32 NumPy, short enough to read and trust.

Everything the compiled engine computes is held to this. It knows a `ModelConfig` and plain arrays;
no quantization, cache, batch or thread. Invariant: each step below is the textbook formula, in the
order in which the models' reference implementations apply it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import ModelConfig
from miaotui.model.rope import RopeConfig

Array = NDArray[np.float32]


class Oracle:
    """A model's logits and hidden states, computed from scratch for each call.

    ``weights`` has the canonical names; stored tensors are decoded: 4 bytes of memory per weight.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, StoredTensor] | Mapping[str, Array]) -> None:
        self.config = config
        self._weights = {name: _decoded(weights[name]) for name in weights}

    def logits(self, token_ids: Sequence[int], *, bidirectional: bool = False) -> Array:
        """Unnormalized log-probabilities of the next token at each position, ``[n, vocab]``.

        With ``bidirectional`` every position also sees those after it (within its window).
        """
        x = self.hidden_states(token_ids, bidirectional=bidirectional)[-1]
        x = self._norm(x, "final_norm")
        logits = x @ self._weights["embed" if self.config.tied_head else "head"].T
        return softcapped(logits, self.config.logit_softcap)

    def hidden_states(self, token_ids: Sequence[int], *, bidirectional: bool = False) -> list[Array]:
        """Return the residual stream, ``[n, hidden]`` each: the embedding, then after every layer."""
        x = self._weights["embed"][np.asarray(token_ids)]
        states = [x * np.float32(self.config.embedding_scale)]
        for layer in range(self.config.n_layers):
            states.append(self._layer(states[-1], layer, bidirectional))
        return states

    def _layer(self, x: Array, layer: int, bidirectional: bool) -> Array:
        prefix = f"layers.{layer}."
        mixed = self._attention(self._norm(x, prefix + "attn_norm"), layer, bidirectional)
        if self.config.post_norms:
            mixed = self._norm(mixed, prefix + "attn_post_norm")
        x = x + mixed
        fed = self._feed_forward(self._norm(x, prefix + "ffn_norm"), prefix)
        if self.config.post_norms:
            fed = self._norm(fed, prefix + "ffn_post_norm")
        return x + fed

    def _attention(self, x: Array, layer: int, bidirectional: bool) -> Array:
        """Grouped-query attention: query head h reads key/value head ``h // group``."""
        config, prefix = self.config, f"layers.{layer}."
        queries, keys, values = (self._heads(x, prefix + name) for name in ("q", "k", "v"))
        if config.qk_norm:
            queries = self._norm(queries, prefix + "q_norm")
            keys = self._norm(keys, prefix + "k_norm")
        rope = config.layer_rope(layer)
        if rope is not None:
            queries, keys = rotated(queries, rope), rotated(keys, rope)
        seen = visible(len(x), config.windows[layer], bidirectional)
        group = config.n_heads // config.n_kv_heads
        heads = []
        for head in range(config.n_heads):
            scores = queries[:, head] @ keys[:, head // group].T
            scores = softcapped(scores * np.float32(config.attention_scale), config.attention_softcap)
            scores = np.where(seen, scores, np.float32(-np.inf))
            heads.append(softmax(scores) @ values[:, head // group])
        return self._linear(np.concatenate(heads, axis=1), prefix + "o")

    def _heads(self, x: Array, name: str) -> Array:
        """``[n, hidden]`` -> ``[n, heads, head_dim]``."""
        return self._linear(x, name).reshape(len(x), -1, self.config.head_dim)

    def _feed_forward(self, x: Array, prefix: str) -> Array:
        gate = self._linear(x, prefix + "gate")
        gate = silu(gate) if self.config.activation == "silu" else gelu_tanh(gate)
        return self._linear(gate * self._linear(x, prefix + "up"), prefix + "down")

    def _linear(self, x: Array, name: str) -> Array:
        """``x @ w.T + bias``, the bias if the model has one."""
        y: Array = x @ self._weights[name].T
        bias = self._weights.get(name + "_bias")
        return y if bias is None else y + bias

    def _norm(self, x: Array, name: str) -> Array:
        """Norm over the last axis: by root mean square, or of mean and variance with a bias."""
        if self.config.norm == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        y: Array = x / np.sqrt(mean_square + np.float32(self.config.norm_eps)) * self._weights[name]
        bias = self._weights.get(name + "_bias")
        return y if bias is None else y + bias


def rotated(heads: Array, rope: RopeConfig) -> Array:
    """Turn each pair ``(i, i + dim/2)`` of ``[n, heads, head_dim]`` by position times frequency."""
    half = rope.dim // 2
    angles = np.arange(len(heads))[:, None, None] * rope.inverse_frequencies()  # [n, 1, half]
    cos = (np.cos(angles) * rope.magnitude()).astype(np.float32)
    sin = (np.sin(angles) * rope.magnitude()).astype(np.float32)
    first, second, rest = np.split(heads, (half, rope.dim), axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return np.concatenate(turned, axis=-1)


def visible(n: int, window: int, bidirectional: bool) -> NDArray[np.bool_]:
    """Return whether position row sees position column, ``[n, n]``; a window counts the row itself."""
    back = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = np.full((n, n), True) if bidirectional else back >= 0
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
    """``x * sigmoid(x)``, written with tanh, which cannot overflow."""
    y: Array = x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return y


def gelu_tanh(x: Array) -> Array:
    """GELU in its tanh approximation (Hendrycks and Gimpel, 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    y: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y


def _decoded(weights: StoredTensor | Array) -> Array:
    return weights.float32() if isinstance(weights, StoredTensor) else weights
