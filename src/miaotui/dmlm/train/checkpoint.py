"""Checkpoints of a run, and the folder that the engine loads.

Owns the files: weights, both moments of the optimizer and the losses of adaptive masks in one file of safetensors, with
the recipe, the step and the tokenizer in its header; nothing is unpickled. Invariant: a file is written whole or not at
all; a checkpoint of another text or vocabulary is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.dmlm.train.network import EPS, THETA
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import END, MASK, PAD, SPECIALS, TextCorpus
from miaotui.errors import ModelFormatError, RequestError
from miaotui.libraries import need

SHAPE = ("layers", "width", "heads", "ffn")  # of a recipe: what weights depend on
CHECKPOINT = "training.safetensors"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after ``step`` steps."""

    recipe: TrainRecipe
    step: int
    arrays: Arrays
    texts: str  # digest of the corpus
    tokenizer: str  # its JSON


def digest_of(corpus: TextCorpus) -> str:
    """Return a digest of a corpus's tokens."""
    return hashlib.sha256(corpus.tokens.tobytes()).hexdigest()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the last one."""
    header = {
        "recipe": checkpoint.recipe.json(),
        "step": str(checkpoint.step),
        "texts": checkpoint.texts,
        "tokenizer": checkpoint.tokenizer,
    }
    _write(folder / CHECKPOINT, checkpoint.arrays, header)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the checkpoint of a folder; None if there is none. Raises `ModelFormatError` for a damaged one."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    library = need("safetensors")
    try:
        with library.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        recipe = TrainRecipe.of(json.loads(header["recipe"]))
        return Checkpoint(recipe, int(header["step"]), arrays, header["texts"], header["tokenizer"])
    except (OSError, ValueError, KeyError, library.SafetensorError) as error:
        raise ModelFormatError(
            f"{path} is no checkpoint of a training run ({error}): delete it, or train elsewhere"
        ) from error


def require_same(checkpoint: Checkpoint, recipe: TrainRecipe, corpus: TextCorpus) -> None:
    """Raise `RequestError` where a run cannot be continued: another recipe, text or vocabulary. More steps may be."""
    if checkpoint.tokenizer != corpus.tokenizer.to_str() or checkpoint.texts != digest_of(corpus):
        raise RequestError(
            "the checkpoint is of another text or vocabulary: give its texts, or train into a new folder"
        )
    before, now = json.loads(checkpoint.recipe.json()), json.loads(recipe.json())
    differs = [name for name in now if name != "steps" and before[name] != now[name]]
    if differs:
        name = differs[0]
        raise RequestError(f"the checkpoint was trained with {name} {before[name]!r}, not {now[name]!r}: keep it")


def require_same_shape(checkpoint: Checkpoint, recipe: TrainRecipe, corpus: TextCorpus) -> None:
    """Raise `RequestError` where a run cannot begin with a checkpoint's weights: another shape or vocabulary."""
    if checkpoint.tokenizer != corpus.tokenizer.to_str():
        raise RequestError("the first weights are of another vocabulary: read the texts with their tokenizer")
    for name in SHAPE:
        before, now = getattr(checkpoint.recipe, name), getattr(recipe, name)
        if before != now:
            raise RequestError(f"the first weights are of a model with {name} {before}, not {now}: keep it")


def export(folder: Path, recipe: TrainRecipe, corpus: TextCorpus, weights: Arrays) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer, as `load_masked` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["A2DQwen3LMHeadModel"],
        "model_type": "a2d-qwen3",
        "vocab_size": corpus.vocab_size,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.ffn,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "head_dim": recipe.head_dim,
        "max_position_embeddings": recipe.length,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "mask_token_id": corpus.mask_id,
        "block_size": recipe.block or None,
    }
    kept = {name: value for name, value in config.items() if value is not None}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "mask_token": MASK}
    texts = {
        "config.json": json.dumps(kept, indent=1),
        "tokenizer.json": corpus.tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(names),
        "generation_config.json": json.dumps({"eos_token_id": SPECIALS.index(END)}),
    }
    for name, text in texts.items():
        _replace(folder / name, text.encode())
    _write(folder / "model.safetensors", weights, {"format": "pt"})


def _write(path: Path, arrays: Arrays, header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    _replace(path, need("safetensors.numpy").save(contiguous, header))


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
