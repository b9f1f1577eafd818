"""Writes an adapter as PEFT does: ``adapter_config.json`` and ``adapter_model.safetensors``.

Owns PEFT's names. Where a file has several products as one matrix, their pairs become one of the sum of their ranks.
Invariant: `read_peft` gives the adapter back. Source: PEFT's ``LoraConfig``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.config import make_folder
from miaotui.hub.files import write_whole
from miaotui.hub.formats.tensors import BlockType
from miaotui.hub.writers.safetensors import write_safetensors
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.adapters.from_peft import CONFIG, WEIGHTS
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.from_hf import hf_sources
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.reading.sources import TensorSource, stored_rows

Array = NDArray[np.float32]


def write_peft(folder: Path, config: ModelConfig, pairs: Mapping[str, LowRankPair], base: str) -> None:
    """Write an adapter of the model ``base``; its pairs are by canonical name, with their scale in ``up``.

    Raises `CacheError`.
    """
    sources, shapes = hf_sources(config, architecture_of(config.architecture)), tensor_shapes(config)
    together: dict[str, list[tuple[TensorSource, LowRankPair]]] = {}
    rows: dict[str, int] = {}
    for name, source in sources.items():
        if name in shapes and len(shapes[name]) == 2 and not source.experts:
            rows[source.name] = max(rows.get(source.name, 0), source.end(shapes[name][0]))
            if name in pairs:
                together.setdefault(source.name, []).append((source, pairs[name]))
    stored: dict[str, Array] = {}
    ranks: dict[str, int] = {}
    for name, parts in together.items():
        module = name.removesuffix(".weight")
        ranks[module] = sum(pair.rank for _, pair in parts)
        up, at = np.zeros((rows[name], ranks[module]), np.float32), 0
        for source, pair in parts:
            up[stored_rows(source, len(pair.up)), at : at + pair.rank] = pair.up
            at += pair.rank
        prefix = f"base_model.model.{module}.lora_"
        stored |= {f"{prefix}A.weight": np.concatenate([pair.down for _, pair in parts]), f"{prefix}B.weight": up}
    most = max(ranks.values())
    pattern = {module: rank for module, rank in ranks.items() if rank != most}
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": most,
        "lora_alpha": most,  # the scale is in the matrices
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    make_folder(folder)
    sizes = {name: (BlockType.F32, array.shape) for name, array in stored.items()}
    data = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in stored.values())
    write_whole(folder / WEIGHTS, "the adapter", lambda file: write_safetensors(file, sizes, data))
    text = json.dumps(values, indent=1).encode()
    write_whole(folder / CONFIG, "the adapter", lambda file: file.write(text))
