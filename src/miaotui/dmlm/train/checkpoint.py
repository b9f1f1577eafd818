"""Checkpoints of a run, and the folder that the engine loads.

Owns the files: weights, both moments of the optimizer and the losses of adaptive masks in one file of safetensors, with
the recipe, the step and the tokenizer in its header; nothing is unpickled. Invariant: a file is written whole or not at
all; a checkpoint of another text or vocabulary is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from miaotui.dmlm.train.network import EPS, THETA
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import END, MASK, PAD, SPECIALS, TextCorpus
from miaotui.errors import RequestError
from miaotui.training.checkpoint import Arrays, damaged, read_state, write_state
from miaotui.training.export import TrainedVocabulary, write_trained

SHAPE = ("layers", "width", "heads", "ffn", "decoder_layers", "vocabulary")  # of a recipe: what weights depend on
CHECKPOINT = "training.safetensors"


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
    write_state(folder / CHECKPOINT, checkpoint.arrays, header)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the checkpoint of a folder; None if there is none. Raises `ModelFormatError` for a damaged one."""
    path = folder / CHECKPOINT
    found = read_state(path)
    if found is None:
        return None
    arrays, header = found
    try:
        recipe = TrainRecipe.of(json.loads(header["recipe"]))
        return Checkpoint(recipe, int(header["step"]), arrays, header["texts"], header["tokenizer"])
    except (ValueError, KeyError) as error:
        raise damaged(path, error) from error


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
    names = {"eos_token": END, "pad_token": PAD, "mask_token": MASK}
    vocabulary = TrainedVocabulary(corpus.tokenizer.to_str(), names, SPECIALS.index(END))
    write_trained(folder, kept, vocabulary, weights)
