"""The slow oracle of encoders: a whole forward pass in float32 NumPy, short enough to read and trust.

Everything the compiled backend computes is held to this. It knows an `EncoderConfig` and plain arrays; no quantization,
batch or thread. Scores are computed one head at a time, ``[n, n]``, so that memory stays bounded. Invariant: each step
below is the textbook formula, in the order in which the models' reference implementations apply it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.activations import ACTIVATIONS
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.positions import bias_table, by_distance, disentangled_rows
from miaotui.model.formulas import rotated, softmax, visible
from miaotui.model.oracle import OnProduct

Array = NDArray[np.float32]
Scores = Callable[[int, Array, Array], Array]  # of one head, from its queries and keys


class EncoderOracle:
    """An encoder's states in float32.

    ``weights`` has the canonical names; stored tensors are decoded: 4 bytes of memory per weight. ``on_product`` is
    called before each product of a matrix, with its name and its inputs ``[n, inputs]``.
    """

    def __init__(
        self,
        config: EncoderConfig,
        weights: Mapping[str, StoredTensor] | Mapping[str, Array],
        on_product: OnProduct | None = None,
    ) -> None:
        self.config = config
        self._on_product = on_product
        self._weights = {name: decoded(weights[name]) for name in encoder_shapes(config)}

    def states(self, token_ids: Sequence[int], type_ids: Sequence[int] = ()) -> Array:
        """Compute the states of one text, ``[n, hidden]``; ``type_ids`` of () means all 0.

        Raises `RequestError` for a text of no or too many tokens and for ids out of range.
        """
        return self.hidden_states(token_ids, type_ids)[-1]

    def hidden_states(self, token_ids: Sequence[int], type_ids: Sequence[int] = ()) -> list[Array]:
        """Compute the states ``[n, hidden]`` after the embedding and after every layer; a final norm counts last."""
        states = [self.embedded(token_ids, type_ids)]
        for layer in range(self.config.n_layers):
            states.append(self.layer(states[-1], layer))
        if self.config.norm_first:
            states[-1] = self._norm(states[-1], "final_norm")
        return states

    def embedded(self, token_ids: Sequence[int], type_ids: Sequence[int] = ()) -> Array:
        """Look up and norm the sum of the embeddings, ``[n, hidden]``."""
        config, weights, n = self.config, self._weights, len(token_ids)
        tokens = _checked_ids("token", token_ids, config.vocab_size)
        types = _checked_ids("type", type_ids or (0,) * n, max(config.type_vocab_size, 1))
        if not 1 <= n <= config.max_tokens or len(types) != n:
            raise RequestError(f"a text must have 1 to {config.max_tokens} tokens and a type for each, not {n}")
        x = weights["embed"][tokens]
        if config.position_rows:
            x = x + weights["position_embed"][config.position_offset : config.position_offset + n]
        if config.type_vocab_size:
            x = x + weights["type_embed"][types]
        x = self._norm(x, "embed_norm")
        return self._linear(x, "embed_projection") if "embed_projection" in weights else x

    def layer(self, x: Array, layer: int) -> Array:
        """Compute the states ``[n, hidden]`` after one layer from those before it."""
        prefix = f"layers.{self.config.weight_layer(layer)}."
        if not self.config.norm_first:
            x = self._norm(x + self._attention(x, layer, prefix), prefix + "attn_norm")
            return self._norm(x + self._feed_forward(x, prefix), prefix + "ffn_norm")
        normed = self._norm(x, prefix + "attn_norm") if prefix + "attn_norm" in self._weights else x
        x = x + self._attention(normed, layer, prefix)
        return x + self._feed_forward(self._norm(x, prefix + "ffn_norm"), prefix)

    def _attention(self, x: Array, layer: int, prefix: str) -> Array:
        """Multi-head attention of every row to every row within the layer's window, ``[n, hidden]``."""
        positions = np.arange(len(x))
        queries, keys, values = (self._heads(x, prefix + name) for name in ("q", "k", "v"))
        rope = self.config.layer_rope(layer)
        if rope is not None:
            queries, keys = rotated(queries, rope, positions), rotated(keys, rope, positions)
        seen = visible(positions, len(x), self.config.window(layer), bidirectional=True)
        scores = self._scores(len(x), prefix)
        mixed = np.empty_like(values)
        for head in range(self.config.n_heads):
            of_head = scores(head, queries[:, head], keys[:, head])
            mixed[:, head] = softmax(np.where(seen, of_head, np.float32(-np.inf))) @ values[:, head]
        return self._linear(mixed.reshape(len(x), -1), prefix + "o")

    def _scores(self, n: int, prefix: str) -> Scores:
        """Return the function of one head's queries and keys ``[n, head_dim]`` to its scores ``[n, n]``."""
        scale = np.float32(self.config.attention_scale)
        if self.config.position == "disentangled":
            return self._disentangled(n, prefix)
        table = bias_table(self.config, self._weights, n)
        if table is None:
            return lambda head, queries, keys: queries @ keys.T * scale
        columns = by_distance(n)
        return lambda head, queries, keys: queries @ keys.T * scale + table[head][columns]

    def _disentangled(self, n: int, prefix: str) -> Scores:
        """Content to content, content to position and position to content (DeBERTa, equation 4).

        The keys and queries of positions are projected by the layer's own matrices (``share_att_key``).
        """
        scale = np.float32(self.config.attention_scale)
        rows = self._norm(self._weights["relative_embed"], "relative_embed_norm")
        rows = rows[disentangled_rows(self.config, n)]  # [2n - 1, hidden], by distance
        position_queries, position_keys = self._heads(rows, prefix + "q"), self._heads(rows, prefix + "k")
        columns = by_distance(n)

        def scores(head: int, queries: Array, keys: Array) -> Array:
            content_to_position = np.take_along_axis(queries @ position_keys[:, head].T, columns, axis=1)
            position_to_content = np.take_along_axis(keys @ position_queries[:, head].T, columns.T, axis=1).T
            total: Array = (queries @ keys.T + content_to_position + position_to_content) * scale
            return total

        return scores

    def _feed_forward(self, x: Array, prefix: str) -> Array:
        activation = ACTIVATIONS[self.config.activation]
        up = self._linear(x, prefix + "up")
        inner = activation(self._linear(x, prefix + "gate")) * up if self.config.gated else activation(up)
        return self._linear(inner, prefix + "down")

    def _heads(self, x: Array, name: str) -> Array:
        """Reshape ``[n, hidden]`` -> ``[n, heads, head_dim]``."""
        return self._linear(x, name).reshape(len(x), -1, self.config.head_dim)

    def _linear(self, x: Array, name: str) -> Array:
        if self._on_product is not None:
            self._on_product(name, x)
        return linear(x, self._weights[name], self._weights.get(name + "_bias"))

    def _norm(self, x: Array, name: str) -> Array:
        return layer_norm(x, self._weights[name], self._weights.get(name + "_bias"), self.config.norm_eps)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``x @ weight.T + bias``."""
    y: Array = x @ weight.T
    return y if bias is None else y + bias


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Normalize the last axis by mean and variance, then scale and shift."""
    x = x - x.mean(axis=-1, keepdims=True)
    y: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight
    return y if bias is None else y + bias


def decoded(weights: StoredTensor | Array) -> Array:
    """Return a tensor's values in float32; arrays as they are."""
    return weights.float32() if isinstance(weights, StoredTensor) else weights


def _checked_ids(name: str, ids: Sequence[int], end: int) -> NDArray[np.int64]:
    array = np.asarray(ids, np.int64)
    if array.size and not 0 <= array.min() <= array.max() < end:
        raise RequestError(f"{name} ids must be 0 to {end - 1}: these are of another vocabulary")
    return array
