"""The forward pass as a function that JAX traces: rows of several sequences over pages of keys and values.

Owns the formulas, in float32. Knows neither plans nor devices. A call has ``s`` sequences of ``n`` rows each, with
``p`` pages of keys and values and ``k`` rows with logits per sequence; shorter ones are padded with rows whose keys and
values go to a slot that none reads. Invariant: each step is that of `model.oracle`, to which tests hold it. An expert's
product is computed for every row and weighted with 0 where a row did not choose it: right, and wasteful with many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from miaotui.model.alibi import alibi_slopes
from miaotui.model.config import ModelConfig
from miaotui.model.experts import SWIGLU_ALPHA, SWIGLU_LIMIT, ExpertsConfig
from miaotui.model.latent import LATENT_EPS, LatentConfig
from miaotui.schedule.plan import PAGE_SIZE

Array = Any  # a traced or a real array of JAX
Weights = Mapping[str, Array]


class CallRows(NamedTuple):
    """The rows of one call, int32."""

    tokens: Array  # [s, n]
    positions: Array  # [s, n]
    places: Array  # [s, n]: slots that their keys and values go to
    pages: Array  # [s, p] that their sequence sees, in order
    picked: Array  # [s, k]: the rows with logits


class KvCaches(NamedTuple):
    """Keys and values of all layers, float32 ``[layers, slots, heads, dim]``; the last slot takes what none reads."""

    keys: Array
    values: Array


def rotation_names(config: ModelConfig, layer: int) -> tuple[str, str] | None:
    """Return the names of a layer's cosines and sines, ``[context, dim / 2]``, among the weights; None without any."""
    rope = config.layer_rope(layer)
    if rope is None:
        return None
    name = "rope" if rope == config.rope else "local_rope"
    return f"{name}.cos", f"{name}.sin"


def rotations(config: ModelConfig, context: int) -> dict[str, NDArray[np.float32]]:
    """Return the cosines and sines of all positions for the rotations of a model, computed in float64."""
    found: dict[str, NDArray[np.float32]] = {}
    for layer in range(config.n_layers):
        rope, names = config.layer_rope(layer), rotation_names(config, layer)
        if rope is not None and names is not None and names[0] not in found:
            angles = np.arange(context)[:, None] * rope.inverse_frequencies()
            for name, turned in zip(names, (np.cos(angles), np.sin(angles)), strict=True):
                found[name] = (turned * rope.magnitude()).astype(np.float32)
    return found


def forward(config: ModelConfig, weights: Weights, caches: KvCaches, rows: CallRows) -> tuple[Array, KvCaches]:
    """Return logits ``[s, k, vocab]`` of the picked rows, and the caches with the rows' keys and values."""
    with jax.default_matmul_precision("highest"):
        x = weights["embed"][rows.tokens] * config.embedding_scale
        for layer in range(config.n_layers):
            x, caches = _layer(config, weights, caches, rows, x, layer)
        x = jnp.take_along_axis(x, rows.picked[..., None], axis=1)
        final = _norm(config, weights, x, "final_norm")
        logits = final @ weights["embed" if config.tied_head else "head"].T
        if config.head_bias:
            logits = logits + weights["head_bias"]
        return _softcapped(logits, config.logit_softcap), caches


def _layer(
    config: ModelConfig, weights: Weights, caches: KvCaches, rows: CallRows, x: Array, layer: int
) -> tuple[Array, KvCaches]:
    prefix = f"layers.{layer}."
    read = _norm(config, weights, x, prefix + "attn_norm") if config.pre_norms else x
    queries, keys, values = _heads_of(config, weights, read, rows.positions, layer)
    caches = KvCaches(caches.keys.at[layer, rows.places].set(keys), caches.values.at[layer, rows.places].set(values))
    slots = (rows.pages[..., None] * PAGE_SIZE + jnp.arange(PAGE_SIZE)).reshape(rows.pages.shape[0], -1)  # [s, m]
    seen = _seen(rows.positions, slots.shape[1], config.windows[layer])
    bias = _distance_bias(config, rows.positions, slots.shape[1]) if config.alibi else None
    sinks = weights.get(prefix + "sinks")
    attended = _attended(config, queries, caches.keys[layer, slots], caches.values[layer, slots], seen, sinks, bias)
    mixed = _linear(weights, attended, prefix + "o")
    if config.post_norms:
        mixed = _norm(config, weights, mixed, prefix + "attn_post_norm")
    parallel = read if config.parallel else None
    x = x + mixed
    if parallel is not None:
        read = parallel
    else:
        read = _norm(config, weights, x, prefix + "ffn_norm") if config.pre_norms else x
    experts = config.layer_experts(layer)
    fed = _fed(config, weights, read, prefix) if experts is None else _mixture(config, weights, read, experts, prefix)
    if config.post_norms:
        fed = _norm(config, weights, fed, prefix + "ffn_post_norm")
    return x + fed, caches


