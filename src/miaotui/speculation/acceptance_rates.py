"""Acceptance rates of drafted tokens, learned from every token that is answered.

Owns counts by source, temperature and kind of evidence, the record of each request, and how it learns from new
tokens. Knows neither passes nor where tokens come from. Every candidate is compared with what came, verified or not,
so learning costs no passes. Invariant: estimates lie strictly between 0 and 1. They decide what is drafted, never
what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from miaotui.engine.request import Request
from miaotui.kernels.draft.policy_fields import EVIDENCE_CLASSES, MIN_CHANCE, evidence_class
from miaotui.speculation.drafters.protocol import Candidate, Drafter, HeadInput

if TYPE_CHECKING:
    from miaotui.speculation.policy import Fork

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
_BRANCH_PRIOR, _BRANCH_WEIGHT, _BRANCH_MEMORY = 0.1, 20.0, 400.0  # branches are rarely right
_TRIALS, _ONE_IN = 16, 8  # lookups before their success counts; how many are then skipped

_CLASS_OF = [evidence_class(evidence) for evidence in range(MAX_EVIDENCE)]
_KIND_OF = [[agreement * EVIDENCE_CLASSES + each for each in _CLASS_OF] for agreement in range(6)]
_Table = Sequence[Sequence[float]]
NO_CANDIDATES: Sequence[Candidate] = ()


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
        """Return this request's rate where the general one is ``general``."""
        odds = self.odds_ratio * general
        return odds / (1.0 - general + odds)

    def recover(self, share: float) -> None:
        """Move a poor record towards the general rates by ``share`` of the distance."""
        if self.odds_ratio < 1.0:
            self.odds_ratio += share * (1.0 - self.odds_ratio)


class BranchRate:
    """Share of a source's branches that are right where the trunk is wrong."""

    __slots__ = ("_right", "_seen", "rate")

    def __init__(self) -> None:
        self._seen, self._right = _BRANCH_WEIGHT, _BRANCH_PRIOR * _BRANCH_WEIGHT
        self.rate = _BRANCH_PRIOR

    def note(self, right: bool) -> None:
        """Observe a fork whose trunk was wrong."""
        self._seen, self._right = self._seen + 1.0, self._right + right
        if self._seen > _BRANCH_MEMORY:
            self._seen, self._right = self._seen / 2, self._right / 2
        self.rate = self._right / self._seen


@dataclass(slots=True)
class LookupGate:
    """Decision whether to look a request's draft up in texts: seldom, if it was seldom found."""

    asked: int = 0
    found: int = 0

    def admits(self) -> bool:
        """Return whether to look now; each call counts as one question."""
        self.asked += 1
        rare = self.asked > _TRIALS and self.found * _ONE_IN < self.asked
        return not rare or self.asked % _ONE_IN == 0


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


class Verified(NamedTuple):
    """Drafted tokens of one source that a pass verified for one request."""

    source: str
    proposed: int
    accepted: int


class LearnedRates(NamedTuple):
    """Rates learned over all requests of one class of temperature, by source; for the head by ``mean_rates``."""

    acceptance: Mapping[str, AcceptanceRates]
    branches: Mapping[str, BranchRate]
    mean_rates: MeanRates


@dataclass(slots=True)
class DraftState:
    """One request's record, and what was drafted for the step under way."""

    request: Request
    learned: LearnedRates
    source: str  # of the latest draft
    drafters: Sequence[Drafter] = ()  # those that have drafts for it
    record: RequestRecord = field(default_factory=RequestRecord)  # of drafts from texts
    head_record: RequestRecord = field(default_factory=RequestRecord)
    candidates: Sequence[Candidate] = NO_CANDIDATES
    fork: Fork | None = None
    copying: LookupGate = field(default_factory=LookupGate)  # whether texts go on after a head's draft
    quoting: LookupGate = field(default_factory=LookupGate)  # whether texts promise more within a run
    row: int = -1  # of the last pass, that the newest token was drawn from; -1: none

    @property
    def room(self) -> int:
        """Drafted tokens that could belong to the answer: one more token comes anyway."""
        return max(self.request.ending.max_tokens - len(self.request.token_ids) - 1, 0)

    @property
    def head_input(self) -> HeadInput:
        """Return where a head's draft starts; there is a `row` and a first token."""
        request, ids = self.request, self.request.token_ids
        return HeadInput(self.row, ids[-1], request.prompt_tokens + len(ids), request.sampler.likely)

    def rates(self, source: str) -> list[float]:
        """Return the general acceptance rates of a source, by kind of evidence."""
        return self.learned.acceptance[source].rates

    def record_of(self, candidate: Candidate) -> RequestRecord:
        """Return the record to which a candidate counts."""
        return self.head_record if candidate.head_evidence else self.record

    def chances(self, candidate: Candidate, most: int) -> list[float]:
        """Return the probabilities that the first 1, 2, ... ``most`` tokens of a candidate are accepted."""
        most = min(most, len(candidate.tokens))
        return cumulative_chances(self.rates(candidate.source), self.record_of(candidate), kinds_of(candidate), most)

    def best(self, candidates: Sequence[Candidate], most: int) -> tuple[Candidate, list[float]] | None:
        """Return the candidate that promises the most tokens, and the chances of its tokens; None if none does."""
        best, promised = None, 0.0
        for candidate in candidates:
            chances = self.chances(candidate, most)
            total = sum(chances)
            if total > promised:
                best, promised = (candidate, chances), total
        return best

    def learn(self, tokens: Sequence[int]) -> None:
        """Compare every candidate with the tokens that came, whether it was verified or not, and forget it."""
        for candidate in self.candidates:
            acceptance = self.learned.acceptance[candidate.source]
            by_head = len(candidate.head_evidence)
            pairs = zip(kinds_of(candidate), candidate.tokens, tokens, strict=False)
            for depth, (kind, drafted, came) in enumerate(pairs):
                accepted = drafted == came
                if depth < by_head:
                    self.learn_of_head(acceptance, kind, depth, accepted)
                else:
                    if not by_head and candidate.source == self.source:
                        self.record.note(acceptance.rates[kind], accepted)
                    acceptance.note(kind, accepted)
                if not accepted:
                    break
        if self.fork is not None:
            self.fork.learn(tokens, self.learned.branches[self.fork.branch.source])
        self.candidates = NO_CANDIDATES

    def learn_of_head(self, acceptance: AcceptanceRates, kind: int, depth: int, accepted: bool) -> None:
        """Learn from one token that the head drafted at ``depth``, the first token at depth 0."""
        self.head_record.note(acceptance.rates[kind], accepted)
        self.learned.mean_rates.note(depth, accepted)
        acceptance.note(kind, accepted)
