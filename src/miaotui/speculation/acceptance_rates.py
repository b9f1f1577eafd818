"""Acceptance rates of drafted tokens, learned from every token that is answered.

Owns counts by source, temperature and kind of evidence; knows neither passes nor where tokens come from. Every
candidate is compared with what came, verified or not, so learning costs no passes. Invariant: estimates lie strictly
between 0 and 1. They decide what is drafted, never what is answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.kernels.draft.policy_fields import EVIDENCE_CLASSES, MIN_CHANCE, evidence_class
from miaotui.speculation.drafters.protocol import Candidate

MAX_EVIDENCE = 128  # more evidence than this counts as this
TEMPERATURES = (0.0, 0.4, 0.8, 1.1)  # the highest temperature of each class but the last
MEMORY = 400.0  # observations of a kind; older ones fade
PRIOR_WEIGHT = 12.0  # observations that a prior counts for
REQUEST_WEIGHT, REQUEST_MEMORY = 5.0, 40.0  # as these two, for one request's own record against the general rates
LEAST, MOST = 0.005, 0.995

# A kind of evidence is an agreement and a class. The agreement of a first token says how the places where it was
# found go on; tokens after it are LATER, and their evidence includes that the ones before them were accepted.
ALONE, UNANIMOUS, MOSTLY, HALF, RARELY, LATER = range(6)
KINDS = 6 * EVIDENCE_CLASSES

# Priors: acceptance rates of a small model answering everyday questions. Rows by agreement, columns by class of
# evidence; greedy answers, then temperature 1.
_COLD = (
    (0.31, 0.64, 0.76, 0.80, 0.83, 0.82, 0.83, 0.88, 0.90, 0.92, 0.94, 0.95, 0.98),
    (0.64, 0.84, 0.89, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.98, 0.98, 0.99, 0.99),
    (0.44, 0.70, 0.76, 0.80, 0.84, 0.86, 0.90, 0.91, 0.92, 0.85, 0.90, 0.91, 0.91),
    (0.17, 0.50, 0.59, 0.62, 0.68, 0.73, 0.75, 0.82, 0.84, 0.56, 0.62, 0.65, 0.82),
    (0.13, 0.36, 0.48, 0.53, 0.60, 0.64, 0.70, 0.72, 0.80, 0.50, 0.60, 0.68, 0.77),
    (0.50, 0.58, 0.66, 0.71, 0.77, 0.78, 0.83, 0.86, 0.89, 0.91, 0.94, 0.95, 0.98),
)
_HOT = (
    (0.16, 0.38, 0.54, 0.58, 0.60, 0.62, 0.64, 0.74, 0.86, 0.88, 0.90, 0.90, 0.94),
    (0.47, 0.73, 0.84, 0.86, 0.86, 0.88, 0.90, 0.94, 0.95, 0.95, 0.95, 0.95, 0.95),
    (0.34, 0.55, 0.63, 0.65, 0.70, 0.76, 0.81, 0.87, 0.90, 0.88, 0.88, 0.88, 0.88),
    (0.10, 0.27, 0.42, 0.46, 0.46, 0.50, 0.62, 0.65, 0.71, 0.60, 0.60, 0.65, 0.70),
    (0.06, 0.17, 0.27, 0.36, 0.41, 0.42, 0.51, 0.64, 0.75, 0.50, 0.50, 0.50, 0.50),
    (0.30, 0.35, 0.46, 0.53, 0.55, 0.58, 0.67, 0.76, 0.86, 0.88, 0.90, 0.90, 0.95),
)
# Priors of a draft head, whose evidence is how far a token leads: first tokens, then later ones.
_HEAD_COLD = (
    (0.21, 0.26, 0.31, 0.33, 0.38, 0.38, 0.50, 0.60, 0.69, 0.84, 0.93, 0.98, 0.99),
    (0.17, 0.23, 0.27, 0.29, 0.35, 0.38, 0.41, 0.52, 0.64, 0.84, 0.95, 0.98, 0.99),
)
_HEAD_HOT = (
    (0.21, 0.26, 0.27, 0.29, 0.34, 0.37, 0.40, 0.50, 0.58, 0.77, 0.85, 0.92, 0.98),
    (0.20, 0.22, 0.24, 0.30, 0.30, 0.32, 0.42, 0.46, 0.60, 0.72, 0.87, 0.92, 0.97),
)
_MIXTURE = (0.0, 0.25, 0.6, 1.0, 1.3)  # for each class of temperature, the share of the second table
# Priors of a head's first and later tokens, whatever the evidence.
_MEAN_COLD, _MEAN_HOT = (0.51, 0.43), (0.43, 0.41)
_MEAN_WEIGHT, _MEAN_MEMORY = 30.0, 2000.0

_CLASS_OF = [evidence_class(evidence) for evidence in range(MAX_EVIDENCE)]
_KIND_OF = [[agreement * EVIDENCE_CLASSES + each for each in _CLASS_OF] for agreement in range(6)]
_Table = Sequence[Sequence[float]]


def kinds_of(candidate: Candidate) -> list[int]:
    """Return the kind of evidence for each token of a candidate, and perhaps for more."""
    _, evidence, tokens, agreeing, disagreeing, _, kinds = candidate
    if kinds:
        return list(kinds)
    if not disagreeing:
        agreement = UNANIMOUS if agreeing > 1 else ALONE
    elif agreeing > disagreeing:
        agreement = MOSTLY
    else:
        agreement = HALF if agreeing == disagreeing else RARELY
    evidence = min(evidence, MAX_EVIDENCE - 1)
    later = _KIND_OF[LATER]
    kinds = [_KIND_OF[agreement][evidence], *later[evidence + 1 : evidence + len(tokens)]]
    return kinds if len(kinds) >= len(tokens) else kinds + later[-1:] * len(tokens)


def head_kind(depth: int, evidence: int) -> int:
    """Return the kind of a draft head's token; its first token has depth 0."""
    return _KIND_OF[LATER if depth else ALONE][min(evidence, MAX_EVIDENCE - 1)]


