"""Masking rules: which tokens of each text are masked at a given rate.

One interface, `MaskRule.choose`; each rule names the paper that describes it. By default units are drawn independently
of each other, each with chance ``rate``: every token then has that very chance, so the loss can be weighted to a bound
(`schedule`). With ``exact`` a text has a fixed number of masks, as in BERT. Knows no model. Invariant: a choice is a
function of the text, the rate and the noise; never of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from miaotui.dmlm.masks.batch import Bools, TokenBatch, Units
from miaotui.errors import RequestError
from miaotui.training.noise import Floats, Noise

_CHOICE, _LENGTHS = 1, 2  # streams of noise

SPAN_CHANCE, LONGEST_SPAN = 0.2, 10  # of the geometric distribution, and words of the longest span (SpanBERT, 3.1)


class Masks(NamedTuple):
    """Chosen tokens, and the chance that each had, ``[B, n]`` both; the chance is 0 where masks must not be."""

    chosen: Bools
    chances: Floats


class MaskRule(Protocol):
    """Way to choose tokens."""

    @property
    def name(self) -> str:
        """Return its command-line name."""
        ...

    @property
    def paper(self) -> str:
        """Return its source."""
        ...

    def choose(self, batch: TokenBatch, rates: Floats, noise: Noise) -> Masks:
        """Choose about ``rates [B]`` of the maskable tokens of each text."""
        ...


@dataclass(frozen=True)
class RandomMasks:
    """Single tokens, each on its own."""

    exact: bool = False
    name: str = "random"
    paper: str = (
        "Devlin et al., BERT (2019), section 3.1; drawn anew each time: Liu et al., RoBERTa (2019), section 4.1"
    )

    def choose(self, batch: TokenBatch, rates: Floats, noise: Noise) -> Masks:
        """Choose tokens, see `MaskRule.choose`."""
        return draw_units(batch, batch.starts(None), rates, noise, exact=self.exact)


@dataclass(frozen=True)
class UnitMasks:
    """Whole words or whole collocations: all tokens of a unit, or none."""

    units: Literal["words", "collocations"] = "words"
    exact: bool = False

    @property
    def name(self) -> str:
        """Return the rule's name."""
        return "words" if self.units == "words" else "pmi"

    @property
    def paper(self) -> str:
        """Return the rule's source."""
        if self.units == "words":
            return "whole words: BERT's release of May 2019; Cui et al., Pre-Training with Whole Word Masking (2021)"
        return "Levine et al., PMI-Masking (2021), sections 3 and 4"

    def choose(self, batch: TokenBatch, rates: Floats, noise: Noise) -> Masks:
        """Choose units, see `MaskRule.choose`. Raises `RequestError` for a batch without them."""
        return draw_units(batch, batch.starts(_units(batch, self.units)), rates, noise, exact=self.exact)


@dataclass(frozen=True)
class SpanMasks:
    """Stretches of whole words, with SpanBERT's lengths.

    Each text is cut into stretches whose lengths in words follow a geometric distribution (0.2, at most 10 words), and
    each stretch is masked with the rate's chance. SpanBERT places spans one after the other until 15% are masked, which
    gives no chance of a single token, so no bound; at 15% both have the same lengths but where two stretches touch.
    """

    exact: bool = False
    chance: float = SPAN_CHANCE
    longest: int = LONGEST_SPAN
    name: str = "spans"
    paper: str = "Joshi et al., SpanBERT (2020), section 3.1"

    def choose(self, batch: TokenBatch, rates: Floats, noise: Noise) -> Masks:
        """Choose stretches, see `MaskRule.choose`; without words each token counts as one."""
        return draw_units(batch, self.stretches(batch, noise), rates, noise, exact=self.exact)

    def stretches(self, batch: TokenBatch, noise: Noise) -> Bools:
        """Return where stretches begin, ``[B, n]``; a stretch ends before a token that must not be masked."""
        starts = batch.starts(batch.words)
        draws = noise.uniform(batch.numbers, starts.shape[1], _LENGTHS)
        ends = np.append(0.0, self._ends())  # chance that a stretch of so many words ends
        together = np.zeros(starts.shape, bool)
        together[:, 1:] = batch.maskable[:, 1:] & batch.maskable[:, :-1]
        begins = starts.copy()
        words = np.ones(len(starts), np.int64)  # of the stretch so far
        for column in range(1, starts.shape[1]):
            is_word = starts[:, column]
            goes_on = is_word & together[:, column] & (draws[:, column] >= ends[words])
            begins[:, column] = is_word & ~goes_on
            words = np.where(is_word, np.where(goes_on, words + 1, 1), words)
        stretches: Bools = begins
        return stretches

    def _ends(self) -> Floats:
        """Return the chance that a stretch ends after 1, 2, ... words: those of the distribution cut at the longest."""
        lengths = np.arange(self.longest)
        left = (1 - self.chance) ** lengths
        ends: Floats = self.chance * left / (left - (1 - self.chance) ** self.longest)
        return ends


def draw_units(
    batch: TokenBatch, starts: Bools, rates: Floats, noise: Noise, *, exact: bool = False, chances: Floats | None = None
) -> Masks:
    """Mask whole units.

    ``chances [B, n]`` are the units' own, ``rates`` otherwise. With ``exact`` units are taken in a random order until
    the next one would exceed the budget, ``round(rate * maskable tokens)``; at least one is taken.
    """
    units = Units.of(starts)
    draws = units.spread(noise.uniform(batch.numbers, starts.shape[1], _CHOICE))
    if chances is None:
        chances = np.broadcast_to(rates[:, None], starts.shape)
    chances = np.where(batch.maskable, units.within(chances), 0.0)
    if not exact:
        return Masks(draws < chances, chances)
    order_by = np.where(batch.maskable, -np.log1p(-draws) / np.maximum(chances, 1e-12), np.inf)
    order = np.argsort(order_by, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(starts.shape[1]), starts.shape), axis=1)
    unit_place = np.take_along_axis(places, units.first, axis=1)  # tokens taken before the unit
    budget = np.rint(rates * batch.maskable.sum(axis=1))[:, None]
    taken: Bools = (unit_place + units.lengths <= budget) | (unit_place == 0)
    return Masks(taken & batch.maskable, chances)


def _units(batch: TokenBatch, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    found = batch.words if name == "words" else batch.collocations
    if found is None:
        raise RequestError(f"the batch has no {name}: read its texts with `{name}` to mask by them")
    return found


RULES: Mapping[str, MaskRule] = {
    rule.name: rule for rule in (RandomMasks(), SpanMasks(), UnitMasks("words"), UnitMasks("collocations"))
}
