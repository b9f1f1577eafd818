"""Encoders opened from files that tests change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from miaotui.errors import ModelError
from miaotui.model.encoder.container import EncoderContainer
from miaotui.model.encoder.opened import OpenedEncoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.reading.from_gguf import encoder_from_gguf
from miaotui.model.encoder.reading.mapping import mapped_encoder
from tiny_encoders import (
    GGUF_NAMES,
    Array,
    encoder_metadata,
    gguf_tensors,
    hf_tensors,
    random_weights,
    stored,
    tiny_encoder_config,
    tiny_encoder_values,
    tiny_encoder_weights,
)

TOKENS = np.random.default_rng(5).integers(0, 320, 30).tolist()


HEADS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {  # architecture, and its stored tensors besides the body
    "mlm": (
        "BertForMaskedLM",
        {
            "cls.predictions.transform.dense.weight": (64, 64),
            "cls.predictions.transform.dense.bias": (64,),
            "cls.predictions.transform.LayerNorm.weight": (64,),
            "cls.predictions.transform.LayerNorm.bias": (64,),
            "cls.predictions.bias": (320,),
        },
    ),
    "sequence": (
        "BertForSequenceClassification",
        {
            "bert.pooler.dense.weight": (64, 64),
            "bert.pooler.dense.bias": (64,),
            "classifier.weight": (3, 64),
            "classifier.bias": (3,),
        },
    ),
    "token": ("BertForTokenClassification", {"classifier.weight": (5, 64), "classifier.bias": (5,)}),
    "colbert": ("HF_ColBERT", {"linear.weight": (32, 64)}),
}


def states_of(opened: OpenedEncoder) -> Array:
    return EncoderOracle(opened.config, opened.weights).states(TOKENS)


def body(variant: str, prefix: str = "") -> dict[str, Array]:
    values = tiny_encoder_values(variant)
    tensors = hf_tensors(values, tiny_encoder_weights(tiny_encoder_config(variant)))
    return {prefix + name: array for name, array in tensors.items()}


def opened_with(kind: str, **values: Any) -> OpenedEncoder:
    """BERT with one kind of head, as transformers names its tensors."""
    architecture, shapes = HEADS[kind]
    tensors = body("bert", "bert.") | random_weights(shapes)
    config = tiny_encoder_values("bert") | {"architectures": [architecture]} | values
    return mapped_encoder(EncoderContainer(values=config, tensors=stored(tensors)))


def gguf_with(variant: str, shapes: dict[str, tuple[int, ...]], **metadata: Any) -> OpenedEncoder:
    """An encoder of a GGUF file's metadata and tensors, with further tensors of these shapes."""
    config = tiny_encoder_config(variant)
    name = GGUF_NAMES.get(config.architecture, "bert")
    pairs = {f"{name}.{key}": value for key, value in (encoder_metadata(config) | metadata).items()}
    tensors = gguf_tensors(config, tiny_encoder_weights(config)) | random_weights(shapes)
    return encoder_from_gguf(pairs | {"general.architecture": name}, stored(tensors))


# what is refused


def refused(error: type[ModelError], words: str, action: Callable[[], object]) -> None:
    with pytest.raises(error, match=words):
        action()
