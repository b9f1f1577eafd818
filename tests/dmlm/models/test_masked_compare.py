"""Models that restore masked tokens equal transformers' layers with the same pattern of attention, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miaotui.model.formulas import visible
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tiny_masked import COMMON, MASKED, masked_config, masked_values

pytestmark = pytest.mark.compare
LIKE = {  # the family whose layers each is made of
    "llada": "llama",
    "llada_moe": "qwen3_moe",
    "dream": "qwen2",
    "a2d_qwen2": "qwen2",
    "a2d_qwen3": "qwen3",
    "bd3lm": "qwen3",
    "rnd1": "qwen3_moe",
}
LLADA = {
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
    "model.layers": "model.transformer.blocks",
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def decoder(variant: str) -> Any:
    import torch  # noqa: PLC0415  (only these tests have it)
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    torch.manual_seed(7)
    values = {**COMMON, **MASKED[variant]} if variant != "llada" else {**COMMON, "num_key_value_heads": 4}
    values |= {"norm_topk_prob": variant == "rnd1", "moe_intermediate_size": 32, "head_dim": 16}
    values = {
        name: value for name, value in values.items() if name not in ("model_type", "block_size", "moe_layer_freq")
    }
    config = AutoConfig.for_model(LIKE[variant], **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            scale = 0.3 if weights.ndim == 1 else 1.5 / weights.shape[-1] ** 0.5
            weights.normal_(1.0 if "norm" in name else 0.0, scale)
    return model


def saved(model: Any, variant: str, folder: Path) -> Path:
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    if variant == "llada":
        for old, new in LLADA.items():
            tensors = {name.replace(old, new): array for name, array in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(masked_values(variant)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("variant", MASKED)
def test_logits_equal_the_reference_blocks(variant: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    model = decoder(variant)
    text = np.random.default_rng(1).integers(0, 300, 24)
    block = masked_config(variant).attention_block
    seen = visible(np.arange(24), 24, 0, block == 0, block)
    mask = torch.zeros(1, 1, 24, 24).masked_fill(~torch.from_numpy(seen)[None, None], torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = model(torch.from_numpy(text)[None], attention_mask=mask, use_cache=False).logits[0].numpy()
        causal = model(torch.from_numpy(text)[None], use_cache=False).logits[0].numpy()
    with open_model(saved(model, variant, tmp_path)) as files:
        found = Oracle(files.config, files.tensors).logits(text.tolist())
    assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()
    assert np.abs(found - causal).max() > 1e-2 * np.abs(expected).max()
