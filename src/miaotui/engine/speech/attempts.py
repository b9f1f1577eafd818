"""Attempts at a window's text: greedy, drawn at a temperature, or by beams; pure functions of logits.

Owns the choice of tokens and the end of an attempt. Knows neither models nor windows. Invariant: an attempt depends on
its own logits alone; of equals the lower row, then the lower token comes first. Source: openai/whisper, `decoding.py`;
beams end as CTranslate2's do: with as many finished texts as there are beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.sampling import noise_key
from miaotui.backends.target_scores import best_places
from miaotui.engine.speech.rules import NEVER, Floats, TimestampRules


class SpokenText(NamedTuple):
    """A text as tokens without the end token, and the sum of log-probabilities with it."""

    tokens: tuple[int, ...]
    logprob: float

    @property
    def mean_logprob(self) -> float:
        """Return the mean log-probability of its tokens and the end token."""
        return self.logprob / (len(self.tokens) + 1)

    @property
    def rank(self) -> float:
        """Return the score by which texts compete."""
        return self.logprob / max(len(self.tokens), 1)


class NextRow(NamedTuple):
    """A token that continues row ``parent`` of the rows before."""

    parent: int
    token: int


class Attempt(Protocol):
    """An attempt in progress. ``rows`` are wanted next; () when it is over."""

    rows: Sequence[NextRow]

    def advance(self, logits: Sequence[Floats]) -> None:
        """Go on with the logits ``[vocab]`` behind each of ``rows``; at first behind what is given."""

    def best(self) -> SpokenText:
        """Return the best text once the attempt is over."""


class DrawnAttempt:
    """Several texts, each drawn by itself at a temperature; at temperature 0 one text of the likeliest tokens."""

    def __init__(self, rules: TimestampRules, end: int, most: int, temperature: float, count: int, seed: int) -> None:
        self._rules, self._end, self._most, self._temperature = rules, end, most, temperature
        self._seeds = [noise_key(seed, row) for row in range(count if temperature else 1)]
        self._going = [(SpokenText((), 0.0), seed) for seed in self._seeds]
        self._over: list[SpokenText] = []
        self.rows: Sequence[NextRow] = ()

    def advance(self, logits: Sequence[Floats]) -> None:
        """Choose the next token of each text."""
        going, rows = [], []
        for place, (text, seed) in enumerate(self._going):
            parent = place if self.rows else 0  # all texts begin with one row
            scores = self._rules.logprobs(logits[parent], text.tokens)
            token = self._choose(scores, seed, len(text.tokens))
            logprob = text.logprob + float(scores[token])
            if token == self._end or scores[token] == NEVER:
                self._over.append(SpokenText(text.tokens, logprob if scores[token] > NEVER else text.logprob))
                continue
            longer = SpokenText((*text.tokens, token), logprob)
            if len(longer.tokens) >= self._most:
                self._over.append(longer)
                continue
            going.append((longer, seed))
            rows.append(NextRow(parent, token))
        self._going, self.rows = going, rows

    def _choose(self, scores: Floats, seed: int, position: int) -> int:
        """Return the likeliest token, or one drawn by its probability: the first in a race (Gumbel's trick)."""
        if not self._temperature:
            return int(scores.argmax())
        chances = uniforms(noise_key(seed, position), scores.size)
        race = scores.astype(np.float64) / self._temperature - np.log(-np.log(chances))
        return int(race.argmax())

    def best(self) -> SpokenText:
        """Return the text of the highest rank, the first one of equals."""
        return max(self._over, key=lambda each: each.rank)


class BeamAttempt:
    """The likeliest texts, continued together."""

    def __init__(self, rules: TimestampRules, end: int, most: int, beams: int) -> None:
        self._rules, self._end, self._most, self._beams = rules, end, most, beams
        self._texts = [SpokenText((), 0.0)]
        self._over: list[SpokenText] = []
        self.rows: Sequence[NextRow] = ()

    def advance(self, logits: Sequence[Floats]) -> None:
        """Choose the beams of the next step."""
        candidates = self._candidates(logits)
        is_last = bool(candidates) and len(self._texts[0].tokens) + 1 >= self._most
        texts: list[SpokenText] = []
        rows: list[NextRow] = []
        for place, (logprob, row, token) in enumerate(candidates):
            before = self._texts[row].tokens
            if token == self._end or is_last:
                if place < self._beams:
                    self._over.append(SpokenText(before if token == self._end else (*before, token), logprob))
            elif len(rows) < self._beams:
                texts.append(SpokenText((*before, token), logprob))
                rows.append(NextRow(row, token))
        is_over = len(self._over) >= self._beams
        self._over += self._texts if not candidates else []
        self._texts, self.rows = texts or self._texts, () if is_over else rows

    def _candidates(self, logits: Sequence[Floats]) -> list[tuple[float, int, int]]:
        """Return the best continuations of all beams, best first: sum of log-probabilities, row, token."""
        found: list[tuple[float, int, int]] = []
        for row, (text, each) in enumerate(zip(self._texts, logits, strict=True)):
            scores = self._rules.logprobs(each, text.tokens)
            places = best_places(scores, 2 * self._beams)
            found += [(text.logprob + float(scores[at]), row, int(at)) for at in places if scores[at] > NEVER]
        found.sort(key=lambda each: (-each[0], each[1], each[2]))
        return found[: 2 * self._beams]

    def best(self) -> SpokenText:
        """Return the text of the highest rank, the first one of equals."""
        return max(self._over or self._texts, key=lambda each: each.rank)


def uniforms(key: int, count: int) -> NDArray[np.float64]:
    """Return numbers in (0, 1) for tokens ``0 .. count - 1`` under a draw's key."""
    with np.errstate(over="ignore"):
        mixed = _mixed(np.uint64(key) ^ _mixed(np.arange(1, count + 1, dtype=np.uint64)))
    chances: NDArray[np.float64] = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52
    return chances


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits as `miaotui.backends.sampling.mix64` does."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
