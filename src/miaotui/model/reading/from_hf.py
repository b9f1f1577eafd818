"""A model's configuration and tensor sources from a folder of ``config.json`` and safetensors.

Knows transformers' keys and tensor names; computes nothing with weights. Invariant: a feature that
the configuration declares and the forward pass lacks is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, ModelConfig
from miaotui.model.masked import MAX_BLOCK, MaskedConfig
from miaotui.model.reading.architectures import Architecture, Windows
from miaotui.model.reading.checks import require
from miaotui.model.reading.families import by_model_type
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.latent import latent_from_hf, latent_sources
from miaotui.model.reading.layer_parts import (
    local_dim_from_hf,
    part_sources,
    unused_keys,
    with_largest,
    with_parts_from_hf,
)
from miaotui.model.reading.mixtures import expert_sources, experts_from_hf
from miaotui.model.reading.multipliers import multipliers_from_hf
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.positions.rope_from_hf import read_rope
from miaotui.model.reading.positions.windows import every_nth, layer_windows, rope_in_windows, windows_of_types
from miaotui.model.reading.sources import (
    CanonicalTensors,
    TensorSource,
    fused_gate_up,
    fused_qkv,
    grouped_qkv,
    in_half_split_order,
)
from miaotui.model.reading.stored.fused_experts import split_experts
from miaotui.model.reading.text_part import text_tensors, text_values
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM

WHERE = "config.json"
# Features that the forward pass lacks, by the key that declares them.
QUANTIZED = "quantization_config"
BOTH_WAYS, PICTURES_ALONE = "use_bidirectional_attention", "vision"  # Gemma 4's pictures see themselves both ways
REFUSED = {
    QUANTIZED: "already quantized weights",
    "vision_config": "vision parts (a text-only GGUF of the same model works)",
    "audio_config": "audio parts",
    "mlp_bias": "biases in its feed-forward layers",
    BOTH_WAYS: "bidirectional attention (an encoder)",
    "clip_qkv": "clamped queries, keys and values",
    "qk_layernorm": "layer norms of its queries and keys",
    "attention_out_bias": "a bias of attention's output alone",
    "alibi": "ALiBi instead of rotated positions",
    "include_bias": "biases in all of its layers",
    "attention_layer_norm": "layer norms of its queries and keys",
    "input_emb_norm": "scaled embeddings",
    "scale_logits": "scaled logits",
}
CONTEXT_KEY = "max_position_embeddings"
MASK_ID_KEY = "mask_token_id"
QK_NORM = "use_qk_norm"  # of some architectures root mean square norms, of others layer norms
ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
}
OUTER_NAMES = {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
POST_NORM_NAMES = {  # of architectures with norms after the sublayers, too
    "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration from the parsed ``config.json``.

    Raises `UnsupportedModelError` for what does not run here and `ModelFormatError` for nonsense.
    """
    architecture, declared = _open(text_values(values))
    fields = with_largest(declared) if architecture.layer_parts else declared
    n_layers = fields.count("num_hidden_layers", MAX_LAYERS)
    hidden_size = fields.count("hidden_size", MAX_WIDTH)
    n_heads = fields.count("num_attention_heads", MAX_WIDTH)
    latent = latent_from_hf(fields, architecture.interleaved_hf) if architecture.latent else None
    usual_dim = max(1, hidden_size // n_heads)
    head_dim = latent.head_dim if latent else fields.count("head_dim", MAX_HEAD_DIM, usual_dim)
    local_dim = local_dim_from_hf(declared) if architecture.layer_parts else None
    rope = read_rope(fields, architecture, latent.rotated if latent else head_dim, local_dim)
    rope_layers = _rope_layers(fields, architecture, n_layers)
    alibi = architecture.alibi_layers > 0 and (n_layers == architecture.alibi_layers or CONTEXT_KEY not in values)
    rope_layers = tuple(roped and not alibi for roped in rope_layers)
    windows = _windows(fields, architecture, rope_layers)
    has_biases = fields.flag(architecture.bias_key, False)
    multipliers = multipliers_from_hf(fields, architecture, n_layers, hidden_size)
    query_scalar = 1 if architecture.plain_scores else fields.number("query_pre_attn_scalar", head_dim)
    require(query_scalar > 0, "query_pre_attn_scalar", "positive", query_scalar)
    experts = experts_from_hf(fields, architecture.name, n_layers)
    config = ModelConfig(
        architecture=architecture.name,
        **architecture.traits,
        vocab_size=fields.count("vocab_size", MAX_VOCAB),
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if latent else fields.count("num_key_value_heads", MAX_WIDTH, n_heads),
        head_dim=head_dim,
        ffn_size=experts.size if experts and experts.replace_all else fields.count("intermediate_size", MAX_WIDTH),
        context_length=rope.context_length,
        long_context=rope.long,
        norm_eps=multipliers.norm_eps(fields.number(architecture.eps_key, 1e-6)),
        activation=_activation(fields, architecture),
        rope=rope.main,
        local_rope=rope.local,
        windows=windows,
        rope_layers=rope_in_windows(windows) if architecture.nope_global else rope_layers,
        attention_scale=(latent.score_factor if latent else 1) * (multipliers.attention or 1 / math.sqrt(query_scalar)),
        attention_softcap=fields.number("attn_logit_softcapping", 0.0),
        logit_softcap=fields.number("final_logit_softcapping", 0.0),
        embedding_scale=architecture.embedding_scale(hidden_size) * multipliers.embedding_scale,
        qk_norm=architecture.qk_norm
        or (architecture.qk_norm_key is not None and fields.flag(architecture.qk_norm_key, False)),
        parallel=_is_parallel(fields, architecture),
        alibi=alibi,
        qkv_bias=architecture.qkv_bias or has_biases,
        o_bias=has_biases and architecture.o_bias,
        ffn_bias=has_biases and architecture.ffn_bias,
        tied_head=fields.flag("tie_word_embeddings", architecture.tied_head),
        experts=experts,
        latent=latent.config if latent else None,
        masked=_masked(fields, architecture),
    )
    return with_parts_from_hf(config, declared) if architecture.layer_parts else config


def tensors_from_hf(
    config: ModelConfig, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> CanonicalTensors:
    """Return the folder's tensors under canonical names; raises `ModelFormatError` if they do not fit."""
    architecture, fields = _open(text_values(values))
    sources = hf_sources(config, architecture)
    stored = split_experts(text_tensors(stored))
    factor = multipliers_from_hf(fields, architecture, config.n_layers, config.hidden_size).logits
    sources["final_norm"] = sources["final_norm"]._replace(factor=factor)
    sources["head"] = sources["head"]._replace(unit_rows=config.vocab_size == architecture.unit_head_vocab)
    ignored = _ignored(config, stored, sources["head"].name)
    if architecture.layer_parts:
        ignored += unused_keys(config, sources)
        sources = part_sources(config, sources, stored, is_gguf=False)
    if fields.size("num_nextn_predict_layers", MAX_LAYERS):  # the layer behind the last one drafts tokens
        ignored += [name for name in stored if name.startswith(f"{architecture.layers}.{config.n_layers}.")]
    return CanonicalTensors(tensor_shapes(config), stored, sources, ignored)


def hf_sources(config: ModelConfig, architecture: Architecture) -> dict[str, TensorSource]:
    """Return where a folder of safetensors has each canonical tensor, but for the factor of the final norm."""
    outer = {**OUTER_NAMES, **architecture.outer_names}
    sources = {name: TensorSource(f"{stem}.weight") for name, stem in outer.items()}
    sources |= {f"{name}_bias": TensorSource(f"{stem}.bias") for name, stem in outer.items()}
    sources["final_norm"] = sources["final_norm"]._replace(offset=architecture.norm_offset)
    for layer in range(config.n_layers):
        prefix = f"{architecture.layers}.{layer}."
        found = _layer_sources(config, architecture, prefix)
        if config.latent is not None:
            found |= latent_sources(config, prefix, architecture.interleaved_hf, is_gguf=False)
        experts = config.layer_experts(layer)
        if experts is not None:
            found |= expert_sources(experts, architecture.name, prefix, is_gguf=False)
        sources |= {f"layers.{layer}.{name}": source for name, source in found.items()}
    return sources


def _layer_sources(config: ModelConfig, architecture: Architecture, prefix: str) -> dict[str, TensorSource]:
    """Return the source of everything that a layer may have."""
    names = {**LAYER_NAMES, **(POST_NORM_NAMES if architecture.post_norms else {}), **architecture.names}
    sources: dict[str, TensorSource] = {}
    for name, stem in names.items():
        offset = architecture.norm_offset if name.endswith("norm") else 0.0
        sources[name] = TensorSource(f"{prefix}{stem}.weight", offset=offset)
        sources[f"{name}_bias"] = TensorSource(f"{prefix}{stem}.bias")
    sources["sinks"] = TensorSource(f"{prefix}self_attn.sinks")
    if architecture.fused_qkv:
        fused = grouped_qkv if architecture.grouped_qkv else fused_qkv
        sources |= fused(config, f"{prefix}{architecture.fused_qkv}.weight")
    if architecture.fused_gate_up:
        sources |= fused_gate_up(config, f"{prefix}{architecture.fused_gate_up}.weight")
    return in_half_split_order(config, sources) if architecture.interleaved_hf else sources


def _open(values: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """Return the architecture, and the fields with its defaults filled in."""
    declared = Fields(values, WHERE)
    architecture = by_model_type(declared.text("model_type"), values)
    for key, feature in REFUSED.items():
        if key != architecture.qk_norm_key and _is_refused(declared, key):
            raise _unsupported(feature, key)
    for key, wanted in architecture.expected.items():
        if declared.get(key) not in (None, wanted):
            raise _unsupported(f"{key} {declared.get(key)!r:.40} instead of {wanted!r}", key)
    if declared.get(QK_NORM) and architecture.qk_norm_key != QK_NORM and not architecture.rotated_qk_norm:
        raise _unsupported("layer norms of its queries and keys", QK_NORM)
    named = {key: values[own] for key, own in architecture.keys.items() if own in values}
    values = {**values, **named}
    given = {key: value for key, value in values.items() if value is not None}
    missing = {key: value for key, value in architecture.defaults.items() if key not in values}
    return architecture, Fields(given | missing, WHERE)


def _is_refused(declared: Fields, key: str) -> bool:
    value = declared.get(key)
    harmless = (key == QUANTIZED and _is_mxfp4(value)) or (key == BOTH_WAYS and value == PICTURES_ALONE)
    return bool(value) and not harmless


def _masked(fields: Fields, architecture: Architecture) -> MaskedConfig | None:
    """Return how a model restores masked tokens; None for one that continues texts."""
    if architecture.masked is None:
        return None
    mask_id = fields.size(MASK_ID_KEY, MAX_VOCAB) if fields.has(MASK_ID_KEY) else None
    block = fields.count("block_size", MAX_BLOCK) if fields.get("block_size") else None
    return architecture.masked.config(MASK_ID_KEY, mask_id, block)


def _is_mxfp4(declared: object) -> bool:
    """Return whether experts are stored in MXFP4, which `split_experts` reads."""
    return isinstance(declared, dict) and declared.get("quant_method") == "mxfp4"


def _unsupported(feature: str, key: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the model has {feature} ({key} in {WHERE}), which is not supported: choose another model"
    )


def _rope_layers(fields: Fields, architecture: Architecture, n_layers: int) -> tuple[bool, ...]:
    """Return which layers have a position encoding; ``no_rope_layers`` says 1 for those that do."""
    if not architecture.nope_every:
        return (True,) * n_layers
    declared = fields.sequence("no_rope_layers")
    if declared is None:
        every = fields.count("no_rope_layer_interval", MAX_LAYERS, architecture.nope_every)
        return tuple(not skipped for skipped in every_nth(n_layers, every))
    require(len(declared) == n_layers, "no_rope_layers", f"{n_layers} values", len(declared))
    return tuple(bool(roped) for roped in declared)


def _windows(fields: Fields, architecture: Architecture, rope_layers: tuple[bool, ...]) -> tuple[int, ...]:
    rule = architecture.windows
    if rule is Windows.NONE:
        return (0,) * len(rope_layers)
    window = fields.size("sliding_window", MAX_CONTEXT)
    if rule in (Windows.LATER, Windows.NOPE) and not fields.flag("use_sliding_window", False):
        window = 0
    types = fields.sequence("layer_types")
    if types is not None:
        return windows_of_types(types, window)
    every = architecture.global_every
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        if every:
            every = fields.count(key, MAX_LAYERS, every)
    first = fields.size("max_window_layers", MAX_LAYERS)
    return layer_windows(rule, window, rope_layers, global_every=every, first=first)


def _activation(fields: Fields, architecture: Architecture) -> Literal["silu", "gelu_tanh"]:
    name = fields.text("hidden_activation", fields.text("hidden_act", architecture.activation))
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"the model uses the activation {name[:40]!r}; only {', '.join(ACTIVATIONS)} are "
            "supported: choose another model"
        )
    return ACTIVATIONS[name]


def _is_parallel(fields: Fields, architecture: Architecture) -> bool:
    key = architecture.parallel_key
    return architecture.parallel if key is None else fields.flag(key, architecture.parallel)


def _ignored(config: ModelConfig, stored: Mapping[str, StoredTensor], head: str) -> list[str]:
    """Return the names of tensors without meaning: a tied model's copy of the head, and buffers of old checkpoints."""
    buffers = [name for name in stored if name.endswith("rotary_emb.inv_freq")]
    return [*buffers, head] if config.tied_head else buffers
