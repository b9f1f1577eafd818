"""Greedy and beam search as state machines: scores of rows go in, the rows that are wanted next come out.

Owns the choice of tokens and the end of a search. Knows no model, batch or text. Invariants: a search depends on its
own scores alone; equal scores go to the lower beam, then to the lower token id; where the rules leave no token, the
target ends. Source: transformers' ``generate`` (greedy and ``_beam_search``), whose token ids these are: 2 candidates a
beam, or 1 + the number of end tokens; finished targets compete by score / length ** penalty.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import NamedTuple, Protocol

import numpy as np

from miaotui.backends.sampling import mix64, noise_key
from miaotui.backends.seq2seq_backend import Head, TargetAlignment
from miaotui.backends.target_scores import TargetScores
from miaotui.engine.search.rules import TokenRules
from miaotui.model.seq2seq.generation import GenerationSettings

_NEVER = -np.inf
NO_PARENT = -1


class SearchRow(NamedTuple):
    """A row that is wanted next: ``token`` behind the tokens of row ``parent`` of the rows before.

    ``parent`` is `NO_PARENT` for one that begins anew. ``candidates``: how many of its next tokens will be asked for;
    0: none, since they are forced. ``before``: tokens between the parent and this one.
    """

    parent: int
    token: int
    candidates: int
    before: tuple[int, ...] = ()


class FoundTarget(NamedTuple):
    """A target: its tokens from the start token on, and the sum of log-probabilities over its length's penalty.

    ``details``: more of a search that is not `GreedySearch` or a kind of it.
    """

    tokens: tuple[int, ...]
    score: float
    details: object = None


class SearchSettings(Protocol):
    """Settings of a search, as far as the queue of searches reads them."""

    @property
    def num_beams(self) -> int:
        """Return the most rows of a step, but for those before them."""

    @property
    def max_length(self) -> int:
        """Return the most tokens of a target."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """Return the tokens behind the start token that are given."""

    def check_vocabulary(self, size: int) -> None:
        """Raise `FieldError` for a token id that is not below ``size``."""


class TargetSearch(Protocol):
    """A search in progress. ``rows`` are computed next; () when it is over.

    One that is over may want its target aligned: ``alignment`` has the tokens and heads, `align` takes the result.
    """

    rows: Sequence[SearchRow]

    @property
    def alignment(self) -> tuple[Sequence[int], Sequence[Head]] | None:
        """Return the tokens and heads whose cross-attention is wanted; None for nothing."""

    def align(self, alignment: TargetAlignment) -> None:
        """Take in the cross-attention that was wanted."""

    def advance(self, scores: TargetScores) -> None:
        """Go on with the scores of ``rows``; of a row of no candidates there are none."""

    def found(self) -> FoundTarget:
        """Return the best target once the search is over."""


class Unaligned:
    """Base of searches whose targets are not aligned."""

    alignment: tuple[Sequence[int], Sequence[Head]] | None = None

    def align(self, alignment: TargetAlignment) -> None:
        """Refuse what was not wanted."""
        raise AssertionError("this search wants no alignment")


@singledispatch
def start_search(settings: object) -> TargetSearch:
    """Return the search that ``settings`` ask for; other kinds of settings register theirs."""
    raise TypeError(f"{type(settings).__name__} are no settings of a search")


@start_search.register
def _start(settings: GenerationSettings) -> TargetSearch:
    if settings.num_beams > 1:
        return BeamSearch(settings)
    return SampledSearch(settings) if settings.temperature else GreedySearch(settings)


class GreedySearch(Unaligned):
    """The likeliest token in each step."""

    choices = 1  # best tokens that one is chosen from

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings, self._rules = settings, TokenRules(settings)
        self._tokens = [settings.start_token]
        self._given = len(settings.prefix)
        self._score = 0.0
        self._want(settings.start_token)

    @property
    def written(self) -> tuple[int, ...]:
        """Return the tokens from the start token on."""
        return tuple(self._tokens)

    def _want(self, token: int) -> None:
        self._forced = self._rules.forced(len(self._tokens))
        self._kept_out: Collection[int] = () if self._forced is not None else self._rules.kept_out(self._tokens)
        candidates = 0 if self._forced is not None else self.choices + len(self._kept_out)
        self.rows: Sequence[SearchRow] = (SearchRow(0, token, candidates),)

    def advance(self, scores: TargetScores) -> None:
        """Choose the next token. ``scores`` are of one row."""
        place = len(self._tokens) - 1
        token = self._next(scores) if self._forced is None else next(iter(self._forced), None)
        if token is None:
            self.rows = ()
            return
        self._tokens.append(token)
        ended = place >= self._given and token in self._settings.eos_ids
        if ended or len(self._tokens) >= self._settings.max_length:
            self.rows = ()
        else:
            self._want(token)

    def _next(self, scores: TargetScores) -> int | None:
        """Return the next token; None if all are kept out."""
        best = scores.best(0, self.rows[0].candidates)
        pairs = [
            (token, score)
            for token, score in zip(best.tokens.tolist(), best.scores.tolist(), strict=True)
            if token not in self._kept_out and score > _NEVER
        ][: self.choices]
        if not pairs:
            return None
        tokens, logprobs = zip(*pairs, strict=True)
        place = self._choose(tokens, logprobs)
        self._score += logprobs[place]
        return int(tokens[place])

    def _choose(self, tokens: Sequence[int], scores: Sequence[float]) -> int:
        """Return the place of the token chosen, among those that may follow, best first."""
        return 0

    def found(self) -> FoundTarget:
        """Return the target."""
        written = max(len(self._tokens) - 1 - self._given, 1)
        return FoundTarget(tuple(self._tokens), self._score / written**self._settings.length_penalty)


def settled_tokens(search: TargetSearch) -> tuple[int, ...]:
    """Return the tokens that are sure to begin a search's target; none of one with beams before it is over."""
    return search.written if isinstance(search, GreedySearch) else ()


