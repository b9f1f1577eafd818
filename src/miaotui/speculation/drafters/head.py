"""Drafting with a draft head: step by step for several requests, or in a run of passes for one.

Owns the states of the drafts under way, the loop of the head's steps (`DraftDepth`), what a step costs, and a run from
`MultistepDrafting.prepare` to `learn`: between its passes the backend runs the head, and calls back for a quote where a
text is likely to go on. Knows token ids, rows of the last pass and noise; how well each token is founded is learned in
`acceptance_rates`. A head drafts what the model would draw if its distribution were the head's, with the very noise of
that position, so a good head is often right at any temperature. Invariants: a head that does not pay is not run, and
whether it runs changes when tokens come, never which; what a run has brought is learned as if each pass had been a
step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from miaotui.backends.backend import Backend, Masks
from miaotui.backends.drafting import DraftHeadSteps, DraftRun, PassLog, PolicyInputs
from miaotui.config import Settings
from miaotui.kernels.draft.draft_fields import MAX_DRAFT, MAX_HEAD_DRAFT
from miaotui.speculation.acceptance_rates import (
    DraftState,
    LookupGate,
    MeanRates,
    RequestRecord,
    Verified,
    copied_kinds,
    head_kind,
    head_rates,
)
from miaotui.speculation.drafters.protocol import Candidate, Head, HeadInput, HeadToken
from miaotui.speculation.policy import DraftPolicy, RowCost

CONFIDENT = 0.75  # where a text's first token has this chance, the head is not asked
_FIRST_COST = 0.06  # a step's cost in passes of one row, before any was timed
_FAST = 0.1  # share of a new time in the average
_DECAY = 0.02  # share of the distance to the fastest time, for each step that is not tried
_RECOVERY = 0.02  # of a request's record, for each step in which the head was not run
STEP_SHARE = 0.7  # of the time that a step of the head takes from Python, what it takes within a run
ONE_IN = 8  # runs that are left out, so that single steps go on measuring what rows cost


class DraftHead:
    """A `Head` over one model's engine; used by the engine's thread alone, right after a pass."""

    name = "head"

    def __init__(self, steps: DraftHeadSteps) -> None:
        self._steps = steps
        self.most_rows, self.draft_run = steps.most_rows, steps.draft_run
        self._inputs: list[HeadInput] = []
        self._newest: list[int] = []  # token of each row
        self._depth = 0
        self.computing_s = 0.0

    def begin(self, inputs: Sequence[HeadInput]) -> None:
        """See `Head.begin`; at most ``most_rows`` inputs."""
        self._inputs = list(inputs)
        self._newest = [each.token for each in inputs]
        self._depth = 0
        self._steps.begin([(each.row, each.position) for each in inputs])

    def keep(self, rows: Sequence[int]) -> None:
        """See `Head.keep`."""
        if len(rows) < len(self._inputs):
            self._inputs = [self._inputs[row] for row in rows]
            self._newest = [self._newest[row] for row in rows]
            self._steps.keep(self._depth, rows)

    def step(self) -> list[HeadToken]:
        """See `Head.step`."""
        started_s, depth = time.perf_counter(), self._depth
        rows = [
            (token, each.position + depth, each.choice) for token, each in zip(self._newest, self._inputs, strict=True)
        ]
        drafted = [HeadToken(token, evidence) for token, evidence in self._steps.step(depth, rows)]
        self._depth = depth + 1
        self.computing_s += time.perf_counter() - started_s
        self._newest = [each.token for each in drafted]
        return drafted


def head_for(backend: Backend, settings: Settings) -> DraftHead | None:
    """Load the draft head of a model; None if there is none, or if the backend has no draft heads.

    Raises `ModelFormatError` for a file that is no head.
    """
    if not backend.capabilities.draft_head:
        return None
    steps = backend.find_draft_head(settings)
    return None if steps is None else DraftHead(steps)


# Candidates from texts for a request, given tokens that are assumed to come first.
Lookup = Callable[[int, Sequence[int]], Sequence[Candidate]]


@dataclass(slots=True)
class HeadDraft:
    """A head's draft for one request, as far as it goes."""

    number: int  # of the request
    input: HeadInput
    most: int  # tokens
    rates: Sequence[float]  # acceptance rates of the head, by kind of evidence
    mean_rates: MeanRates
    record: RequestRecord
    copying: LookupGate = field(default_factory=LookupGate)
    chance: float = 1.0  # that all of its tokens are accepted
    tokens: list[int] = field(default_factory=list)
    evidence: list[int] = field(default_factory=list)  # of the head's tokens
    kinds: list[int] = field(default_factory=list)

    def promised(self) -> float:
        """Return tokens that one more step promises: the chance that its token is accepted."""
        return self.chance * self.record.rate(self.mean_rates.rate(len(self.tokens)))

    def extend(self, token: int, evidence: int) -> None:
        """Take one more token of the head."""
        kind = head_kind(len(self.tokens), evidence)
        self.tokens.append(token)
        self.evidence.append(evidence)
        self.kinds.append(kind)
        self.chance *= self.record.rate(self.rates[kind])

    def copy(self, tokens: Sequence[int], kinds: Sequence[int]) -> None:
        """Append tokens of a text as far as there is room."""
        left = min(self.most - len(self.tokens), len(kinds))
        self.tokens += tokens[:left]
        self.kinds += kinds[:left]


