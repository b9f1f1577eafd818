"""Reads an adapter from a GGUF file, as llama.cpp's ``convert_lora_to_gguf.py`` writes them.

Owns its names: ``blk.0.attn_q.weight.lora_a`` and ``.lora_b``, and ``adapter.lora.alpha``. Invariant: an adapter of
another architecture is refused before its tensors are looked at.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.model.adapters.adapter import LowRankAdapter
from miaotui.model.adapters.fitting import StoredPair, fitted
from miaotui.model.adapters.fused_experts import stacked_gguf
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.from_gguf import gguf_sources

DOWN, UP = ".lora_a", ".lora_b"


def read_gguf_adapter(path: Path, config: ModelConfig) -> LowRankAdapter:
    """Read the adapter in ``path`` for a model. Raises `ModelNotFoundError`, `ModelFormatError` or
    `UnsupportedModelError`.
    """
    with read_gguf(path) as file:
        metadata, tensors = file.metadata, dict(file.tensors)
        kind, form = metadata.get("general.type"), metadata.get("adapter.type")
        if kind != "adapter" or form != "lora":
            raise UnsupportedModelError(f"{path} holds {str(form or kind)[:40]!r}, not a lora adapter")
        architecture = architecture_of(config.architecture)
        name = metadata.get("general.architecture")
        if name != (architecture.gguf or "llama"):
            raise ModelFormatError(
                f"{path} is an adapter of another model: of the architecture {str(name)[:40]!r}, not "
                f"{architecture.gguf!r}. Use the model that it was trained for"
            )
        alpha = metadata.get("adapter.lora.alpha")
        if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
            raise ModelFormatError(f"{path} lacks adapter.lora.alpha: convert the adapter again")
        stored: dict[str, StoredPair] = {}
        for key in tensors:
            base = key.removesuffix(DOWN).removesuffix(UP)
            if base == key or base + DOWN not in tensors or base + UP not in tensors:
                raise ModelFormatError(f"{path}: {key[:200]!r} is half a pair, or none; convert the adapter again")
            stored.update(stacked_gguf(base, tensors[base + DOWN], tensors[base + UP], float(alpha)))
        sources = gguf_sources(config, architecture)
        return LowRankAdapter(str(path), fitted(str(path), config, sources, stored))
