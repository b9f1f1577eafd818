"""Training a draft head for a model, from nothing but the model. Needs torch (``pip install 'miaotui[train]'``).

    python -m miaotui.drafthead.train smollm2-135m --batches 160 --steps 4000

Owns the loss and the loop: a head unrolled for some tokens is to give the distributions that the model itself
gives there (cross-entropy on the tokens it can guess), and to have the states that the model has
(as EAGLE does; Li et al. 2024, section 4.2). Knows files and arrays, not the engine. Invariant: what is
written is whole, or nothing is.
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

from miaotui.config import Settings
from miaotui.drafthead.corpus import Corpus, collect
from miaotui.drafthead.weights import FOLDER_NAME, INPUTS, digest_of, rows_of, write_head
from miaotui.engine.build import EngineOptions
from miaotui.engine.loaded import load_model
from miaotui.errors import RequestError
from miaotui.hub.resolve import resolve

Tensor = Any  # of torch, which need not be there

WINDOW, WINDOWS = 24, 64  # positions of a text that are learned from together, and how many such
FADE = 0.8  # what a token deeper counts
STATES = 0.3  # what states count beside distributions


@dataclass(frozen=True)
class Recipe:
    """How a head is made: its sizes, and how long it learns."""

    tokens: int = 6144
    width: int = 1024
    depth: int = 2  # tokens that it is unrolled for
    steps: int = 4000
    rate: float = 3e-3
    seed: int = 0


def train(
    corpus: Corpus,
    embedding: NDArray[np.float32],
    outputs: NDArray[np.float32],
    recipe: Recipe,
    told: Callable[[int, float], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """A head's arrays, as `write_head` takes them. ``embedding [vocabulary, hidden]`` is the model's, and
    so are ``outputs`` of the same shape: rows times final norm. Raises `RequestError` without torch.
    """
    torch = _torch()
    torch.manual_seed(recipe.seed)
    counts = np.bincount(corpus.tokens, minlength=len(embedding))
    chosen = np.sort(np.argsort(-counts, kind="stable")[: recipe.tokens])
    cell = _Cell(torch, embedding.shape[1], recipe)
    lesson = _Lesson(torch, corpus, embedding, outputs[chosen], recipe)
    optimizers = cell.optimizers(recipe.rate)
    for step in range(recipe.steps):
        loss = lesson.loss(cell)
        cell.forget_gradients()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(cell.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * _schedule(step, recipe.steps)
            optimizer.step()
        if told is not None and (step % 50 == 0 or step + 1 == recipe.steps):
            told(step + 1, float(loss.detach()))
    arrays = {name: tensor.detach().float().numpy() for name, tensor in cell.named()}
    layer = np.array([corpus.layer], np.float32)
    return {"tokens": chosen.astype(np.float32), "layer": layer, **arrays}


class _Cell:
    """The recurrent cell (see `program`), in torch."""

    def __init__(self, torch: Any, hidden: int, recipe: Recipe) -> None:
        self._torch = torch

        def uniform(rows: int, columns: int) -> Tensor:
            values = (torch.rand(rows, columns) * 2 - 1) / math.sqrt(columns)
            return values.requires_grad_()

        self.gate, self.up = (uniform(recipe.width, INPUTS * hidden) for _ in range(2))
        self.down = uniform(hidden, recipe.width)
        self.carry = torch.full((hidden,), 0.5, requires_grad=True)

    def named(self) -> list[tuple[str, Tensor]]:
        """Its weights."""
        return [(name, getattr(self, name)) for name in ("gate", "up", "down", "carry")]

    def parameters(self) -> list[Tensor]:
        """The same without names."""
        return [tensor for _, tensor in self.named()]

    def optimizers(self, rate: float) -> list[Any]:
        """Muon for the matrices (Jordan et al. 2024), which learn about a third faster so; AdamW for the rest."""
        optim, decay = self._torch.optim, 0.02
        matrices = [self.gate, self.up, self.down]
        return [
            optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            optim.AdamW([self.carry], lr=rate, weight_decay=decay, betas=(0.9, 0.95)),
        ]

    def forget_gradients(self) -> None:
        """Before the next ones are computed."""
        for tensor in self.parameters():
            tensor.grad = None

    def __call__(self, state: Tensor, embedded: Tensor, middle: Tensor) -> Tensor:
        torch, functional = self._torch, self._torch.nn.functional
        inputs = torch.cat([state, embedded, middle], -1).to(torch.bfloat16)
        gate, up, down = (w.to(torch.bfloat16) for w in (self.gate, self.up, self.down))
        fed = functional.silu(functional.linear(inputs, gate)) * functional.linear(inputs, up)
        return _normed(functional.linear(fed, down).float() + self.carry * state)


class _Lesson:
    """Random windows of a corpus, and how far a cell is from what the model does there."""

    def __init__(
        self, torch: Any, corpus: Corpus, embedding: NDArray[np.float32],
        outputs: NDArray[np.float32], recipe: Recipe,
    ) -> None:  # fmt: skip
        self._torch, self._depth = torch, recipe.depth
        self._hidden, self._middle = map(torch.from_numpy, (corpus.hidden, corpus.middle))
        self._tokens = torch.from_numpy(corpus.tokens).long()
        self._embedding = _normed(torch.from_numpy(embedding))
        self._outputs = torch.from_numpy(outputs).to(torch.bfloat16).t().contiguous()
        reach = WINDOW + recipe.depth
        ends = corpus.starts[1:][
            np.searchsorted(corpus.starts[1:], np.arange(len(corpus.tokens)), "right")
        ]
        whole = np.arange(len(corpus.tokens)) + reach < ends
        self._places = torch.from_numpy(np.nonzero(whole)[0])
        self._offsets = torch.arange(reach)

    def loss(self, cell: _Cell) -> Tensor:
        """Of one batch of windows."""
        torch, functional = self._torch, self._torch.nn.functional
        picked = torch.randint(len(self._places), (WINDOWS,))
        at = self._places[picked][:, None] + self._offsets
        hidden, embedded = self._hidden[at].float(), self._embedding[self._tokens[at]]
        with torch.no_grad():
            wanted = functional.softmax(self._logits(hidden[:, 1:]), -1)
        state, total = hidden[:, :WINDOW], torch.zeros(())
        middle = self._middle[at[:, :WINDOW]].float()
        for depth in range(1, self._depth + 1):
            state = cell(state, embedded[:, depth : depth + WINDOW], middle)
            found = functional.log_softmax(self._logits(state), -1)
            target = wanted[:, depth - 1 : depth - 1 + WINDOW]
            apart = -(target * found).sum(-1, dtype=torch.float32).mean()
            states = functional.smooth_l1_loss(state, hidden[:, depth : depth + WINDOW])
            total = total + FADE ** (depth - 1) * (apart + STATES * states)
        return total

    def _logits(self, state: Tensor) -> Tensor:
        return state.to(self._torch.bfloat16) @ self._outputs


def _normed(values: Tensor) -> Tensor:
    return values * (values.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()


def _schedule(step: int, steps: int) -> float:
    """Warm up, then half a cosine down to 3%."""
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415  (an extra, which takes seconds to load)
    except ImportError as error:
        raise RequestError(
            "training a draft head needs torch: pip install 'miaotui[train]'"
        ) from error
    return torch


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a catalog name, a file or a folder")
    parser.add_argument("--out", type=Path, help="folder of the result, if not where it is found")
    parser.add_argument("--batches", type=int, default=160, help="of 16 answers to learn from")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="that it can guess")
    parser.add_argument("--width", type=int, default=Recipe.width)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    _torch()
    settings, began_s = Settings.from_env(), time.perf_counter()
    loaded = load_model(
        resolve(chosen.model, settings=settings), EngineOptions(context=4096), settings
    )
    weights = loaded.parts.weights

    def told(what: str) -> Callable[[int, float], None]:
        return lambda done, of: print(
            f"{time.perf_counter() - began_s:6.0f} s  {what} {done}: {of:.3f}", file=sys.stderr
        )

    corpus = collect(loaded, chosen.batches, chosen.seed, told("batches"))
    outer = weights.matrix("embed" if loaded.config.tied_head else "head")
    everything = np.arange(loaded.config.vocab_size, dtype=np.int32)
    recipe = Recipe(chosen.tokens, chosen.width, steps=chosen.steps, seed=chosen.seed)
    outputs = rows_of(outer, everything) * weights.vector("final_norm")
    embedding = rows_of(weights.matrix("embed"), everything)
    arrays = train(corpus, embedding, outputs, recipe, told("loss at step"))
    folder = chosen.out or settings.folder(FOLDER_NAME)
    path = folder / f"{digest_of(weights)}.safetensors"
    write_head(path, arrays)
    print(path)


if __name__ == "__main__":
    main()
