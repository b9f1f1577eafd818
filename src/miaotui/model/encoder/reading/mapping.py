"""A container's contents under canonical names: configuration, weights, head and pooling, checked together.

Knows `from_hf` and `heads_from_hf`, which read the parts. Invariant: every stored tensor is used, or named as one that
may be ignored; every canonical tensor is there and has its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_WIDTH
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.container import EncoderContainer, OpenedEncoder, SentenceSettings
from miaotui.model.encoder.heads import HeadConfig, PoolingConfig, head_shapes
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.reading.from_hf import (
    canonical_spelling,
    encoder_config_from_hf,
    encoder_sources,
    ignored_tensors,
)
from miaotui.model.encoder.reading.heads_from_hf import COLBERT, read_head
from miaotui.model.reading.checks import require_count
from miaotui.model.reading.sources import CanonicalTensors, TensorSource

MODULE = "modules"  # prefix of the tensors of sentence-transformers' dense modules


def mapped_encoder(container: EncoderContainer) -> OpenedEncoder:
    """Return the encoder in a container; raises `ModelFormatError` or `UnsupportedModelError`."""
    sentence = container.sentence or SentenceSettings()
    config = encoder_config_from_hf(container.values)
    if sentence.max_tokens is not None:
        config = replace(config, max_tokens=min(config.max_tokens, sentence.max_tokens))
    stored = dict(canonical_spelling(container.tensors)) | _module_tensors(sentence)
    prefix, sources = encoder_sources(config, container.values, stored)
    head = read_head(config, container.values, stored, prefix, container.sentence)
    check_pooling(config, sentence.pooling)
    shapes = encoder_shapes(config) | dict(head.shapes) | _dense_shapes(config, sentence.pooling)
    sources = sources | dict(head.sources) | _dense_sources(shapes)
    ignored = (*ignored_tensors(container.values, stored), *head.ignored)
    return OpenedEncoder(
        config=config,
        weights=CanonicalTensors(shapes, stored, sources, ignored),
        head=head.head,
        pooling=sentence.pooling,
        prompts=sentence.prompts,
        default_prompt=sentence.default_prompt,
        similarity=sentence.similarity,
        dimensions=_dimensions(container.values),
        lower_case=sentence.do_lower_case,
        metadata=container.metadata,
        folder=container.folder,
        release=container.release,
    )


def _dimensions(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the lengths that embeddings may be cut to, as ``config.json`` names them for vLLM."""
    named = values.get("matryoshka_dimensions")
    if isinstance(named, list) and named:
        for length in named:
            require_count("matryoshka dimension", length, MAX_WIDTH)
        return tuple(sorted(named))
    return (1,) if values.get("is_matryoshka") is True else ()


def check_pooling(config: EncoderConfig, pooling: PoolingConfig | None) -> None:
    """Raise `ModelFormatError` unless each dense module takes the width of what comes before it."""
    if pooling is None:
        return
    width = config.hidden_size * len(pooling.modes)
    for index, dense in enumerate(pooling.dense):
        if dense.inputs != width:
            raise ModelFormatError(
                f"dense module {index} takes {dense.inputs} values, but {width} come before it: the folder's parts are "
                "of different models; download it again"
            )
        width = dense.outputs


def _module_tensors(sentence: SentenceSettings) -> dict[str, StoredTensor]:
    """Return the dense modules' tensors under names of their own; a ColBERT's is its head's matrix."""
    if sentence.pipeline == "colbert":
        return {name.replace("0.", f"{COLBERT[0]}.", 1): tensor for name, tensor in sentence.dense.items()}
    return {f"{MODULE}.{name}": tensor for name, tensor in sentence.dense.items()}


def _dense_shapes(config: EncoderConfig, pooling: PoolingConfig | None) -> dict[str, tuple[int, ...]]:
    return head_shapes(config, HeadConfig(), pooling)


def _dense_sources(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorSource]:
    """Return the sources of the dense modules' tensors, ``head.dense.{index}(_bias)``."""
    sources = {}
    for name in shapes:
        if name.startswith("head.dense."):
            index = name.removeprefix("head.dense.").removesuffix("_bias")
            kind = "bias" if name.endswith("_bias") else "weight"
            sources[name] = TensorSource(f"{MODULE}.{index}.{kind}")
    return sources
