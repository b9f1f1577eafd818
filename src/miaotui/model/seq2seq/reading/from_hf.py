"""An encoder-decoder's configuration and tensors from transformers' ``config.json`` and safetensors.

Knows the keys of that file and, through `families`, the tensors' names. Invariant: a value that the forward pass does
not compute with is refused by name; every stored tensor is used, or is a copy or a constant that may be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.encoder.config import MAX_BUCKETS
from miaotui.model.encoder.reading.traits_from_hf import read_activation
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import CanonicalTensors, TensorSource
from miaotui.model.seq2seq.config import MAX_MEL_BINS, MAX_POSITIONS, MOST_TOKENS, Seq2SeqConfig, StackConfig
from miaotui.model.seq2seq.names import seq2seq_shapes
from miaotui.model.seq2seq.reading.families import Seq2SeqFamily, family_of
from miaotui.model.seq2seq.reading.whisper import whisper_tensors

WHERE = "config.json"
EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
HEAD, HEAD_BIAS = "lm_head.weight", "final_logits_bias"
WHISPER_HEAD = "proj_out.weight"
BUFFERS = ("version", "_float_tensor", "weights")  # last part of the name


def seq2seq_config_from_hf(values: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Seq2SeqConfig:
    """Read the configuration from the parsed ``config.json``; ``stored`` says which tables are shared.

    Raises `UnsupportedModelError` for what does not run here and `ModelFormatError` for nonsense.
    """
    fields, stored = Fields(values, WHERE), _with_named_head(stored)
    family = family_of(fields.text("model_type"))
    hidden = fields.count(family.keys["hidden"], MAX_WIDTH)
    traits = _t5_traits(fields) if family.name == "t5" else _bart_traits(family, fields, hidden)
    vocab = fields.count("vocab_size", MAX_VOCAB)
    traits |= {"source_vocab_size": vocab, "vocab_size": vocab}
    if fields.get("share_encoder_decoder_embeddings") is False:
        traits |= {"vocab_size": fields.count("decoder_vocab_size", MAX_VOCAB, vocab), "shared_embedding": False}
    return Seq2SeqConfig(
        **dict(family.traits) | traits,
        architecture=family.name,
        hidden_size=hidden,
        encoder=_stack(family, fields, "encoder"),
        decoder=_stack(family, fields, "decoder"),
        tied_head=HEAD not in stored or (fields.get("tie_word_embeddings") is not False and family.name != "t5"),
        head_bias=HEAD_BIAS in stored,
    )


def stored_names(
    config: Seq2SeqConfig, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> dict[str, str]:
    """Return the stored name of each canonical tensor."""
    family = family_of(Fields(values, WHERE).text("model_type"))
    prefix = _prefix(family, stored)
    return {
        name: _table(prefix, config, stored, name) or _source(prefix, family, name, config.gated)
        for name in seq2seq_shapes(config)
    }


def seq2seq_tensors(
    config: Seq2SeqConfig, values: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> Mapping[str, StoredTensor]:
    """Return the tensors under canonical names. Raises `ModelFormatError` for missing or unknown ones."""
    stored = _with_named_head(stored)
    stored = {name: _flat(tensor) if name == HEAD_BIAS else tensor for name, tensor in stored.items()}
    names = stored_names(config, values, stored)
    if config.mel_bins:
        stored = whisper_tensors(config, names, stored)
    prefix = _prefix(family_of(Fields(values, WHERE).text("model_type")), stored)
    used = set(names.values())
    ignored = [name for name in stored if name not in used and _is_copy(name, prefix, config)]
    sources = {name: TensorSource(own) for name, own in names.items()}
    return CanonicalTensors(seq2seq_shapes(config), stored, sources, ignored)


def _with_named_head(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {HEAD if name == WHISPER_HEAD else name: tensor for name, tensor in stored.items()}


def _prefix(family: Seq2SeqFamily, stored: Mapping[str, StoredTensor]) -> str:
    found = (each for each in family.prefixes if _source(each, family, "encoder.layers.0.o") in stored)
    return next(found, family.prefixes[0])


def _stack(family: Seq2SeqFamily, fields: Fields, name: str) -> StackConfig:
    keys = family.keys
    layers = keys[f"{name}_layers"]
    relative = family.name == "t5"
    return StackConfig(
        n_layers=fields.count(layers if fields.has(layers) else keys["encoder_layers"], MAX_LAYERS),
        n_heads=fields.count(keys[f"{name}_heads"], MAX_WIDTH),
        ffn_size=fields.count(keys[f"{name}_ffn"], MAX_WIDTH),
        max_tokens=MOST_TOKENS if relative else fields.count(_positions_key(family, name), MAX_POSITIONS),
        norm_at_end=family.norm_at_end,
    )


def _positions_key(family: Seq2SeqFamily, name: str) -> str:
    return family.keys.get(f"{name}_tokens", "max_position_embeddings")


def _t5_traits(fields: Fields) -> dict[str, Any]:
    form = fields.text("feed_forward_proj", "relu")
    gated = form.startswith("gated-")
    named = {"act": "gelu_new" if form == "gated-gelu" else form.removeprefix("gated-")}
    scaled = fields.flag("scale_decoder_outputs", fields.get("tie_word_embeddings") is not False)
    scaled = scaled and fields.text("model_type") == "t5"
    return {
        "head_dim": fields.count("d_kv", MAX_WIDTH),
        "norm_eps": fields.number("layer_norm_epsilon", 1e-6),
        "gated": gated,
        "activation": read_activation(Fields(named, WHERE), "act"),
        "relative_buckets": fields.count("relative_attention_num_buckets", MAX_BUCKETS, 32),
        "relative_distance": fields.count("relative_attention_max_distance", MAX_POSITIONS, 128),
        "logit_scale": fields.count("d_model", MAX_WIDTH) ** -0.5 if scaled else 1.0,
    }


def _bart_traits(family: Seq2SeqFamily, fields: Fields, hidden: int) -> dict[str, Any]:
    heads = fields.count(family.keys["decoder_heads"], MAX_WIDTH)
    same = fields.count(family.keys["encoder_heads"], MAX_WIDTH)
    require(same == heads, "encoder_attention_heads", f"the decoder's {heads}", same)
    require(hidden % heads == 0, "hidden size", f"a multiple of the {heads} attention heads", hidden)
    scaled = fields.flag("scale_embedding", family.name == "m2m100")
    traits: dict[str, Any] = {
        "head_dim": hidden // heads,
        "attention_scale": (hidden // heads) ** -0.5,
        "activation": read_activation(fields, "activation_function", "relu" if family.name == "m2m100" else "gelu"),
        "embedding_scale": hidden**0.5 if scaled else 1.0,
    }
    if family.name == "m2m100":
        padding = fields.size("pad_token_id", MAX_VOCAB) if fields.has("pad_token_id") else 1
        traits |= {"unplaced_token": padding, "position_offset": padding + 1}
    if family.name == "whisper":
        traits |= {"mel_bins": fields.count("num_mel_bins", MAX_MEL_BINS, 80)}
    return traits


def _source(prefix: str, family: Seq2SeqFamily, name: str, gated: bool = False) -> str:
    """Return the stored name of a canonical tensor that is no table of words."""
    stem, kind = (name.removesuffix("_bias"), ".bias") if name.endswith("_bias") else (name, ".weight")
    if name.endswith("relative_bias"):
        stem, kind = name, ".weight"
    stack, _, part = stem.partition(".")
    names = family.encoder if stack == "encoder" else family.decoder
    if not part.startswith("layers."):
        return prefix + names.modules[part] + kind
    _, layer, last = part.split(".")
    module = names.layers[last]
    if last == "up" and not gated:
        module = module.replace("wi_1", "wi")  # T5's plain form has one matrix instead of two
    return prefix + names.layer.format(layer) + module + kind


def _table(prefix: str, config: Seq2SeqConfig, stored: Mapping[str, StoredTensor], name: str) -> str | None:
    """Return the stored name of a table of words; None for other tensors."""
    if name in ("head", "head_bias"):
        return HEAD if name == "head" else HEAD_BIAS
    if name not in ("embed", "source_embed"):
        return None
    own = EMBEDDINGS[1 if name == "source_embed" else 2]
    order = ("shared", own) if config.shared_embedding else (own, "shared")
    names = [f"{prefix}{each}.weight" for each in (*order, *EMBEDDINGS)]
    return next((each for each in names if each in stored), HEAD if config.tied_head and HEAD in stored else names[0])


def _is_copy(name: str, prefix: str, config: Seq2SeqConfig) -> bool:
    """Return whether a tensor repeats a table that is tied, or is computed here."""
    if name.rpartition(".")[2] in BUFFERS:
        return True
    if name == HEAD:
        return config.tied_head
    if name in {f"{prefix}{each}.weight" for each in EMBEDDINGS}:
        return config.shared_embedding or name == f"{prefix}shared.weight"
    computed = config.position.startswith("sinusoidal")
    return computed and name.endswith((".embed_positions.weight", ".embed_positions.weights"))


def _flat(tensor: StoredTensor) -> StoredTensor:
    """Return a bias ``[1, n]`` as ``[n]``."""
    if tensor.rows == 1 and tensor.kind.is_float:
        return StoredTensor.from_bytes(tensor.name, (tensor.cols,), tensor.kind, tensor.data.reshape(-1))
    return tensor
