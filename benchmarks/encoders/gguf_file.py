"""A BERT encoder written as a GGUF file with 8-bit weights (Q8_0), for llama.cpp in the encoder benchmark.

Owns llama.cpp's names of BERT's tensors and of the file's fields (as its converter writes them). The weights are this
project's reading of the model. Invariant: the vocabulary has the tokenizer's tokens at their own ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from miaotui.model.encoder.opened import OpenedEncoder, open_encoder

EMBEDDINGS = {
    "embed": "token_embd.weight",
    "position_embed": "position_embd.weight",
    "type_embed": "token_types.weight",
    "embed_norm": "token_embd_norm.weight",
    "embed_norm_bias": "token_embd_norm.bias",
}
LAYER = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "attn_norm": "attn_output_norm",
    "up": "ffn_up",
    "down": "ffn_down",
    "ffn_norm": "layer_output_norm",
}
IN_FLOAT = ("position_embed", "type_embed")
POOLINGS = {"mean": 1, "cls": 2}


def write_gguf(model: Path, file: Path) -> None:
    """Write the BERT encoder in the folder ``model`` to ``file``. Ends the program for other families."""
    import gguf

    with open_encoder(model) as opened:
        if opened.config.architecture != "bert" or opened.pooling is None or opened.pooling.modes[0] not in POOLINGS:
            sys.exit(f"{model}: only BERT with its mean or first state is written for llama.cpp")
        writer = gguf.GGUFWriter(file, "bert")
        write_fields(writer, opened)
        write_vocabulary(writer, model / "tokenizer.json")
        kind = gguf.GGMLQuantizationType.Q8_0
        for name, tensor in opened.weights.items():
            if name.startswith("head."):
                continue
            values = tensor.float32()
            if values.ndim == 2 and name not in IN_FLOAT:
                writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(name), values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_fields(writer: object, opened: OpenedEncoder) -> None:
    """Write the configuration."""
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    config, pooling = opened.config, opened.pooling
    assert pooling is not None
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_tokens)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(POOLINGS[pooling.modes[0]]))
    writer.add_token_type_count(config.type_vocab_size)


def write_vocabulary(writer: object, file: Path) -> None:
    """Write WordPiece's tokens, with the space that llama.cpp puts before words."""
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    told = json.loads(file.read_text(encoding="utf-8"))
    special = {each["content"]: each["id"] for each in told["added_tokens"] if each["special"]}
    tokens = sorted(told["model"]["vocab"], key=told["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([token if token in special else spaced(token) for token in tokens])
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[token in special] for token in tokens])
    writer.add_bos_token_id(special["[CLS]"])
    writer.add_sep_token_id(special["[SEP]"])
    writer.add_eos_token_id(special["[SEP]"])
    writer.add_unk_token_id(special["[UNK]"])
    writer.add_pad_token_id(special["[PAD]"])
    writer.add_mask_token_id(special["[MASK]"])


def spaced(token: str) -> str:
    """Return a token of WordPiece as llama.cpp has it: parts of words bare, words after a space."""
    return token[2:] if token.startswith("##") else "▁" + token


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    _, layer, part = name.split(".")
    return f"blk.{layer}.{LAYER[part.removesuffix('_bias')]}.{'bias' if part.endswith('_bias') else 'weight'}"
