"""An encoder's configuration and tensors from ``config.json`` and tensors with transformers' names.

Knows transformers' keys and those of the families' own repositories; computes nothing with weights. Invariant: a
feature that the configuration declares and the forward pass lacks is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.encoder.config import MAX_TOKENS, EncoderConfig
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.reading.families import BUFFERS, IGNORED, Family, NameScheme, family_of
from miaotui.model.encoder.reading.traits_from_hf import TRAITS, Traits, read_activation
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import TensorSource

WHERE = "config.json"
# Features that the forward pass lacks, by the key that declares them.
REFUSED = {
    "quantization_config": "already quantized weights",
    "is_decoder": "causal attention (is_decoder)",
    "add_cross_attention": "cross attention",
    "is_encoder_decoder": "an encoder and a decoder",
    "vision_config": "vision parts",
    "lora_adaptations": "adapters for several tasks (Jina v3)",
    "moe_every_n_layers": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "conv_kernel_size": "a convolution layer",
    "pruned_heads": "pruned attention heads",
    "logn_attention_scale": "attention scaled by the text's length",
    "prenorm": "norms before its layers",
    "rotary_emb_interleaved": "interleaved rotary pairs",
    "use_rms_norm": "RMS norms",
}
NOMIC_KEYS = {  # of its own repository, beside those of transformers
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
    "rope_theta": "rotary_emb_base",
}


def encoder_config_from_hf(values: Mapping[str, Any]) -> EncoderConfig:
    """Read the configuration from the parsed ``config.json``.

    Raises `UnsupportedModelError` for what does not run here and `ModelFormatError` for nonsense.
    """
    family, fields = open_fields(values)
    return EncoderConfig(**(_sizes(family, fields) | TRAITS[family.name](fields)))


def open_fields(values: Mapping[str, Any]) -> tuple[Family, Fields]:
    """Return the family, and the fields under BERT's keys."""
    declared = Fields(values, WHERE)
    for key, feature in REFUSED.items():
        if declared.get(key):
            raise UnsupportedModelError(
                f"the model has {feature} ({key} in {WHERE}), which is not supported: choose another model"
            )
    family = family_of(declared.text("model_type"), declared.get("position_embedding_type"))
    keys = NOMIC_KEYS if family.name == "nomic-bert" and declared.has("n_embd") else family.fields
    renamed = {key: values[own] for key, own in keys.items() if own in values}
    return family, Fields({**values, **renamed}, WHERE)


def encoder_sources(
    config: EncoderConfig, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> tuple[str, dict[str, TensorSource]]:
    """Return the prefix of the body's stored names, and the stored tensor of each canonical one."""
    family, _ = open_fields(values)
    prefix, spelling = _spelling(family, stored)
    shapes = encoder_shapes(config)
    return prefix, {name: _source(prefix, spelling, name, shapes[name][0]) for name in shapes}


def ignored_tensors(values: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors without meaning for the states: buffers, and parts used in training only."""
    family, _ = open_fields(values)
    prefixes = IGNORED + family.ignored
    return [name for name in stored if name.rsplit(".", 1)[-1] in BUFFERS or name.startswith(prefixes)]


def canonical_spelling(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return ``stored`` with the oldest checkpoints' ``gamma`` and ``beta`` called weight and bias."""
    old = {".gamma": ".weight", ".beta": ".bias"}
    if not any(name.endswith(tuple(old)) for name in stored):
        return stored
    renamed = {}
    for name, tensor in stored.items():
        stem, dot, last = name.rpartition(".")
        renamed[stem + old.get(dot + last, dot + last)] = tensor
    return renamed


def _spelling(family: Family, stored: Mapping[str, StoredTensor]) -> tuple[str, NameScheme]:
    """Return the prefix and spelling whose output matrix of layer 0 is there; the first ones if none is."""
    for prefix in ("", *family.prefixes):
        for spelling in family.spellings:
            if _source(prefix, spelling, "layers.0.o", 0).name in stored:
                return prefix, spelling
    return "", family.spellings[0]


def _source(prefix: str, spelling: NameScheme, name: str, rows: int) -> TensorSource:
    """Return the source of a canonical tensor of ``rows`` rows."""
    stem = name.removesuffix("_bias") if name != "relative_bias" else name
    kind = ".weight" if stem == name else ".bias"
    if not stem.startswith("layers."):
        return TensorSource(prefix + spelling.body[stem] + kind)
    _, layer, part = stem.split(".")
    module = spelling.layers[part]
    path = prefix + spelling.layer.format(layer)
    if isinstance(module, str):
        return TensorSource(path + module + kind)
    return TensorSource(path + module[0] + kind, start=module[1] * rows)


def _sizes(family: Family, fields: Fields) -> Traits:
    hidden = fields.count("hidden_size", MAX_WIDTH)
    heads = fields.count("num_attention_heads", MAX_WIDTH)
    require(hidden % heads == 0, "hidden size", f"a multiple of the {heads} attention heads", hidden)
    return {
        "architecture": family.name,
        "vocab_size": fields.count("vocab_size", MAX_VOCAB),
        "hidden_size": hidden,
        "embedding_size": hidden,
        "n_layers": fields.count("num_hidden_layers", MAX_LAYERS),
        "n_heads": heads,
        "head_dim": hidden // heads,
        "ffn_size": fields.count("intermediate_size", MAX_WIDTH),
        "max_tokens": fields.count("max_position_embeddings", MAX_TOKENS),
        "norm_eps": fields.number("layer_norm_eps", 1e-12),
        "activation": read_activation(fields, "hidden_act"),
        "attention_scale": (hidden // heads) ** -0.5,
    }