class SampledSearch(GreedySearch):
    """A token drawn in each step, of the best ones, by their probabilities at a temperature.

    The draw is a race (Gumbel's trick): a token's noise is a function of the seed, its place and the token alone.
    """

    choices = 32

    def _choose(self, tokens: Sequence[int], scores: Sequence[float]) -> int:
        """Return the place of the token that is drawn."""
        settings, key = self._settings, noise_key(self._settings.seed, len(self._tokens))
        race = [
            score / settings.temperature - math.log(-math.log(uniform(key, token)))
            for token, score in zip(tokens, scores, strict=True)
        ]
        return max(range(len(race)), key=race.__getitem__)


def uniform(key: int, token: int) -> float:
    """Return a number in (0, 1) for a token under a draw's key."""
    return ((mix64(key ^ mix64(token + 1)) >> 12) + 0.5) / 2.0**52


@dataclass(frozen=True)
class _Candidate:
    """A target that may go on or has ended; ``beam`` is the row that it continues."""

    score: np.float32
    beam: int
    tokens: tuple[int, ...]
    kept_out: Collection[int] = field(default=(), compare=False)


class BeamSearch(Unaligned):
    """The best of several targets that are continued together."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings, self._rules = settings, TokenRules(settings)
        self._begun = 1 + len(settings.prefix)  # length of what is given
        self._wanted = max(2, 1 + len(settings.eos_ids)) * settings.num_beams  # candidates of a step
        self._finished: list[_Candidate] = []  # best first; scores with the length's penalty
        self._may_improve = True
        self._want([_Candidate(np.float32(0), 0, (settings.start_token,))])

    def _want(self, beams: Sequence[_Candidate]) -> None:
        """Go on with ``beams``, which are equally long."""
        self._forced = self._rules.forced(len(beams[0].tokens))
        free = self._forced is None
        self._beams = [
            _Candidate(each.score, each.beam, each.tokens, self._rules.kept_out(each.tokens) if free else ())
            for each in beams
        ]
        self.rows: Sequence[SearchRow] = [
            SearchRow(each.beam, each.tokens[-1], self._wanted + len(each.kept_out) if free else 0)
            for each in self._beams
        ]

    def advance(self, scores: TargetScores) -> None:
        """Choose the beams of the next step."""
        length = len(self._beams[0].tokens)
        candidates = self._candidates(scores)
        if not candidates:
            self.rows = ()
            return
        if length < self._begun:
            self._want(candidates[:1])
            return
        is_last = length + 1 >= self._settings.max_length
        ended = [is_last or each.tokens[-1] in self._settings.eos_ids for each in candidates]
        going = [each for each, over in zip(candidates, ended, strict=True) if not over]
        self._finish([each for each, over in zip(candidates[: self._settings.num_beams], ended, strict=False) if over])
        going = going[: self._settings.num_beams]
        self._look_ahead(going, length + 1)
        over = not going or not self._may_improve
        over = over or (self._settings.early_stopping is True and len(self._finished) >= self._settings.num_beams)
        if over:
            self._beams, self.rows = going, ()
        else:
            self._want(going)

    def found(self) -> FoundTarget:
        """Return the best finished target."""
        best = self._finished[0] if self._finished else self._beams[0]
        return FoundTarget(best.tokens, float(best.score))

    def _candidates(self, scores: TargetScores) -> list[_Candidate]:
        """Return the best continuations of all beams, best first."""
        found: list[tuple[float, int, int]] = []
        for beam, each in enumerate(self._beams):
            if self._forced is not None:
                found += [(-float(each.score), beam, token) for token in self._forced]
                continue
            best = scores.best(beam, self.rows[beam].candidates)
            sums = (best.scores + each.score).tolist()
            found += [
                (-score, beam, token)
                for token, score in zip(best.tokens.tolist(), sums, strict=True)
                if token not in each.kept_out and score > _NEVER
            ]
        found.sort()
        return [
            _Candidate(np.float32(-score), beam, (*self._beams[beam].tokens, token))
            for score, beam, token in found[: self._wanted]
        ]

    def _finish(self, ended: Sequence[_Candidate]) -> None:
        """Keep the best finished targets, of those kept before and those that end now."""
        if not self._may_improve:
            return
        for each in ended:
            written = len(each.tokens) - self._begun
            score = each.score / np.float32(written**self._settings.length_penalty)
            self._finished.append(_Candidate(score, each.beam, each.tokens))
        self._finished.sort(key=lambda each: -each.score)  # stable: of equals the one that was there first
        del self._finished[self._settings.num_beams :]

    def _look_ahead(self, going: Sequence[_Candidate], length: int) -> None:
        """Decide whether a beam that goes on may still beat the worst finished target."""
        settings = self._settings
        if not going or len(self._finished) < settings.num_beams:
            return
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        written = (settings.max_length if longest else length) - self._begun
        best = going[0].score / np.float32(written**settings.length_penalty)
        self._may_improve = bool(best > self._finished[-1].score)