def _heads_of(
    config: ModelConfig, weights: Weights, x: Array, positions: Array, layer: int
) -> tuple[Array, Array, Array]:
    """Return queries, keys and values, ``[s, n, heads, dim]`` each."""
    prefix, turning = f"layers.{layer}.", rotation_names(config, layer)
    if config.latent is not None:
        queries, keys, values = _latent_heads(config, weights, x, prefix, config.latent)
    else:
        queries, keys, values = (_heads(config, weights, x, prefix, name) for name in ("q", "k", "v"))
    if config.qk_norm:
        queries, keys = _normed_heads(config, weights, queries, keys, prefix)
    if turning is not None:
        cos, sin = (weights[name][positions][:, :, None] for name in turning)
        queries, keys = (_rotated(each, cos, sin) for each in (queries, keys))
    if config.rotated_qk_norm:
        queries, keys = _normed_heads(config, weights, queries, keys, prefix)
    return queries, keys, values


def _normed_heads(
    config: ModelConfig, weights: Weights, queries: Array, keys: Array, prefix: str
) -> tuple[Array, Array]:
    return _norm(config, weights, queries, prefix + "q_norm"), _norm(config, weights, keys, prefix + "k_norm")


def _heads(config: ModelConfig, weights: Weights, x: Array, prefix: str, name: str) -> Array:
    y = _linear(weights, x, prefix + name)
    if config.joint_qk_norm and name != "v":
        y = _norm(config, weights, y, f"{prefix}{name}_norm")
    return y.reshape(*y.shape[:2], -1, config.head_dim)


def _latent_heads(
    config: ModelConfig, weights: Weights, x: Array, prefix: str, latent: LatentConfig
) -> tuple[Array, Array, Array]:
    shape = *x.shape[:2], config.n_heads
    small = x
    if latent.query_rank:
        small = _norm(config, weights, _linear(weights, x, prefix + "q_a"), prefix + "q_a_norm", LATENT_EPS)
    both = _norm(config, weights, _linear(weights, x, prefix + "kv_a"), prefix + "kv_a_norm", LATENT_EPS)
    turned = _linear(weights, x, prefix + "k_rope")[:, :, None]
    first = jnp.broadcast_to(turned, (*shape, config.rope.dim))
    keys = jnp.concatenate([first, _linear(weights, both, prefix + "k").reshape(*shape, -1)], axis=-1)
    queries = _linear(weights, small, prefix + "q").reshape(*shape, -1)
    return queries, keys, _linear(weights, both, prefix + "v").reshape(*shape, -1)


def _seen(positions: Array, count: int, window: int) -> Array:
    """Return which of ``count`` positions each row sees, ``[s, n, count]``."""
    back = positions[..., None] - jnp.arange(count)
    seen = back >= 0
    return seen & (back < window) if window else seen


def _distance_bias(config: ModelConfig, positions: Array, count: int) -> Array:
    """Return what ALiBi adds to scores, ``[s, heads, n, count]``."""
    back = jnp.arange(count) - positions[..., None]
    return alibi_slopes(config.n_heads)[None, :, None, None] * back[:, None]