class DraftDepth:
    """One engine's head; ``lookup`` finds how texts go on, ``clock`` gives seconds."""

    def __init__(
        self,
        head: Head,
        policy: DraftPolicy,
        clock: Callable[[], float] = time.perf_counter,
        lookup: Lookup = lambda _number, _after: (),
    ) -> None:
        self._head, self._policy, self._clock, self._lookup = head, policy, clock, lookup
        self._seconds: dict[int, float] = {}  # of a step, by rows
        self._fastest: dict[int, float] = {}
        self.spent_s = 0.0  # since the last step of the engine

    def draft(self, drafts: Sequence[HeadDraft], gain: float, rows: int, cost: RowCost) -> dict[int, Candidate]:
        """Run the head for these requests as long as it pays; returns candidates by request number.

        ``gain`` is the number of tokens that the next pass brings without them, ``rows`` that of its rows then.
        """
        alive = list(drafts[: self._head.most_rows])
        base, used = cost.ratio(rows), 0
        for depth in range(MAX_HEAD_DRAFT):
            if not alive:
                break
            price = cost.ratio(rows + used + len(alive)) - cost.ratio(rows + used) + self.step_cost(len(alive), cost)
            if not self._policy.step_worth(sum(draft.promised() for draft in alive), price, gain, base):
                if depth == 0:
                    self._expect_faster(len(alive))
                break
            self._step(alive, depth, cost)
            used += len(alive)
            alive = self._kept(alive, cost.ratio(rows + used + 1) - cost.ratio(rows + used), gain, base)
        for draft in drafts:
            if not draft.tokens:
                draft.record.recover(_RECOVERY)
        return {
            draft.number: Candidate(
                self._head.name, draft.evidence[0], draft.tokens, head_evidence=draft.evidence, kinds=draft.kinds
            )
            for draft in drafts
            if draft.tokens
        }

    def _step(self, alive: Sequence[HeadDraft], depth: int, cost: RowCost) -> None:
        """Run one step of the head, and note the time it takes."""
        started_s = self._clock()
        if depth == 0:
            self._head.begin([draft.input for draft in alive])
        for draft, (token, evidence) in zip(alive, self._head.step(), strict=True):
            draft.extend(token, evidence)
        self._note(len(alive), self._clock() - started_s, cost)

    def _is_copied(self, draft: HeadDraft) -> bool:
        """Return whether a text goes on after the draft, with a better chance than the head has; its tokens are
        appended.

        A passage is often copied from its second word on: the head drafts the first.
        """
        if not draft.copying.admits():
            return False
        best, least = None, draft.mean_rates.rate(1)
        for candidate in self._lookup(draft.number, draft.tokens):
            kinds = copied_kinds(candidate)
            rate = draft.rates[kinds[0]]
            if rate > least:
                best, least = (candidate.tokens, kinds), rate
        if best is None:
            return False
        draft.copying.found += 1
        draft.copy(*best)
        return True

    def _kept(self, alive: Sequence[HeadDraft], row_price: float, gain: float, base: float) -> list[HeadDraft]:
        """Return the drafts that the head goes on with: not copied, and their next token worth a row."""
        kept = [
            row
            for row, draft in enumerate(alive)
            if len(draft.tokens) < draft.most
            and not self._is_copied(draft)
            and self._policy.step_worth(draft.promised(), row_price, gain, base, margin=1.0)
        ]
        if kept:
            self._head.keep(kept)
        return [alive[row] for row in kept]

    def step_cost(self, count: int, cost: RowCost) -> float:
        """Cost of a step for ``count`` requests, in the units of ``cost``."""
        plain_s = cost.seconds(1)
        if count not in self._seconds or plain_s <= 0.0:
            return _first_cost(count)
        return self._seconds[count] / plain_s * cost.ratio(1)

    def _note(self, count: int, seconds: float, cost: RowCost) -> None:
        """Note the time of a step; one that was interrupted counts as twice the usual time, even if it is the first."""
        self.spent_s += seconds
        usual = _first_cost(count) * cost.seconds(1) or seconds
        before = self._seconds.get(count, usual)
        self._seconds[count] = before + _FAST * (min(seconds, 2.0 * before) - before)
        self._fastest[count] = min(self._fastest.get(count, usual), seconds)

    def _expect_faster(self, count: int) -> None:
        """Move the time of a step that was not tried towards the fastest one: it may have been a slow spell."""
        if count in self._seconds:
            self._seconds[count] += _DECAY * (self._fastest[count] - self._seconds[count])


