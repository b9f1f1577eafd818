"""The folder of a model that was trained here: configuration, tokenizer and weights, as the engine reads them.

Owns the names of the files. Knows no network. Invariant: each file is written whole or not at all, the weights last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaotui.training.checkpoint import Arrays, write_state, write_texts


@dataclass(frozen=True)
class TrainedVocabulary:
    """A tokenizer as JSON, its special tokens by their role in ``tokenizer_config.json``, and the token that ends."""

    tokenizer: str
    specials: Mapping[str, str]
    eos_id: int


def write_trained(folder: Path, config: Mapping[str, Any], vocabulary: TrainedVocabulary, weights: Arrays) -> None:
    """Write a model's folder. Raises `CacheError`."""
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **vocabulary.specials}
    texts = {
        "config.json": json.dumps(dict(config), indent=1),
        "tokenizer.json": vocabulary.tokenizer,
        "tokenizer_config.json": json.dumps(names),
        "generation_config.json": json.dumps({"eos_token_id": vocabulary.eos_id}),
    }
    write_texts(folder, texts)
    write_state(folder / "model.safetensors", weights, {"format": "pt"})
