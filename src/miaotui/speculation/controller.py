"""The controller of speculation: which drafted tokens the next step verifies.

Owns the choice over all running requests, and its bookkeeping: acceptance rates, what rows cost, what was gained.
Knows neither pages nor how tokens are drafted. Each step it collects candidates from the drafters and lets the policy
choose the rows that bring the most tokens per second, none where that does not pay. Invariant: it changes when
tokens come, never which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from miaotui.engine.request import Request
from miaotui.engine.speculator import Proposal, SourceReport
from miaotui.kernels.draft.draft_fields import MAX_DRAFT
from miaotui.schedule.plan import Chunk, Draft, Plan
from miaotui.speculation.acceptance_rates import (
    AcceptanceRates,
    BranchRate,
    DraftState,
    LearnedRates,
    MeanRates,
    Verified,
    temperature_class,
)
from miaotui.speculation.drafters.grammar import GRAMMAR, GrammarDrafter
from miaotui.speculation.drafters.head import CONFIDENT, DraftDepth, HeadDraft, MultistepDrafting
from miaotui.speculation.drafters.protocol import Candidate, Drafter, DraftRequest, Head
from miaotui.speculation.policy import (
    MAX_CHANCES,
    BranchCost,
    BranchOffer,
    DraftPolicy,
    RowCost,
    choose_branch,
    find_fork,
)

IDLE_STEPS = 8  # without a draft; then passes may follow each other without a question to the drafters,
IDLE_PASSES = 4  # and so many do, one by one or together: asking takes time that seldom pays then


@dataclass(slots=True)
class DraftStats:
    """Running counts of one source; `report` is a copy of them."""

    drafts: int = 0
    proposed: int = 0
    accepted: int = 0
    saved_s: float = 0.0

    def note(self, verified: Verified, saved_s: float) -> None:
        """Count a draft that was verified, and the seconds that it saved."""
        self.drafts += 1
        self.proposed += verified.proposed
        self.accepted += verified.accepted
        self.saved_s += saved_s

    def report(self, name: str) -> SourceReport:
        """Return the counts so far."""
        return SourceReport(name, self.drafts, self.proposed, self.accepted, self.saved_s)


class DraftChoice(NamedTuple):
    """The best candidate for a request, and the chances of its tokens."""

    state: DraftState
    candidate: Candidate
    chances: list[float]


class Speculation:
    """Drafts for every step of one engine (`Speculator`)."""

    def __init__(self, *drafters: Drafter, head: Head | None = None) -> None:
        self._drafters = (GrammarDrafter(), *drafters)
        self._free = tuple(drafters)  # those of requests without a constraint
        self._head, self._policy = head, DraftPolicy()
        self.cost, self.branch_cost = RowCost(), BranchCost()
        texts = [name for drafter in drafters for name in drafter.sources]
        self._sources = (*texts, *(() if head is None else (head.name,)), GRAMMAR)
        self._stats = {name: DraftStats() for name in self._sources}
        self._learned: dict[int, LearnedRates] = {}  # by class of temperature
        self._states: dict[int, DraftState] = {}  # by request number
        self._depth = DraftDepth(head, self._policy, lookup=self._lookup) if head else None
        self.multistep = (
            MultistepDrafting(head.draft_run, head.name, self._policy, self._extend, self._quotes)
            if head and head.draft_run
            else None
        )
        self._idle_steps = 0  # since the last draft
        self._idle_passes = 0  # since the drafters were asked
        self._constrained = 0  # requests whose constraint may force tokens at any moment

    @property
    def computing_s(self) -> float:
        """See `Speculator.computing_s`."""
        return 0.0 if self._head is None else self._head.computing_s

    @property
    def pays(self) -> bool:
        """Return whether a draft was worth a row of late; then the drafters are asked in each step."""
        return self._idle_steps < IDLE_STEPS

    # requests -------------------------------------------------------------------------------------

    def enter(self, request: Request) -> None:
        """See `Speculator.enter`."""
        self._constrained += request.constraint is not None
        learned = self._learned_at(temperature_class(request.sampler.temperature))
        known = DraftRequest(
            request.number,
            request.prompt,
            request.ending.max_tokens,
            request.namespace,
            request.passages,
            request.constraint,
            request.adapter,
        )
        asked = self._free if request.constraint is None else self._drafters
        drafters = [drafter for drafter in asked if drafter.enter(known)]
        self._states[request.number] = DraftState(request, learned, self._sources[0], drafters)

    def _learned_at(self, temperature: int) -> LearnedRates:
        """Return the rates that were learned at a class of temperature."""
        if temperature not in self._learned:
            head = None if self._head is None else self._head.name
            self._learned[temperature] = LearnedRates(
                {name: AcceptanceRates(temperature, of_head=name == head) for name in self._sources},
                {name: BranchRate() for name in self._sources},
                MeanRates(temperature),
            )
        return self._learned[temperature]

    def leave(self, request: Request) -> None:
        """See `Speculator.leave`."""
        state = self._states.pop(request.number, None)
        if state is not None:
            self._constrained -= request.constraint is not None
            for drafter in state.drafters:
                drafter.leave(request.number, request.finish_reason in ("stop", "length"))

    # drafts of the next step ----------------------------------------------------------------------

    def propose(self, prompt_rows: int = 0, passes: int = 1) -> Proposal:
        """See `Speculator.propose`."""
        if not self.pays and self._idle_passes < IDLE_PASSES and not self._constrained:
            return Proposal({})
        self._idle_passes = 0
        running = [state for state in self._states.values() if state.request.token_ids]
        choices = self._choices(running)
        if passes > 1 and not prompt_rows and self._prepares_run(running, choices, passes):
            self._idle_steps = 0
            return Proposal({}, self.multistep)
        rows = len(running) + prompt_rows
        if self._depth is not None:
            choices = self._with_head(self._depth, running, choices, rows)
        lengths = self._lengths([choice.chances for choice in choices], len(running), rows)
        branched, branch_rows = self._branch(choices, lengths, len(running), rows)
        self._idle_steps += 1
        drafts: dict[int, Draft] = {}
        for index, ((state, candidate, _), length) in enumerate(zip(choices, lengths, strict=True)):
            if length:
                state.source = candidate.source
                branch = candidate.source if state.fork is None else state.fork.branch.source
                state.request.draft_sources = candidate.source, branch
                self._idle_steps = 0
                fork = state.fork if index == branched else None
                draft = fork.tree(length, branch_rows) if fork else candidate.tokens[:length]
                drafts[state.request.number] = draft
        return Proposal(drafts, allows_multistep=not self.pays)

    def _choices(self, running: Sequence[DraftState]) -> list[DraftChoice]:
        """Return the best candidate of the drafters for each request that has one."""
        choices = []
        for state in running:
            state.candidates = candidates = self._candidates(state.request.number)
            state.fork = None
            best = state.best(candidates, state.room)
            if best is not None:
                choices.append(DraftChoice(state, *best))
                if len(candidates) > 1:
                    state.fork = find_fork(best[0], candidates)
        return choices

    def _candidates(self, number: int, after: Sequence[int] = ()) -> Sequence[Candidate]:
        """Return candidates of all its drafters; of one alone that is certain."""
        found: list[Candidate] = []
        for drafter in self._states[number].drafters:
            candidates = drafter.propose(number, after)
            if candidates and drafter.is_certain:
                return candidates
            found += candidates
        return found

    def _lookup(self, number: int, after: Sequence[int]) -> Sequence[Candidate]:
        """Return candidates for what follows if the head's tokens ``after`` come first."""
        return self._candidates(number, after)

    def _quotes(self, state: DraftState) -> tuple[Sequence[Candidate], Candidate | None, Sequence[float]]:
        """Return candidates within a run: all, the best one, and the chances of its tokens."""
        candidates = self._candidates(state.request.number)
        best = state.best(candidates, MAX_DRAFT)
        return (candidates, *best) if best else (candidates, None, ())

    def _prepares_run(self, running: Sequence[DraftState], choices: Sequence[DraftChoice], passes: int) -> bool:
        """Return whether the next step is a run in which the head drafts: only for a request that is alone."""
        if self.multistep is None or self._depth is None or len(running) != 1 or len(self._states) > 1:
            return False
        quote = choices[0].chances if choices else ()
        step_cost = self._depth.step_cost(1, self.cost)
        return self.multistep.prepare(running[0], quote, step_cost, self.cost, passes)

    def _with_head(
        self, depth: DraftDepth, running: Sequence[DraftState], choices: Sequence[DraftChoice], rows: int
    ) -> list[DraftChoice]:
        """Return the choices, with the head's drafts where they promise more."""
        best = {choice.state.request.number: choice for choice in choices}
        wanted = []
        for state in running:
            choice = best.get(state.request.number)
            if state.row >= 0 and state.room and (choice is None or choice.chances[0] < CONFIDENT):
                wanted.append(self._head_draft(state))
        drafted = depth.draft(wanted, float(len(running)), rows, self.cost)
        if not drafted:
            return list(choices)
        for number, candidate in drafted.items():
            state = self._states[number]
            state.candidates = [*state.candidates, candidate]
            chances = state.chances(candidate, state.room)
            if number not in best or sum(chances) > sum(best[number].chances):
                best[number] = DraftChoice(state, candidate, chances)
            state.fork = find_fork(best[number].candidate, state.candidates)
        return [best[number] for number in self._states if number in best]

    def _head_draft(self, state: DraftState) -> HeadDraft:
        """Return an empty draft of the head for a request."""
        assert self._head is not None, "a head drafts"
        rates, means = state.rates(self._head.name), state.learned.mean_rates
        number, record = state.request.number, state.head_record
        return HeadDraft(number, state.head_input, state.room, rates, means, record, state.copying)

    def _lengths(self, chances: Sequence[Sequence[float]], running: int, rows: int) -> list[int]:
        """Return how many tokens of each request's candidate to verify.

        The likeliest come first, over all requests. A token is never likelier than the one before it, so any number
        of the first ones are beginnings of the candidates.
        """
        lengths = [0] * len(chances)
        if len(chances) <= 1:
            ranked = [(chance, 0) for each in chances for chance in each]
        else:
            ranked = [(chance, i) for i, each in enumerate(chances) for chance in each]
            ranked.sort(reverse=True)
        if ranked:
            costs = self.cost.costs(rows, min(len(ranked), MAX_CHANCES))
            worth, _ = self._policy.rows_worth([chance for chance, _ in ranked], costs, float(running))
            for _, i in ranked[:worth]:
                lengths[i] += 1
        return lengths

    def _branch(
        self, choices: Sequence[DraftChoice], lengths: Sequence[int], running: int, rows: int
    ) -> tuple[int, int]:
        """Return the choice whose fork is worth a branch beside the trunks, and the branch's rows; (-1, 0) if none
        is.
        """
        offers = [self._offer(choice, length) for choice, length in zip(choices, lengths, strict=True)]
        if not any(offers):
            return -1, 0
        gain = running + sum(sum(choice.chances[:length]) for choice, length in zip(choices, lengths, strict=True))
        return choose_branch(offers, gain, rows + sum(lengths), self.cost, self.branch_cost, self._policy)

    def _offer(self, choice: DraftChoice, length: int) -> BranchOffer | None:
        """Return the fork of a choice whose trunk is verified beyond it."""
        state, fork = choice.state, choice.state.fork
        if fork is None or fork.depth >= length:
            return None
        source = fork.branch.source
        rates, record = state.rates(source), state.record_of(fork.branch)
        most = state.room - fork.depth
        return BranchOffer(fork, fork.chances(choice.chances, rates, record, state.learned.branches[source], most))

    # what came of them ----------------------------------------------------------------------------

    def note(self, plan: Plan, chosen: Mapping[int, Sequence[int]], seconds: float, passes: int = 1) -> None:
        """See `Speculator.note`."""
        self._idle_passes += passes
        verified: list[Verified] = []
        decoding = branches = rows = 0
        if self._depth is not None:
            seconds, self._depth.spent_s = seconds - self._depth.spent_s, 0.0
            for state in self._states.values():
                state.row = -1
        for chunk in plan.chunks:
            rows += len(chunk.tokens)
            decoding += len(chunk.tokens) == chunk.n_logits
            branches += len(chunk.branches)
            noted, tokens = self._states.get(chunk.sequence), chosen.get(chunk.sequence)
            if noted is not None and tokens:
                noted.row = rows - chunk.n_logits + noted.request.drawn_from
                verified += self._learn(noted, chunk, tokens)
        if decoding == len(plan.chunks):
            if branches:
                self.branch_cost.note(self.cost, plan.n_rows, branches, seconds)
            else:
                self.cost.note(plan.n_rows, seconds)
            self._count(verified, decoding, seconds)

    def _learn(self, state: DraftState, chunk: Chunk, tokens: Sequence[int]) -> list[Verified]:
        """Learn from the tokens that a chunk brought; returns what it verified."""
        state.learn(tokens)
        self._extend(chunk.sequence, tokens)
        verified = list(_verified(state, chunk, tokens)) if chunk.n_logits > 1 else []
        state.fork = None
        return verified

    def _extend(self, number: int, tokens: Sequence[int]) -> None:
        """Give new tokens of an answer to its drafters."""
        for drafter in self._states[number].drafters:
            drafter.extend(number, tokens)

    def _count(self, verified: Sequence[Verified], decoding: int, seconds: float) -> None:
        """Count the drafts of a step that took ``seconds``, and the time that they saved."""
        plain_s = self.cost.seconds(decoding)
        rows = sum(each.proposed for each in verified)
        for each in verified:
            saved_s = each.accepted / decoding * plain_s - each.proposed / rows * (seconds - plain_s)
            self._stats[each.source].note(each, saved_s)

    def note_run(self, tokens: Sequence[int], passes: int) -> None:
        """See `Speculator.note_run`."""
        assert self.multistep is not None, "only `multistep` makes runs"
        plain_s = self.cost.seconds(1)
        self._idle_passes += passes
        for each in self.multistep.learn(tokens, passes):
            saved_s = each.accepted * plain_s - (self.cost.seconds(1 + each.proposed) - plain_s)
            self._stats[each.source].note(each, saved_s)

    def report(self) -> list[SourceReport]:
        """See `Speculator.report`; a grammar appears once it has brought something."""
        return [stats.report(name) for name, stats in self._stats.items() if name != GRAMMAR or stats.drafts]


def _verified(state: DraftState, chunk: Chunk, tokens: Sequence[int]) -> Iterator[Verified]:
    """Yield the verified tokens of a chunk with a draft: of the trunk's source, and of the branch's if any."""
    accepted, fork = len(tokens) - 1, state.fork
    branch = chunk.n_logits - chunk.trunk if chunk.branches else 0
    if branch and fork is not None:
        turned = accepted > fork.depth and tokens[fork.depth] != fork.trunk.tokens[fork.depth]
        right = accepted - fork.depth if turned else 0
        yield Verified(fork.branch.source, branch, right)
        accepted -= right
    yield Verified(state.source, chunk.n_logits - 1 - branch, accepted)
