"""Gemma 3 as Ollama's converters wrote it: read as the same model, without its vision part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from miaotui.hub.formats.gguf import GgufFile, read_gguf
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.reading.from_gguf import config_from_gguf, tensors_from_gguf
from tiny_models import make_tiny_gguf

CONTEXT = np.uint32(131_072)  # of 4B and more, whose positions are scaled


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgufFile]:
    with read_gguf(make_tiny_gguf(tmp_path_factory.mktemp("gguf"), "gemma3")) as file:
        yield file


def without(metadata: dict[str, Any], *ends: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if not key.endswith(ends)}


def first(usual: GgufFile) -> dict[str, Any]:
    """The keys of `ollama show gemma3:1b --verbose`, beside those of dimensions."""
    kept = without(dict(usual.metadata), "rope.freq_base", "rope.freq_base_swa")
    own = {"rope.global.freq_base": 1e6, "rope.local.freq_base": 1e4, "final_logit_softcapping": 30.0}
    return kept | {f"gemma3.{key}": np.float32(value) for key, value in own.items()}


def later(usual: GgufFile) -> dict[str, Any]:
    """The keys of the converters after it, which name the second base alone and no epsilon."""
    kept = without(dict(usual.metadata), "rope.freq_base_swa", "rms_epsilon")
    return kept | {"gemma3.rope.local.freq_base": np.float32(1e4), "gemma3.mm.tokens_per_image": np.uint32(256)}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("keys", [first, later])
def test_the_same_model_is_read(usual: GgufFile, keys: Any, scaled: bool) -> None:
    expected: dict[str, Any] = dict(usual.metadata) | {"gemma3.rope.freq_base": np.float32(1e6)}
    if keys is later:
        expected["gemma3.attention.layer_norm_rms_epsilon"] = 1e-6
    found = keys(usual)
    if scaled:
        found["gemma3.context_length"] = expected["gemma3.context_length"] = CONTEXT
        expected |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": np.float32(8)}
    config = config_from_gguf(found, usual.tensors)
    assert config == config_from_gguf(expected, usual.tensors)
    assert (config.rope.theta, config.rope.factor, config.logit_softcap) == (1e6, 8.0 if scaled else 1.0, 0.0)


def test_values_under_their_usual_names_are_kept(usual: GgufFile) -> None:
    stated = {"gemma3.rope.freq_base": np.float32(5e5), "gemma3.final_logit_softcapping": np.float32(20)}
    scaling = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": np.float32(2)}
    config = config_from_gguf(later(usual) | stated | scaling | {"gemma3.context_length": CONTEXT}, usual.tensors)
    assert (config.rope.theta, config.rope.factor, config.logit_softcap) == (5e5, 2.0, 20.0)


def test_the_vision_part_is_left_out(usual: GgufFile, caplog: pytest.LogCaptureFixture) -> None:
    other = {
        name: StoredTensor(name, (2,), BlockType.F32, np.zeros(8, np.uint8))
        for name in ("v.blk.0.attn_k.weight", "mm.mm_input_projection.weight")
    }
    metadata, stored = later(usual), {**usual.tensors, **other}
    with caplog.at_level("INFO", logger="miaotui.model"):
        tensors = tensors_from_gguf(config_from_gguf(metadata, stored), metadata, stored)
    assert "2 tensors of the model's vision and audio parts are left out" in caplog.text
    assert set(tensors) == set(tensors_from_gguf(config_from_gguf(metadata, usual.tensors), metadata, usual.tensors))
