"""The text part of a model that also sees or hears, from the folder of the whole.

Owns the names of both in ``config.json`` and among tensors. Knows Gemma's families. Invariant: a folder of a model that
has no other part is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from miaotui.hub.formats.tensors import StoredTensor

TEXT_PARTS = {  # model_type of both
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
}
_SAME_AS = {"gemma4_unified_text": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0}}
_TEXT = ("model.language_model.", "language_model.model.")  # what the names of a text part begin with
_HEAD = "language_model.lm_head."
_OTHERS = ("vision", "audio", "multi_modal")  # what is in the names of the other parts
_SHARED_KEYS = ("tie_word_embeddings", "quantization_config")  # of the whole


def text_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``config.json`` of the text part; of a model that has no other, its own."""
    name, part = values.get("model_type"), values.get("text_config")
    if isinstance(name, str) and name in TEXT_PARTS and isinstance(part, dict):
        shared = {key: values[key] for key in _SHARED_KEYS if key in values}
        name = TEXT_PARTS[name]
        values = {**shared, **part, "model_type": name}
    return {**values, **_SAME_AS.get(name, {})} if isinstance(name, str) else values


def text_name(name: str) -> str:
    """Return the name that a text part's tensor or module has in a model without other parts."""
    start = next((start for start in _TEXT if name.startswith(start)), "")
    return "model." + name.removeprefix(start) if start else name.removeprefix("language_model.")


def text_tensors(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return the tensors of the text part, under the names that they have in a model without others."""
    if not any(name.startswith(_TEXT) for name in stored):
        return stored
    found, left_out = dict[str, StoredTensor](), 0
    for name, tensor in stored.items():
        if name.startswith((*_TEXT, _HEAD)) or not any(word in name for word in _OTHERS):
            found[text_name(name)] = tensor
        else:
            left_out += 1
    if left_out:
        _log().info("%d tensors of the model's vision and audio parts are left out: it reads text alone", left_out)
    return found


def _log() -> logging.Logger:
    return logging.getLogger("miaotui.model")