def _attended(
    config: ModelConfig,
    queries: Array,
    keys: Array,
    values: Array,
    seen: Array,
    sinks: Array | None,
    bias: Array | None = None,
) -> Array:
    """Grouped-query attention, ``[s, n, heads * value_dim]``; ``bias [s, heads, n, m]`` is added to scores."""
    s, n, heads, dim = queries.shape
    grouped = queries.reshape(s, n, config.n_kv_heads, heads // config.n_kv_heads, dim)
    scores = jnp.einsum("snhgd,smhd->shgnm", grouped, keys) * config.attention_scale
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    scores = jnp.where(seen[:, None, None], _softcapped(scores, config.attention_softcap), -jnp.inf)
    greatest = scores.max(axis=-1, keepdims=True)
    if sinks is not None:  # a score without a value (Xiao et al. 2023)
        sunk = sinks.reshape(config.n_kv_heads, -1)[None, :, :, None, None]
        greatest = jnp.maximum(greatest, sunk)
    parts = jnp.exp(scores - greatest)
    total = parts.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + jnp.exp(sunk - greatest)
    mixed = jnp.einsum("shgnm,smhd->snhgd", parts / total, values)
    return mixed.reshape(s, n, -1)


def _fed(config: ModelConfig, weights: Weights, x: Array, prefix: str) -> Array:
    up = _linear(weights, x, prefix + "up")
    inner = _activated(config, _linear(weights, x, prefix + "gate")) * up if config.gated else _activated(config, up)
    return _linear(weights, inner, prefix + "down")


def _mixture(config: ModelConfig, weights: Weights, x: Array, experts: ExpertsConfig, prefix: str) -> Array:
    logits = x @ weights[prefix + "router"].T + weights.get(prefix + "router_logit_bias", 0.0)
    shares = _shares(logits, experts, weights.get(prefix + "router_bias"))

    def product(inputs: Array, name: str) -> Array:
        """Return every expert's product, ``[s, n, experts, out]``."""
        parts = weights[prefix + name].reshape(experts.count, -1, inputs.shape[-1])
        bias = weights.get(f"{prefix}{name}_bias")
        form = "snei,eoi->sneo" if inputs.ndim == 4 else "sni,eoi->sneo"
        y = jnp.einsum(form, inputs, parts)
        return y if bias is None else y + bias.reshape(experts.count, -1)

    gate, up = product(x, "expert_gate"), product(x, "expert_up")
    inner = _swiglu_clamped(gate, up) if experts.clamped else _activated(config, gate) * up
    total = jnp.einsum("sne,sneo->sno", shares, product(inner, "expert_down"))
    if not experts.shared_size:
        return total
    shared = _fed(config, weights, x, prefix + "shared_")
    return total + (jax.nn.sigmoid(x @ weights[prefix + "shared_router"].T) * shared if experts.shared_gate else shared)


def _shares(logits: Array, experts: ExpertsConfig, bias: Array | None) -> Array:
    """Return each expert's weight in each row, 0 for those that it did not choose, ``[s, n, experts]``."""
    scores = jax.nn.sigmoid(logits) if experts.scores == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    ranked = scores if bias is None else scores + bias
    groups = experts.groups
    if groups.number > 1:
        parts = ranked.reshape(*ranked.shape[:2], groups.number, -1)
        best = jnp.sort(parts, axis=-1)[..., -groups.best :].sum(axis=-1)
        ranked = jnp.where(_highest(best, groups.kept)[..., None], parts, -jnp.inf).reshape(ranked.shape)
    chosen = jnp.where(_highest(ranked, experts.chosen), scores, 0.0)
    if experts.normalized:
        chosen = chosen / chosen.sum(axis=-1, keepdims=True)
    return chosen * experts.scale


def _highest(scores: Array, count: int) -> Array:
    """Return which ones are among the ``count`` highest of the last axis; of equals the first."""
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True) < count


def _swiglu_clamped(gate: Array, up: Array) -> Array:
    gate, up = jnp.minimum(gate, SWIGLU_LIMIT), jnp.clip(up, -SWIGLU_LIMIT, SWIGLU_LIMIT)
    return gate * jax.nn.sigmoid(gate * SWIGLU_ALPHA) * (up + 1)


def _activated(config: ModelConfig, x: Array) -> Array:
    return jax.nn.silu(x) if config.activation == "silu" else jax.nn.gelu(x, approximate=True)


def _linear(weights: Weights, x: Array, name: str) -> Array:
    y, bias = x @ weights[name].T, weights.get(name + "_bias")
    return y if bias is None else y + bias


def _norm(config: ModelConfig, weights: Weights, x: Array, name: str, eps: float | None = None) -> Array:
    if config.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    y = x / jnp.sqrt(mean_square + (config.norm_eps if eps is None else eps)) * weights[name]
    bias = weights.get(name + "_bias")
    return y if bias is None else y + bias


def _rotated(heads: Array, cos: Array, sin: Array) -> Array:
    half = cos.shape[-1]
    first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _softcapped(x: Array, cap: float) -> Array:
    return jnp.tanh(x / cap) * cap if cap else x
