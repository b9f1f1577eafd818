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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.backend import require_cpu
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.loaded_model import LoadedModel
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.model.draft_head.attention_spec import AttentionSpec, attention_spec_of
from miaotui.model.draft_head.packing import rows_of
from miaotui.model.draft_head.weights import FOLDER_NAME, MASKS, digest_of, read_head, write_head
from miaotui.speculation.train.cell import Cell
from miaotui.speculation.train.corpus import Corpus, collect
from miaotui.speculation.train.dataset import WINDOWS, HeadDataset
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
    windows: int = WINDOWS  # texts of a step, 64 positions of each


def train(
    corpus: Corpus,
    embedding: NDArray[np.float32],
    outputs: NDArray[np.float32],
    recipe: Recipe,
    progress: Callable[[int, float], None] | None = None,
    attention: AttentionSpec | None = None,
    kept: KeptTraining | None = None,
    *,
    start: Path | None = None,
) -> dict[str, NDArray[np.float32]] | None:
    """Train a head and return its arrays, as `write_head` takes them.

    ``embedding [vocabulary, hidden]`` is the model's; ``outputs``, of the same shape, are its output rows times the
    final norm. The head has attention if ``attention`` is given and the corpus has keys and values.
    With ``kept`` the run goes on from there; None when its slice ended before the run. ``start`` is a head's file:
    training starts from its tokens and weights, as far as a head of the recipe has them. Raises `RequestError` without
    torch, and for a start of other sizes.
    """
    torch = load_torch()
    torch.manual_seed(recipe.seed)
    counts = np.bincount(corpus.tokens, minlength=len(embedding))
    chosen = np.sort(np.argsort(-counts, kind="stable")[: recipe.tokens])
    attention = attention if corpus.memory is not None else None
    cell = Cell(torch, embedding.shape[1], recipe.width, attention, MASKS if recipe.masks else 0)
    if start is not None:
        chosen = _started(cell, torch, start, recipe.tokens)
    depth, attends = 1 + MASKS if recipe.masks else recipe.depth, attention is not None
    dataset = HeadDataset(
        torch, corpus, embedding, outputs[chosen], depth, recipe.seed, attends, windows=recipe.windows
    )
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


def _started(cell: Cell, torch: Any, start: Path, count: int) -> NDArray[np.int64]:
    """Give the cell a head's weights, and return the head's tokens. Raises `RequestError` for other sizes."""
    tokens, arrays = read_head(start)
    found = {name: arrays[name] for name in cell.weights if name in arrays}
    if len(tokens) != count or any(arrays[name].shape != cell.weights[name].shape for name in found):
        sizes = f"{len(tokens)} tokens and a width of {arrays['gate'].shape[0]}"
        raise RequestError(f"{start} is a head with {sizes}: ask for the same sizes, or train without it")
    with torch.no_grad():
        for name, array in found.items():
            cell.weights[name].copy_(torch.from_numpy(array))
    return tokens.astype(np.int64)


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
    parser.add_argument("--from", dest="start", type=Path, metavar="HEAD", help="a head's file to start from")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="highest learning rate")
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
    sizes = {"masks": chosen.masks, "steps": chosen.steps, "rate": chosen.rate, "seed": chosen.seed}
    recipe = Recipe(chosen.tokens, chosen.width, **sizes)
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
    arrays = train(corpus, embedding, outputs, recipe, printed("loss at step"), attention, kept, start=chosen.start)
    if arrays is None:
        sys.exit(LEFT)
    folder = chosen.out or settings.folder(FOLDER_NAME)
    path = folder / f"{digest_of(weights)}.safetensors"
    write_head(path, arrays)
    print(path)
