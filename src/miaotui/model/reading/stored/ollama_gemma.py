"""Gemma 3 as Ollama has converted it: its keys under the names of other GGUF files, without its vision part.

Owns these keys alone. Files from ``ollama pull gemma3`` lie in one blob with the vision part, name the two bases of
rotation in a way of their own, and leave out what is the same in all of the family's ``config.json``: the scaling of
positions from 4B on, and the norms' epsilon. The first of its converters, which wrote ``rope.global.freq_base``, also
wrote Gemma 2's cap of logits, which Gemma 3 has not. Read without this, such a file runs and answers wrongly.
Invariant: a file that states a value under its usual name keeps it. Source: Ollama's converter
(``convert/convert_gemma3.go``) and Google's ``config.json`` of 1B to 27B.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

ARCHITECTURE = "gemma3"
OTHER_PARTS = ("v.", "mm.", "a.")  # what names of tensors of vision, projector and audio begin with
SCALED_CONTEXT = 131_072  # of the models whose positions are scaled: 4B, 12B, 27B
_FIRST_CONVERTER = "gemma3.rope.global.freq_base"
_RENAMED = {_FIRST_CONVERTER: "gemma3.rope.freq_base", "gemma3.rope.local.freq_base": "gemma3.rope.freq_base_swa"}
_ALWAYS = {"gemma3.rope.freq_base": 1e6, "gemma3.attention.layer_norm_rms_epsilon": 1e-6}
_SCALING = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}


def with_usual_keys(metadata: Mapping[str, Any], tensors: Iterable[str]) -> Mapping[str, Any]:
    """Return the metadata of a file of Ollama's Gemma 3 under the usual keys; other metadata as they are."""
    if metadata.get("general.architecture") != ARCHITECTURE or not _is_ollamas(metadata, tensors):
        return metadata
    usual = {_RENAMED.get(key, key): value for key, value in metadata.items() if _RENAMED.get(key) not in metadata}
    if _FIRST_CONVERTER in metadata:
        usual.pop("gemma3.final_logit_softcapping", None)
    context = metadata.get("gemma3.context_length")
    if isinstance(context, Integral) and int(context) >= SCALED_CONTEXT and not _says_scaling(metadata):
        usual |= _SCALING
    return _ALWAYS | usual


def other_parts(tensors: Iterable[str]) -> list[str]:
    """Return the names of the tensors of vision and audio, which files of Ollama's have beside the text part."""
    return [name for name in tensors if name.startswith(OTHER_PARTS)]


def left_out(tensors: Iterable[str]) -> list[str]:
    """Return `other_parts`, and log how many they are."""
    found = other_parts(tensors)
    if found:
        count = len(found)
        _log().info("%d tensors of the model's vision and audio parts are left out: it reads text alone", count)
    return found


def _is_ollamas(metadata: Mapping[str, Any], tensors: Iterable[str]) -> bool:
    own = (*_RENAMED, "gemma3.mm.tokens_per_image", "gemma3.vision.block_count")
    return any(key in metadata for key in own) or bool(other_parts(tensors))


def _says_scaling(metadata: Mapping[str, Any]) -> bool:
    return any(key.startswith("gemma3.rope.scal") for key in metadata)


def _log() -> logging.Logger:
    return logging.getLogger("miaotui.model")
