"""The slow oracle of encoder-decoders: encoder, cross-attention and decoder in float32 NumPy, to be read and trusted.

Everything that a faster backend computes is held to this. It knows a `Seq2SeqConfig` and plain arrays; no batch, search
or text. Invariant: a target row's logits depend on its source, on the tokens before it and on nothing else; computed
row by row from a `TargetCache` they are those of the whole target at once, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.activations import ACTIVATIONS
from miaotui.model.encoder.oracle import decoded, layer_norm, linear
from miaotui.model.formulas import softmax
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.names import ATTENTION, CONVOLUTIONS, CROSS_ATTENTION, RECURRENT, seq2seq_shapes
from miaotui.model.seq2seq.positions import relative_scores, sinusoidal_table

Array = NDArray[np.float32]
Bias = Array  # added to the scores of [heads, rows, tokens]; a scalar 0 for none
KeysValues = tuple[Array, Array]  # of one layer, each [tokens, heads, head_dim]


@dataclass(frozen=True, eq=False)
class SourceMemory:
    """Keys and values of a source for the cross-attention of each decoder layer."""

    layers: tuple[KeysValues, ...]
    n_tokens: int


@dataclass(frozen=True, eq=False)
class TargetCache:
    """Keys and values of a target's tokens in each decoder layer; () before the first token.

    A recurrent decoder has states ``[tokens, hidden]`` instead, as keys and values alike.
    """

    layers: tuple[KeysValues, ...] = ()
    n_tokens: int = 0


class Seq2SeqOracle:
    """An encoder-decoder in float32.

    ``weights`` has the canonical names; stored tensors are decoded: 4 bytes of memory per weight.
    """

    def __init__(self, config: Seq2SeqConfig, weights: Mapping[str, StoredTensor] | Mapping[str, Array]) -> None:
        self.config = config
        self._weights = {name: decoded(weights[name]) for name in seq2seq_shapes(config)}
        if config.position.startswith("sinusoidal"):
            rows = max(config.encoder.max_tokens, config.decoder.max_tokens) + config.position_offset
            table = sinusoidal_table(config, rows)
            self._weights |= {"encoder.position_embed": table, "decoder.position_embed": table}

    def encode(self, source: Sequence[int] | Array) -> Array:
        """Compute the encoder's states of a source, ``[n, hidden]``; one of sound is its frames ``[2 n, mel bins]``.

        Raises `RequestError` for a source of no or too many tokens and for ids out of range.
        """
        return self._encoded(self._heard(source) if isinstance(source, np.ndarray) else self._read(source))

    def _read(self, source: Sequence[int]) -> Array:
        """Embed the tokens of a source."""
        config = self.config
        tokens = _checked_ids("source", source, config.source_vocab_size, config.encoder.max_tokens)
        table = self._weights["embed" if config.shared_embedding else "source_embed"]
        return self._embedded(table[tokens], tokens, np.arange(len(tokens)), "encoder")

    def _heard(self, frames: Array) -> Array:
        """Compute the states that sound begins with: two convolutions over time, the second at every other frame."""
        rows, gelu = checked_frames(self.config, frames), ACTIVATIONS[self.config.activation]
        x = frames
        for name, step in zip(CONVOLUTIONS, (1, 2), strict=True):
            padded = np.pad(x, ((1, 1), (0, 0)))
            unfolded = np.concatenate([padded[tap : len(x) + tap : step] for tap in range(3)], axis=1)
            x = gelu(self._linear(unfolded, name))
        return x + self._weights["encoder.position_embed"][:rows]

    def _encoded(self, x: Array) -> Array:
        """Compute all encoder layers."""
        config = self.config
        bias = self._relative("encoder", np.arange(len(x)), len(x), causal=False)
        for layer in range(config.encoder.n_layers):
            x = self._encoder_layer(x, f"encoder.layers.{layer}.", bias)
        return self._norm(x, "encoder.final_norm") if config.encoder.norm_at_end else x

    def _encoder_layer(self, x: Array, prefix: str, bias: Bias) -> Array:
        def self_attention(rows: Array) -> Array:
            queries, keys, values = (self._heads(rows, prefix + name) for name in ATTENTION[:3])
            return self._linear(self._attend(queries, keys, values, bias), prefix + "o")

        x = self._sublayer(x, prefix + "attn_norm", self_attention)
        return self._sublayer(x, prefix + "ffn_norm", lambda rows: self._feed_forward(rows, prefix))

    def memory(self, states: Array) -> SourceMemory:
        """Compute the keys and values that every row of a target attends to, from the encoder's states."""
        names = [f"decoder.layers.{layer}." for layer in range(self.config.decoder.n_layers)]
        layers = [(self._heads(states, name + "cross_k"), self._heads(states, name + "cross_v")) for name in names]
        return SourceMemory(tuple(layers), len(states))

    def decode(
        self, memory: SourceMemory, cache: TargetCache, tokens: Sequence[int], seen: dict[int, Array] | None = None
    ) -> tuple[Array, TargetCache]:
        """Compute the logits ``[n, vocab]`` after each of ``tokens``, which follow those of ``cache``.

        Returns the cache with them; ``seen`` is given the queries of each layer's cross-attention.
        Raises `RequestError` for too many tokens and for ids out of range.
        """
        config, before = self.config, cache.n_tokens
        ids = _checked_ids("target", tokens, config.vocab_size, config.decoder.max_tokens - before)
        positions = before + np.arange(len(ids))
        total = before + len(ids)
        x = self._weights["embed"][ids]
        if config.zero_start:
            x = np.where(positions[:, None] == 0, np.float32(0), x)
        x = self._embedded(x, ids, positions, "decoder")
        relative = config.position == "relative" and not config.recurrent
        bias = self._relative("decoder", positions, total, causal=True) if relative else np.zeros((), np.float32)
        mask = np.where(positions[:, None] >= np.arange(total), 0, -np.inf).astype(np.float32)
        kept, seen = [], {} if seen is None else seen
        for layer in range(config.decoder.n_layers):
            past = cache.layers[layer] if cache.layers else None
            x, keys_values = self._decoder_layer(x, layer, memory.layers[layer], past, bias + mask, seen)
            kept.append(keys_values)
        if config.decoder.norm_at_end:
            x = self._norm(x, "decoder.final_norm")
        return self._logits(x), TargetCache(tuple(kept), total)

    def align(
        self, memory: SourceMemory, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> tuple[Array, Array]:
        """Compute the cross-attention's scaled scores of some (layer, head) for a whole target, before the softmax.

        Returns ``[heads, n, source rows]`` and the logits ``[n, vocab]`` behind each token. Raises as `decode`.
        """
        seen: dict[int, Array] = {}
        logits, _ = self.decode(memory, TargetCache(), tokens, seen)
        scale = np.float32(self.config.attention_scale)
        scores = [seen[layer][:, head] @ memory.layers[layer][0][:, head].T * scale for layer, head in heads]
        return np.stack(scores), logits

    def _decoder_layer(
        self, x: Array, layer: int, memory: KeysValues, past: KeysValues | None, bias: Array, seen: dict[int, Array]
    ) -> tuple[Array, KeysValues]:
        prefix = f"decoder.layers.{layer}."
        kept: list[KeysValues] = []

        def self_attention(rows: Array) -> Array:
            queries, keys, values = (self._heads(rows, prefix + name) for name in ATTENTION[:3])
            if past is not None:
                keys, values = np.concatenate([past[0], keys]), np.concatenate([past[1], values])
            kept.append((keys, values))
            return self._linear(self._attend(queries, keys, values, bias), prefix + "o")

        def recurrence(rows: Array) -> Array:
            before = np.zeros((0, rows.shape[1]), np.float32) if past is None else past[0]
            states = self._states(rows, prefix, before)
            kept.append((states, states))
            new: Array = np.maximum(states[len(before) :], np.float32(0))
            return new

        def cross_attention(rows: Array) -> Array:
            queries = seen[layer] = self._heads(rows, prefix + CROSS_ATTENTION[0])
            return self._linear(self._attend(queries, *memory, np.zeros((), np.float32)), prefix + CROSS_ATTENTION[3])

        x = self._sublayer(x, prefix + "attn_norm", recurrence if self.config.recurrent else self_attention)
        x = self._sublayer(x, prefix + "cross_norm", cross_attention)
        x = self._sublayer(x, prefix + "ffn_norm", lambda rows: self._feed_forward(rows, prefix))
        return x, kept[0]

    def _states(self, rows: Array, prefix: str, before: Array) -> Array:
        """Return the states ``[tokens, hidden]`` of an SSRU behind each token, ``before`` and new ones.

        A state is ``f * state before + (1 - f) * candidate`` with the gate ``f = 1 / (1 + exp(-forget))``, both linear
        in the row (Kim et al. 2019, "From Research to Production and Back", section 3.1).
        """
        gates, candidates = (self._linear(rows, prefix + name) for name in RECURRENT)
        kept = np.float32(1) / (1 + np.exp(-gates))
        state = before[-1] if len(before) else np.zeros(rows.shape[1], np.float32)
        states = list(before)
        for share, candidate in zip(kept, candidates, strict=True):
            state = share * state + (1 - share) * candidate
            states.append(state)
        return np.array(states)

    def _embedded(self, x: Array, tokens: NDArray[np.int64], positions: NDArray[np.int64], stack: str) -> Array:
        config = self.config
        x = x * np.float32(config.embedding_scale)
        table = self._weights.get(f"{stack}.position_embed")
        if table is not None:
            rows = table[positions + config.position_offset]
            x = x + np.where((tokens == config.unplaced_token)[:, None], np.float32(0), rows)
        return self._norm(x, f"{stack}.embed_norm") if config.embed_norm else x

    def _sublayer(self, x: Array, norm: str, compute: Callable[[Array], Array]) -> Array:
        """Add what a sublayer computes; the norm comes before it or behind the sum."""
        if self.config.norm_first:
            return x + compute(self._norm(x, norm))
        return self._norm(x + compute(x), norm)

    def _attend(self, queries: Array, keys: Array, values: Array, bias: Bias) -> Array:
        """Attend from ``[n, heads, head_dim]`` to ``[tokens, heads, head_dim]``; returns ``[n, heads * head_dim]``.

        ``bias`` is added to the scores ``[heads, n, tokens]``.
        """
        scale = np.float32(self.config.attention_scale)
        scores = queries.transpose(1, 0, 2) @ keys.transpose(1, 2, 0) * scale + bias
        mixed = softmax(scores) @ values.transpose(1, 0, 2)
        rows: Array = mixed.transpose(1, 0, 2).reshape(len(queries), -1)
        return rows

    def _relative(self, stack: str, positions: NDArray[np.int64], keys: int, *, causal: bool) -> Bias:
        if self.config.position != "relative":
            return np.zeros((), np.float32)
        return relative_scores(self.config, self._weights[f"{stack}.relative_bias"], positions, keys, causal=causal)

    def _feed_forward(self, x: Array, prefix: str) -> Array:
        activation = ACTIVATIONS[self.config.activation]
        up = self._linear(x, prefix + "up")
        inner = activation(self._linear(x, prefix + "gate")) * up if self.config.gated else activation(up)
        return self._linear(inner, prefix + "down")

    def _logits(self, x: Array) -> Array:
        head = self._weights["embed" if self.config.tied_head else "head"]
        return linear(x * np.float32(self.config.logit_scale), head, self._weights.get("head_bias"))

    def _heads(self, x: Array, name: str) -> Array:
        return self._linear(x, name).reshape(len(x), -1, self.config.head_dim)

    def _linear(self, x: Array, name: str) -> Array:
        return linear(x, self._weights[name], self._weights.get(name + "_bias"))

    def _norm(self, x: Array, name: str) -> Array:
        weight, eps = self._weights[name], self.config.norm_eps
        if self.config.norm == "layer":
            return layer_norm(x, weight, self._weights[name + "_bias"], eps)
        y: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight
        return y


def checked_frames(config: Seq2SeqConfig, frames: Array) -> int:
    """Return how many rows a source of sound has. Raises `RequestError` for frames of another shape."""
    rows = len(frames) // 2
    if frames.ndim != 2 or frames.shape != (2 * rows, config.mel_bins) or not 1 <= rows <= config.encoder.max_tokens:
        raise RequestError(
            f"a source of sound has 2 to {2 * config.encoder.max_tokens:,} frames, an even number, of "
            f"{config.mel_bins} values, not {frames.shape}"
        )
    return rows


def _checked_ids(name: str, ids: Sequence[int], end: int, most: int) -> NDArray[np.int64]:
    array = np.asarray(ids, np.int64)
    if not 1 <= array.size <= most:
        raise RequestError(f"the {name} has {array.size:,} tokens here, and 1 to {most:,} fit: shorten it")
    if not 0 <= array.min() <= array.max() < end:
        raise RequestError(f"{name} token ids must be 0 to {end - 1}: these are of another vocabulary")
    return array
