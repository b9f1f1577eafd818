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
from miaotui.model.reading.architectures import Architecture, Windows, by_model_type
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.mixtures import expert_sources, experts_from_hf
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.rope_from_hf import read_rope
from miaotui.model.reading.sources import CanonicalTensors, TensorSource, fused_sources
from miaotui.model.reading.windows import every_nth, layer_windows, windows_of_types
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM

WHERE = "config.json"
HEAD = "lm_head.weight"
# Features that the forward pass lacks, by the key that declares them.
REFUSED = {
    "quantization_config": "already quantized weights",
    "vision_config": "vision parts (a text-only GGUF of the same model works)",
    "audio_config": "audio parts",
    "mlp_bias": "biases in its feed-forward layers",
    "use_bidirectional_attention": "bidirectional attention (an encoder)",
}
ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "o": "self_attn.o_proj.weight",
    "o_bias": "self_attn.o_proj.bias",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
POST_NORM_NAMES = {  # of architectures with norms after the sublayers, too
    "attn_post_norm": "post_attention_layernorm.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "ffn_post_norm": "post_feedforward_layernorm.weight",
}


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration from the parsed ``config.json``.

    Raises `UnsupportedModelError` for what does not run here and `ModelFormatError` for nonsense.
    """
    architecture, fields = _open(values)
    n_layers = fields.count("num_hidden_layers", MAX_LAYERS)
    hidden_size = fields.count("hidden_size", MAX_WIDTH)
    n_heads = fields.count("num_attention_heads", MAX_WIDTH)
    head_dim = fields.count("head_dim", MAX_HEAD_DIM, max(1, hidden_size // n_heads))
    rope = read_rope(fields, architecture, head_dim)
    rope_layers = _rope_layers(fields, architecture, n_layers)
    attention_bias = fields.flag("attention_bias", False)
    query_scalar = fields.number("query_pre_attn_scalar", head_dim)
    require(query_scalar > 0, "query_pre_attn_scalar", "positive", query_scalar)
    experts = experts_from_hf(fields, architecture.name, n_layers)
    return ModelConfig(
        architecture=architecture.name,
        vocab_size=fields.count("vocab_size", MAX_VOCAB),
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.count("num_key_value_heads", MAX_WIDTH, n_heads),
        head_dim=head_dim,
        ffn_size=experts.size if experts and all(experts.layers) else fields.count("intermediate_size", MAX_WIDTH),
        context_length=rope.context_length,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=_activation(fields, architecture),
        rope=rope.main,
        local_rope=rope.local,
        windows=_windows(fields, architecture, rope_layers),
        rope_layers=rope_layers,
        attention_scale=1 / math.sqrt(query_scalar),
        attention_softcap=fields.number("attn_logit_softcapping", 0.0),
        logit_softcap=fields.number("final_logit_softcapping", 0.0),
        embedding_scale=architecture.embedding_scale(hidden_size),
        qk_norm=architecture.qk_norm or fields.flag("use_qk_norm", False),
        post_norms=architecture.post_norms,
        qkv_bias=architecture.qkv_bias or attention_bias,
        o_bias=attention_bias and architecture.o_bias,
        tied_head=fields.flag("tie_word_embeddings", architecture.tied_head),
        experts=experts,
    )


def tensors_from_hf(
    config: ModelConfig, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> CanonicalTensors:
    """Return the folder's tensors under canonical names; raises `ModelFormatError` if they do not fit."""
    sources = hf_sources(config, _open(values)[0])
    return CanonicalTensors(tensor_shapes(config), stored, sources, _ignored(config, stored))


def hf_sources(config: ModelConfig, architecture: Architecture) -> dict[str, TensorSource]:
    """Return where a folder of safetensors has each canonical tensor."""
    offset = architecture.norm_offset
    layer_names = LAYER_NAMES | (POST_NORM_NAMES if architecture.post_norms else {})
    sources = {
        "embed": TensorSource("model.embed_tokens.weight"),
        "final_norm": TensorSource("model.norm.weight", offset=offset),
        "head": TensorSource(HEAD),
    }
    for layer in range(config.n_layers):
        prefix = f"model.layers.{layer}."
        layer_sources = {
            name: TensorSource(prefix + suffix, offset=offset if name.endswith("norm") else 0.0)
            for name, suffix in layer_names.items()
        }
        experts = config.layer_experts(layer)
        if experts is not None:
            layer_sources |= expert_sources(experts, architecture.name, prefix, is_gguf=False)
        if architecture.fused:
            layer_sources |= fused_sources(
                config, f"{prefix}self_attn.qkv_proj.weight", f"{prefix}mlp.gate_up_proj.weight"
            )
        sources |= {f"layers.{layer}.{name}": source for name, source in layer_sources.items()}
    return sources


def _open(values: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """Return the architecture, and the fields with its defaults filled in."""
    declared = Fields(values, WHERE)
    for key, feature in REFUSED.items():
        if declared.get(key):
            raise UnsupportedModelError(
                f"the model has {feature} ({key} in {WHERE}), which is not supported: choose another model"
            )
    architecture = by_model_type(declared.text("model_type"))
    given = {key: value for key, value in values.items() if value is not None}
    missing = {key: value for key, value in architecture.defaults.items() if key not in values}
    return architecture, Fields(given | missing, WHERE)


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


def _ignored(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors without meaning here: a tied model's copy of the head, buffers of old checkpoints,
    and the layer behind the last one that drafts tokens (of several predicted at once).
    """
    drafting = f"model.layers.{config.n_layers}."
    buffers = [name for name in stored if name.endswith("rotary_emb.inv_freq") or name.startswith(drafting)]
    return [*buffers, HEAD] if config.tied_head else buffers
