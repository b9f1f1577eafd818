"""The slow oracle: a whole forward pass in float32 NumPy, short enough to read and trust.

Everything the compiled engine computes is held to this. It knows a `ModelConfig` and plain arrays;
no quantization, batch or thread. `project` and `finish` are the halves of a layer, between which a caller may put
a cache of keys and values (`backends.reference`). Invariant: each step below is the textbook formula, in the
order in which the models' reference implementations apply it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.adapters.adapter import LowRankPair, expert_pair
from miaotui.model.config import ModelConfig
from miaotui.model.experts import ExpertsConfig, route, sigmoid, swiglu_clamped
from miaotui.model.formulas import distance_bias, gelu_tanh, rotated, silu, softcapped, softmax, sparse, visible
from miaotui.model.latent import LATENT_EPS, LatentConfig
from miaotui.model.layer_inputs import LayerInputsConfig
from miaotui.model.streams import corrected, modalities, predicted, with_length_of

Array = NDArray[np.float32]
OnProduct = Callable[[str, Array], None]


class Heads(NamedTuple):
    """Keys and values of a layer, ``[n, heads, head_dim]`` and ``[n, heads, value_dim]``."""

    keys: Array
    values: Array


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
        """Compute the states, ``[n, state]`` each: of the embedding, then after every layer.

        A state is the residual stream, ``[n, hidden]``; of some models several of them and the inputs of the layers.
        """
        states, known = [self.embedded(token_ids)], dict[int, Heads]()
        for layer in range(self.config.n_layers):
            states.append(self.layer(states[-1], layer, bidirectional, known))
        return states

    def layer(self, x: Array, layer: int, bidirectional: bool = False, known: dict[int, Heads] | None = None) -> Array:
        """Compute the state after one layer from the one before it, ``x [n, state]`` of a whole text.

        ``known`` are keys and values by layer, for layers that share them; this one's are added.
        """
        positions, known = np.arange(len(x)), {} if known is None else known
        queries, own = self.project(x, layer, positions)
        if own is not None:
            known[layer] = own
        keys, values = known[self.config.kv_layer(layer)]
        block = 0 if bidirectional else self.config.attention_block
        seen = visible(positions, len(x), self.config.windows[layer], block == 0, block)
        return self.finish(x, layer, queries, keys, values, seen)

    # the steps of a pass, for callers that keep keys and values between calls

    def embedded(self, token_ids: Sequence[int]) -> Array:
        """Look up the state before the first layer, ``[n, state]``."""
        config, ids = self.config, np.asarray(token_ids)
        x: Array = self._weights["embed"][ids] * np.float32(config.embedding_scale)
        parts = [x]
        if config.streams is not None:
            others = self._linear(x, "stream_up").reshape(len(x), -1, config.hidden_size)
            parts.append(with_length_of(others, x[:, None]).reshape(len(x), -1))
        if config.layer_inputs is not None:
            parts.append(self._inputs_of_layers(ids, x, config.layer_inputs))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else x

    def project(self, x: Array, layer: int, positions: NDArray[np.int64]) -> tuple[Array, Heads | None]:
        """Compute queries, and keys and values, ``[n, heads, head_dim]`` each, of the state ``x`` at ``positions``.

        None: the layer sees those of an earlier one.
        """
        config, prefix = self.config.at(layer), f"layers.{layer}."
        x = self._stream(x, self._predictions(x, layer))
        if config.pre_norms:
            x = self._norm(x, prefix + "attn_norm")
        has_keys = self.config.has_keys(layer)
        if config.latent is not None:
            queries, keys, values = self._latent_heads(x, prefix, config.latent)
        else:
            letters = "qkv" if has_keys else "q"
            queries, *rest = (self._heads(x, prefix, name, config.head_dim) for name in letters)
            keys, values = rest or (queries[:, :0], queries[:, :0])
        if config.qk_norm:
            queries = self._norm(queries, prefix + "q_norm")
            keys = self._norm(keys, prefix + "k_norm") if has_keys else keys
        if config.value_norm:
            values = values / np.sqrt(np.mean(values * values, axis=-1, keepdims=True) + np.float32(config.norm_eps))
        rope = self.config.layer_rope(layer)
        if rope is not None:
            queries, keys = rotated(queries, rope, positions), rotated(keys, rope, positions)
        if config.rotated_qk_norm:
            queries = self._norm(queries, prefix + "q_norm")
            keys = self._norm(keys, prefix + "k_norm")
        return queries, Heads(keys, values) if has_keys else None

    def finish(
        self, x: Array, layer: int, queries: Array, keys: Array, values: Array, seen: NDArray[np.bool_]
    ) -> Array:
        """Compute the state after a layer: attention to all ``keys`` and ``values``, then feed-forward.

        ``seen`` says which of the m keys each of the n queries sees, ``[n, m]``.
        """
        config, prefix, state = self.config, f"layers.{layer}.", x
        predictions = self._predictions(x, layer)
        x = self._stream(x, predictions)
        sinks = self._weights.get(prefix + "sinks")
        mixed = self._linear(self._attended(queries, keys, values, seen, sinks), prefix + "o")
        if config.post_norms:
            mixed = self._norm(mixed, prefix + "attn_post_norm")
        read = self._norm(x, prefix + "attn_norm") if config.parallel else None
        if config.streams is not None:
            x = (x + mixed + self._learned_residual(x, prefix)) / np.float32(np.sqrt(2))
        else:
            x = x + mixed
        if read is None:
            read = self._norm(x, prefix + "ffn_norm") if config.pre_norms else x
        experts = config.layer_experts(layer)
        if experts is None:
            fed = self.feed_forward(read, prefix, layer)
        elif experts.beside:
            fed = self._both(x, read, experts, layer)
        else:
            fed = self._mixture(read, read, experts, prefix)
        if config.post_norms:
            fed = self._norm(fed, prefix + "ffn_post_norm")
        return self._left(state, layer, predictions, x + fed)

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
        """Apply the final norm to the state after the last layer, ``[n, hidden]``."""
        return self._norm(self._merged(x), "final_norm")

    # several streams, and inputs of layers

    def _predictions(self, state: Array, layer: int) -> Array | None:
        """Predict the streams after a layer, ``[n, streams, hidden]``; None for a model with one stream."""
        config, prefix = self.config, f"layers.{layer}.altup_"
        if config.streams is None:
            return None
        streams = state[:, : config.stream_width].reshape(len(state), config.streams.number, -1)
        weights = modalities(streams[:, 0], *self._stream_router(prefix), config.norm_eps)
        return predicted(streams, weights, self._weights[prefix + "predict"])

    def _stream_router(self, prefix: str) -> tuple[Array, Array]:
        return self._weights[prefix + "norm"], self._weights[prefix + "router"]

    def _stream(self, state: Array, predictions: Array | None) -> Array:
        """Return the stream that a layer computes on."""
        return state[:, : self.config.hidden_size] if predictions is None else predictions[:, 0]

    def _learned_residual(self, x: Array, prefix: str) -> Array:
        """Compute what runs beside attention: its input, and a product of low rank of it."""
        read = self._norm(x, prefix + "attn_norm")
        low = self._linear(self._linear(read, prefix + "laurel_left"), prefix + "laurel_right")
        return read + self._norm(low, prefix + "laurel_norm")

    def _left(self, state: Array, layer: int, predictions: Array | None, x: Array) -> Array:
        """Return the state that a layer leaves behind, from the stream ``x`` that it has computed."""
        config, prefix = self.config, f"layers.{layer}."
        streams = x[:, None]
        if predictions is not None:
            weights = modalities(x, *self._stream_router(prefix + "altup_"), config.norm_eps)
            streams = corrected(predictions, x, weights, self._weights[prefix + "altup_correct"])
        if config.layer_inputs is not None:
            first = config.stream_width + layer * config.layer_inputs.width
            inputs = state[:, first : first + config.layer_inputs.width]
            read = streams[:, 0] if predictions is None else streams[:, 0] * self._weights[prefix + "altup_scale"]
            gated = self._activated(self._linear(read, prefix + "input_gate")) * inputs
            added = self._norm(self._linear(gated, prefix + "input_projection"), prefix + "input_norm")
            streams[:, int(predictions is not None) :] += added[:, None]
        if config.layer_scales:
            streams = streams * self._weights[prefix + "scale"]
        return np.concatenate([streams.reshape(len(x), -1), state[:, config.stream_width :]], axis=1)

    def _inputs_of_layers(self, ids: NDArray[np.int64], x: Array, config: LayerInputsConfig) -> Array:
        """Compute the inputs of all layers, ``[n, layers * width]``, from each token and its embedding."""
        known = np.where(ids < config.vocab_size, ids, 0)
        own = self._weights["layer_embed"][known] * np.float32(np.sqrt(config.width))
        made = self._linear(x, "layer_projection") * np.float32(self.config.hidden_size**-0.5)
        made = self._norm(made.reshape(len(x), -1, config.width), "layer_projection_norm").reshape(len(x), -1)
        result: Array = (made + own) * np.float32(2**-0.5)
        return result

    def _merged(self, state: Array) -> Array:
        """Return the one stream that the head reads: the mean of all, each brought to the length of the first."""
        config = self.config
        if config.streams is None:
            return state[:, : config.hidden_size]
        streams = state[:, : config.stream_width].reshape(len(state), config.streams.number, -1)
        parts = range(config.streams.number - 1)
        lifted = [self._linear(streams[:, part + 1], "stream_down", part, len(parts)) for part in parts]
        others = with_length_of(np.stack(lifted, axis=1), streams[:, :1])
        merged: Array = (streams[:, 0] + others.sum(axis=1)) / np.float32(config.streams.number)
        return merged

    def _attended(
        self, queries: Array, keys: Array, values: Array, seen: NDArray[np.bool_], sinks: Array | None
    ) -> Array:
        """Grouped-query attention: query head h reads key/value head ``h // group``; ``[n, heads * value_dim]``.

        ``sinks [heads]`` are scores of a key without a value (Xiao et al. 2023).
        """
        n, config, kv_heads = len(queries), self.config, keys.shape[1]
        shape = n, kv_heads, config.n_heads // kv_heads, queries.shape[2]
        grouped = queries.reshape(shape).transpose(1, 2, 0, 3)  # [kv heads, group, n, head_dim]
        scores = grouped @ keys.transpose(1, 2, 0)[:, None]  # [kv heads, group, n, m]
        scores = softcapped(scores * np.float32(config.attention_scale), config.attention_softcap)
        if config.alibi:
            scores = scores + distance_bias(config.n_heads, seen).reshape(shape[1], shape[2], n, -1)
        scores = np.where(seen, scores, np.float32(-np.inf))
        if sinks is not None:
            none = np.broadcast_to(sinks.reshape(shape[1], shape[2], 1, 1), (*scores.shape[:3], 1))
            scores = np.concatenate([scores, none], axis=-1)
        mixed = softmax(scores)[..., : len(keys)] @ values.transpose(1, 0, 2)[:, None]
        heads: Array = mixed.transpose(2, 0, 1, 3).reshape(n, -1)
        return heads

    def _heads(self, x: Array, prefix: str, name: str, head_dim: int) -> Array:
        """Compute the heads ``[n, heads, head_dim]`` of ``x [n, hidden]``, normed together where the model does so."""
        y = self._linear(x, prefix + name)
        if self.config.joint_qk_norm and name != "v":
            y = self._norm(y, f"{prefix}{name}_norm")
        return y.reshape(len(x), -1, head_dim)

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

    def feed_forward(self, x: Array, prefix: str, layer: int | None = None) -> Array:
        """Compute the feed-forward part of ``layer``, or (None) of an expert."""
        up, gated = self._linear(x, prefix + "up"), self.config.gated
        cutoffs = self.config.cutoffs if layer is not None else ()
        gate = self._linear(x, prefix + "gate") if gated else up
        if cutoffs and layer is not None:
            gate = sparse(gate, cutoffs[layer])
        inner = self._gated(gate, up) if gated else self._activated(up)
        return self._linear(inner, prefix + "down")

    def _gated(self, gate: Array, up: Array) -> Array:
        return self._activated(gate) * up

    def _activated(self, x: Array) -> Array:
        return silu(x) if self.config.activation == "silu" else gelu_tanh(x)

    def _both(self, x: Array, read: Array, experts: ExpertsConfig, layer: int) -> Array:
        """Sum the normed results of the usual feed-forward part and of the experts beside it.

        ``read`` is what the usual part reads of the stream ``x``; router and experts have norms of their own.
        """
        prefix, eps = f"layers.{layer}.", np.float32(self.config.norm_eps)
        dense = self._norm(self.feed_forward(read, prefix, layer), prefix + "dense_norm")
        scale = self._weights[prefix + "router_scale"] * np.float32(x.shape[1] ** -0.5)
        routed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * scale
        mixed = self._mixture(self._norm(x, prefix + "experts_norm"), routed, experts, prefix)
        return dense + self._norm(mixed, prefix + "experts_post_norm")

    def _mixture(self, x: Array, routed: Array, experts: ExpertsConfig, prefix: str) -> Array:
        """Sum the results of the experts that each row chose, in ascending order, then that of the shared one.

        ``routed`` is what the router reads.
        """
        logits = self._router_logits(routed, prefix + "router")
        numbers, weights = route(logits, experts, self._weights.get(prefix + "router_bias"))
        if experts.beside:
            weights = weights * self._weights[prefix + "route_scale"][numbers]
        total = np.zeros_like(x)
        for expert in np.unique(numbers):
            rows, places = np.nonzero(numbers == expert)
            total[rows] += weights[rows, places, None] * self._expert(x[rows], prefix, int(expert), experts)
        if not experts.shared_size:
            return total
        shared = self.feed_forward(x, prefix + "shared_")
        if experts.shared_gate:
            shared = sigmoid(self._router_logits(x, prefix + "shared_router")) * shared
        return total + shared

    def _router_logits(self, x: Array, name: str) -> Array:
        logits: Array = x @ self._weights[name].T + self._weights.get(f"{name}_logit_bias", np.float32(0))
        return logits + self._adapter[name].product(x) if name in self._adapter else logits

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
        pair = self._adapter.get(name if parts == 1 else expert_pair(name, part))
        if pair is not None:
            y = y + pair.product(x)
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


def _decoded(weights: StoredTensor | Array) -> Array:
    return weights.float32() if isinstance(weights, StoredTensor) else weights
