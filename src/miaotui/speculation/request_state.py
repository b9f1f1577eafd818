"""Speculation's state of one request between two steps: its record, and the candidates of the step under way.

Owns how the record learns from new tokens. Knows neither drafters nor passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from miaotui.engine.request import Request
from miaotui.speculation.acceptance_rates import AcceptanceRates, MeanRates, RequestRecord, cumulative_chances, kinds_of
from miaotui.speculation.draft_depth import LookupGate
from miaotui.speculation.drafters.protocol import Candidate, HeadInput
from miaotui.speculation.tree_policy import BranchRate, Fork

NO_CANDIDATES: Sequence[Candidate] = ()


@dataclass(frozen=True)
class LearnedRates:
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
