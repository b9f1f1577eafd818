"""Which guessed tokens are worth a row of the next pass: the controller of speculation.

Owns the choice and its bookkeeping: how well guesses survive (``survival``), what rows cost
(``row_cost``), what was gained. Knows neither pages nor how guesses are made. Each step it takes, over
all running requests, the rows that bring the most tokens per second, and none where that does not
pay. Invariant: it changes when tokens come, never which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from miaotui.engine.request import Request
from miaotui.kernels.draft.draft_fields import LONGEST
from miaotui.schedule.plan import Chunk, Plan
from miaotui.schedule.tree import Draft
from miaotui.speculation.acceptance_rates import AcceptanceRates, heat_of, kinds_of, survivals
from miaotui.speculation.draft_depth import SURE, DraftDepth, Means, Seeker
from miaotui.speculation.drafters.protocol import Drafter, Guess, Head, Lead
from miaotui.speculation.multistep import PASS_MARGIN, MultistepDrafting
from miaotui.speculation.request_state import DraftState
from miaotui.speculation.row_cost import RowCost
from miaotui.speculation.stats import DraftStats, SourceReport
from miaotui.speculation.tree_policy import BranchCost, Offer, Rescue, choose_branch, rival_of

IDLE_STEPS = 8  # without a draft; then passes may follow each other unasked,
UNASKED = 4  # and this many do, one by one or together: asking takes time that seldom pays then
GRAMMAR = "grammar"  # the source of tokens that an answer's constraint leaves no choice about
_CERTAIN, _MOST_FORCED = 64, 32  # their evidence; how many of them at once


class Speculation:
    """Drafts for every step of one engine; used by the engine's thread alone, except `report`."""

    def __init__(self, drafter: Drafter, head: Head | None = None) -> None:
        self._drafter = drafter
        self.cost = RowCost()
        self.branch_cost = BranchCost()
        self._rates: dict[int, list[AcceptanceRates]] = {}  # by heat
        self._rescues: dict[int, list[Rescue]] = {}
        self._head = head
        own = () if head is None else (head.name,)
        self._names = (*drafter.sources, *own, GRAMMAR)
        self._head_source = len(drafter.sources) if head else -1
        self._deepening = DraftDepth(head, self._head_source, follow=drafter.guess) if head else None
        self._means: dict[int, Means] = {}
        self._tallies = [DraftStats() for _ in self._names]
        self._following: dict[int, DraftState] = {}
        self.ahead = MultistepDrafting(head, drafter.extend, self._quotable) if head and head.guessing else None
        self._idle = 0  # steps since the last draft
        self._unasked = 0  # passes since anybody was asked
        self._bound = 0  # requests whose grammar may leave no choice at any moment

    @property
    def computing_s(self) -> float:
        """Seconds that a head has spent on logits of its own."""
        return 0.0 if self._head is None else self._head.computing_s

    @property
    def pays(self) -> bool:
        """Whether any guess was worth a try of late: then each step wants to be asked."""
        return self._idle < IDLE_STEPS

    def enter(self, request: Request) -> None:
        """A request is queued."""
        self._bound += request.constraint is not None
        heat = heat_of(request.sampler.temperature)
        if heat not in self._rates:
            self._rates[heat] = [
                AcceptanceRates(heat, of_head=source == self._head_source) for source in range(len(self._names))
            ]
            self._rescues[heat] = [Rescue() for _ in self._names]
            self._means[heat] = Means(heat)
        self._following[request.number] = DraftState(request, self._rates[heat], self._rescues[heat], self._means[heat])
        self._drafter.enter(
            request.number, request.prompt, request.ending.max_tokens, request.namespace, request.passages
        )

    def leave(self, request: Request) -> None:
        """A request is over."""
        if self._following.pop(request.number, None) is not None:
            self._bound -= request.constraint is not None
            self._drafter.leave(request.number, request.finish_reason in ("stop", "length"))

    def propose(self, other_rows: int = 0, together: bool = False) -> dict[int, Draft]:
        """Drafts by request number, for a step that also computes ``other_rows`` rows of prompts.

        None if the head had better guess by itself in a run of passes (`ahead`), where they may go ``together``.
        """
        if self.ahead is not None:
            self.ahead.following = None
        if not self.pays and self._unasked < UNASKED and not self._bound:
            return {}
        self._unasked = running = 0
        wanted: list[tuple[DraftState, Guess, list[float]]] = []
        for number, following in self._following.items():
            if not following.request.token_ids:
                continue  # its prompt is still being computed
            running += 1
            following.guesses = guesses = self._guesses(number, following.request)
            following.rival = None
            best = _best(following, guesses, _room(following.request))
            if best is not None:
                wanted.append((following, *best))
                if len(guesses) > 1:
                    following.rival = rival_of(best[0], guesses)
        if together and self._goes_ahead(wanted, running, other_rows):
            self._idle = 0
            return {}
        if self._deepening is not None:
            wanted = self._deepened(wanted, running, other_rows)
        shares = self._shares([chances for _, _, chances in wanted], running, other_rows)
        branched, count = self._branch(wanted, shares, running, other_rows)
        self._idle += 1
        drafts: dict[int, Draft] = {}
        for index, ((following, guess, _), share) in enumerate(zip(wanted, shares, strict=True)):
            if share:
                following.source = guess.source
                line = guess.tokens[:share]
                rival = following.rival if index == branched else None
                self._idle = 0
                drafts[following.request.number] = rival.tree(share, count) if rival else line
        return drafts

    def _goes_ahead(
        self, wanted: Sequence[tuple[DraftState, Guess, list[float]]], running: int, other_rows: int
    ) -> bool:
        """Whether the head guesses in a run of passes: for one request, where no text promises more."""
        if self.ahead is None or self._deepening is None or other_rows or running != 1:
            return False
        if len(self._following) > 1:
            return False
        (following,) = self._following.values()
        text = wanted[0][2] if wanted else []
        share = self._deepening.share(1, self.cost)
        return self.ahead.prepare(following, self._head_source, text, share, self.cost)

    def _quotable(self, number: int) -> tuple[Sequence[Guess], Guess | None, list[float]]:
        """What texts go on with: all guesses, the best one, and the chances of its tokens."""
        following, guesses = self._following[number], self._drafter.guess(number)
        best = _best(following, guesses, LONGEST)
        return (guesses, *best) if best else (guesses, None, [])

    def note_run(self, tokens: Sequence[int], passes: int) -> None:
        """A run in which the head guessed is done."""
        assert self.ahead is not None, "there was such a run"
        plain_s = self.cost.seconds(1)
        self._unasked += passes
        for source, drafted, accepted in self.ahead.learn(tokens, passes):
            tally = self._tallies[source]
            tally.drafts += 1
            tally.proposed += drafted
            tally.accepted += accepted
            tally.saved_s += accepted * plain_s - (self.cost.seconds(1 + drafted) - plain_s)

    def _deepened(
        self, wanted: Sequence[tuple[DraftState, Guess, list[float]]], running: int, other_rows: int
    ) -> list[tuple[DraftState, Guess, list[float]]]:
        """The same with the head's guesses where they promise more."""
        assert self._deepening is not None, "asked only if there is one"
        better = {each[0].request.number: each for each in wanted}
        seekers = []
        for number, following in self._following.items():
            first = better[number][2][0] if number in better else 0.0
            seeker = self._seeker(following, first)
            if seeker is not None:
                seekers.append(seeker)
        guesses = self._deepening.guesses(seekers, float(running), running + other_rows, self.cost)
        if not guesses:
            return list(wanted)
        for number, guess in guesses.items():
            following = self._following[number]
            following.guesses = [*following.guesses, guess]
            chances = _chances(following, guess, _room(following.request))
            if number not in better or sum(chances) > sum(better[number][2]):
                better[number] = (following, guess, chances)
            following.rival = rival_of(better[number][1], following.guesses)
        return [better[number] for number in self._following if number in better]

    def _seeker(self, following: DraftState, first: float) -> Seeker | None:
        """What the head needs to guess for a request; None where that is not wanted or possible."""
        request, row = following.request, following.row
        room = _room(request)
        if row < 0 or room < 1 or first >= SURE or not request.token_ids:
            return None
        sampler, ids = request.sampler, request.token_ids
        position = request.prompt_tokens + len(ids)
        lead = Lead(row, ids[-1], position, sampler.likely)
        rates = following.rates[self._head_source]
        return Seeker(request.number, lead, room, rates, following.means, following.of_head, following.copying)

    def _branch(
        self,
        wanted: Sequence[tuple[DraftState, Guess, list[float]]],
        shares: Sequence[int],
        running: int,
        other_rows: int,
    ) -> tuple[int, int]:
        """Whose rival is worth a branch beside the lines, and how many of its tokens; -1: nobody's."""
        if all(following.rival is None for following, _, _ in wanted):
            return -1, 0
        offers: list[Offer | None] = []
        for (following, _, chances), share in zip(wanted, shares, strict=True):
            rival = following.rival
            if rival is None or rival.fork >= share:
                offers.append(None)
                continue
            source = rival.other.source
            most = _room(following.request) - rival.fork
            record = following.of_head if source == self._head_source else following.record
            odds, rescue = record.odds, following.rescues[source]
            offers.append(Offer(rival, rival.chances(chances, following.rates[source], odds, rescue, most)))
        if not any(offers):
            return -1, 0
        gain = running + sum(sum(chances[:share]) for (_, _, chances), share in zip(wanted, shares, strict=True))
        rows = running + other_rows + sum(shares)
        return choose_branch(offers, gain, rows, self.cost, self.branch_cost, PASS_MARGIN)

    def _guesses(self, number: int, request: Request) -> Sequence[Guess]:
        """Where a grammar leaves no choice nothing else needs to be guessed."""
        forced = () if request.constraint is None else request.constraint.forced()
        if forced:
            return [Guess(len(self._names) - 1, _CERTAIN, forced[:_MOST_FORCED])]
        return self._drafter.guess(number)

    def _shares(self, chances: Sequence[Sequence[float]], running: int, other_rows: int) -> list[int]:
        """How many of each request's guessed tokens to verify.

        The likeliest come first, over all requests; a token is never likelier than the one before
        it, so that any number of the first ones are beginnings of drafts.
        """
        shares = [0] * len(chances)
        if not chances:
            return shares
        if len(chances) == 1:
            ranked = [(chance, 0) for chance in chances[0]]
        else:
            ranked = [(chance, i) for i, each in enumerate(chances) for chance in each]
            ranked.sort(reverse=True)
        ratio, rows = self.cost.ratio, running + other_rows
        gain, cost, most = float(running), ratio(rows), 0
        best = PASS_MARGIN * gain / cost
        for count, (chance, _) in enumerate(ranked, 1):
            gain += chance
            cost = max(cost, ratio(rows + count))
            if gain > best * cost:
                best, most = gain / cost, count
        for _, i in ranked[:most]:
            shares[i] += 1
        return shares

    def note(self, plan: Plan, chosen: Mapping[int, Sequence[int]], seconds: float, passes: int = 1) -> None:
        """A step is done: what was computed, which tokens came of it, how long each of its ``passes`` took."""
        self._unasked += passes
        drafted: list[tuple[DraftStats, int, int]] = []
        decoding = branches = rows = 0
        if self._deepening is not None:
            seconds, self._deepening.spent_s = seconds - self._deepening.spent_s, 0.0
            self._forget_rows()
        for chunk in plan.chunks:
            rows += len(chunk.tokens)
            following, tokens = self._following.get(chunk.sequence), chosen.get(chunk.sequence)
            decoding += len(chunk.tokens) == chunk.n_logits
            if following is None or not tokens:
                continue
            if self._deepening is not None:
                following.row = rows - chunk.n_logits + following.request.drawn_from
            following.judge(tokens)
            self._drafter.extend(chunk.sequence, tokens)
            if chunk.n_logits > 1:
                drafted += self._drafted(following, chunk, tokens)
            branches += len(chunk.branches)
            following.rival = None
        if decoding == len(plan.chunks):
            if branches:
                self.branch_cost.note(self.cost, plan.n_rows, branches, seconds)
            else:
                self.cost.note(plan.n_rows, seconds)
            self._count(drafted, decoding, seconds)

    def _forget_rows(self) -> None:
        for following in self._following.values():
            following.row = -1

    def _drafted(
        self, following: DraftState, chunk: Chunk, tokens: Sequence[int]
    ) -> Iterator[tuple[DraftStats, int, int]]:
        """How many tokens each source proposed for a chunk, and how many of them came."""
        accepted, rival = len(tokens) - 1, following.rival
        side = chunk.n_logits - chunk.trunk if chunk.branches else 0
        if side and rival is not None:
            fork = rival.fork
            turned = accepted > fork and tokens[fork] != rival.line.tokens[fork]
            rescued = accepted - fork if turned else 0
            yield self._tallies[rival.other.source], side, rescued
            accepted -= rescued
        yield self._tallies[following.source], chunk.n_logits - 1 - side, accepted

    def _count(self, drafted: Sequence[tuple[DraftStats, int, int]], decoding: int, seconds: float) -> None:
        plain = self.cost.seconds(decoding)
        rows = sum(proposed for _, proposed, _ in drafted)
        for tally, proposed, accepted in drafted:
            tally.drafts += 1
            tally.proposed += proposed
            tally.accepted += accepted
            tally.saved_s += accepted / decoding * plain - proposed / rows * (seconds - plain)

    def report(self) -> list[SourceReport]:
        """What each source has brought so far, grammars only if they have; from any thread."""
        return [
            SourceReport(name, tally.drafts, tally.proposed, tally.accepted, tally.saved_s)
            for name, tally in zip(self._names, self._tallies, strict=True)
            if name != GRAMMAR or tally.drafts
        ]


def _room(request: Request) -> int:
    """How many drafted tokens could come of it: one more comes anyway."""
    return max(request.ending.max_tokens - len(request.token_ids) - 1, 0)


def _chances(following: DraftState, guess: Guess, most: int) -> list[float]:
    """That the first 1, 2, ... tokens of a guess hold."""
    odds = following.of_head.odds if guess.evidence else following.record.odds
    rates = following.rates[guess.source].rates
    return survivals(rates, odds, kinds_of(guess), min(most, len(guess.tokens)))


def _best(following: DraftState, guesses: Iterable[Guess], most: int) -> tuple[Guess, list[float]] | None:
    """The guess that promises the most tokens, and the chances of each of its tokens."""
    best, promise = None, 0.0
    for guess in guesses:
        chances = _chances(following, guess, most)
        total = sum(chances)
        if total > promise:
            best, promise = (guess, chances), total
    return best
