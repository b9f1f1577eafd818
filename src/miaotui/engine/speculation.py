"""Which guessed tokens are worth a row of the next pass: the controller of speculation.

Owns the choice and its bookkeeping: how well guesses survive (``survival``), what rows cost
(``row_cost``), what was gained. Knows neither pages nor how guesses are made. Each step it takes, over
all running requests, the rows that bring the most tokens per second, and none where that does not
pay. Invariant: it changes when tokens come, never which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from miaotui.engine.branching import BranchCost, Offer, Rescue, Rival, choose_branch, rival_of
from miaotui.engine.draft import Drafter, Guess
from miaotui.engine.request import Request
from miaotui.engine.row_cost import RowCost
from miaotui.engine.survival import Rates, Record, heat_of, kinds_of, survivals
from miaotui.schedule.plan import Chunk, Plan
from miaotui.schedule.tree import Draft

MARGIN = 1.015  # what a pass with drafts must promise over one without: choosing costs time too
GRAMMAR = "grammar"  # the source of tokens that an answer's constraint leaves no choice about
_CERTAIN, _MOST_FORCED = 64, 32  # their evidence; how many of them at once
_NO_GUESSES: Sequence[Guess] = ()


@dataclass(frozen=True)
class SourceReport:
    """What one source of guesses has brought since the start."""

    name: str
    drafts: int  # passes that verified a draft of it, counted for each request
    proposed: int  # tokens
    accepted: int  # tokens
    saved_s: float  # seconds, by the passes that were not needed, less the rows that were

    @property
    def mean_accepted(self) -> float:
        """Accepted tokens per draft."""
        return self.accepted / self.drafts if self.drafts else 0.0


@dataclass(slots=True)
class _Tally:
    drafts: int = 0
    proposed: int = 0
    accepted: int = 0
    saved_s: float = 0.0


@dataclass(slots=True)
class _Following:
    """A request: how its guesses fare, and what was guessed for the pass under way."""

    request: Request
    rates: Sequence[Rates]  # by source
    rescues: Sequence[Rescue]  # by source
    record: Record = field(default_factory=Record)
    guesses: Sequence[Guess] = _NO_GUESSES
    source: int = 0  # of the draft
    rival: Rival | None = None


class Speculation:
    """Drafts for every step of one engine; used by the engine's thread alone, except `report`."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self.cost = RowCost()
        self.branch_cost = BranchCost()
        self._rates: dict[int, list[Rates]] = {}  # by heat
        self._rescues: dict[int, list[Rescue]] = {}
        self._names = (*drafter.sources, GRAMMAR)
        self._tallies = [_Tally() for _ in self._names]
        self._following: dict[int, _Following] = {}

    def enter(self, request: Request) -> None:
        """A request is queued."""
        heat = heat_of(request.sampler.temperature)
        if heat not in self._rates:
            self._rates[heat] = [Rates(heat) for _ in self._names]
            self._rescues[heat] = [Rescue() for _ in self._names]
        self._following[request.number] = _Following(
            request, self._rates[heat], self._rescues[heat]
        )
        self._drafter.enter(
            request.number, request.prompt, request.ending.max_tokens, request.namespace,
            request.passages,
        )  # fmt: skip

    def leave(self, request: Request) -> None:
        """A request is over."""
        if self._following.pop(request.number, None) is not None:
            self._drafter.leave(request.number, request.finish_reason in ("stop", "length"))

    def propose(self, other_rows: int = 0) -> dict[int, Draft]:
        """Drafts by request number, for a step that also computes ``other_rows`` rows of prompts."""
        wanted: list[tuple[_Following, Guess, list[float]]] = []
        running = 0
        for number, following in self._following.items():
            answered = len(following.request.token_ids)
            if not answered:
                continue  # its prompt is still being computed
            running += 1
            following.guesses = guesses = self._guesses(number, following.request)
            following.rival = None
            best = _best(following, guesses, _room(following.request))
            if best is not None:
                wanted.append((following, *best))
                if len(guesses) > 1:
                    following.rival = rival_of(best[0], guesses)
        shares = self._shares([chances for _, _, chances in wanted], running, other_rows)
        branched, count = self._branch(wanted, shares, running, other_rows)
        drafts: dict[int, Draft] = {}
        for index, ((following, guess, _), share) in enumerate(zip(wanted, shares, strict=True)):
            if share:
                following.source = guess.source
                line = guess.tokens[:share]
                rival = following.rival if index == branched else None
                drafts[following.request.number] = rival.tree(share, count) if rival else line
        return drafts

    def _branch(
        self,
        wanted: Sequence[tuple[_Following, Guess, list[float]]],
        shares: Sequence[int],
        running: int,
        other_rows: int,
    ) -> tuple[int, int]:
        """Whose rival is worth a branch beside the lines, and how many of its tokens; -1: nobody's."""
        offers: list[Offer | None] = []
        for (following, _, chances), share in zip(wanted, shares, strict=True):
            rival = following.rival
            if rival is None or rival.fork >= share:
                offers.append(None)
                continue
            source = rival.other.source
            most = _room(following.request) - rival.fork
            odds, rescue = following.record.odds, following.rescues[source]
            offers.append(
                Offer(rival, rival.chances(chances, following.rates[source], odds, rescue, most))
            )
        if not any(offers):
            return -1, 0
        gain = running + sum(
            sum(chances[:share]) for (_, _, chances), share in zip(wanted, shares, strict=True)
        )
        rows = running + other_rows + sum(shares)
        return choose_branch(offers, gain, rows, self.cost, self.branch_cost, MARGIN)

    def _guesses(self, number: int, request: Request) -> Sequence[Guess]:
        """Where a grammar leaves no choice nothing else needs to be guessed."""
        forced = () if request.constraint is None else request.constraint.forced()
        if forced:
            return [Guess(len(self._names) - 1, _CERTAIN, forced[:_MOST_FORCED])]
        return self._drafter.guess(number)

    def _shares(
        self, chances: Sequence[Sequence[float]], running: int, other_rows: int
    ) -> list[int]:
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
        best = MARGIN * gain / cost
        for count, (chance, _) in enumerate(ranked, 1):
            gain += chance
            cost = max(cost, ratio(rows + count))
            if gain > best * cost:
                best, most = gain / cost, count
        for _, i in ranked[:most]:
            shares[i] += 1
        return shares

    def note(self, plan: Plan, chosen: Mapping[int, Sequence[int]], seconds: float) -> None:
        """A step is done: what was computed, which tokens came of it, how long it took."""
        drafted: list[tuple[_Tally, int, int]] = []
        decoding = branches = 0
        for chunk in plan.chunks:
            following, tokens = self._following.get(chunk.sequence), chosen.get(chunk.sequence)
            decoding += len(chunk.tokens) == chunk.n_logits
            if following is None or not tokens:
                continue
            self._judge(following, tokens)
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

    def _drafted(
        self, following: _Following, chunk: Chunk, tokens: Sequence[int]
    ) -> Iterator[tuple[_Tally, int, int]]:
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

    def _judge(self, following: _Following, tokens: Sequence[int]) -> None:
        """Compare every guess with what came, whether it was tried or not."""
        record, rates = following.record, following.rates
        for guess in following.guesses:
            of_source = rates[guess.source]
            for kind, token, came in zip(kinds_of(guess), guess.tokens, tokens, strict=False):
                held = token == came
                if guess.source == following.source:
                    record.note(of_source.rates[kind], held)
                of_source.note(kind, held)
                if not held:
                    break
        if following.rival is not None:
            following.rival.judge(tokens, following.rescues[following.rival.other.source])
        following.guesses = _NO_GUESSES

    def _count(
        self, drafted: Sequence[tuple[_Tally, int, int]], decoding: int, seconds: float
    ) -> None:
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


def _best(
    following: _Following, guesses: Iterable[Guess], most: int
) -> tuple[Guess, list[float]] | None:
    """The guess that promises the most tokens, and the chances of each of its tokens."""
    best, promise = None, 0.0
    for guess in guesses:
        rates = following.rates[guess.source].rates
        chances = survivals(
            rates, following.record.odds, kinds_of(guess), min(most, len(guess.tokens))
        )
        total = sum(chances)
        if total > promise:
            best, promise = (guess, chances), total
    return best
