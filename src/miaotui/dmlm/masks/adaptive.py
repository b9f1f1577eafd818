"""Masks that follow the model's own loss: tokens that it has not learned are masked more often.

Owns a running mean of the loss of each token id, and the chances that follow from it. A token of weight w has the
chance ``1 - (1 - r) ** w``, the per-token schedules of Shi et al., "Simplified and Generalized Masked Diffusion"
(2024), section 5; r is found for each text so that its chances have the wanted mean. Choosing by the loss follows Zhong
et al., "Self-Evolution Learning" (2023). Invariant: whatever the losses, a text's mean chance is its rate. What is
trained so is no bound; held-out bounds are measured with `RandomMasks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from miaotui.dmlm.masks.batch import Bools, TokenBatch
from miaotui.dmlm.masks.rules import Masks, draw_units
from miaotui.errors import RequestError
from miaotui.training.noise import Floats, Ints, Noise

LEAST_WEIGHT, MOST_WEIGHT = 0.25, 4.0
ROUNDS = 60  # of bisection: more than float64 can tell apart


@dataclass
class TokenLosses:
    """Running mean of the loss, in nats, of each token id of a vocabulary.

    A batch counts by its number of tokens of that id; what lies ``memory`` tokens back has the weight 1/e.
    """

    vocab_size: int
    memory: float = 1000.0
    sums: NDArray[np.float64] = field(init=False)
    counts: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.sums, self.counts = np.zeros(self.vocab_size), np.zeros(self.vocab_size)

    def update(self, tokens: Ints, losses: Floats) -> None:
        """Take in losses of tokens, ``[m]`` both. Raises `RequestError` for ids of another vocabulary."""
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            raise RequestError(f"token ids must be 0 to {self.vocab_size - 1}: these are of another vocabulary")
        new = np.bincount(tokens, minlength=self.vocab_size).astype(np.float64)
        kept = np.exp(-new / self.memory)
        self.sums = self.sums * kept + np.bincount(tokens, losses, self.vocab_size)
        self.counts = self.counts * kept + new

    def weights(self) -> Floats:
        """Return each id's mean loss over that of all, in [0.25, 4]; 1 for ids that were not seen."""
        total = self.counts.sum()
        if not total or not self.sums.sum() > 0:
            return np.ones(self.vocab_size)
        mean = self.sums.sum() / total
        prior = 1.0  # one token of mean loss, so that a first loss does not decide alone
        weights = (self.sums + prior * mean) / (self.counts + prior) / mean
        clipped: Floats = np.clip(weights, LEAST_WEIGHT, MOST_WEIGHT)
        return clipped


@dataclass(frozen=True)
class AdaptiveMasks:
    """Single tokens, those with a high running loss more often."""

    losses: TokenLosses
    exact: bool = False
    name: str = "adaptive"
    paper: str = "Zhong et al., Self-Evolution Learning (2023); Shi et al., Generalized Masked Diffusion (2024)"

    def choose(self, batch: TokenBatch, rates: Floats, noise: Noise) -> Masks:
        """Choose tokens, see `MaskRule.choose`."""
        weights = self.losses.weights()[batch.tokens]
        chances = chances_of(weights, batch.maskable, rates)
        return draw_units(batch, batch.starts(None), rates, noise, exact=self.exact, chances=chances)


def chances_of(weights: Floats, maskable: Bools, rates: Floats) -> Floats:
    """Return chances ``1 - exp(-c * w)`` whose mean over a text's maskable tokens is its rate, ``[B, n]``."""
    count = np.maximum(maskable.sum(axis=1), 1)
    capped = np.minimum(rates, 1 - 1e-12)
    low = np.zeros(len(rates))
    high = -np.log1p(-capped) / np.where(maskable, weights, np.inf).min(axis=1, initial=1.0)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        mean = (-np.expm1(-middle[:, None] * weights) * maskable).sum(axis=1) / count
        low, high = np.where(mean < capped, middle, low), np.where(mean < capped, high, middle)
    chances: Floats = -np.expm1(-high[:, None] * weights)
    return chances
