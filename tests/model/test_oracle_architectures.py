"""The oracle's logits equal those of transformers in float32, for every architecture and variant.

transformers builds a tiny random model and saves it; `open_model` reads that folder. Texts are
several windows long, and models deep enough to have every kind of layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_hf import config_from_hf
from tiny_models import tiny_config, tiny_values
from tiny_variants import STANDS_FOR, VARIANTS

N_TOKENS = 48  # six windows
RESIDUAL = {
    "granite": 0.25,
    "granitemoe": 0.25,
    "minicpm": 0.5,
    "minicpm3": 0.5,
}  # factors of what layers add; our streams are divided by them
TOLERANCE = 2e-4  # of the largest logit

pytestmark = pytest.mark.compare


def random_model(variant: str, seed: int, values: dict[str, Any] | None = None) -> Any:
    """A transformers model with random weights everywhere, norms and biases too."""
    import torch  # noqa: PLC0415  (only these tests have it)
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    values = dict(values or tiny_values(variant) | STANDS_FOR.get(variant, {}))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    gemma = variant.startswith(("gemma2", "gemma3")) and variant != "gemma3n"
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" in name:
                weights.normal_(0.0 if gemma else 1.0, 0.3)
            elif weights.ndim == 1:
                weights.normal_(0.0, 0.3)
            else:
                weights.normal_(0.0, 1.5 / weights.shape[1] ** 0.5)
        for name, values_ in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                values_.normal_(0.0, 0.1)
            if name.endswith("layer_scalar"):
                values_.uniform_(0.5, 1.5)
    return model


def _save(model: Any, variant: str, folder: Path) -> None:
    """Write the folder of a model; one that stands for another under that one's configuration and names."""
    model.save_pretrained(folder)
    if variant not in STANDS_FOR:
        return
    (folder / "config.json").write_text(json.dumps(tiny_values(variant)))
    tensors = load_file(folder / "model.safetensors")
    config = config_from_hf(tiny_values(variant))
    if variant == "internlm2":
        tensors = dict(_internlm2_names(config, tensors))
    if variant.startswith("baichuan"):
        for layer in range(config.n_layers):
            prefix = f"model.layers.{layer}.self_attn."
            parts = [tensors.pop(f"{prefix}{letter}_proj.weight") for letter in "qkv"]
            tensors[f"{prefix}W_pack.weight"] = np.concatenate(parts)
    save_file(tensors, folder / "model.safetensors")


def _internlm2_names(config: ModelConfig, tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A Llama's tensors as InternLM 2 names and joins them."""
    renamed = {
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "self_attn.o_proj": "attention.wo",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    for name, values in tensors.items():
        if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            continue
        old = next((old for old in renamed if old in name), "")
        yield name.replace(old, renamed.get(old, "")) if old else name, values
    for layer in range(config.n_layers):
        parts = [tensors[f"model.layers.{layer}.self_attn.{letter}_proj.weight"] for letter in "qkv"]
        heads = [part.reshape(config.n_kv_heads, -1, config.head_dim, config.hidden_size) for part in parts]
        yield f"model.layers.{layer}.attention.wqkv.weight", np.concatenate(heads, 1).reshape(-1, config.hidden_size)


def _alibi(variant: str) -> dict[str, Any]:
    """What turns a Llama into Baichuan 13B: BLOOM's ALiBi as an attention mask, and no rotation."""
    import torch  # noqa: PLC0415
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: PLC0415

    heads = tiny_config(variant).n_heads
    if not tiny_config(variant).alibi:
        return {}
    bias = build_alibi_tensor(torch.ones(1, N_TOKENS), heads, torch.float32).reshape(1, heads, 1, N_TOKENS)
    later = torch.full((N_TOKENS, N_TOKENS), -torch.inf).triu(1)
    return {"attention_mask": bias + later, "position_ids": torch.zeros(1, N_TOKENS, dtype=torch.int64)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    model = random_model(variant, seed=7)
    _save(model, variant, tmp_path)
    tokens = np.random.default_rng(3).integers(0, 320, N_TOKENS).tolist()
    with torch.no_grad():
        output = model(torch.tensor([tokens]), output_hidden_states=True, **_alibi(variant))
    expected = output.logits[0].numpy()
    with open_model(tmp_path) as files:
        oracle = Oracle(files.config, files.tensors)
    found = oracle.logits(tokens)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE
    for layer in range(files.config.n_layers):  # transformers' last one is after the final norm
        state = output.hidden_states[layer]
        if state.ndim == 4:  # streams come first
            state = state.permute(1, 2, 0, 3).flatten(2)
        state = state[0].numpy() / RESIDUAL.get(variant, 1.0)
        difference = oracle.hidden_states(tokens)[layer][:, : state.shape[1]] - state
        assert np.abs(difference).max() <= TOLERANCE * np.abs(state).max()


def test_a_text_longer_than_longropes_original_context_equals_transformers(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    model = random_model("phi3-longrope", seed=7)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(3).integers(0, 320, 90).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    with open_model(tmp_path) as files:
        long, short = (Oracle(files.config.for_context(n), files.tensors).logits(tokens) for n in (90, None))
    assert np.abs(long - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(short - expected).max() > 10 * TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", ["gemma4_unified_text", "gemma4_text"])
def test_the_larger_models_of_gemma_4_equal_transformers(name: str, tmp_path: Path) -> None:
    """Without inputs of layers; keys of layers without a window are their values as well."""
    import torch  # noqa: PLC0415

    others = {"per_layer_config", "vocab_size_per_layer_input", "use_double_wide_mlp", "hidden_size_per_layer_input"}
    values = {key: value for key, value in tiny_values("gemma4").items() if key not in others}
    values |= {"model_type": name, "num_kv_shared_layers": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
    if name == "gemma4_text":
        values |= {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
    model = random_model("gemma4", 5, values)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(4).integers(0, 320, N_TOKENS).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    with open_model(tmp_path) as files:
        assert files.config.layer_inputs is None
        found = Oracle(files.config, files.tensors).logits(tokens)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
