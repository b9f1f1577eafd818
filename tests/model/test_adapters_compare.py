"""Adapters against torch: logits with an adapter equal those of transformers with its change merged in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_files import Pairs, random_pairs, write_gguf_adapter, write_peft
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.compare

SHAPES = {
    "self_attn.q_proj": (128, 64),
    "self_attn.k_proj": (64, 64),
    "self_attn.v_proj": (64, 64),
    "self_attn.o_proj": (64, 128),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
RANK, ALPHA = 8, 16.0
TOLERANCE = 2e-4  # of the largest logit


def pairs_of(layers: int) -> Pairs:
    shapes = {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in SHAPES.items()}
    return random_pairs(shapes, RANK, seed=5)


def merged_logits(folder: Path, pairs: Pairs, scale: float, tokens: list[int]) -> Any:
    """The logits of transformers after ``W += scale B A`` in float32 (Hu et al. 2021, section 4.1)."""
    import torch  # noqa: PLC0415  (only these tests have it)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            modules[name].weight += scale * torch.from_numpy(up) @ torch.from_numpy(down)
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize(
    ("settings", "scale"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)], ids=["lora", "rslora"]
)
def test_an_adapter_equals_merged_weights_in_torch(settings: dict[str, Any], scale: float, tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    tokens = np.random.default_rng(2).integers(0, 320, 40).tolist()
    with open_model(folder) as files:
        pairs = pairs_of(files.config.n_layers)
        adapter = read_adapter(write_peft(tmp_path / "peft", pairs, alpha=ALPHA, **settings), files.config)
        plain = Oracle(files.config, files.tensors)
        found, without = plain.with_adapter(adapter).logits(tokens), plain.logits(tokens)
    expected = merged_logits(folder, pairs, scale, tokens)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(without - expected).max() > 0.1 * np.abs(expected).max()


def test_a_gguf_adapter_equals_merged_weights_in_torch(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "qwen3")  # whose queries and keys GGUF stores in the order of safetensors
    names = {"self_attn.q_proj": "attn_q", "self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}
    tokens = np.random.default_rng(3).integers(0, 320, 40).tolist()
    with open_model(folder) as files:
        pairs = {name: pair for name, pair in pairs_of(files.config.n_layers).items() if name.split(".", 3)[3] in names}
        stored = {f"blk.{n.split('.')[2]}.{names[n.split('.', 3)[3]]}.weight": pair for n, pair in pairs.items()}
        path = write_gguf_adapter(tmp_path / "adapter.gguf", stored, alpha=ALPHA, architecture="qwen3")
        adapter = read_adapter(path, files.config)
        found = Oracle(files.config, files.tensors).with_adapter(adapter).logits(tokens)
    expected = merged_logits(folder, pairs, ALPHA / RANK, tokens)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
