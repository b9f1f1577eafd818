"""Training a draft head for a model, on text that the model writes itself.

    python -m miaotui.speculation.train smollm2-135m --batches 160 --steps 4000

Needs torch (``pip install 'miaotui[optimize]'``). Owns the training loop; `Cell` has the weights, `HeadDataset` the
data. Invariant: the file is written whole or not at all.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.backend import require_cpu
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.loaded_model import LoadedModel
from miaotui.errors import UnsupportedModelError
from miaotui.model.draft_head.attention_spec import AttentionSpec, attention_spec_of
from miaotui.model.draft_head.packing import rows_of
from miaotui.model.draft_head.weights import FOLDER_NAME, MASKS, digest_of, write_head
from miaotui.speculation.train.cell import Cell
from miaotui.speculation.train.corpus import Corpus, collect
from miaotui.speculation.train.dataset import HeadDataset
from miaotui.speculation.train.kept import KeptTraining, collect_parts
from miaotui.training.schedule import learning_rate
from miaotui.training.torch_loading import load_torch

WARM_STEPS, LAST_RATE = 100, 0.03  # of the learning rate: its end is that share of its top
LEFT = 3  # status of a slice after which something is left to do


@dataclass(frozen=True)
class Recipe:
    """A head's sizes, and the length of its training."""

    tokens: int = 6144
    width: int = 1024
    depth: int = 2  # tokens that it is unrolled for; all of a block in a head with masks
    masks: bool = False  # all tokens after the first one are drafted in one pass
    steps: int = 4000
    rate: float = 3e-3
    seed: int = 0


def train(
    corpus: Corpus,
    embedding: NDArray[np.float32],
    outputs: NDArray[np.float32],
    recipe: Recipe,
    progress: Callable[[int, float], None] | None = None,
    attention: AttentionSpec | None = None,
    kept: KeptTraining | None = None,
) -> dict[str, NDArray[np.float32]] | None:
    """Train a head and return its arrays, as `write_head` takes them.

    ``embedding [vocabulary, hidden]`` is the model's; ``outputs``, of the same shape, are its output rows times the
    final norm. The head has attention if ``attention`` is given and the corpus has keys and values.
    With ``kept`` the run goes on from there; None when its slice ended before the run. Raises `RequestError` without
    torch.
    """
    torch = load_torch()
    torch.manual_seed(recipe.seed)
    counts = np.bincount(corpus.tokens, minlength=len(embedding))
    chosen = np.sort(np.argsort(-counts, kind="stable")[: recipe.tokens])
    attention = attention if corpus.memory is not None else None
    cell = Cell(torch, embedding.shape[1], recipe.width, attention, MASKS if recipe.masks else 0)
    depth = 1 + MASKS if recipe.masks else recipe.depth
    dataset = HeadDataset(torch, corpus, embedding, outputs[chosen], depth, recipe.seed, attention is not None)
    optimizers = cell.optimizers(recipe.rate)
    begun = 0 if kept is None else kept.resume(cell, optimizers, dataset, torch)
    for step in range(begun, recipe.steps):
        loss = dataset.loss(cell)
        cell.forget_gradients()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(cell.weights.values()), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * learning_rate(step, recipe.steps, WARM_STEPS, LAST_RATE)
            optimizer.step()
        if progress is not None and (step % 50 == 0 or step + 1 == recipe.steps):
            progress(step + 1, float(loss.detach()))
        if kept is not None and (step + 1 == recipe.steps or kept.is_over):
            kept.keep(step + 1, cell, optimizers, dataset)
            if step + 1 < recipe.steps:
                return None
    layer = np.array([corpus.layer], np.float32)
    others = {"tokens": chosen.astype(np.float32), "layer": layer, "spread": dataset.spread(cell)}
    return {**others, **cell.arrays()}


def main(load: Callable[[str, EngineOptions, Settings], LoadedModel]) -> None:
    """Run as the command line says; ``load`` loads the model by its name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a catalog name, a file or a folder")
    parser.add_argument("--out", type=Path, help="folder of the result; by default the one in which heads are found")
    parser.add_argument("--batches", type=int, default=160, help="batches of 16 answers to train on")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="tokens that the head can draft")
    parser.add_argument("--width", type=int, default=Recipe.width)
    parser.add_argument("--masks", action="store_true", help="draft the tokens after the first one in one pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--state", type=Path, help="folder in which corpus and training are kept: runs go on from there"
    )
    parser.add_argument(
        "--slice-minutes", type=float, default=math.inf, help="with --state: end so long after the start"
    )
    chosen = parser.parse_args()
    load_torch()
    settings, began_s = Settings.from_env(), time.perf_counter()
    loaded = load(chosen.model, EngineOptions(context=4096), settings)
    weights = require_cpu(loaded.parts.backend).weights
    if not loaded.config.has_one_stream:
        raise UnsupportedModelError(
            f"a draft head reads one residual stream, and {loaded.config.architecture} has several, or inputs of "
            "layers: train one for another model"
        )

    def printed(what: str) -> Callable[[int, float], None]:
        return lambda done, of: print(
            f"{time.perf_counter() - began_s:6.0f} s  {what} {done}: {of:.3f}", file=sys.stderr
        )

    end_s = time.monotonic() + 60 * chosen.slice_minutes
    recipe = Recipe(chosen.tokens, chosen.width, masks=chosen.masks, steps=chosen.steps, seed=chosen.seed)
    corpus, kept = None, None
    if chosen.state is None:
        corpus = collect(loaded, chosen.batches, chosen.seed, printed("batches"))
    else:
        corpus = collect_parts(loaded, chosen.batches, chosen.seed, chosen.state, end_s, printed("batches"))
        name = f"{'masks' if recipe.masks else 'steps'}-{recipe.seed}.safetensors"
        kept = KeptTraining(chosen.state / name, end_s, repr(recipe))
    if corpus is None:
        sys.exit(LEFT)
    outer = weights.matrix("embed" if loaded.config.tied_head else "head")
    everything = np.arange(loaded.config.vocab_size, dtype=np.int32)
    outputs = rows_of(outer, everything) * weights.vector("final_norm")
    embedding = rows_of(weights.matrix("embed"), everything)
    attention = attention_spec_of(loaded.config, weights, corpus.layer)
    arrays = train(corpus, embedding, outputs, recipe, printed("loss at step"), attention, kept)
    if arrays is None:
        sys.exit(LEFT)
    folder = chosen.out or settings.folder(FOLDER_NAME)
    path = folder / f"{digest_of(weights)}.safetensors"
    write_head(path, arrays)
    print(path)
