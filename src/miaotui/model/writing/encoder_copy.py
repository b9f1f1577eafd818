"""GGUF copy of an encoder that lies in a folder: BERT's body, its pooling and its WordPiece vocabulary.

Owns the way from an `EncoderConfig` to GGUF's keys. Knows no quantisation: matrices keep their type, vectors become
float32. Invariant: the copy, when it is read, has the folder's configuration, pooling and weights, and cuts texts as
the folder's tokenizer does, which is checked before it appears; an encoder of which that is not so is refused.
Source: the GGUF specification and the conventions of llama.cpp's converter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.config import make_folder
from miaotui.errors import MiaotuiError, UnsupportedModelError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import encode_floats
from miaotui.hub.writers.gguf import write_gguf
from miaotui.hub.writers.gguf_metadata import MetadataValue, metadata_head
from miaotui.model.encoder.container import OpenedEncoder
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.reading.from_gguf import BODY, LAYERS
from miaotui.model.encoder.reading.gguf_heads import POOLINGS
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer
from miaotui.text.encoders.wordpiece import wordpiece_from_vocabulary
from miaotui.text.tokenizers.comparison import PROBES
from miaotui.text.tokenizers.gguf_vocabulary import TokenType
from miaotui.text.tokenizers.huggingface import CONTINUATION, load_backend
from miaotui.text.tokenizers.sentencepiece import SPACE

OTHERS = {"padding": "[PAD]", "mask": "[MASK]"}
CLOSE = 1e-6  # of numbers, which GGUF files hold in 32 bits


def write_encoder_copy(folder: Path, out: Path) -> None:
    """Write the encoder in ``folder`` to the GGUF file ``out``, which appears whole or not at all.

    Raises a `ModelError` for what cannot be read, `UnsupportedModelError` for what is not written in this form here,
    and `CacheError` where there is no room.
    """
    with open_encoder(folder) as encoder:
        if encoder.config.architecture != "bert" or encoder.head.kind != "none" or encoder.prompts:
            raise _refused(folder, "it is no BERT without a head and without prompts")
        tensors = {name: _stored(name, encoder.weights[each]) for each, name in _names(encoder).items()}
        metadata = _metadata(encoder, folder) | _vocabulary(folder, encoder.config.vocab_size)
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
        require_room(make_folder(out.parent), sum(tensor.size_bytes for tensor in tensors.values()))
        part = out.with_name(f"{out.name}.unchecked")
        data = (tensor.data.reshape(-1) for tensor in tensors.values())
        try:
            write_whole(part, "the copy", lambda file: write_gguf(file, metadata_head(metadata), sizes, data))
            with open_encoder(part) as copy:
                _require_same(encoder, copy, folder)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)


def _refused(folder: Path, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{folder} cannot be copied to a GGUF file: {why}. Choose another model")


def _names(encoder: OpenedEncoder) -> dict[str, str]:
    """Return the name in the file of each canonical tensor."""
    found = {}
    for name in encoder.weights:
        stem = name.removesuffix("_bias")
        ending = ".bias" if name.endswith("_bias") else ".weight"
        if stem.startswith("layers."):
            _, layer, part = stem.split(".")
            found[name] = f"blk.{layer}.{LAYERS[part]}{ending}"
        else:
            found[name] = BODY[stem] + ending
    return found


def _stored(name: str, tensor: StoredTensor) -> StoredTensor:
    if len(tensor.shape) > 1:
        return tensor.renamed(name)
    return StoredTensor(name, tensor.shape, BlockType.F32, encode_floats(tensor.float32(), BlockType.F32)[None])


def _metadata(encoder: OpenedEncoder, folder: Path) -> dict[str, MetadataValue]:
    config, pooling = encoder.config, encoder.pooling
    kinds = {modes: number for number, modes in POOLINGS.items()}
    if pooling is None or len(pooling.modes) != 1 or pooling.modes[0] not in kinds:
        raise _refused(folder, "its pooling cannot be said in it")
    values: dict[str, MetadataValue] = {
        "block_count": config.n_layers,
        "context_length": config.max_tokens,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.n_heads,
        "attention.layer_norm_epsilon": config.norm_eps,
        "attention.causal": False,
        "pooling_type": kinds[pooling.modes[0]],
    }
    types: dict[str, MetadataValue] = {"tokenizer.ggml.token_type_count": max(1, config.type_vocab_size)}
    named = {f"bert.{key}": value for key, value in values.items()}
    return {"general.architecture": "bert", "general.file_type": 0, **named, **types}


def _vocabulary(folder: Path, size: int) -> dict[str, MetadataValue]:
    """Return the metadata of a WordPiece vocabulary of ``size``, in which words begin with a mark, and parts do not."""
    has_json = (folder / "tokenizer.json").is_file()
    backend = load_backend(folder / "tokenizer.json") if has_json else wordpiece_from_vocabulary(folder)
    values = json.loads(backend.to_str())
    model = values["model"]
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != CONTINUATION:
        raise _refused(folder, "its tokenizer is no WordPiece")
    controls = {each["content"]: each["id"] for each in values.get("added_tokens") or () if each["special"]}
    ids: dict[str, int] = {**model["vocab"], **controls}
    tokens = [f"[unused{number}]" for number in range(max(size, *ids.values()))]
    kinds = [int(TokenType.UNUSED)] * len(tokens)
    for text, token in ids.items():
        is_part = text.startswith(CONTINUATION)
        plain = text if text in controls else text[len(CONTINUATION) :] if is_part else SPACE + text
        tokens[token] = plain
        kinds[token] = int(TokenType.CONTROL if text in controls else TokenType.NORMAL)
    normalizer = values.get("normalizer") or {}
    found: dict[str, MetadataValue] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.normalizer.lowercase": bool(normalizer.get("lowercase", True)),
    }
    if normalizer.get("strip_accents") is not None:
        found["tokenizer.ggml.normalizer.strip_accents"] = bool(normalizer["strip_accents"])
    usual = {"unknown": model["unk_token"], "cls": "[CLS]", "seperator": "[SEP]", **OTHERS}
    return found | {f"tokenizer.ggml.{role}_token_id": ids[text] for role, text in usual.items() if text in ids}


def _require_same(one: OpenedEncoder, two: OpenedEncoder, folder: Path) -> None:
    """Raise `UnsupportedModelError` where a reader of the copy would see another encoder."""
    ours, theirs = asdict(one.config), asdict(two.config)
    for name in ours:
        if not _close(ours[name], theirs[name]):
            raise _refused(folder, f"{name.replace('_', ' ')} {str(ours[name])[:80]} cannot be said in it")
    if one.pooling != two.pooling or one.weights.keys() != two.weights.keys():
        raise _refused(folder, "its pooling or its tensors cannot be said in it")
    for name in one.weights:
        if not np.array_equal(one.weights[name].float32(), two.weights[name].float32()):
            raise _refused(folder, f"{name} would be read otherwise")
    try:
        mine, other = (_tokenizer(each) for each in (one, two))
        same = all(mine.encode_text(text).tokens == other.encode_text(text).tokens for text in PROBES)
    except MiaotuiError as error:
        raise _refused(folder, str(error)) from error
    if not same:
        raise _refused(folder, "its tokenizer would cut texts otherwise")


def _tokenizer(encoder: OpenedEncoder) -> EncoderTokenizer:
    metadata: Mapping[str, Any] | None = encoder.metadata
    return load_encoder_tokenizer(metadata, None if metadata else encoder.folder, lower_case=encoder.lower_case)


def _close(one: object, two: object) -> bool:
    return math.isclose(one, two, rel_tol=CLOSE) if isinstance(one, float) and isinstance(two, float) else one == two
