"""Whole tiny BERT models of every task in folders: weights, head, tokenizer; random, made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.options import EncoderOptions
from miaotui.config import Settings
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import run_encoder
from tiny_encoders import hf_tensors, tiny_encoder_config, tiny_encoder_values, tiny_encoder_weights, write_encoder

Array = NDArray[np.float32]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "cat", "dog", "paris", "ana", "sat", "on", "mat", "is", "good", "query", "passage", "ping", "pong"]
VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *".,:;!?-()'\"",
    *WORDS, *"你好吗我们他猫狗大小水火山川日月天地人",
]  # fmt: skip
LIMIT = 80  # tokens of a text
NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

# Per task: the architecture, further values of config.json, and the head's tensors by shape.
TASKS: Mapping[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "embed": ("BertModel", {}, {}),
    "rerank": ("BertForSequenceClassification", {"id2label": {"0": "LABEL_0"}}, {"classifier": (1, 64)}),
    "classify": (
        "BertForSequenceClassification",
        {"id2label": {"0": "bad", "1": "fair", "2": "good"}},
        {"classifier": (3, 64)},
    ),
    "tag": (
        "BertForTokenClassification",
        {"id2label": {str(i): label for i, label in enumerate(NER)}},
        {"classifier": (len(NER), 64)},
    ),
    "fill_mask": ("BertForMaskedLM", {}, {"cls.predictions.transform.dense": (64, 64)}),
}


def make_encoder_folder(folder: Path, task: str = "embed", seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny model for a task of `TASKS` with its tokenizer; return its new folder."""
    architecture, values, shapes = TASKS[task]
    values = {"architectures": [architecture], **values, **overrides}
    values = tiny_encoder_values("bert", **values)
    rng = np.random.default_rng(seed + 100)
    tensors = hf_tensors(values, tiny_encoder_weights(tiny_encoder_config("bert"), seed))
    if task != "embed":
        tensors = {f"bert.{name}": array for name, array in tensors.items()}
    for name, shape in shapes.items():
        tensors |= _linear(rng, name, shape)
    if "classifier" in shapes and task != "tag":
        tensors |= _linear(rng, "bert.pooler.dense", (64, 64))
    if task == "fill_mask":
        norm = "cls.predictions.transform.LayerNorm"
        tensors |= {f"{norm}.weight": np.ones(64, np.float32), f"{norm}.bias": np.zeros(64, np.float32)}
        tensors["cls.predictions.bias"] = _random(rng, (320,))
    path = write_encoder(folder / f"{task}-{seed}", values, tensors)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    return path


def open_tiny(path: Path, settings: Settings, **options: Any) -> Encoder:
    """Open a folder of `make_encoder_folder` over the reference backend; embedders pool by the mean."""
    if path.name.startswith("embed"):
        options.setdefault("pooling", "mean")
    return Encoder(
        *run_encoder(path, EncoderOptions(backend="reference", **options), settings=settings), owns_loop=True
    )


def _linear(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> dict[str, Array]:
    weight = _random(rng, shape) * np.float32(1.5 / np.sqrt(shape[1]))
    return {f"{name}.weight": weight, f"{name}.bias": np.float32(0.3) * _random(rng, shape[:1])}


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)
