"""From texts to training examples: a rate for each, a choice of tokens, and what the model sees in their place.

Puts a rule and a schedule together. Knows neither models nor files. Invariant: an example depends on the seed, the
epoch and the text alone; inputs and targets differ at chosen positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from miaotui.dmlm.masks.adaptive import AdaptiveMasks, TokenLosses
from miaotui.dmlm.masks.batch import Bools, TokenBatch
from miaotui.dmlm.masks.rules import RULES, MaskRule, RandomMasks
from miaotui.dmlm.masks.schedule import LogLinearRates, Schedule, clipped_times
from miaotui.errors import RequestError
from miaotui.training.noise import Floats, Ints, Noise

_REPLACED, _TOKENS = 11, 12  # streams of noise
KEPT, OTHER = 0.1, 0.1  # BERT, section 3.1: of chosen tokens, a tenth stays and a tenth becomes another token


class MaskedBatch(NamedTuple):
    """Examples ``[B, n]``: what the model reads, and which tokens it has to restore.

    ``weights [B]`` are the factors of each text's summed loss (see `schedule`), ``rates [B]`` its chances.
    """

    inputs: Ints
    chosen: Bools
    chances: Floats
    rates: Floats
    weights: Floats


@dataclass(frozen=True)
class Masking:
    """Rule, schedule and seed of a training run.

    ``dynamic`` draws anew in each epoch (RoBERTa); without it a text has the same masks in all of them, as in BERT's
    prepared data. ``replace``: "mask" puts the mask token everywhere, which a bound needs; "bert" leaves a tenth as it
    is and puts a random token in the place of another tenth.
    """

    mask_id: int
    vocab_size: int
    rule: MaskRule = RandomMasks()  # noqa: RUF009 - frozen
    schedule: Schedule = LogLinearRates()  # noqa: RUF009 - frozen
    seed: int = 0
    dynamic: bool = True
    replace: Literal["mask", "bert"] = "mask"

    def __post_init__(self) -> None:
        if not 0 <= self.mask_id < self.vocab_size:
            raise RequestError(f"the mask token must be one of the {self.vocab_size:,} tokens, not {self.mask_id!r}")

    @property
    def is_bound(self) -> bool:
        """Return whether the weighted loss bounds the negative log-likelihood."""
        uniform = isinstance(self.rule, RandomMasks) and not self.rule.exact
        return uniform and self.schedule.is_bound and self.replace == "mask"

    def masked(self, batch: TokenBatch, epoch: int = 0) -> MaskedBatch:
        """Return the examples of a batch in an epoch."""
        noise = Noise(self.seed, epoch if self.dynamic else 0)
        times = clipped_times(noise.times(batch.numbers))
        rates = self.schedule.rate(times)
        masks = self.rule.choose(batch, rates, noise)
        return MaskedBatch(
            self._replaced(batch, masks.chosen, noise), masks.chosen, masks.chances, rates, self.schedule.weight(times)
        )

    def _replaced(self, batch: TokenBatch, chosen: Bools, noise: Noise) -> Ints:
        inputs = np.where(chosen, self.mask_id, batch.tokens)
        if self.replace == "mask":
            return inputs
        n = inputs.shape[1]
        draws = noise.uniform(batch.numbers, n, _REPLACED)
        others = (noise.uniform(batch.numbers, n, _TOKENS) * self.vocab_size).astype(np.int64)
        inputs = np.where(chosen & (draws < KEPT), batch.tokens, inputs)
        return np.where(chosen & (draws >= KEPT) & (draws < KEPT + OTHER), others, inputs)


def _plain(name: str) -> Callable[[int], MaskRule]:
    return lambda _: RULES[name]


MASKS: Mapping[str, Callable[[int], MaskRule]] = {
    **{name: _plain(name) for name in RULES},
    "fixed": _plain("random"),  # with ``dynamic`` off
    "adaptive": lambda vocab_size: AdaptiveMasks(TokenLosses(vocab_size)),
}


def masking_named(name: str, mask_id: int, vocab_size: int, schedule: Schedule, seed: int = 0) -> Masking:
    """Return the masking of a name of `MASKS`. Raises `RequestError`."""
    if name not in MASKS:
        raise RequestError(f"no masks are called {name!r}: choose one of {', '.join(MASKS)}")
    return Masking(mask_id, vocab_size, MASKS[name](vocab_size), schedule, seed, dynamic=name != "fixed")
