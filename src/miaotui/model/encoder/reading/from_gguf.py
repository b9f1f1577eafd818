"""An encoder from a GGUF file: its metadata and its tensors under canonical names.

Knows llama.cpp's architectures `bert`, `nomic-bert`, `jina-bert-v2` and `modern-bert`; computes nothing with weights.
Activations are those that the models were trained with (llama.cpp approximates GELU). Invariant: a feature that the
file declares and the forward pass lacks is refused by name. Follows the conventions of llama.cpp's converter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.encoder.config import MAX_TOKENS, EncoderConfig
from miaotui.model.encoder.container import OpenedEncoder
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.reading.gguf_heads import read_gguf_head, read_gguf_pooling
from miaotui.model.encoder.reading.traits_from_hf import Traits, read_activation
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import CanonicalTensors, TensorSource
from miaotui.model.rope import RopeConfig

WHERE = "GGUF metadata"
ARCHITECTURES = {
    "bert": "bert",
    "nomic-bert": "nomic-bert",
    "jina-bert-v2": "jina-bert-v2",
    "modern-bert": "modernbert",
}
BODY = {
    "embed": "token_embd",
    "position_embed": "position_embd",
    "type_embed": "token_types",
    "embed_norm": "token_embd_norm",
    "final_norm": "output_norm",
}
LAYERS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "attn_norm": "attn_output_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "ffn_norm": "layer_output_norm",
}
NORM_FIRST = {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}


def is_encoder_file(metadata: Mapping[str, Any]) -> bool:
    """Return whether a GGUF file's architecture is a known encoder."""
    return metadata.get("general.architecture") in ARCHITECTURES


def encoder_from_gguf(
    metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor], release: Callable[[], None] = lambda: None
) -> OpenedEncoder:
    """Return the encoder in a GGUF file; raises `ModelFormatError` or `UnsupportedModelError`."""
    name = Fields(metadata, WHERE).text("general.architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"encoders of the GGUF architecture {name[:40]!r} are not supported; known are {', '.join(ARCHITECTURES)}: "
            "choose another model"
        )
    fields = Fields(metadata, WHERE, f"{name}.")
    config = encoder_config_from_gguf(fields, stored)
    head = read_gguf_head(config, fields, stored)
    shapes = encoder_shapes(config)
    sources = {canonical: _source(config, canonical, shapes[canonical][0], stored) for canonical in shapes}
    weights = CanonicalTensors(shapes | dict(head.shapes), stored, sources | dict(head.sources))
    return OpenedEncoder(
        config=config,
        weights=weights,
        head=head.head,
        pooling=read_gguf_pooling(fields, head.head),
        metadata=metadata,
        release=release,
    )


