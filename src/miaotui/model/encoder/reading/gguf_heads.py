"""Heads and pooling of an encoder's GGUF file.

Knows the tensors `cls`, `cls.norm`, `cls.output` and `dense_2`, and the key `pooling_type`. Invariant: a classifier
whose file lacks a layer that the model has is refused, since its scores would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import Activation, EncoderConfig
from miaotui.model.encoder.heads import MAX_LABELS, HeadConfig, PoolingConfig, PoolingMode, head_shapes
from miaotui.model.encoder.reading.heads_from_hf import HeadSources
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import TensorSource

POOLINGS: dict[int, PoolingMode] = {1: "mean", 2: "cls", 3: "last"}
RANK = 4
MODULES = {"head.transform": "cls", "head.norm": "cls.norm", "head.output": "cls.output"}


def read_gguf_head(config: EncoderConfig, fields: Fields, stored: Mapping[str, StoredTensor]) -> HeadSources:
    """Read the head that the file's tensors make: none, a classifier, or a ColBERT's matrix."""
    if "dense_2.weight" in stored:
        head = HeadConfig(kind="colbert", outputs=_rows(stored, "dense_2.weight"), output_bias="dense_2.bias" in stored)
        return _sources(config, head, {"head.output": "dense_2"})
    if not any(name.startswith("cls.") for name in stored):
        return HeadSources(head=HeadConfig(), shapes={}, sources={}, ignored=())
    if "cls.weight" not in stored or "cls.output.weight" not in stored:
        raise UnsupportedModelError(
            "the GGUF file has a classifier without the layer before it, which llama.cpp's converter leaves out for "
            "this model: use its safetensors"
        )
    return _sources(config, _classifier(config, fields, stored), MODULES)


def read_gguf_pooling(fields: Fields, head: HeadConfig) -> PoolingConfig | None:
    """Return the pooling; embeddings are normalized, as llama.cpp does by default."""
    kind = fields.size("pooling_type", 1 << 16)
    if kind in (0, RANK) or head.kind == "colbert":
        return None
    require(kind in POOLINGS, "pooling_type (GGUF metadata)", f"one of 0, {RANK}, {sorted(POOLINGS)}", kind)
    return PoolingConfig(modes=(POOLINGS[kind],), normalize=True)


def _classifier(config: EncoderConfig, fields: Fields, stored: Mapping[str, StoredTensor]) -> HeadConfig:
    outputs = _rows(stored, "cls.output.weight")
    labels = tuple(map(str, fields.sequence("classifier.output_labels") or ()))
    return HeadConfig(
        kind="cross-encoder" if outputs == 1 else "sequence",
        outputs=outputs,
        labels=labels or tuple(f"LABEL_{index}" for index in range(outputs)),
        problem="regression" if outputs == 1 else "single_label",
        pooling=_pooling(config),
        transform=_activation(config),
        transform_size=_rows(stored, "cls.weight"),
        transform_bias="cls.bias" in stored,
        norm="cls.norm.weight" in stored,
        norm_bias="cls.norm.bias" in stored,
        output_bias="cls.output.bias" in stored,
    )


def _activation(config: EncoderConfig) -> Activation:
    """Return the activation before the classifier: of ModernBERT, of DistilBERT (no token types), of RoBERTa."""
    if config.architecture == "modernbert":
        return "gelu"
    return "tanh" if config.type_vocab_size else "relu"


def _pooling(config: EncoderConfig) -> Literal["cls", "mean"]:
    """Return the pooling before the classifier; llama.cpp's rerankers of ModernBERT take the mean."""
    return "mean" if config.architecture == "modernbert" else "cls"


def _rows(stored: Mapping[str, StoredTensor], name: str) -> int:
    rows = stored[name].shape[0]
    require(1 <= rows <= MAX_LABELS, f"tensor {name!r}", f"of 1 to {MAX_LABELS} rows", stored[name].shape)
    return rows


def _sources(config: EncoderConfig, head: HeadConfig, modules: Mapping[str, str]) -> HeadSources:
    shapes = head_shapes(config, head)
    sources = {
        name: TensorSource(modules[name.removesuffix("_bias")] + (".bias" if name.endswith("_bias") else ".weight"))
        for name in shapes
    }
    return HeadSources(head=head, shapes=shapes, sources=sources, ignored=())
