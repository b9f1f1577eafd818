"""A model's configuration and tensor sources from a GGUF file.

Knows GGUF's keys and tensor names; computes nothing with weights. Invariant: a feature that the
metadata declares and the forward pass lacks is refused by name. Follows the GGUF specification and
the conventions of llama.cpp's converter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, ExpertsConfig, ModelConfig
from miaotui.model.masked import MaskedConfig
from miaotui.model.reading.architectures import Architecture, Windows
from miaotui.model.reading.checks import require
from miaotui.model.reading.families import by_gguf_name
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.latent import (
    YARN_LOG_MULTIPLIER,
    LatentShape,
    latent_from_gguf,
    latent_sources,
    with_keys_turned_back,
)
from miaotui.model.reading.layer_parts import (
    local_dim_from_gguf,
    part_sources,
    unused_keys,
    with_largest_in_gguf,
    with_parts_from_gguf,
)
from miaotui.model.reading.mixtures import expert_sources, experts_from_gguf
from miaotui.model.reading.multipliers import GGUF_KEYS, multipliers_from_gguf
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.positions.rope_from_gguf import (
    FREQ_FACTORS,
    LONG_FACTORS,
    SHORT_FACTORS,
    long_context,
    read_local_rope,
    read_rope,
    usable_context,
)
from miaotui.model.reading.positions.windows import every_nth, layer_windows, rope_in_windows
from miaotui.model.reading.sources import CanonicalTensors, TensorSource, fused_gate_up, fused_qkv, in_half_split_order
from miaotui.model.reading.stored.fused_experts import split_gguf_experts
from miaotui.model.reading.stored.ollama_gemma import left_out, with_usual_keys
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM

WHERE = "GGUF metadata"
EPS_KEYS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
EMBED, HEAD = "token_embd.weight", "output.weight"
# Features that the forward pass lacks, by the key that declares them; 0 and 1 mean "off".
REFUSED = {
    "logit_scale": "scaled logits",
    "residual_scale": "scaled residuals",
    "embedding_scale": "an embedding scale of its own",
    YARN_LOG_MULTIPLIER: "DeepSeek's variant of YaRN",
}
LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "o": "attn_output",
    "sinks": "attn_sinks",
    "attn_post_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "ffn_post_norm": "post_ffw_norm",
}
OUTER_NAMES = {"embed": "token_embd", "final_norm": "output_norm", "head": "output"}
MASK_ID_KEY, SHIFTED = "tokenizer.ggml.mask_token_id", "diffusion.shift_logits"
ALIBI, ALIBI_BIAS = "attention.max_alibi_bias", 8.0  # slopes begin with 2 to the power of -bias / heads
Q_NORM = "blk.0.attn_q_norm.weight"
QKV = "attn_qkv"  # in some files one matrix instead of q, k and v


def config_from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Read the configuration; ``tensors`` tell the vocabulary, biases and frequency factors.

    Raises `UnsupportedModelError` for what does not run here and `ModelFormatError` for nonsense.
    """
    architecture = _architecture(metadata)
    fields = Fields(with_usual_keys(metadata, tensors), WHERE, f"{architecture.gguf}.")
    _refuse_features(fields, architecture)
    declared = fields
    if architecture.layer_parts:
        fields = with_largest_in_gguf(declared)
    n_layers = fields.count("block_count", MAX_LAYERS) - fields.size("nextn_predict_layers", MAX_LAYERS)
    hidden_size = fields.count("embedding_length", MAX_WIDTH)
    n_heads = _same_in_all_layers(fields, "attention.head_count")
    latent = latent_from_gguf(fields) if architecture.latent else None
    head_dim = latent.head_dim if latent else _head_dim(fields, hidden_size, n_heads)
    rope = replace(read_rope(fields, head_dim, tensors), truncate=architecture.rounded_yarn)
    if latent and fields.get(YARN_LOG_MULTIPLIER):  # scores grow instead of cosines and sines
        rope = replace(rope, attention_factor=1.0)
    experts = experts_from_gguf(fields, architecture.name, n_layers)
    local_dim = local_dim_from_gguf(declared) if architecture.layer_parts else head_dim
    rope_layers = tuple(not skipped for skipped in every_nth(n_layers, architecture.nope_every))
    alibi = n_layers == architecture.alibi_layers or fields.number(ALIBI, 0.0) > 0
    rope_layers = tuple(roped and not alibi for roped in rope_layers)
    windows = _windows(fields, architecture, rope_layers)
    multipliers = multipliers_from_gguf(fields, architecture, n_layers, hidden_size)
    config = ModelConfig(
        architecture=architecture.name,
        **architecture.traits,
        vocab_size=_vocab_size(tensors),
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if latent else _same_in_all_layers(fields, "attention.head_count_kv", n_heads),
        head_dim=head_dim,
        ffn_size=_ffn_size(fields, experts),
        context_length=usable_context(fields, rope, tensors),
        long_context=long_context(fields, rope, tensors),
        norm_eps=multipliers.norm_eps(fields.number(EPS_KEYS[architecture.norm])),
        activation=architecture.activation,
        rope=rope,
        local_rope=read_local_rope(fields, architecture, local_dim),
        windows=windows,
        rope_layers=rope_in_windows(windows) if architecture.nope_global else rope_layers,
        attention_scale=_attention_scale(fields, architecture, n_layers, head_dim, latent),
        attention_softcap=_softcap(fields, architecture, "attn_logit_softcapping"),
        logit_softcap=_softcap(fields, architecture, "final_logit_softcapping"),
        embedding_scale=architecture.embedding_scale(hidden_size) * multipliers.embedding_scale,
        qk_norm=architecture.qk_norm or (architecture.qk_norm_key is not None and Q_NORM in tensors),
        parallel=_is_parallel(fields, architecture),
        alibi=alibi,
        qkv_bias=architecture.qkv_bias or "blk.0.attn_q.bias" in tensors or f"blk.0.{QKV}.bias" in tensors,
        o_bias="blk.0.attn_output.bias" in tensors,
        ffn_bias="blk.0.ffn_up.bias" in tensors,
        tied_head=HEAD not in tensors,
        experts=experts,
        latent=latent.config if latent else None,
        masked=_masked(metadata, architecture),
    )
    return with_parts_from_gguf(config, declared, tensors) if architecture.layer_parts else config


