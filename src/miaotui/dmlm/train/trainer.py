"""Training: masks anew in each epoch, a weighted loss, a bound on held-out texts, checkpoints.

Owns the loop and the optimizer's schedule. Knows neither files nor the command line. Invariants: a run that is
interrupted and resumed gives the weights of one that was not, bit for bit, on the same machine and number of threads;
the held-out bound is always that of uniform masks, whatever the run trains with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from miaotui.dmlm.masks.adaptive import AdaptiveMasks
from miaotui.dmlm.masks.masking import MaskedBatch, Masking, masking_named
from miaotui.dmlm.masks.schedule import LogLinearRates, schedule_named
from miaotui.dmlm.train.checkpoint import Checkpoint, digest_of, require_same, require_same_shape
from miaotui.dmlm.train.network import Network
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import TextCorpus
from miaotui.errors import RequestError
from miaotui.training.checkpoint import Arrays, optimizer_arrays, restore_optimizer, take_weights
from miaotui.training.noise import Ints
from miaotui.training.schedule import learning_rate, shuffled
from miaotui.training.torch_loading import load_torch

WARM_STEPS, LAST_RATE = 100, 0.05  # of the learning rate's schedule: its end is that share of its top
BETAS, DECAY, LONGEST_GRADIENT = (0.9, 0.98), 0.05, 1.0
MOST_WEIGHT = 20.0  # of a text's loss in training; the bound has the true weights
_HELD_OUT_SEED = 1 << 40


@dataclass(frozen=True)
class TrainProgress:
    """State of a run after a step: the mean loss of masked tokens, in nats, and tokens seen so far."""

    step: int
    loss: float
    tokens: int


class Trainer:
    """One run. `steps` yields after each step; `checkpoint` may be called between two of them."""

    def __init__(
        self,
        recipe: TrainRecipe,
        corpus: TextCorpus,
        start: Checkpoint | None = None,
        pretrained: Checkpoint | None = None,
    ) -> None:
        """Begin a run, or go on from ``start``; without it ``pretrained`` gives the first weights.

        Raises `RequestError` where a checkpoint does not fit recipe and texts.
        """
        self.torch = torch = load_torch()
        self.recipe, self.corpus = recipe, corpus
        self.network: Any = self._make_network()
        schedule = schedule_named(recipe.schedule)
        self.masking: Masking = masking_named(recipe.masks, corpus.mask_id, corpus.vocab_size, schedule, recipe.seed)
        decayed = [values for values in self.network.weights.values() if values.ndim > 1]
        others = [values for values in self.network.weights.values() if values.ndim == 1]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=BETAS)
        self.step = 0
        if start is not None:
            require_same(start, recipe, corpus)
            self._resume(start)
        elif pretrained is not None:
            require_same_shape(pretrained, recipe, corpus)
            take_weights(torch, self.network.weights, pretrained.arrays)

    def _make_network(self) -> Any:
        return Network(self.torch, self.recipe, self.corpus.vocab_size)

    def steps(self) -> Iterator[TrainProgress]:
        """Train to the end of the recipe."""
        torch, recipe, weights = self.torch, self.recipe, list(self.network.weights.values())
        while self.step < recipe.steps:
            epoch, numbers = self._numbers(self.step)
            batch = self.corpus.batch(numbers)
            masked = self.masking.masked(batch, epoch)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                losses, places = self._losses(batch.tokens, masked)
            factors = torch.from_numpy(np.minimum(masked.weights, MOST_WEIGHT)[places[0]].astype(np.float32))
            loss = (losses * factors).sum() / max(int(batch.maskable.sum()), 1)
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, LONGEST_GRADIENT)
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.rate * learning_rate(self.step, recipe.steps, WARM_STEPS, LAST_RATE)
            self._optimizer.step()
            self.step += 1
            found = losses.detach().numpy().astype(np.float64)
            if isinstance(self.masking.rule, AdaptiveMasks):
                self.masking.rule.losses.update(batch.tokens[places], found)
            mean = float(found.mean()) if len(found) else math.nan
            if not math.isfinite(mean) and len(found):
                raise RequestError(f"the loss is not a number after step {self.step}: lower the learning rate")
            yield TrainProgress(self.step, mean, self.step * recipe.batch * recipe.length)

    def bound(self, draws: int = 4, most_texts: int = 512) -> float:
        """Return the bound of the held-out texts' negative log-likelihood, in nats a token.

        Each text is masked ``draws`` times at rates that cover the range evenly; the draws are the same in all runs.
        """
        masking = Masking(self.corpus.mask_id, self.corpus.vocab_size, schedule=LogLinearRates(), seed=_HELD_OUT_SEED)
        total = count = 0.0
        with self.torch.no_grad():
            for draw in range(draws):
                for batch in self.corpus.batches(self.corpus.held_out[:most_texts], self.recipe.batch):
                    masked = masking.masked(batch, draw)
                    losses, places = self._losses(batch.tokens, masked)
                    total += float((losses.numpy().astype(np.float64) * masked.weights[places[0]]).sum())
                    count += float(batch.maskable.sum())
        return total / count

    def checkpoint(self) -> Checkpoint:
        """Return the state after the last step."""
        arrays: Arrays = {**self.weights(), **optimizer_arrays(self._optimizer, self.network.weights)}
        if isinstance(self.masking.rule, AdaptiveMasks):
            losses = self.masking.rule.losses
            arrays |= {"losses/sums": losses.sums.copy(), "losses/counts": losses.counts.copy()}
        return Checkpoint(self.recipe, self.step, arrays, digest_of(self.corpus), self.corpus.tokenizer.to_str())

    def weights(self) -> Arrays:
        """Return the weights by name."""
        return {name: values.detach().numpy().copy() for name, values in self.network.weights.items()}

    def _losses(self, tokens: Ints, masked: MaskedBatch) -> tuple[Any, tuple[Ints, Ints]]:
        """Return the loss of each masked token, in nats, ``[m]``, and its text and position."""
        torch = self.torch
        clean = torch.from_numpy(tokens)
        places = np.nonzero(masked.chosen)
        states = self.network.states(torch.from_numpy(masked.inputs), clean)[places]
        logits = self.network.logits(states)
        return torch.nn.functional.cross_entropy(logits, clean[places], reduction="none"), (places[0], places[1])

    def _numbers(self, step: int) -> tuple[int, Ints]:
        """Return the epoch of a step and the texts of its batch; each epoch has an order of its own."""
        trained, size = self.corpus.trained, self.recipe.batch
        per_epoch = max(len(trained) // size, 1)
        epoch, at = divmod(step, per_epoch)
        return epoch, shuffled(trained, self.recipe.seed, epoch)[at * size : (at + 1) * size]

    def _resume(self, start: Checkpoint) -> None:
        self.step, weights = start.step, self.network.weights
        take_weights(self.torch, weights, start.arrays)
        restore_optimizer(self.torch, self._optimizer, weights, start.arrays, start.step)
        if isinstance(self.masking.rule, AdaptiveMasks):
            losses = self.masking.rule.losses
            losses.sums, losses.counts = start.arrays["losses/sums"], start.arrays["losses/counts"]


Report = Callable[[TrainProgress], None]
