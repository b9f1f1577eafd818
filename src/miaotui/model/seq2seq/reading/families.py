"""Families of encoder-decoders as data: transformers' tensor names, features and default token ids.

An entry holds facts that ``config.json`` leaves unsaid; sizes come from that file (`from_hf`). Invariant: a model whose
family has no entry is refused. A module ``m`` stands for the tensors ``m.weight`` and, for canonical names that end in
``_bias``, ``m.bias``. Source: each model's implementation in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from miaotui.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class StackNames:
    """Modules of the encoder or decoder by canonical name; ``layer`` is a layer's prefix, ``{}`` its number."""

    layer: str
    modules: Mapping[str, str]
    layers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Seq2SeqFamily:
    """Names and features of every model of one family."""

    name: str
    title: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]  # of the body's tensors
    encoder: StackNames
    decoder: StackNames
    keys: Mapping[str, str]  # keys of config.json
    traits: Mapping[str, Any] = field(default_factory=dict)  # arguments of Seq2SeqConfig
    norm_at_end: bool = False
    tokens: Mapping[str, int]  # default ids, by the names of generation_config.json


_BART_KEYS = {
    "hidden": "d_model",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_heads": "encoder_attention_heads",
    "decoder_heads": "decoder_attention_heads",
    "encoder_ffn": "encoder_ffn_dim",
    "decoder_ffn": "decoder_ffn_dim",
}
_T5_KEYS = {
    "hidden": "d_model",
    "encoder_layers": "num_layers",
    "decoder_layers": "num_decoder_layers",
    "encoder_heads": "num_heads",
    "decoder_heads": "num_heads",
    "encoder_ffn": "d_ff",
    "decoder_ffn": "d_ff",
}


def _bart_attention(module: str, prefix: str = "") -> dict[str, str]:
    projections = {prefix + name: f"{module}.{name}_proj" for name in ("q", "k", "v")}
    return projections | {prefix + "o": f"{module}.out_proj"}


def _bart_stack(name: str) -> StackNames:
    layers = _bart_attention("self_attn") | {
        "attn_norm": "self_attn_layer_norm",
        "up": "fc1",
        "down": "fc2",
        "ffn_norm": "final_layer_norm",
    }
    if name == "decoder":
        layers |= _bart_attention("encoder_attn", "cross_") | {"cross_norm": "encoder_attn_layer_norm"}
    modules = {"position_embed": "embed_positions", "embed_norm": "layernorm_embedding", "final_norm": "layer_norm"}
    return StackNames(
        layer=f"{name}.layers.{{}}.",
        modules={canonical: f"{name}.{module}" for canonical, module in modules.items()},
        layers=layers,
    )


def _whisper_stack(name: str) -> StackNames:
    stack = _bart_stack(name)
    sound = {"conv1": "encoder.conv1", "conv2": "encoder.conv2"}
    return replace(stack, modules={**stack.modules, **(sound if name == "encoder" else {})})


def _t5_attention(module: str, prefix: str = "") -> dict[str, str]:
    return {prefix + name: f"{module}.{name}" for name in ("q", "k", "v", "o")}


def _t5_stack(name: str) -> StackNames:
    last = 2 if name == "decoder" else 1
    layers = _t5_attention("layer.0.SelfAttention") | {
        "attn_norm": "layer.0.layer_norm",
        "gate": f"layer.{last}.DenseReluDense.wi_0",
        "up": f"layer.{last}.DenseReluDense.wi_1",
        "down": f"layer.{last}.DenseReluDense.wo",
        "ffn_norm": f"layer.{last}.layer_norm",
    }
    if name == "decoder":
        layers |= _t5_attention("layer.1.EncDecAttention", "cross_") | {"cross_norm": "layer.1.layer_norm"}
    return StackNames(
        layer=f"{name}.block.{{}}.",
        modules={
            "relative_bias": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
            "final_norm": f"{name}.final_layer_norm",
        },
        layers=layers,
    )


def _bart_like(name: str, title: str, model_type: str, tokens: Mapping[str, int], **rest: Any) -> Seq2SeqFamily:
    return Seq2SeqFamily(
        name=name,
        title=title,
        model_types=(model_type,),
        prefixes=("model.", ""),
        encoder=_bart_stack("encoder"),
        decoder=_bart_stack("decoder"),
        keys=_BART_KEYS,
        tokens=tokens,
        **rest,
    )


_T5_TRAITS = {"norm": "rms", "norm_first": True, "biases": False, "position": "relative", "attention_scale": 1.0}
_LEARNED = {"position": "learned", "position_offset": 2, "embed_norm": True}
FAMILIES = (
    Seq2SeqFamily(
        name="t5",
        title="T5, mT5 and Flan-T5",
        model_types=("t5", "mt5"),
        prefixes=("",),
        encoder=_t5_stack("encoder"),
        decoder=_t5_stack("decoder"),
        keys=_T5_KEYS,
        traits=_T5_TRAITS,
        norm_at_end=True,
        tokens={"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    ),
    Seq2SeqFamily(
        name="whisper",
        title="Whisper",
        model_types=("whisper",),
        prefixes=("model.", ""),
        encoder=_whisper_stack("encoder"),
        decoder=_whisper_stack("decoder"),
        keys=_BART_KEYS | {"encoder_tokens": "max_source_positions", "decoder_tokens": "max_target_positions"},
        traits={"position": "learned", "norm_first": True},
        norm_at_end=True,
        tokens={"eos_token_id": 50257, "decoder_start_token_id": 50258},
    ),
    _bart_like(
        "bart",
        "BART",
        "bart",
        {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        traits=_LEARNED,
    ),
    _bart_like(
        "mbart",
        "mBART",
        "mbart",
        {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2},
        traits=_LEARNED | {"norm_first": True},
        norm_at_end=True,
    ),
    _bart_like(
        "pegasus",
        "Pegasus",
        "pegasus",
        {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
        traits={"position": "sinusoidal", "norm_first": True},
        norm_at_end=True,
    ),
    _bart_like("marian", "Marian", "marian", {"eos_token_id": 0}, traits={"position": "sinusoidal"}),
    _bart_like(
        "m2m100",
        "M2M100 and NLLB",
        "m2m_100",
        {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2},
        traits={"position": "sinusoidal_fairseq", "norm_first": True},
        norm_at_end=True,
    ),
)


def family_of(model_type: str) -> Seq2SeqFamily:
    """Return the family of a ``model_type``. Raises `UnsupportedModelError`, which lists the known ones."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(family.title for family in FAMILIES)
    raise UnsupportedModelError(
        f"encoder-decoders of the kind {model_type[:40]!r} are not supported; known are {known}: choose another model"
    )


def is_seq2seq_type(model_type: object) -> bool:
    """Return whether ``model_type`` of a ``config.json`` names a known encoder-decoder."""
    return any(model_type in family.model_types for family in FAMILIES)
