"""Configurations from config.json: published models, both spellings of rope, refusals, nonsense."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.model.reading.families import ARCHITECTURES
from miaotui.model.reading.from_hf import config_from_hf
from miaotui.model.reading.names import tensor_shapes
from tiny_models import tiny_config, tiny_values
from tiny_variants import VARIANTS

# The keys that matter of published files.
LLAMA_32_1B = {
    "model_type": "llama",
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
MISTRAL_7B_V01 = {
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN3_06B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA3_4B_TEXT = {  # as sparse as it was published
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
PHI3_MINI_128K = {
    "model_type": "phi3",
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}

KEYS = sorted(
    {key for variant in VARIANTS for key in tiny_values(variant)}
    | {"rope_parameters", "layer_types", "no_rope_layers", "sliding_window_pattern"}
)
ROPE_KEYS = sorted(
    {key for variant in VARIANTS for key in tiny_values(variant).get("rope_scaling", {})}
    | {"full_attention", "sliding_attention", "mscale", "mscale_all_dim", "rope_theta", "truncate"}
)


def test_llama_32_1b() -> None:
    config = config_from_hf(LLAMA_32_1B)
    assert config.rope.scaling == "llama3"
    assert config.attention_scale == 0.125
    shapes = tensor_shapes(config)
    assert "head" not in shapes
    assert shapes["layers.15.k"] == (512, 2048)
    assert sum(math.prod(shape) for shape in shapes.values()) == 1_235_814_400


def test_mistral_7b_has_a_window_in_every_layer_unless_it_says_null() -> None:
    assert set(config_from_hf(MISTRAL_7B_V01).windows) == {4096}
    assert set(config_from_hf(MISTRAL_7B_V01 | {"sliding_window": None}).windows) == {0}


def test_qwen3_has_heads_wider_than_its_hidden_size() -> None:
    config = config_from_hf(QWEN3_06B)
    assert tensor_shapes(config)["layers.0.q"] == (2048, 1024)
    assert tensor_shapes(config)["layers.0.q_norm"] == (128,)
    assert set(config.windows) == {0}


def test_gemma3_4b_fills_in_what_its_file_leaves_out() -> None:
    config = config_from_hf(GEMMA3_4B_TEXT)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (8, 4, 256)
    assert config.windows[:12] == (1024,) * 5 + (0,) + (1024,) * 5 + (0,)
    assert (config.rope.scaling, config.rope.factor, config.rope.theta) == ("linear", 8.0, 1e6)
    local = config.layer_rope(0)
    assert local is not None
    assert (local.scaling, local.theta) == ("none", 10_000.0)
    assert config.layer_rope(5) is config.rope
    assert config.attention_scale == 1 / 16
    assert config.tied_head


def test_smollm3_skips_rope_in_every_fourth_layer() -> None:
    config = tiny_config("smollm3")
    assert config.rope_layers == (True, True, True, False, True)
    assert config.layer_rope(3) is None


def test_longrope_is_used_up_to_its_original_context() -> None:
    config = config_from_hf(PHI3_MINI_128K)
    assert config.context_length == 4096
    assert config.rope.freq_factors == (1.0,) * 48
    assert config.rope.magnitude() == pytest.approx(1.19023807)
    assert config.for_context(None) is config.for_context(4096) is config


def test_a_longer_context_has_longropes_long_factors() -> None:
    config = config_from_hf(PHI3_MINI_128K).for_context(4097)
    assert config.context_length == 131072
    assert config.rope.freq_factors == (2.0,) * 48
    assert config.rope.magnitude() == pytest.approx(1.19023807)
    assert config.for_context(1 << 20) is config


def test_yarn_extends_the_context() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = config_from_hf(QWEN3_06B | {"rope_scaling": yarn, "max_position_embeddings": 32768})
    assert config.context_length == 131072


def test_both_spellings_of_rope_mean_the_same() -> None:
    old = tiny_values("llama-llama3")
    new = {key: value for key, value in old.items() if not key.startswith("rope_")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": old["rope_theta"]}
    assert config_from_hf(old) == config_from_hf(new)


def test_both_spellings_of_gemma3_rope_mean_the_same() -> None:
    old = tiny_values("gemma3-linear", rope_local_base_freq=20_000.0)
    dropped = ("rope_theta", "rope_scaling", "rope_local_base_freq")
    new = {key: value for key, value in old.items() if key not in dropped}
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
    }
    assert config_from_hf(old) == config_from_hf(new)


def test_layer_types_override_the_pattern() -> None:
    types = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    assert tiny_config("gemma2", layer_types=types).windows == (0, 8, 0, 0)
    with pytest.raises(UnsupportedModelError, match="chunked_attention"):
        tiny_config("gemma2", layer_types=["chunked_attention"] * 4)
    with pytest.raises(ModelFormatError, match="windows"):
        tiny_config("gemma2", layer_types=types[:3])


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        config_from_hf(LLAMA_32_1B | {"model_type": "mamba"})
    assert "'mamba'" in str(refusal.value)
    assert all(entry.hf in str(refusal.value) for entry in ARCHITECTURES if entry.hf)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"vision_config": {"depth": 1}}, "vision"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"mlp_bias": True}, "biases"),
        ({"use_bidirectional_attention": True}, "encoder"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "ntk"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1, 1]}}, "default"),
        ({"head_dim": 44}, "head dimension is 44"),
        ({"hidden_size": 100, "head_dim": 32}, "hidden size is 100"),
        ({"intermediate_size": 33}, "feed-forward size is 33"),
    ],
)
def test_unusual_features_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        config_from_hf(LLAMA_32_1B | values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "2048"}, "hidden_size"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"num_attention_heads": 1 << 17}, "head count"),
        ({"num_key_value_heads": 5}, "head count"),
        ({"num_key_value_heads": 64}, "key/value"),
        ({"rms_norm_eps": 0}, "epsilon"),
        ({"rope_theta": -1.0}, "theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"max_position_embeddings": 1 << 60}, "max_position_embeddings"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ],
)
def test_nonsense_is_refused_with_the_key(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFormatError, match=named):
        config_from_hf(LLAMA_32_1B | values)


def test_missing_keys_are_named() -> None:
    for key in ("model_type", "vocab_size", "intermediate_size", "max_position_embeddings"):
        with pytest.raises(ModelFormatError, match=key):
            config_from_hf({k: v for k, v in LLAMA_32_1B.items() if k != key})


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ROPE_KEYS), inner, max_size=4),
    max_leaves=8,
)


@given(variant=st.sampled_from(sorted(VARIANTS)), key=st.sampled_from(KEYS), value=JSON)
def test_any_value_gives_a_configuration_or_a_model_error(variant: str, key: str, value: object) -> None:
    with suppress(ModelError):
        config = config_from_hf(tiny_values(variant) | {key: value})
        assert len(config.windows) == config.n_layers
