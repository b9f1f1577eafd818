"""Files of Gemma 3n and Gemma 4: parts that only some layers have, text parts of larger models, and nonsense."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miaotui.backends.cpu.shape_limits import require_runnable
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.build import reference_sizes
from miaotui.backends.reference.cache import KeyValueCache
from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.model.config import LayerShape, StreamsConfig
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_gguf import config_from_gguf
from miaotui.model.reading.from_hf import config_from_hf
from tiny_models import make_tiny_folder, make_tiny_gguf, tiny_config, tiny_values


@pytest.mark.parametrize(
    ("family", "start"), [("gemma3n", "model.language_model."), ("gemma4", "language_model.model.")]
)
def test_the_text_part_of_a_model_that_sees_and_hears(
    family: str, start: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_tiny_folder(tmp_path, family)
    whole = tmp_path / "whole"
    whole.mkdir()
    values = json.loads((plain / "config.json").read_text())
    outer = {"model_type": family, "text_config": values, "vision_config": {"depth": 1}, "audio_config": {}}
    (whole / "config.json").write_text(json.dumps(outer))
    tensors = {name.replace("model.", start, 1): each for name, each in load_file(plain / "model.safetensors").items()}
    others = ("model.vision_tower.stem.weight", "model.embed_audio.norm.weight", "model.audio_tower.a.bias")
    save_file(tensors | dict.fromkeys(others, np.zeros(3, np.float32)), whole / "model.safetensors")
    with caplog.at_level(logging.INFO, "miaotui.model"), open_model(plain) as expected, open_model(whole) as found:
        assert found.config == expected.config
        for name, tensor in expected.tensors.items():
            np.testing.assert_array_equal(found.tensors[name].float32(), tensor.float32())
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["3 tensors of the model's vision and audio parts are left out: it reads text alone"]


def test_keys_that_are_values_too_and_a_model_without_inputs_of_layers(tmp_path: Path) -> None:
    """As the larger ones of Gemma 4: no layer has inputs, and full layers use their keys as values."""
    larger: dict[str, Any] = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "attention_k_eq_v": True}
    path = make_tiny_folder(tmp_path, "gemma4", **larger)
    tensors = load_file(path / "model.safetensors")
    for layer in (1, 3, 4):
        del tensors[f"model.layers.{layer}.self_attn.v_proj.weight"]
    save_file(tensors, path / "model.safetensors")
    with open_model(path) as files:
        assert files.config.layer_inputs is None
        for layer in (1, 3, 4):
            keys, values = (files.tensors[f"layers.{layer}.{name}"].float32() for name in "kv")
            np.testing.assert_array_equal(keys, values)
    del tensors["model.layers.2.self_attn.v_proj.weight"]  # of a layer with a window
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ModelFormatError, match=r"layers\.2\.self_attn\.v_proj\.weight.*missing"):
        open_model(path)


def test_pages_hold_only_what_layers_have(tmp_path: Path) -> None:
    config = tiny_config("gemma4")
    assert config.kv_layers == (0, 1, 2, 1, 1)
    assert config.kv_values == 2 * 2 * 32 + 1 * 64
    assert tiny_config("llama").kv_values == 3 * 2 * 32
    assert reference_sizes(config, EngineOptions(backend="reference", context=64)).limits.state_size == 64 + 5 * 32
    with pytest.raises(UnsupportedModelError, match="layer 3 sees the keys of layer 1"):
        KeyValueCache(config, range(2, 5), 4)


HF_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3n", {"altup_num_inputs": 2}, "2 residual streams"),
    ("gemma3n", {"altup_active_idx": 1}, "altup_active_idx"),
    ("gemma3n", {"altup_correct_scale": False}, "altup_correct_scale"),
    ("gemma3n", {"activation_sparsity_pattern": [0.95]}, "activation_sparsity_pattern"),
    ("gemma3n", {"activation_sparsity_pattern": [0.95, 1.0, 0.0, 0.0, 0.0]}, "activation_sparsity_pattern"),
    ("gemma3n", {"activation_sparsity_pattern": [0.95, "x", 0.0, 0.0, 0.0]}, "a list of numbers"),
    ("gemma3n", {"num_kv_shared_layers": 5}, "shared keys"),
    ("gemma3n", {"num_kv_shared_layers": 4}, "behind one of the same window"),
    ("gemma3n", {"laurel_rank": 0}, "laurel_rank"),
    ("gemma3n", {"hidden_size_per_layer_input": 40}, "inputs of 40 values"),
    ("gemma3n", {"hidden_size_per_layer_input": 0}, "without layer inputs"),
    ("gemma3n", {"intermediate_size": [96, 96]}, "ffn_size"),
    ("gemma4", {"enable_moe_block": True}, "number of experts"),
    ("gemma4-moe", {"top_k_experts": 9}, "number of chosen experts|top_k_experts"),
    ("gemma4-moe", {"moe_intermediate_size": 40}, "expert width is 40"),
    ("gemma4", {"global_head_dim": 1 << 20}, "global_head_dim"),
    ("gemma4", {"per_layer_config": {"1": {"head_dim": 64, "num_key_value_heads": 0}}}, "num_key_value_heads"),
    ("gemma4", {"use_bidirectional_attention": "all"}, "bidirectional"),
    ("gemma4", {"text_config": {}, "model_type": "gemma4_unified"}, "lacks"),
]


@pytest.mark.parametrize(("variant", "changes", "message"), HF_FAULTS)
def test_nonsense_in_a_configuration_is_refused(variant: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config_from_hf(tiny_values(variant, **changes))


GGUF_FAULTS: list[tuple[str, str, Any, str]] = [
    ("gemma3n", "altup.active_idx", np.uint32(2), "computes stream 2 of several"),
    ("gemma3n", "activation_sparsity_scale", np.float32([1, 2]), "activation_sparsity_scale"),
    ("gemma4", "expert_count", np.uint32(128), "expert_used_count"),
    ("gemma4", "attention.head_count_kv", np.int32([1, 2]), "n_kv_heads"),
    ("gemma4", "attention.shared_kv_layers", np.uint32(7), "shared keys"),
    ("gemma4", "attention.key_length_swa", np.uint32(0), "key_length_swa"),
]


@pytest.mark.parametrize(("variant", "key", "value", "message"), GGUF_FAULTS)
def test_nonsense_in_metadata_is_refused(variant: str, key: str, value: Any, message: str, tmp_path: Path) -> None:
    with read_gguf(make_tiny_gguf(tmp_path, variant)) as file, pytest.raises(ModelError, match=message):
        config_from_gguf({**file.metadata, f"{variant}.{key}": value}, file.tensors)


def test_parts_that_no_program_here_computes_are_refused() -> None:
    config = tiny_config("gemma3n")
    with pytest.raises(UnsupportedModelError, match="rank 40"):
        require_runnable(replace(config, streams=StreamsConfig(40)))
    with pytest.raises(UnsupportedModelError, match="sparse gates without GELU"):
        require_runnable(replace(config, activation="silu"))
    with pytest.raises(UnsupportedModelError, match="beside other parts than"):
        replace(tiny_config("llama"), kv_layers=(0, 0, 0))
    shape = LayerShape(64, 1, 96)
    with pytest.raises(ModelFormatError, match="shared keys"):
        replace(tiny_config("gemma2"), kv_layers=(0, 1, 0, 1), shapes=(shape, shape, LayerShape(32, 1, 96), shape))
