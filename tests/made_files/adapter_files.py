"""Writes adapters as PEFT and llama.cpp do, with random matrices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
TINY_SHAPES = {
    "self_attn.q_proj": (128, 64),
    "self_attn.o_proj": (64, 128),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}  # matrices of a layer of `tiny_models`, "llama"
Pairs = dict[str, tuple[Array, Array]]  # module to (down [rank, inputs], up [outputs, rank])


def random_pairs(shapes: dict[str, tuple[int, int]], rank: int, seed: int = 0) -> Pairs:
    """Random pairs for modules of these shapes (outputs, inputs)."""
    rng = np.random.default_rng(seed)
    return {
        module: (
            rng.normal(0, 0.3, (rank, inputs)).astype(np.float32),
            rng.normal(0, 0.3, (outputs, rank)).astype(np.float32),
        )
        for module, (outputs, inputs) in shapes.items()
    }


def write_peft(folder: Path, pairs: Pairs, alpha: float = 8, **settings: Any) -> Path:
    """Write a folder as PEFT does; ``settings`` change its configuration."""
    from safetensors.numpy import save_file  # noqa: PLC0415  (a test extra)

    folder.mkdir(parents=True, exist_ok=True)
    rank = len(next(iter(pairs.values()))[0])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "target_modules": sorted(pairs)}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    tensors = {}
    for module, (down, up) in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_gguf_adapter(
    path: Path, pairs: Pairs, alpha: float = 8, architecture: str = "llama", without: Sequence[str] = ()
) -> Path:
    """Write a file as ``convert_lora_to_gguf.py`` does; pairs are by GGUF's names of matrices."""
    from gguf import GGUFWriter  # noqa: PLC0415  (a test extra)

    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (down, up) in pairs.items():
        for suffix, matrix in ((".lora_a", down), (".lora_b", up)):
            if name + suffix not in without:
                writer.add_tensor(name + suffix, matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(folder: Path, seed: int, rank: int = 4) -> Path:
    """Write an adapter of the tiny llama model."""
    shapes = {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in TINY_SHAPES.items()}
    return write_peft(folder / f"adapter-{seed}", random_pairs(shapes, rank, seed), alpha=2 * rank)
