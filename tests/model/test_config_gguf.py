"""Configurations from GGUF metadata: agreement with config.json, refusals, nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf import GgufFile, read_gguf
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import ARCHITECTURES
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_gguf import config_from_gguf
from miaotui.model.rope import RopeConfig
from tiny_models import make_tiny_gguf, tiny_config
from tiny_variants import VARIANTS


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgufFile]:
    with read_gguf(make_tiny_gguf(tmp_path_factory.mktemp("gguf"), "llama")) as file:
        yield file


def config_with(file: GgufFile, **changes: Any) -> ModelConfig:
    """The configuration with metadata changed: ``__`` in a key stands for a dot, None removes."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    merged = {**file.metadata, **dotted}
    present = {key: value for key, value in merged.items() if value is not None}
    return config_from_gguf(present, file.tensors)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gguf_and_config_json_say_the_same(variant: str, tmp_path: Path) -> None:
    expected = tiny_config(variant)
    with read_gguf(make_tiny_gguf(tmp_path, variant)) as file:
        found = config_from_gguf(file.metadata, file.tensors)
    frequencies = expected.rope.inverse_frequencies()
    np.testing.assert_allclose(found.rope.inverse_frequencies(), frequencies, rtol=1e-6)
    assert found.rope.magnitude() == pytest.approx(expected.rope.magnitude())
    compared = [f.name for f in fields(ModelConfig) if f.name not in ("architecture", "rope", "long_context")]
    assert {n: getattr(found, n) for n in compared} == {n: getattr(expected, n) for n in compared}


def test_llama3_factors_come_from_their_tensor(tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, "llama-llama3")) as file:
        rope = config_from_gguf(file.metadata, file.tensors).rope
    assert rope.freq_factors is not None
    assert (rope.freq_factors[0], rope.freq_factors[-1]) == (1.0, 8.0)
    assert isinstance(rope, RopeConfig)


def test_a_mistral_file_is_called_llama_and_may_have_a_window(llama: GgufFile) -> None:
    assert set(config_with(llama, llama__attention__sliding_window=4096).windows) == {4096}
    assert set(config_with(llama).windows) == {0}


def test_rope_defaults_are_those_of_the_format(llama: GgufFile) -> None:
    config = config_with(llama, llama__rope__freq_base=None, llama__rope__dimension_count=None)
    assert (config.rope.theta, config.rope.dim) == (10_000.0, 32)


def test_old_linear_scaling_key_is_understood(llama: GgufFile) -> None:
    rope = config_with(llama, llama__rope__scale_linear=4.0).rope
    assert (rope.scaling, rope.factor) == ("linear", 4.0)


def test_equal_counts_per_layer_are_one_count(llama: GgufFile) -> None:
    assert config_with(llama, llama__attention__head_count_kv=[2, 2, 2]).n_kv_heads == 2
    with pytest.raises(UnsupportedModelError, match="head_count_kv"):
        config_with(llama, llama__attention__head_count_kv=[2, 1, 2])


@pytest.mark.parametrize(("variant", "layers", "scalar"), [("gemma2", 46, 144), ("gemma3", 62, 168)])
def test_the_largest_gemmas_scale_queries_by_their_own_number(
    variant: str, layers: int, scalar: int, tmp_path: Path
) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, variant)) as file:
        key = f"{variant}.block_count"
        metadata = {**file.metadata, key: layers}
        metadata.pop(f"{variant}.attention.scale", None)
        config = config_from_gguf(metadata, file.tensors)
        smaller = config_from_gguf({**metadata, key: 26}, file.tensors)
    assert config.attention_scale == pytest.approx(scalar**-0.5)
    assert smaller.attention_scale == pytest.approx(32**-0.5)


def test_gemma2_soft_caps_are_known_even_if_the_file_lacks_them(tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, "gemma2")) as file:
        bare = {key: value for key, value in file.metadata.items() if "softcapping" not in key}
        config = config_from_gguf(bare, file.tensors)
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)


def test_an_unknown_architecture_is_refused_with_the_known_ones(llama: GgufFile) -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        config_with(llama, general__architecture="rwkv7")
    assert "'rwkv7'" in str(refusal.value)
    assert all(entry.gguf in str(refusal.value) for entry in ARCHITECTURES if entry.gguf)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.type", "adapter", "adapter"),
        ("llama.logit_scale", 0.125, "scaled logits"),
        ("llama.attention.causal", False, "encoder"),
        ("llama.rope.scaling.type", "dynamic", "dynamic"),
        ("llama.attention.value_length", 64, "64"),
        ("llama.logit_scale", 0.5, "scaled logits"),
        ("llama.feed_forward_length", [96, 128, 96], "feed_forward_length"),
        ("llama.embedding_length", 48, "hidden size is 48"),
    ],
)
def test_unusual_features_are_refused_by_name(llama: GgufFile, key: str, value: object, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        config_with(llama, **{key: value})


def test_experts_of_an_architecture_without_them_are_refused(tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, "qwen3")) as file, pytest.raises(UnsupportedModelError, match="mixture"):
        config_with(file, qwen3__expert_count=8)


