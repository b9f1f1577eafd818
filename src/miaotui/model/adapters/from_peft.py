"""Reads an adapter from a folder that PEFT has written: ``adapter_config.json`` and ``adapter_model.safetensors``.

Owns PEFT's names and settings. What changes more than linear layers by low-rank pairs (DoRA, biases, whole modules) is
refused by name. Invariant: nothing is unpickled, and a setting that is not understood is never ignored where it changes
the result. Source: PEFT's ``LoraConfig`` and ``LoraLayer.update_layer``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.model.adapters.adapter import MAX_RANK, LowRankAdapter
from miaotui.model.adapters.fitting import StoredPair, fitted
from miaotui.model.adapters.fused_experts import NESTED, fused_layers, split_peft
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.from_hf import hf_sources
from miaotui.model.reading.text_part import text_name

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
REFUSED = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "whole modules beside the low-rank pairs (modules_to_save)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "lora_bias": "biases of its own (lora_bias)",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "trainable_token_indices": "changed embeddings (trainable_token_indices)",
    "layer_replication": "replicated layers (layer_replication)",
}

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
_MODULE = re.compile(r"[\w.]{1,200}")


def read_peft(folder: Path, config: ModelConfig) -> LowRankAdapter:
    """Read the adapter in ``folder`` for a model. Raises `ModelNotFoundError`, `ModelFormatError` or
    `UnsupportedModelError`.
    """
    settings = read_object(folder / CONFIG)
    _check_settings(folder, settings)
    if not (folder / WEIGHTS).is_file():
        pickled = f"; {PICKLE} is never loaded, because it can run code" if (folder / PICKLE).is_file() else ""
        raise ModelNotFoundError(f"{folder} has no {WEIGHTS}{pickled}: save the adapter as safetensors")
    downs, ups = _parts(folder, read_safetensors(folder / WEIGHTS))
    sources = hf_sources(config, architecture_of(config.architecture))
    fused = fused_layers(config, sources)
    stored: dict[str, StoredPair] = {}
    for module, down in downs.items():
        layer = fused.get(text_name(module.removesuffix(NESTED)))
        rank = _setting(folder, settings, "rank_pattern", module, settings.get("r"))
        if down.shape[0] != rank * (1 if layer is None else layer.experts.count):
            raise ModelFormatError(f"{folder}: {module} has {down.shape[0]} ranks, and {CONFIG} says {rank}")
        alpha = _setting(folder, settings, "alpha_pattern", module, settings.get("lora_alpha"))
        root = math.sqrt(rank) if settings.get("use_rslora") else rank
        pair = StoredPair(down, ups[module], alpha / root)
        if layer is None:
            stored[f"{text_name(module)}.weight"] = pair
        else:
            stored.update(split_peft(str(folder), module, layer, pair))
    return LowRankAdapter(str(folder), fitted(str(folder), config, sources, stored))


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{folder} holds {str(settings.get('peft_type'))[:40]!r}, not a LORA adapter")
    for key, feature in REFUSED.items():
        if settings.get(key):
            raise UnsupportedModelError(f"{folder} has {feature}, which is not supported: merge it with PEFT first")
    if settings.get("bias") not in (None, "none"):
        raise UnsupportedModelError(f"{folder} changes biases (bias in {CONFIG}): merge it with PEFT first")


def _parts(
    folder: Path, tensors: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Return the matrices A and B by module. Raises for tensors of another kind, and for half a pair."""
    parts: dict[str, dict[str, StoredTensor]] = {"A": {}, "B": {}}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None or len(tensor.shape) != 2:
            raise UnsupportedModelError(
                f"{folder} holds {name[:200]!r}, which is no low-rank pair of a linear layer: merge it with PEFT first"
            )
        parts[found["part"]][found["module"]] = tensor
    alone = parts["A"].keys() ^ parts["B"].keys()
    if alone:
        raise ModelFormatError(f"{folder}: {min(alone)[:200]!r} has half a pair; get the adapter again")
    return parts["A"], parts["B"]


def _setting(folder: Path, settings: Mapping[str, Any], patterns: str, module: str, default: Any) -> int:
    """Return a module's own rank or alpha, else the adapter's; patterns are names of modules, or ends of them."""
    own = settings.get(patterns) or {}
    if not isinstance(own, dict) or not all(_MODULE.fullmatch(key) for key in own):
        raise UnsupportedModelError(f"{folder}: {patterns} must map names of modules to numbers")
    found = next((value for key, value in own.items() if module == key or module.endswith(f".{key}")), default)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found <= MAX_RANK * 64:
        raise ModelFormatError(f"{folder}: {CONFIG} gives {found!r} for {module}; expected a number above 0")
    return found  # type: ignore[return-value]  # alpha may be a fraction
