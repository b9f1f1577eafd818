"""Embeddings that an encoder's are compared with: by transformers, by the oracle, by the compiled backend in float32.

Owns the reference for one model and one form of its weights: those of the file, or these as a format packs them. The
weights are this project's reading of the file, put into transformers' own BERT, so that every file that is read as
BERT has that reference. Invariant: all arithmetic is float32, and every text is computed alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.encoder_backend import TextRows
from miaotui.config import Settings
from miaotui.hub.formats.tensors import ComputedTensor, StoredTensor
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.pooling import Pooler, normalized

Floats = NDArray[np.float32]
States = Callable[[list[int]], Floats]
REFERENCES = ("transformers", "oracle", "compiled")
TABLES = ("position_embed", "type_embed", "relative_bias", "relative_embed")  # kept in float32
EMBEDDINGS = {
    "embed": "embeddings.word_embeddings.weight",
    "position_embed": "embeddings.position_embeddings.weight",
    "type_embed": "embeddings.token_type_embeddings.weight",
    "embed_norm": "embeddings.LayerNorm.weight",
    "embed_norm_bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}


@contextmanager
def reference(path: Path, name: str, form: Format = Format.F32) -> Iterator[Callable[[Sequence[list[int]]], Floats]]:
    """Open the reference ``name`` over the weights as ``form`` packs them (F32: as the file has them).

    It gives embeddings of length 1, float32 ``[texts, dimensions]``.
    """
    with open_encoder(path) as opened, tempfile.TemporaryDirectory() as cache:
        if opened.pooling is None:
            sys.exit(f"{path} does not say how its states become an embedding")
        pooler = Pooler(opened.pooling, opened.weights, opened.config.hidden_size)
        if name == "compiled":
            states = of_compiled(path, opened, form, Path(cache))
        else:
            weights = {name: rounded(name, tensor, form) for name, tensor in opened.weights.items()}
            if name == "transformers":
                states = of_transformers(opened.config, weights)
            else:
                states = EncoderOracle(opened.config, weights).states
        yield lambda texts: normalized(np.stack([pooler.embedding(states(text)) for text in texts]))


def of_compiled(path: Path, opened: OpenedEncoder, form: Format, cache: Path) -> States:
    """Return the compiled backend in float32 over the weights that ``form`` packs; they lie in ``cache``."""
    weights = {
        name: ComputedTensor(name, tensor.shape, partial(rounded, name, tensor, form))
        for name, tensor in opened.weights.items()
    }
    packs = replace(Settings.from_env(), cache_dir=cache)  # compiled kernels stay where they are
    backend = build_encoder(path, replace(opened, weights=weights), packs, form=Format.F32)
    return lambda text: backend.encode([TextRows(text)]).states[0]


def of_transformers(config: EncoderConfig, weights: Mapping[str, Floats]) -> States:
    """Return transformers' BERT with these weights, in float32."""
    import torch
    from transformers import BertConfig, BertModel

    if config.architecture != "bert" or config.activation != "gelu" or config.position != "learned":
        sys.exit(f"only BERT has this reference, not {config.architecture}")
    model = BertModel(
        BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            intermediate_size=config.ffn_size,
            max_position_embeddings=config.position_rows,
            type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.norm_eps,
        ),
        add_pooling_layer=False,
    ).eval()
    named = {
        bert_name(name): torch.from_numpy(value) for name, value in weights.items() if not name.startswith("head.")
    }
    model.load_state_dict(named)

    def states(tokens: list[int]) -> Floats:
        with torch.no_grad():
            found: Floats = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
        return found

    return states


def bert_name(name: str) -> str:
    """Return transformers' name of a tensor."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    _, layer, part = name.split(".")
    return f"encoder.layer.{layer}.{LAYER[part.removesuffix('_bias')]}.{'bias' if part.endswith('_bias') else 'weight'}"


def rounded(name: str, tensor: StoredTensor, form: Format) -> Floats:
    """Return one tensor's values as they are packed; blocks of 4 or 8 bits keep theirs."""
    is_kept = form is Format.F32 or not tensor.kind.is_float
    if is_kept or len(tensor.shape) != 2 or name in TABLES or name.startswith("head."):
        return tensor.float32()
    return values(quantize(form, tensor.float32()))
