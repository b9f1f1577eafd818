"""Presents an ONNX export as a model of transformers: ``config.json``'s values, and tensors by transformers' names.

Owns the choice of the family, the names, and what files beside the export add (labels, sizes that a graph leaves out).
Recognises nothing itself (`structure`). Invariant: sizes come from the graph's own constants; a ``config.json`` that
says otherwise is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.hub.formats.onnx import read_onnx
from miaotui.hub.formats.tensors import BlockType, ComputedTensor, StoredTensor
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.model.encoder.config import Activation
from miaotui.model.encoder.container import EncoderContainer
from miaotui.model.encoder.containers.onnx.edges import ConstantMatrix, Edges, Floats, LinearLayer, NormLayer
from miaotui.model.encoder.containers.onnx.structure import ExportedEncoder, ExportedLayer, recognise
from miaotui.model.encoder.reading.families import BERT_LAYER, DISTILBERT_LAYER

Part = ConstantMatrix | Floats
FOLDER = "onnx"  # of exports inside a model's folder
LABELS = "tag_vocab.json"  # quire-grammar's file of token classes
MAX_LABELS = 1 << 16
_HF_ACTIVATIONS: Mapping[Activation, str] = {"gelu_tanh": "gelu_pytorch_tanh"}
_TITLES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
_HEADS = {  # transform and output of a classifier over the first row
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
}


def open_onnx(path: Path) -> EncoderContainer:
    """Open the export at ``path``; its folder holds the tokenizer, perhaps ``config.json``. Raises `ModelError`."""
    encoder = recognise(Edges(read_onnx(path), str(path)))
    folder = path.parent
    if folder.name == FOLDER and not (folder / "tokenizer.json").is_file():  # as optimum lays repositories out
        folder = path.absolute().parent.parent
    declared = _declared(folder)
    family = _family(encoder, declared)
    values = _values(encoder, family, declared, path)
    return EncoderContainer(values=values, tensors=_tensors(encoder, family), folder=folder)


def _declared(folder: Path) -> dict[str, Any]:
    """Return ``config.json``'s values, and labels that lie in a file of their own."""
    try:
        declared = read_object(folder / "config.json")
    except ModelNotFoundError:
        declared = {}
    if "id2label" not in declared and (folder / LABELS).is_file():
        tags = read_object(folder / LABELS).get("tags")
        if not isinstance(tags, list) or len(tags) > MAX_LABELS or not all(isinstance(tag, str) for tag in tags):
            raise ModelFormatError(f"{folder / LABELS} must hold the list 'tags' of texts; get it again")
        declared["id2label"] = {str(index): tag for index, tag in enumerate(tags)}
    return declared


def _family(encoder: ExportedEncoder, declared: Mapping[str, Any]) -> str:
    """Return the family by what the graph computes; ``config.json`` names those whose graphs are alike."""
    if encoder.counts_padding:
        named = declared.get("model_type")
        return str(named) if named in ("roberta", "xlm-roberta", "camembert") else "roberta"
    return "bert" if encoder.types is not None else "distilbert"


def _values(encoder: ExportedEncoder, family: str, declared: Mapping[str, Any], path: Path) -> dict[str, Any]:
    layer = encoder.layers[0]
    hidden = encoder.words.shape[1]
    heads = layer.heads or declared.get("num_attention_heads") or declared.get("n_heads")
    if heads is None:
        raise ModelFormatError(f"{path} does not say its number of heads; put the model's config.json beside it")
    activations = {each.activation for each in encoder.layers}
    if len(activations) > 1 or any(each.heads not in (None, heads) for each in encoder.layers):
        raise ModelFormatError(f"the layers in {path} have different activations or heads; get it again")
    sizes = {
        "vocab_size": encoder.words.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": len(encoder.layers),
        "num_attention_heads": heads,
        "intermediate_size": layer.up.weight.shape[0],
        "max_position_embeddings": encoder.positions.shape[0],
        "type_vocab_size": 0 if encoder.types is None else encoder.types.shape[0],
    }
    for key, size in sizes.items():
        if declared.get(key, size) != size:
            raise ModelFormatError(f"{path} has the {key} {size}, and its config.json says {declared[key]!r}: get both")
    found = {
        "model_type": family,
        "architectures": [_architecture(encoder, family)],
        "layer_norm_eps": encoder.embed_norm.eps,
        "hidden_act": _HF_ACTIVATIONS.get(layer.activation, layer.activation),
    }
    if family == "distilbert":
        own = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings")
        sizes = dict(zip(own, list(sizes.values())[:6], strict=True))
        found["activation"] = found.pop("hidden_act")
    kept = {key: declared[key] for key in ("id2label", "problem_type", "pad_token_id") if key in declared}
    return kept | _labels(encoder, kept) | sizes | found


def _architecture(encoder: ExportedEncoder, family: str) -> str:
    title = _TITLES.get(family, "Roberta")
    if encoder.head is None:
        return f"{title}Model"
    return f"{title}For{'Sequence' if encoder.head.first_row else 'Token'}Classification"


def _labels(encoder: ExportedEncoder, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return names for outputs that no file names, or whose names are of another model's number."""
    if encoder.head is None or "id2label" in kept:
        return {}
    return {"id2label": {str(index): f"LABEL_{index}" for index in range(encoder.head.output.weight.shape[0])}}


def _tensors(encoder: ExportedEncoder, family: str) -> dict[str, StoredTensor]:
    prefix = "roberta" if family in ("xlm-roberta", "camembert") else family
    tables = {"word_embeddings": encoder.words, "position_embeddings": encoder.positions}
    if encoder.types is not None:
        tables["token_type_embeddings"] = encoder.types
    found: dict[str, Part] = {f"{prefix}.embeddings.{name}.weight": table for name, table in tables.items()}
    found |= _named(f"{prefix}.embeddings.LayerNorm", encoder.embed_norm)
    stem, names = ("transformer", DISTILBERT_LAYER) if family == "distilbert" else ("encoder", BERT_LAYER)
    for index, layer in enumerate(encoder.layers):
        found |= _layer(f"{prefix}.{stem}.layer.{index}", names, layer)
    if encoder.head is not None:
        transform, output = _HEADS[prefix]
        if encoder.head.transform is not None:
            found |= _named(transform, encoder.head.transform)
        found |= _named(output if encoder.head.first_row else "classifier", encoder.head.output)
    return {name: _stored(name, part) for name, part in found.items()}


def _layer(stem: str, names: Mapping[str, str], layer: ExportedLayer) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for part, name in names.items():
        found |= _named(f"{stem}.{name}", getattr(layer, part))
    return found


def _named(module: str, part: LinearLayer | NormLayer) -> dict[str, Part]:
    """Return weight and bias; exporters leave a bias of zeros out."""
    bias = part.bias if part.bias is not None else np.zeros(part.weight.shape[0], np.float32)
    return {f"{module}.weight": part.weight, f"{module}.bias": bias}


def _stored(name: str, part: Part) -> StoredTensor:
    if isinstance(part, ConstantMatrix):
        return ComputedTensor(name, part.shape, part.read)
    return StoredTensor.from_bytes(name, part.shape, BlockType.F32, np.ascontiguousarray(part, "<f4").view(np.uint8))