def copied_kinds(candidate: Candidate) -> list[int]:
    """Return the kinds of a candidate's tokens if they are appended to a head's draft.

    A head's rates keep rows of their own for these: evidence from a text is not evidence of the head.
    """
    first = min(candidate.evidence, MAX_EVIDENCE - 1)
    last = min(first + len(candidate.tokens), MAX_EVIDENCE)
    return [_KIND_OF[HALF if candidate.disagreeing else UNANIMOUS][first], *_KIND_OF[MOSTLY][first + 1 : last]]


def head_rates(rates: Sequence[float]) -> list[float]:
    """Return the acceptance rates ``[2 * EVIDENCE_CLASSES]`` of a head's first and later tokens, by class of
    evidence.
    """
    first, later = ALONE * EVIDENCE_CLASSES, LATER * EVIDENCE_CLASSES
    return [*rates[first : first + EVIDENCE_CLASSES], *rates[later : later + EVIDENCE_CLASSES]]


def temperature_class(temperature: float) -> int:
    """Return the class of a temperature, from 0 for greedy answers."""
    return next((i for i, bound in enumerate(TEMPERATURES) if temperature <= bound), len(TEMPERATURES))


def _prior(temperature: int, of_head: bool) -> list[float]:
    """Return the rate of each kind before anything was observed."""
    rows = _mixed(_COLD, _HOT, _MIXTURE[temperature])
    if of_head:
        first, last = _mixed(_HEAD_COLD, _HEAD_HOT, _MIXTURE[temperature])
        copied, doubtful, later = rows[ALONE], rows[HALF], rows[LATER]
        rows = [first, copied, later, doubtful, doubtful, last]
    return [rate for row in rows for rate in row]


def _mixed(colds: _Table, hots: _Table, share: float) -> list[list[float]]:
    """Interpolate between two tables, or beyond them."""
    return [
        [min(max(cold + share * (hot - cold), LEAST), MOST) for cold, hot in zip(*row, strict=True)]
        for row in zip(colds, hots, strict=True)
    ]


class AcceptanceRates:
    """Acceptance rates of one source at one class of temperature, by kind of evidence."""

    def __init__(self, temperature: int, of_head: bool = False) -> None:
        self.rates = _prior(temperature, of_head)
        self._seen = [PRIOR_WEIGHT] * KINDS
        self._accepted = [PRIOR_WEIGHT * rate for rate in self.rates]

    def note(self, kind: int, accepted: bool) -> None:
        """Observe whether a token of this kind was accepted, or would have been."""
        seen, total = self._seen[kind] + 1.0, self._accepted[kind] + accepted
        if seen > MEMORY:
            seen, total = seen / 2, total / 2
        self._seen[kind], self._accepted[kind] = seen, total
        self.rates[kind] = min(max(total / seen, LEAST), MOST)


class MeanRates:
    """Acceptance rates of a head's first tokens and of later ones, whatever the evidence."""

    def __init__(self, temperature: int) -> None:
        first, later = _MEAN_COLD if temperature == 0 else _MEAN_HOT
        self._accepted = [first * _MEAN_WEIGHT, later * _MEAN_WEIGHT]
        self._seen = [_MEAN_WEIGHT, _MEAN_WEIGHT]

    def rate(self, depth: int) -> float:
        """Return the rate of tokens at ``depth``, if those before them were accepted; the first token has depth 0."""
        which = min(depth, 1)
        return self._accepted[which] / self._seen[which]

    def note(self, depth: int, accepted: bool) -> None:
        """Observe whether a token at ``depth`` was accepted."""
        which = min(depth, 1)
        if self._seen[which] > _MEAN_MEMORY:
            self._seen[which] /= 2
            self._accepted[which] /= 2
        self._seen[which] += 1.0
        self._accepted[which] += accepted


class RequestRecord:
    """One request's acceptance against the general rates."""

    __slots__ = ("_accepted", "_expected", "odds_ratio")

    def __init__(self) -> None:
        self._expected = self._accepted = 0.0
        self.odds_ratio = 1.0  # factor on the odds of every drafted token

    def note(self, expected: float, accepted: bool) -> None:
        """Observe a token whose general rate is ``expected``."""
        self._expected += expected
        self._accepted += accepted
        if self._expected > REQUEST_MEMORY:
            self._expected, self._accepted = self._expected / 2, self._accepted / 2
        self.odds_ratio = (self._accepted + REQUEST_WEIGHT) / (self._expected + REQUEST_WEIGHT)

    def rate(self, general: float) -> float:
        """This request's rate where the general one is ``general``."""
        odds = self.odds_ratio * general
        return odds / (1.0 - general + odds)

    def recover(self, share: float) -> None:
        """Move a poor record towards the general rates by ``share`` of the distance."""
        if self.odds_ratio < 1.0:
            self.odds_ratio += share * (1.0 - self.odds_ratio)


def cumulative_chances(rates: Sequence[float], record: RequestRecord, kinds: Sequence[int], most: int) -> list[float]:
    """Return the probabilities that all of the first 1, 2, ... ``most`` drafted tokens are accepted.

    The list ends where the probability falls below `MIN_CHANCE`.
    """
    result, product = [], 1.0
    for kind in kinds[:most]:
        product *= record.rate(rates[kind])
        if product < MIN_CHANCE:
            break
        result.append(product)
    return result
