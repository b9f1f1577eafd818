"""Mutated configurations and tensors: an encoder that works, or one clear `ModelError`; no other exception, no cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import ModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.container import EncoderContainer, OpenedEncoder
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.reading.from_gguf import encoder_from_gguf
from miaotui.model.encoder.reading.mapping import mapped_encoder
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import (
    VARIANTS,
    encoder_metadata,
    gguf_tensors,
    hf_tensors,
    random_weights,
    stored,
    tiny_encoder_config,
    tiny_encoder_values,
    tiny_encoder_weights,
)

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 400),
    st.sampled_from([1 << 31, 1 << 62, 10**30, -(1 << 63)]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["gelu", "silu", "absolute", "alibi", "geglu", "ntk", "layer_norm", "cls", "c2p|p2c"]),
    st.lists(st.integers(-1, 3), max_size=5),
    st.dictionaries(st.sampled_from(["0", "1", "type", "factor", "rope_theta"]), st.integers(0, 9), max_size=3),
)
KEYS = sorted({key for variant in VARIANTS for key in tiny_encoder_values(variant)})
MORE = ["architectures", "id2label", "problem_type", "rope_scaling", "rope_parameters", "layer_types", "embedding_size"]
MORE += ["tie_word_embeddings", "classifier_pooling", "sentence_transformers", "n_embd", "rotary_scaling_factor"]
ARCHITECTURES = [
    "BertModel",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "ColBERT",
]
HEAD = {
    "linear.weight": (32, 64),
    "classifier.weight": (3, 64),
    "classifier.bias": (3,),
    "pooler.dense.weight": (64, 64),
}
SHAPES = st.lists(st.sampled_from([1, 3, 31, 32, 64, 96, 320]), min_size=1, max_size=3).map(tuple)


def used(opened: OpenedEncoder) -> None:
    """Use all that was opened: what passed the checks must work."""
    if sum(int(np.prod(shape)) for shape in encoder_shapes(opened.config).values()) > 1 << 22:
        return
    tokens = [0] * min(3, opened.config.max_tokens)
    states = EncoderOracle(opened.config, opened.weights).states(tokens)
    assert states.shape == (len(tokens), opened.config.hidden_size)
    if opened.head.kind != "none":
        TaskHead(opened.config, opened.head, opened.weights).logits(states)


def tried(opening: Any) -> None:
    try:
        opened = opening()
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)
        assert len(str(error)) < 2000  # noqa: PT017
        return
    with np.errstate(all="ignore"):
        used(opened)


TENSORS = {
    variant: stored(hf_tensors(tiny_encoder_values(variant), tiny_encoder_weights(tiny_encoder_config(variant))))
    for variant in VARIANTS
}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from([*KEYS, *MORE]), ODD, max_size=3), st.sampled_from(ARCHITECTURES), st.booleans())
def test_configurations(variant: str, changes: dict[str, Any], architecture: str, with_head: bool) -> None:
    values = tiny_encoder_values(variant) | {"architectures": [architecture]} | changes
    tensors: dict[str, StoredTensor] = TENSORS[variant] | (stored(random_weights(HEAD)) if with_head else {})
    tried(lambda: mapped_encoder(EncoderContainer(values=values, tensors=tensors)))


@pytest.mark.parametrize("variant", ["bert", "modernbert", "gte", "deberta-v3"])
@settings(max_examples=25)
@given(st.data())
def test_tensors(variant: str, data: st.DataObject) -> None:
    tensors = dict(TENSORS[variant])
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2, unique=True)):
        shape = data.draw(SHAPES)
        del tensors[name]
        if data.draw(st.booleans()):
            tensors |= stored({data.draw(st.sampled_from([name, "x", name + ".x"])): np.zeros(shape, np.float32)})
    values = tiny_encoder_values(variant)
    tried(lambda: mapped_encoder(EncoderContainer(values=values, tensors=tensors)))


GGUF = {"bert": "bert", "nomic-bert": "nomic-bert", "jina-bert-v2": "jina-bert-v2", "modernbert": "modern-bert"}
GGUF_TENSORS = {
    variant: stored(gguf_tensors(tiny_encoder_config(variant), tiny_encoder_weights(tiny_encoder_config(variant))))
    for variant in GGUF
}
GGUF_MORE = ["classifier.output_labels", "hidden_act", "rope.dimension_count"]


@pytest.mark.parametrize("variant", GGUF)
@settings(max_examples=25)
@given(st.data())
def test_gguf(variant: str, data: st.DataObject) -> None:
    metadata = encoder_metadata(tiny_encoder_config(variant))
    metadata |= data.draw(st.dictionaries(st.sampled_from([*metadata, *GGUF_MORE]), ODD, max_size=2))
    named = {f"{GGUF[variant]}.{key}": value for key, value in metadata.items()}
    tensors = dict(GGUF_TENSORS[variant])
    if data.draw(st.booleans()):
        tensors |= stored(
            random_weights({"cls.weight": (64, 64), "cls.output.weight": (data.draw(st.integers(1, 3)), 64)})
        )
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensors |= stored({name: np.zeros(data.draw(SHAPES), np.float32)})
    tried(lambda: encoder_from_gguf(named | {"general.architecture": GGUF[variant]}, tensors))
