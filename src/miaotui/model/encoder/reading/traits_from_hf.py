"""Features of each encoder family as its ``config.json`` declares them: positions, windows, gates, biases.

Knows transformers' keys and those of the families' own repositories; sizes of all families are read in `from_hf`.
Invariant: a value that the forward pass does not compute with is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from miaotui.errors import UnsupportedModelError
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.encoder.config import MAX_BUCKETS, MAX_TOKENS, MAX_TYPES, Activation
from miaotui.model.encoder.reading.rope_from_hf import read_encoder_rope
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.positions.windows import windows_of_types

Traits = dict[str, Any]  # arguments of EncoderConfig
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "tanh": "tanh",
}


def read_activation(fields: Fields, key: str, default: str = "gelu") -> Activation:
    """Return the activation that ``key`` names."""
    name = fields.text(key, default)
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"the model uses the activation {name[:40]!r}; only {', '.join(ACTIVATIONS)} are supported: "
            "choose another model"
        )
    return ACTIVATIONS[name]


def _head_dim(fields: Fields) -> int:
    return fields.count("hidden_size", MAX_WIDTH) // fields.count("num_attention_heads", MAX_WIDTH)


def _types(fields: Fields, default: int) -> int:
    return fields.size("type_vocab_size", MAX_TYPES) if fields.has("type_vocab_size") else default


def _learned(fields: Fields, offset: int = 0) -> Traits:
    """Return the traits of a learned position table whose first ``offset`` rows no text uses."""
    kind = fields.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedModelError(
            f"the model has positions of the kind {kind[:40]!r}, and only 'absolute' ones are supported in this "
            "family: choose another model"
        )
    rows = fields.count("max_position_embeddings", MAX_TOKENS)
    require(rows > offset, "max_position_embeddings", f"more than {offset}", rows)
    return {"position_rows": rows, "position_offset": offset, "max_tokens": rows - offset}


def _bert(fields: Fields) -> Traits:
    return _learned(fields) | {"type_vocab_size": _types(fields, 2)}


def _roberta(fields: Fields) -> Traits:
    padding = fields.size("pad_token_id", MAX_VOCAB) if fields.has("pad_token_id") else 1
    return _learned(fields, padding + 1) | {"type_vocab_size": _types(fields, 2)}


def _distilbert(fields: Fields) -> Traits:
    return _learned(fields) | {"norm_eps": 1e-12}


def _albert(fields: Fields) -> Traits:
    for key in ("num_hidden_groups", "inner_group_num"):
        if fields.count(key, MAX_LAYERS, 1) != 1:
            raise UnsupportedModelError(
                f"the model has {fields.get(key)} groups of layers ({key}); only 1 is supported"
            )
    width = fields.count("embedding_size", MAX_WIDTH, 128)
    activation = read_activation(fields, "hidden_act", "gelu_new")
    return _bert(fields) | {"embedding_size": width, "shared_layers": True, "activation": activation}


def _mpnet(fields: Fields) -> Traits:
    buckets = fields.count("relative_attention_num_buckets", MAX_BUCKETS, 32)
    require(buckets == 32, "relative_attention_num_buckets", "32, as every MPNet computes with", buckets)
    relative = {"position": "relative", "relative_buckets": buckets, "relative_distance": 128}
    return _learned(fields, offset=2) | relative


def _deberta(fields: Fields) -> Traits:
    terms = fields.get("pos_att_type")
    terms = terms.split("|") if isinstance(terms, str) else fields.sequence("pos_att_type") or []
    asked = {
        "relative_attention": fields.flag("relative_attention", False),
        "pos_att_type": sorted(map(str, terms)) == ["c2p", "p2c"],
        "share_att_key": fields.flag("share_att_key", False),
        "norm_rel_ebd": "layer_norm" in fields.text("norm_rel_ebd", "none").lower(),
        "embedding_size": fields.get("embedding_size") in (None, fields.get("hidden_size")),
    }
    for key, supported in asked.items():
        if not supported:
            raise UnsupportedModelError(
                f"the model has {key} = {fields.get(key)!r}; of DeBERTa only v3's attention is supported: "
                "choose another model"
            )
    positions = fields.count("max_position_embeddings", MAX_TOKENS)
    declared = fields.get("max_relative_positions")
    farthest = positions if declared is None or declared == -1 else fields.count("max_relative_positions", MAX_BUCKETS)
    log = fields.get("position_buckets") not in (None, -1)
    traits: Traits = {
        "position": "disentangled",
        "relative_buckets": fields.count("position_buckets", MAX_BUCKETS) if log else farthest,
        "relative_distance": farthest if log else 0,
        "type_vocab_size": _types(fields, 0),
        "norm_eps": fields.number("layer_norm_eps", 1e-7),
    }
    head_dim = _head_dim(fields)
    traits["attention_scale"] = (head_dim * 3) ** -0.5  # three terms of one size
    return traits | (_learned(fields) if fields.flag("position_biased_input", True) else {})


def _modernbert(fields: Fields) -> Traits:
    n_layers = fields.count("num_hidden_layers", MAX_LAYERS)
    head_dim = _head_dim(fields)
    every = fields.count("global_attn_every_n_layers", MAX_LAYERS, 3)
    types = fields.sequence("layer_types") or [
        "sliding_attention" if layer % every else "full_attention" for layer in range(n_layers)
    ]
    window = fields.count("local_attention", MAX_TOKENS, 128) // 2 + 1
    parameters = fields.nested("rope_parameters")
    thetas = (fields.number("global_rope_theta", 160_000.0), fields.number("local_rope_theta", 10_000.0))
    ropes = [
        read_encoder_rope(fields, head_dim, theta, parameters.nested(kind))
        for kind, theta in zip(("full_attention", "sliding_attention"), thetas, strict=True)
    ]
    bias = fields.flag("attention_bias", False)
    ffn_bias = fields.flag("mlp_bias", False)
    return {
        "position": "rope",
        "rope": ropes[0],
        "local_rope": ropes[1],
        "windows": windows_of_types(types, window),
        "norm_first": True,
        "skip_first_norm": True,
        "norm_bias": fields.flag("norm_bias", False),
        "norm_eps": fields.number("layer_norm_eps", 1e-5),
        "gated": True,
        "qkv_bias": bias,
        "o_bias": bias,
        "up_bias": ffn_bias,
        "down_bias": ffn_bias,
    }


def _nomic(fields: Fields) -> Traits:
    for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        require(not fields.flag(key, False), key, "false", True)
    require(fields.number("rotary_emb_fraction", 1.0) == 1, "rotary_emb_fraction", "1", "another")
    require(fields.text("hidden_act", "silu") in ("silu", "swiglu"), "activation", "swiglu", fields.get("hidden_act"))
    head_dim = _head_dim(fields)
    limit = fields.count("max_position_embeddings", MAX_TOKENS)
    if fields.get("rotary_scaling_factor"):  # the reference then changes all frequencies of texts beyond this length
        limit = min(limit, fields.count("max_trained_positions", MAX_TOKENS, 2048))
    return {
        "position": "rope",
        "rope": read_encoder_rope(fields, head_dim, 1000.0),
        "type_vocab_size": _types(fields, 2),
        "max_tokens": limit,
        "activation": "silu",
        "gated": True,
        "qkv_bias": False,
        "o_bias": False,
        "up_bias": False,
        "down_bias": False,
    }


def _gte(fields: Fields) -> Traits:
    kind = fields.text("position_embedding_type", "rope")
    require(kind == "rope", "position_embedding_type", "'rope'", kind)
    require(fields.text("layer_norm_type", "layer_norm") == "layer_norm", "layer_norm_type", "'layer_norm'", "another")
    head_dim = _head_dim(fields)
    return {
        "position": "rope",
        "rope": read_encoder_rope(fields, head_dim, 160_000.0 if fields.text("model_type") == "gte" else 10_000.0),
        "type_vocab_size": _types(fields, 1),
        "gated": True,
        "up_bias": False,
    }


def _jina(fields: Fields) -> Traits:
    kind = fields.text("feed_forward_type", "original")
    activations: dict[str, Activation] = {"geglu": "gelu", "reglu": "relu"}
    if kind not in activations:
        raise UnsupportedModelError(
            f"the model has feed-forward layers of the kind {kind[:40]!r}; only geglu and reglu are supported in Jina "
            "BERT: choose another model"
        )
    return {
        "position": "alibi",
        "type_vocab_size": _types(fields, 2),
        "activation": activations[kind],
        "gated": True,
        "up_bias": False,
    }


TRAITS: dict[str, Callable[[Fields], Traits]] = {
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "albert": _albert,
    "mpnet": _mpnet,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "nomic-bert": _nomic,
    "gte": _gte,
    "jina-bert-v2": _jina,
}
