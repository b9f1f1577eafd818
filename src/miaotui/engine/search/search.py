"""Greedy and beam search as state machines: logits of rows go in, the rows that are wanted next come out.

Owns the choice of tokens and the end of a search. Knows no model, batch or text. Invariants: a search depends on its
own logits alone; equal scores go to the lower beam, then to the lower token id; where the rules leave no token, the
target ends. Source: transformers' ``generate`` (greedy and ``_beam_search``), whose token ids these are: 2 candidates a
beam, or 1 + the number of end tokens; finished targets compete by score / length ** penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.search.rules import NEVER, ScoreRules, log_softmax
from miaotui.model.seq2seq.generation import GenerationSettings

Floats = NDArray[np.float32]
_WORST = np.float32(-1e9)  # score of a place in the beam that holds nothing


class SearchRow(NamedTuple):
    """A row that is wanted next: ``token`` behind the tokens of row ``parent`` of the rows before."""

    parent: int
    token: int


class FoundTarget(NamedTuple):
    """A target: its tokens from the start token on, and the sum of log-probabilities over its length's penalty."""

    tokens: tuple[int, ...]
    score: float


class TargetSearch(Protocol):
    """A search in progress. ``rows`` are computed next; () when it is over."""

    rows: Sequence[SearchRow]

    def advance(self, logits: Floats) -> None:
        """Go on with the logits ``[len(rows), vocab]``, float32."""

    def found(self) -> FoundTarget:
        """Return the best target once the search is over."""


def start_search(settings: GenerationSettings) -> TargetSearch:
    """Return the search that ``settings`` ask for."""
    return BeamSearch(settings) if settings.num_beams > 1 else GreedySearch(settings)


class GreedySearch:
    """The likeliest token in each step."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings, self._rules = settings, ScoreRules(settings)
        self._tokens = [settings.start_token]
        self._given = len(settings.prefix)
        self._score = 0.0
        self.rows: Sequence[SearchRow] = (SearchRow(0, settings.start_token),)

    def advance(self, logits: Floats) -> None:
        """Choose the next token. ``logits`` are ``[1, vocab]``."""
        place = len(self._tokens) - 1
        if place < self._given:
            token = self._settings.prefix[place]
        else:
            scores = self._rules.apply(self._tokens, np.array(logits[0], np.float32))
            token = int(scores.argmax())
            if scores[token] == NEVER:
                self.rows = ()
                return
            self._score += float(log_softmax(logits[0].astype(np.float32))[token])
        self._tokens.append(token)
        ended = place >= self._given and token in self._settings.eos_ids
        over = ended or len(self._tokens) >= self._settings.max_length
        self.rows = () if over else (SearchRow(0, token),)

    def found(self) -> FoundTarget:
        """Return the target."""
        written = max(len(self._tokens) - 1 - self._given, 1)
        return FoundTarget(tuple(self._tokens), self._score / written**self._settings.length_penalty)


@dataclass(frozen=True)
class _Candidate:
    """A target that may go on or has ended; ``beam`` is the row that it continues."""

    score: np.float32
    beam: int
    tokens: tuple[int, ...]


class BeamSearch:
    """The best of several targets that are continued together."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings, self._rules = settings, ScoreRules(settings)
        self._begun = 1 + len(settings.prefix)  # length of what is given
        self._beams = [_Candidate(np.float32(0), 0, (settings.start_token,))]
        self._finished: list[_Candidate] = []  # best first; scores with the length's penalty
        self._may_improve = True
        self.rows: Sequence[SearchRow] = (SearchRow(0, settings.start_token),)

    def advance(self, logits: Floats) -> None:
        """Choose the beams of the next step."""
        length = len(self._beams[0].tokens)
        if length < self._begun:
            token = self._settings.prefix[length - 1]
            self._beams = [_Candidate(np.float32(0), 0, (*self._beams[0].tokens, token))]
            self.rows = (SearchRow(0, token),)
            return
        candidates = self._candidates(logits)
        if not candidates:
            self.rows = ()
            return
        is_last = length + 1 >= self._settings.max_length
        ended = [is_last or each.tokens[-1] in self._settings.eos_ids for each in candidates]
        going = [each for each, over in zip(candidates, ended, strict=True) if not over]
        self._finish([each for each, over in zip(candidates[: self._settings.num_beams], ended, strict=False) if over])
        self._beams = going[: self._settings.num_beams]
        self._look_ahead(length + 1)
        over = not self._beams or not self._may_improve
        over = over or (self._settings.early_stopping is True and len(self._finished) >= self._settings.num_beams)
        self.rows = () if over else [SearchRow(each.beam, each.tokens[-1]) for each in self._beams]

    def found(self) -> FoundTarget:
        """Return the best finished target."""
        best = self._finished[0] if self._finished else self._beams[0]
        return FoundTarget(best.tokens, float(best.score))

    def _candidates(self, logits: Floats) -> list[_Candidate]:
        """Return the best continuations of all beams, best first."""
        scores = log_softmax(logits.astype(np.float32))
        for row, beam in enumerate(self._beams):
            scores[row] = self._rules.apply(beam.tokens, scores[row]) + beam.score
        flat, vocab = scores.reshape(-1), scores.shape[1]
        count = min(max(2, 1 + len(self._settings.eos_ids)) * self._settings.num_beams, flat.size)
        return [
            _Candidate(flat[place], int(place) // vocab, (*self._beams[place // vocab].tokens, int(place) % vocab))
            for place in best_places(flat, count)
            if flat[place] > NEVER
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

    def _look_ahead(self, length: int) -> None:
        """Decide whether a beam that goes on may still beat the worst finished target."""
        settings = self._settings
        if not self._beams or len(self._finished) < settings.num_beams:
            return
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        written = (settings.max_length if longest else length) - self._begun
        best = self._beams[0].score / np.float32(written**settings.length_penalty)
        self._may_improve = bool(best > self._finished[-1].score)


def best_places(scores: Floats, count: int) -> list[int]:
    """Return the places of the ``count`` highest scores, highest first; of equals the lowest place first."""
    if count < scores.size:
        least = np.partition(scores, scores.size - count)[scores.size - count]
        chosen = np.flatnonzero(scores > least)
        equals = np.flatnonzero(scores == least)[: count - len(chosen)]
        chosen = np.concatenate([chosen, equals])
    else:
        chosen = np.arange(scores.size)
    order = np.lexsort((chosen, -scores[chosen]))
    return [int(place) for place in chosen[order]]