def _masked(metadata: Mapping[str, Any], architecture: Architecture) -> MaskedConfig | None:
    """Return how a model restores masked tokens; None for one that continues texts."""
    traits, fields = architecture.masked, Fields(metadata, WHERE)
    if traits is None:
        return None
    mask_id = fields.size(MASK_ID_KEY, MAX_VOCAB) if fields.has(MASK_ID_KEY) else None
    return traits.config(MASK_ID_KEY, mask_id, shifted=fields.flag(SHIFTED, traits.shifted))


def _ffn_size(fields: Fields, experts: ExpertsConfig | None) -> int:
    return experts.size if experts and experts.replace_all else _same_in_all_layers(fields, "feed_forward_length")


def tensors_from_gguf(
    config: ModelConfig, metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> CanonicalTensors:
    """Return the file's tensors under canonical names; raises `ModelFormatError` if they do not fit."""
    architecture, stored = _architecture(metadata), split_gguf_experts(stored)
    sources = gguf_sources(config, architecture, stored)
    if config.latent is not None:
        stored = with_keys_turned_back(stored)
    fields = Fields(metadata, WHERE, f"{architecture.gguf}.")
    factor = multipliers_from_gguf(fields, architecture, config.n_layers, config.hidden_size).logits
    sources["final_norm"] = sources["final_norm"]._replace(factor=factor)
    sources["head"] = sources["head"]._replace(unit_rows=config.vocab_size == architecture.unit_head_vocab)
    ignored = [FREQ_FACTORS, SHORT_FACTORS, LONG_FACTORS, *left_out(stored)]
    if architecture.layer_parts:
        ignored += unused_keys(config, sources)
        sources = part_sources(config, sources, stored, is_gguf=True)
    if metadata.get(f"{architecture.gguf}.nextn_predict_layers"):  # the layer behind the last one drafts tokens
        ignored += [name for name in stored if name.startswith(f"blk.{config.n_layers}.")]
    return CanonicalTensors(tensor_shapes(config), stored, sources, ignored)


def gguf_sources(
    config: ModelConfig, architecture: Architecture, stored: Collection[str] | None = None
) -> dict[str, TensorSource]:
    """Return where a GGUF file has each canonical tensor, but for the factor of the final norm.

    ``stored`` are the names in the file, which tell what is one matrix in it; without them it is as most files are.
    """
    outer = {**OUTER_NAMES, **architecture.gguf_outer_names}
    sources = {name: TensorSource(f"{stem}.weight") for name, stem in outer.items()}
    sources |= {f"{name}_bias": TensorSource(f"{stem}.bias") for name, stem in OUTER_NAMES.items()}
    for layer in range(config.n_layers):
        prefix = f"blk.{layer}."
        found = _layer_sources(config, architecture, prefix, stored)
        if config.latent is not None:
            found |= latent_sources(config, prefix, architecture.interleaved_gguf, is_gguf=True, stored=stored)
        experts = config.layer_experts(layer)
        if experts is not None:
            found |= expert_sources(experts, architecture.name, prefix, is_gguf=True)
        sources |= {f"layers.{layer}.{name}": source for name, source in found.items()}
    return sources


def _layer_sources(
    config: ModelConfig, architecture: Architecture, prefix: str, stored: Collection[str] | None
) -> dict[str, TensorSource]:
    """Return the source of everything that a layer may have."""
    names = {**LAYER_NAMES, **architecture.gguf_names}
    sources = {name: TensorSource(f"{prefix}{stem}.weight") for name, stem in names.items()}
    sources |= {f"{name}_bias": TensorSource(f"{prefix}{stem}.bias") for name, stem in names.items()}
    for kind, ending in (("weight", ""), ("bias", "_bias")):
        usual = architecture.fused_qkv is not None and architecture.fused_gguf and not architecture.grouped_qkv
        if usual if stored is None else f"{prefix}{QKV}.{kind}" in stored:
            sources |= fused_qkv(config, f"{prefix}{QKV}.{kind}", ending)
    usual = architecture.fused_gate_up is not None
    if config.gated and (usual if stored is None else sources["gate"].name not in stored):
        sources |= fused_gate_up(config, sources["up"].name)
    return in_half_split_order(config, sources) if architecture.interleaved_gguf else sources


def _is_parallel(fields: Fields, architecture: Architecture) -> bool:
    key = architecture.parallel_key
    return architecture.parallel if key is None else fields.flag(key, architecture.parallel)


def _architecture(metadata: Mapping[str, Any]) -> Architecture:
    fields = Fields(metadata, WHERE)
    kind = fields.text("general.type", "model")
    if kind != "model":
        raise UnsupportedModelError(
            f"the GGUF file holds {kind[:40]!r}, not a language model: choose the model's own file"
        )
    return by_gguf_name(fields.text("general.architecture"))


def _refuse_features(fields: Fields, architecture: Architecture) -> None:
    known = set(GGUF_KEYS.values()) if architecture.multipliers else set()
    if architecture.latent:
        known.add(YARN_LOG_MULTIPLIER)
    for key, feature in REFUSED.items():
        if key not in known and fields.get(key) not in (None, 0, 1):
            raise UnsupportedModelError(
                f"the model has {feature} ({key} = {fields.get(key)}), which {architecture.title} "
                "does not have here: choose another model"
            )
    if architecture.masked is None and not fields.flag("attention.causal", True):
        raise UnsupportedModelError(
            "the model is an encoder (attention.causal is false), not a language model: choose another model"
        )
    if fields.number(ALIBI, 0.0) not in (0.0, ALIBI_BIAS):
        raise UnsupportedModelError(
            f"the model has ALiBi with a bias of {fields.number(ALIBI)}, and only {ALIBI_BIAS} is supported: choose "
            "another model"
        )


def _vocab_size(tensors: Mapping[str, StoredTensor]) -> int:
    """Return the number of rows of the embedding. Metadata may count differently, since some files pad it."""
    embed = tensors.get(EMBED)
    if embed is None or len(embed.shape) != 2:
        found = None if embed is None else embed.shape
        raise ModelFormatError(
            f"tensor {EMBED!r} must be a matrix, not {found}: the file is damaged; download it again"
        )
    require(embed.shape[0] <= MAX_VOCAB, "vocabulary size", f"<= {MAX_VOCAB}", embed.shape[0])
    return embed.shape[0]


def _same_in_all_layers(fields: Fields, key: str, default: int | None = None) -> int:
    """Return a count that GGUF may give once or as a list, one per layer."""
    per_layer = fields.sequence(key)
    if per_layer is None:
        return fields.count(key, MAX_WIDTH, default)
    if len(set(map(repr, per_layer))) != 1:
        raise UnsupportedModelError(f"the model's layers differ in {key}, which is not supported: choose another model")
    return Fields({key: per_layer[0]}, fields.where).count(key, MAX_WIDTH)


def _head_dim(fields: Fields, hidden_size: int, n_heads: int) -> int:
    head_dim = fields.count("attention.key_length", MAX_HEAD_DIM, max(1, hidden_size // n_heads))
    value_dim = fields.count("attention.value_length", MAX_HEAD_DIM, head_dim)
    if value_dim != head_dim:
        raise UnsupportedModelError(
            f"the model's keys have {head_dim} values per head and its values {value_dim}; "
            "only equal ones are supported: choose another model"
        )
    return head_dim


def _windows(fields: Fields, architecture: Architecture, rope_layers: tuple[bool, ...]) -> tuple[int, ...]:
    window = fields.size("attention.sliding_window", MAX_CONTEXT)
    rule = architecture.windows if architecture.gguf_windows is None else architecture.gguf_windows
    pattern = fields.sequence("attention.sliding_window_pattern")
    if pattern is not None:
        flags = len(pattern) == len(rope_layers) and all(isinstance(x, bool) for x in pattern)
        require(flags, "sliding window pattern", "one truth value per layer", pattern[:4])
        return tuple(window if local else 0 for local in pattern)
    if window and rule is Windows.NONE:
        raise UnsupportedModelError(
            f"the model has a sliding window of {window} tokens, and GGUF does not say in which of "
            f"{architecture.title}'s layers: use its safetensors or choose another model"
        )
    if rule is Windows.EXCEPT_EVERY_NTH:
        every = fields.count("attention.sliding_window_pattern", MAX_LAYERS, architecture.global_every)
        return layer_windows(rule, window, rope_layers, global_every=every)
    return layer_windows(rule, window, rope_layers)


def _attention_scale(
    fields: Fields, architecture: Architecture, n_layers: int, head_dim: int, latent: LatentShape | None
) -> float:
    declared = fields.number("attention.scale", 0.0)
    usual = 1 / math.sqrt(1 if architecture.plain_scores else architecture.query_scalars.get(n_layers, head_dim))
    return declared or usual * (latent.score_factor if latent else 1.0)


def _softcap(fields: Fields, architecture: Architecture, key: str) -> float:
    """Return a soft cap, or Gemma 2's own where an early file of it lacks the key."""
    return fields.number(key, Fields(architecture.defaults, architecture.title).number(key, 0.0))