def test_a_mixture_without_experts_is_refused(tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, "qwen3-moe")) as file:
        with pytest.raises(ModelFormatError, match="number of experts"):
            config_with(file, qwen3moe__expert_count=0)
        with pytest.raises(ModelFormatError, match=r"chosen experts.*\[1, 8\]"):
            config_with(file, qwen3moe__expert_used_count=9)


def test_a_window_of_unknown_layers_is_refused(tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, "qwen2")) as file, pytest.raises(UnsupportedModelError, match="window"):
        config_with(file, qwen2__attention__sliding_window=8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", None),
        ("llama.block_count", 0),
        ("llama.block_count", 1 << 31),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", "four"),
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.key_length", 1 << 20),
        ("llama.attention.layer_norm_rms_epsilon", None),
        ("llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("llama.context_length", None),
        ("llama.rope.freq_base", float("inf")),
        ("llama.attention.sliding_window", -1),
        ("llama.attention.sliding_window_pattern", [True]),
    ],
)
def test_nonsense_is_refused(llama: GgufFile, key: str, value: object) -> None:
    with pytest.raises(ModelFormatError, match=r"model|lacks"):
        config_with(llama, **{key: value})


def test_the_embedding_must_be_a_matrix(llama: GgufFile) -> None:
    flat = replace(llama.tensors["token_embd.weight"], shape=(320 * 64,))
    for tensors in ({}, {"token_embd.weight": flat}):
        with pytest.raises(ModelFormatError, match="token_embd"):
            config_from_gguf(llama.metadata, tensors)


def test_frequency_factors_of_another_count_are_refused(llama: GgufFile) -> None:
    norm = llama.tensors["output_norm.weight"]
    with pytest.raises(ModelFormatError, match="16 numbers"):
        config_from_gguf(llama.metadata, {**llama.tensors, "rope_freqs.weight": norm})


SCALARS = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)


@given(data=st.data())
def test_any_value_gives_a_configuration_or_a_model_error(llama: GgufFile, data: st.DataObject) -> None:
    keys = [key for key in llama.metadata if not key.startswith("tokenizer.")]
    more = ["llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.attention.scale"]
    changes = data.draw(
        st.dictionaries(st.sampled_from(keys + more), SCALARS | st.lists(SCALARS, max_size=4), max_size=3)
    )
    with suppress(ModelError):
        config = config_from_gguf({**llama.metadata, **changes}, llama.tensors)
        assert len(config.rope_layers) == config.n_layers


def test_a_part_of_each_head_may_be_rotated(tmp_path: Path) -> None:
    """Rows of pairs that lie side by side are reordered within that part."""
    with open_model(make_tiny_gguf(tmp_path, "glm")) as files:
        assert (files.config.rope.dim, files.config.head_dim) == (16, 32)


@pytest.mark.parametrize(("layers", "bias", "alibi"), [(32, None, False), (40, None, True), (2, 8.0, True)])
def test_baichuan_of_40_layers_has_alibi(layers: int, bias: float | None, alibi: bool, tmp_path: Path) -> None:
    """llama.cpp tells 13B by its layers; the key of other architectures says it too."""
    with open_model(make_tiny_gguf(tmp_path, "baichuan")) as files:
        metadata = {**(files.metadata or {}), "baichuan.block_count": np.uint32(layers)}
        tensors = {"token_embd.weight": StoredTensor("", (320, 64), BlockType.F32, np.zeros((320, 256), np.uint8))}
    if bias is not None:
        metadata["baichuan.attention.max_alibi_bias"] = np.float32(bias)
    config = config_from_gguf(metadata, tensors)
    assert (config.alibi, any(config.rope_layers)) == (alibi, not alibi)
    with pytest.raises(UnsupportedModelError, match="ALiBi with a bias of 4"):
        config_from_gguf(metadata | {"baichuan.attention.max_alibi_bias": np.float32(4)}, tensors)


def test_a_longer_context_has_longropes_long_factors(tmp_path: Path) -> None:
    with open_model(make_tiny_gguf(tmp_path, "phi3-longrope")) as files:
        metadata, tensors = dict(files.metadata or {}), files.tensors.stored  # type: ignore[attr-defined]
    original = config_from_gguf(metadata | {"phi3.context_length": np.uint32(64)}, tensors)
    assert original.long_context is None, "its context is the original one"
    config = config_from_gguf(metadata, tensors)
    assert (config.context_length, config.for_context(65).context_length) == (64, 256)
    assert config.for_context(65).rope.freq_factors == tuple(2.0 + i for i in range(8))
    assert config.rope.freq_factors == pytest.approx([1.0 + 0.1 * i for i in range(8)])
