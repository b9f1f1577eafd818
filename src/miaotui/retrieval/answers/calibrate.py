"""Calibration of near matches: a likeness threshold with a bound on false hits.

Owns the experiment: fill a cache with the first question of every pair, look the second ones up, and count answers
that belong to another question. Knows no storage. Invariant: a rule exists only if the upper end of the
Clopper-Pearson interval (1934) of its false-hit rate is within the bound. Thresholds are tried from the strictest
down and the search stops at the first that fails, so the choice costs no confidence (fixed-sequence testing;
Angelopoulos et al., "Learn then Test", 2021).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import RequestError
from miaotui.retrieval.answers.similarity import Reading, likeness, marks_agree, normalised, read
from miaotui.retrieval.minhash import band_keys

DEFAULT_BOUND = 0.001
CONFIDENCE = 0.95
THRESHOLDS = tuple(round(1.0 - 0.02 * step, 2) for step in range(26))  # 1.00 down to 0.50
MAX_PAIRS = 200_000
MAX_PAIRS_BYTES = 64 << 20


@dataclass(frozen=True)
class Pair:
    """Two questions, and whether one answer serves both."""

    first: str
    second: str
    same: bool


@dataclass(frozen=True)
class NearRule:
    """Threshold of likeness from which two questions count as equal.

    Made by `calibrate`: with 95% confidence, at most ``bound`` of the lookups without a kept answer of their own get
    another's. The experiment had ``false_hits`` in ``trials``.
    """

    threshold: float
    bound: float
    trials: int
    false_hits: int


@dataclass(frozen=True)
class Calibration:
    """Outcome of a calibration: a rule, or None and the reason. ``found`` is the share of equal questions found."""

    rule: NearRule | None
    reason: str
    trials: int
    same: int
    found: float


def calibrate(pairs: Sequence[Pair], bound: float = DEFAULT_BOUND) -> Calibration:
    """Return the lowest threshold whose false-hit rate is surely within ``bound``.

    The rate is taken over lookups whose own answer is not kept: the second questions of pairs that differ, and those
    of the same meaning that found a wrong one. Raises `RequestError` for a bound outside (0, 0.5).
    """
    if not 0 < bound < 0.5:
        raise RequestError(f"the false-hit bound must be in (0, 0.5), not {bound!r}")
    looked_up = _Experiment(pairs[:MAX_PAIRS]).outcomes()
    differ = sum(not outcome.same for outcome in looked_up)
    same = len(looked_up) - differ
    best: NearRule | None = None
    reason = f"{differ} pairs that differ cannot show a rate of {bound:.2%}: " + (
        f"at least {needed(bound):,} are needed"
    )
    for threshold in THRESHOLDS:
        hits = [outcome for outcome in looked_up if outcome.likeness >= threshold]
        wrong = sum(not outcome.right for outcome in hits)
        trials = differ + sum(outcome.same and not outcome.right for outcome in hits)
        upper = upper_bound(wrong, trials)
        if upper > bound:
            if wrong:
                reason = (
                    f"at likeness {threshold} {wrong} of {trials} lookups found another question's "
                    f"answer: up to {upper:.2%}, more than {bound:.2%}"
                )
            break
        best = NearRule(threshold, bound, trials, wrong)
    if best is None:
        return Calibration(None, f"near matches stay off: {reason}", differ, same, 0.0)
    right = sum(o.right and o.same and o.likeness >= best.threshold for o in looked_up)
    text = f"likeness from {best.threshold} on: {best.false_hits} false in {best.trials} lookups"
    return Calibration(best, text, best.trials, same, right / same if same else 0.0)


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the upper end of the one-sided Clopper-Pearson interval for ``events`` in ``trials``."""
    if trials == 0 or events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_cdf(events, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def needed(bound: float, confidence: float = CONFIDENCE) -> int:
    """Return how many trials without an event show a rate below ``bound``."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-bound))


def read_pairs(path: Path) -> list[Pair]:
    """Return pairs from JSON lines: ``{"first": …, "second": …, "same": true}``.

    Raises `RequestError`, naming the line.
    """
    try:
        if path.stat().st_size > MAX_PAIRS_BYTES:
            raise RequestError(f"{path} is larger than {MAX_PAIRS_BYTES >> 20} MiB: give a part")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {error}. Give a UTF-8 file") from error
    return [_pair(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _pair(path: Path, number: int, line: str) -> Pair:
    try:
        value = json.loads(line)
        first, second, same = value["first"], value["second"], value["same"]
    except (ValueError, KeyError, TypeError, RecursionError):
        first = second = same = None
    if not (isinstance(first, str) and isinstance(second, str) and isinstance(same, bool)):
        raise RequestError(f'{path}, line {number}: expected {{"first": text, "second": text, "same": true or false}}')
    return Pair(first, second, same)


def _binomial_cdf(events: int, trials: int, rate: float) -> float:
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    log_p, log_q = math.log(rate), math.log1p(-rate)
    total, log_choose = 0.0, 0.0
    for k in range(events + 1):
        if k:
            log_choose += math.log((trials - k + 1) / k)
        total += math.exp(log_choose + k * log_p + (trials - k) * log_q)
    return min(total, 1.0)


@dataclass(frozen=True)
class _Outcome:
    same: bool  # whether the right answer was kept
    likeness: float  # of the best candidate; 0 if there is none
    right: bool


class _Experiment:
    """Cache of all first questions, in memory."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._group: dict[str, str] = {}
        self._bands: dict[int, list[str]] = {}
        self._readings: dict[str, Reading | None] = {}
        self._pairs = [Pair(normalised(p.first), normalised(p.second), p.same) for p in pairs]
        for pair in self._pairs:
            if pair.same:
                self._group[self._root(pair.second)] = self._root(pair.first)
        for text in {pair.first: None for pair in self._pairs}:
            reading = self._read(text)
            if reading is not None:
                for band in band_keys(b"", reading.shingles):
                    self._bands.setdefault(band, []).append(text)

    def outcomes(self) -> list[_Outcome]:
        """Return the outcome of looking up every second question."""
        kept = {self._root(pair.first) for pair in self._pairs if pair.same}
        seconds = {pair.second: pair for pair in self._pairs if pair.first != pair.second}
        return [self._look_up(text, self._root(text) in kept) for text in seconds]

    def _look_up(self, text: str, same: bool) -> _Outcome:
        reading, best, found = self._read(text), 0.0, ""
        if reading is None:
            return _Outcome(same, 0.0, True)
        shingles = reading.shingles
        keys = band_keys(b"", shingles)
        candidates = {other for key in keys for other in self._bands.get(key, ())}
        for other in sorted(candidates - {text}):
            candidate = self._read(other)
            if candidate is not None and marks_agree(reading, candidate):
                alike = likeness(shingles, candidate.shingles)
                if alike > best:
                    best, found = alike, other
        return _Outcome(same, best, bool(found) and self._root(found) == self._root(text))

    def _read(self, text: str) -> Reading | None:
        if text not in self._readings:
            self._readings[text] = read(text)
        return self._readings[text]

    def _root(self, text: str) -> str:
        while (above := self._group.get(text, text)) != text:
            text = above
        return text