def _first_cost(count: int) -> float:
    """Cost of a step before any was timed, in passes of one row."""
    return _FIRST_COST * (1.0 + 0.1 * count)


# All candidates of texts after the tokens that a request has, the best of them, and the chances of its tokens.
Quotes = Callable[[DraftState], tuple[Sequence[Candidate], Candidate | None, Sequence[float]]]


class MultistepDrafting:
    """One engine's runs (`MultistepDraft`).

    ``source`` is the head's name, ``extend`` gives new tokens to the drafters, ``quotes`` asks them for candidates.
    """

    def __init__(
        self,
        draft_run: DraftRun,
        source: str,
        policy: DraftPolicy,
        extend: Callable[[int, Sequence[int]], None],
        quotes: Quotes,
    ) -> None:
        self._run, self._source, self._policy = draft_run, source, policy
        self._extend, self._quotes = extend, quotes
        self._state: DraftState | None = None  # of the request of the run
        self.passes = 0  # the most of the run
        self._head_tokens = 0.0  # tokens that the head's draft promises
        self._extended = 0  # tokens of the run that the drafters know already
        self._is_quoted = False  # whether the run begins with a quote
        self._watches = True  # whether the run asks in each pass if a text promises more
        # For each pass with a quote: all candidates, and the source of the best.
        self._quoted: list[tuple[Sequence[Candidate], str]] = []
        self._prepared = 0  # runs, so that one in `ONE_IN` is left out
        self._inputs = PolicyInputs((), (), (), 0.0)

    @property
    def max_tokens(self) -> int:
        """Return `MultistepDraft.max_tokens`."""
        return self.passes * (1 + MAX_DRAFT)

    @property
    def watch(self) -> Masks | None:
        """Return `MultistepDraft.watch`."""
        return self._watch if self._watches else None

    def prepare(self, state: DraftState, quote: Sequence[float], head_step: float, cost: RowCost, passes: int) -> bool:
        """Decide whether the next step of a request is a run of up to ``passes`` passes, and prepare it.

        ``quote`` are the chances of the best candidate from a text, ``head_step`` is the cost of a step of the head.
        """
        request, record, means = state.request, state.head_record, state.learned.mean_rates
        if state.row < 0 or request.constraint is not None or not request.choice:
            return False
        head_step *= STEP_SHARE
        first = record.rate(means.rate(0))
        self._head_tokens = first * (1.0 + means.rate(1))
        costs = cost.costs(1, MAX_DRAFT)
        self._is_quoted = self._promises_more(quote)
        price = costs[1] - costs[0] + head_step
        if not self._is_quoted and not self._policy.step_worth(first, price, 1.0, costs[0]):
            return False
        self._prepared += 1
        if self._prepared % ONE_IN == 0:
            return False
        rates = [record.rate(rate) for rate in head_rates(state.rates(self._source))]
        mean_rates = [record.rate(means.rate(depth)) for depth in range(2)]
        self._inputs = PolicyInputs(rates, mean_rates, costs, head_step)
        self._state, self.passes, self._extended = state, passes, 0
        self._quoted = []
        self._watches = self._is_quoted or state.quoting.admits()
        return True

    def _promises_more(self, quote: Sequence[float]) -> bool:
        """Return whether a quote promises more than the head's draft."""
        return bool(quote) and (quote[0] >= CONFIDENT or sum(quote) > self._head_tokens)

    def begin(self, position: int, max_tokens: int) -> DraftRun:
        """See `MultistepDraft.begin`."""
        state = self._prepared_state()
        newest = state.request.token_ids[-1]
        self._run.begin(state.row, newest, position, max_tokens, self._inputs)
        if self._is_quoted:
            self._run.request_quote()
        return self._run

    def _prepared_state(self) -> DraftState:
        assert self._state is not None, "a run is prepared before it begins"
        return self._state

    def _watch(self, tokens: Sequence[int]) -> bool:
        """Request a quote after the pass under way if the ``tokens`` of the passes before make a text promise more."""
        state = self._prepared_state()
        self._note_tokens(tokens)
        if tokens and not self._run.is_quote_requested:
            _, _, chances = self._quotes(state)
            if self._promises_more(chances):
                state.quoting.found += 1
                self._run.request_quote()
        return True

    def quote(self, tokens: Sequence[int]) -> int:
        """Draft from a text after ``tokens``, the latest, between two passes; return the draft's size, 0 for none."""
        self._note_tokens(tokens)
        candidates, best, chances = self._quotes(self._prepared_state())
        if best is None or not self._promises_more(chances):
            return 0
        count = self._run.put(best.tokens, chances)
        if count:
            self._quoted.append((candidates, best.source))
        return count

    def _note_tokens(self, tokens: Sequence[int]) -> None:
        """Give new tokens of the run to the drafters."""
        if tokens:
            self._extend(self._prepared_state().request.number, tokens)
            self._extended += len(tokens)

    def learn(self, tokens: Sequence[int], passes: int) -> Iterator[Verified]:
        """Learn from a run of ``passes`` passes that brought ``tokens``; yield the drafts that were verified."""
        state = self._prepared_state()
        self._note_tokens(tokens[self._extended :])
        state.row = self._run.row if self._run.broken < 0 else -1
        quoted, at = iter(self._quoted), 0
        for log in self._run.log(passes):
            came = tokens[at : at + log.brought]
            at += log.brought
            source = self._source
            if log.is_quoted:
                state.candidates, source = next(quoted)
                state.source = source
                state.learn(came)
            else:
                self._learn_of_head(state, log, came)
            if log.verified:
                yield Verified(source, log.verified, min(log.brought - 1, log.verified))

    def sources(self, passes: int) -> list[str]:
        """See `MultistepDraft.sources`."""
        quoted, found = iter(self._quoted), list[str]()
        for log in self._run.log(passes):
            source = next(quoted)[1] if log.is_quoted else self._source
            found += [source] * (log.brought - 1) + [""]
        return found

    def _learn_of_head(self, state: DraftState, log: PassLog, came: Sequence[int]) -> None:
        """Learn from the head's draft of one pass, as far as it was right."""
        acceptance = state.learned.acceptance[self._source]
        for depth, (token, evidence, real) in enumerate(zip(log.tokens, log.evidence, came, strict=False)):
            state.learn_of_head(acceptance, head_kind(depth, evidence), depth, token == real)
            if token != real:
                break