def encoder_config_from_gguf(fields: Fields, stored: Mapping[str, StoredTensor]) -> EncoderConfig:
    """Read the configuration; ``stored`` tensors tell the vocabulary, types, positions and biases."""
    if fields.flag("attention.causal", False):
        raise UnsupportedModelError("the GGUF file says that its attention is causal: it is no encoder")
    architecture = ARCHITECTURES[fields.prefix.removesuffix(".")]
    hidden = fields.count("embedding_length", MAX_WIDTH)
    heads = fields.count("attention.head_count", MAX_WIDTH)
    require(hidden % heads == 0, "hidden size", f"a multiple of the {heads} attention heads", hidden)
    traits: Traits = {
        "architecture": architecture,
        "vocab_size": _rows("token_embd.weight", stored, MAX_VOCAB),
        "hidden_size": hidden,
        "embedding_size": hidden,
        "n_layers": fields.count("block_count", MAX_LAYERS),
        "n_heads": heads,
        "head_dim": hidden // heads,
        "ffn_size": fields.count("feed_forward_length", MAX_WIDTH),
        "max_tokens": fields.count("context_length", MAX_TOKENS),
        "type_vocab_size": _rows("token_types.weight", stored, MAX_VOCAB) if "token_types.weight" in stored else 0,
        "norm_eps": fields.number("attention.layer_norm_epsilon"),
        "norm_bias": "token_embd_norm.bias" in stored,
        "qkv_bias": "blk.0.attn_q.bias" in stored or "blk.0.attn_qkv.bias" in stored,
        "o_bias": "blk.0.attn_output.bias" in stored,
        "up_bias": "blk.0.ffn_up.bias" in stored,
        "down_bias": "blk.0.ffn_down.bias" in stored,
        "attention_scale": (hidden // heads) ** -0.5,
    }
    return EncoderConfig(**(traits | _TRAITS[architecture](fields, stored)))


def _bert(fields: Fields, stored: Mapping[str, StoredTensor]) -> Traits:
    """Return BERT's traits. RoBERTa's table lacks its first rows here, and DistilBERT has no token types."""
    rows = _rows("position_embd.weight", stored, MAX_TOKENS)
    return {"position_rows": rows, "max_tokens": min(rows, fields.count("context_length", MAX_TOKENS))}


def _nomic(fields: Fields, stored: Mapping[str, StoredTensor]) -> Traits:
    return {"position": "rope", "rope": _rope(fields, 1000.0), "activation": "silu", "gated": True}


def _jina(fields: Fields, stored: Mapping[str, StoredTensor]) -> Traits:
    return {"position": "alibi", "gated": True}


def _modernbert(fields: Fields, stored: Mapping[str, StoredTensor]) -> Traits:
    key = "hidden_act" if fields.has("hidden_act") else "hidden_activation"
    return {
        "position": "rope",
        "rope": _rope(fields, 160_000.0),
        "local_rope": _rope(fields, 10_000.0, "rope.freq_base_swa"),
        "windows": _windows(fields),
        "norm_first": True,
        "skip_first_norm": True,
        "activation": read_activation(fields, key),
        "gated": True,
    }


_TRAITS: dict[str, Callable[[Fields, Mapping[str, StoredTensor]], Traits]] = {
    "bert": _bert,
    "nomic-bert": _nomic,
    "jina-bert-v2": _jina,
    "modernbert": _modernbert,
}


def _rope(fields: Fields, theta: float, key: str = "rope.freq_base") -> RopeConfig:
    scaling = fields.text("rope.scaling.type", "none")
    head_dim = fields.count("embedding_length", MAX_WIDTH) // fields.count("attention.head_count", MAX_WIDTH)
    if scaling != "none" or fields.size("rope.dimension_count", MAX_WIDTH) not in (0, head_dim):
        raise UnsupportedModelError(
            f"the model scales its rope ({scaling[:40]!r}) or rotates parts of its heads, which is not supported in "
            "encoders: choose another model"
        )
    return RopeConfig(theta=fields.number(key, theta), dim=head_dim)


def _windows(fields: Fields) -> tuple[int, ...]:
    """Return the window of each layer: ``sliding_window`` counts both sides, and every n-th layer from 0 is full."""
    n_layers = fields.count("block_count", MAX_LAYERS)
    window = fields.count("attention.sliding_window", MAX_TOKENS) // 2 + 1
    pattern = fields.sequence("attention.sliding_window_pattern")
    if pattern is None:
        every = fields.count("attention.sliding_window_pattern", MAX_LAYERS, 3)
        return tuple(window if layer % every else 0 for layer in range(n_layers))
    flags = len(pattern) == n_layers and all(isinstance(local, bool) for local in pattern)
    require(flags, "sliding window pattern", "one truth value per layer", pattern[:4])
    return tuple(window if local else 0 for local in pattern)


def _rows(name: str, stored: Mapping[str, StoredTensor], most: int) -> int:
    tensor = stored.get(name)
    if tensor is None or len(tensor.shape) != 2 or tensor.shape[0] > most:
        found = None if tensor is None else tensor.shape
        raise ModelFormatError(
            f"tensor {name!r} must be a matrix of at most {most} rows, not {found}: the file is damaged; download it "
            "again"
        )
    return tensor.shape[0]


def _source(config: EncoderConfig, name: str, rows: int, stored: Mapping[str, StoredTensor]) -> TensorSource:
    """Return the source of a canonical tensor of ``rows`` rows; q, k and v, and gate and up, may be one matrix."""
    stem = name.removesuffix("_bias")
    kind = ".weight" if stem == name else ".bias"
    if not stem.startswith("layers."):
        return TensorSource(BODY[stem] + kind)
    _, layer, part = stem.split(".")
    prefix = f"blk.{layer}."
    modules = LAYERS | (NORM_FIRST if config.norm_first else {})
    if part in ("q", "k", "v") and f"{prefix}attn_qkv.weight" in stored:
        return TensorSource(f"{prefix}attn_qkv{kind}", start="qkv".index(part) * rows)
    if part in ("gate", "up") and f"{prefix}ffn_gate.weight" not in stored and config.gated:
        return TensorSource(f"{prefix}ffn_up{kind}", start=rows if part == "up" else 0)
    return TensorSource(prefix + modules[part] + kind)
