"""How deep a draft head's guesses go: each further token must be worth what it costs to compute.

Owns what a head's steps cost here and how often its guesses hold on the whole; how well each of them
is founded is learned elsewhere (``survival``). Knows neither pages nor how a head works. Invariant: a
head that does not pay is not run, and whether it is run changes when tokens come, never which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from miaotui.kernels.draft.draft_fields import DEEPEST
from miaotui.speculation.acceptance_rates import AcceptanceRates, Record, copied_kinds, head_kind, with_odds
from miaotui.speculation.drafters.protocol import Guess, Head, Lead
from miaotui.speculation.row_cost import RowCost

# A request, and tokens that are taken to come: what then?
Follow = Callable[[int, Sequence[int]], Sequence[Guess]]

MARGIN = 1.02  # what a step of the head must promise over none
SURE = 0.75  # with a guess that holds so probably from elsewhere, no other is sought
_FIRST_SHARE = 0.06  # a step's cost in passes of one row, before any was timed
_FAST = 0.1  # what the times take up of a new one
_DOUBT = 0.02  # what they lose of what they exceed the fastest by, in steps that are not tried
_PRIOR_WEIGHT, _MEMORY = 30.0, 2000.0
# First and deeper tokens that held, of a small model's head.
_COLD, _HOT = (0.51, 0.43), (0.43, 0.41)
# Questions about copying, before one in so many is enough if so few find any.
_ASKED, _ONE_IN = 16, 8
_RECOVERY = 0.02  # of a request's own odds, for each step in which nothing was tried


class Means:
    """How often a head's guesses hold on the whole: its first tokens, and deeper ones if those before held."""

    def __init__(self, heat: int) -> None:
        first, deeper = _COLD if heat == 0 else _HOT
        self._held = [first * _PRIOR_WEIGHT, deeper * _PRIOR_WEIGHT]
        self._seen = [_PRIOR_WEIGHT, _PRIOR_WEIGHT]

    def rate(self, depth: int) -> float:
        """Of tokens at ``depth``, from 0."""
        which = min(depth, 1)
        return self._held[which] / self._seen[which]

    def note(self, depth: int, held: bool) -> None:
        """One held, or did not."""
        which = min(depth, 1)
        if self._seen[which] > _MEMORY:
            self._seen[which] /= 2
            self._held[which] /= 2
        self._seen[which] += 1.0
        self._held[which] += held


@dataclass(slots=True)
class Copying:
    """How often a head's guesses for a request went on elsewhere; where they never do, few are asked about."""

    asked: int = 0
    found: int = 0

    def is_likely(self) -> bool:
        """Whether to ask now; each question counts."""
        self.asked += 1
        rare = self.asked > _ASKED and self.found * _ONE_IN < self.asked
        return not rare or self.asked % _ONE_IN == 0


@dataclass(slots=True)
class Seeker:
    """A request for which a guess is sought, and what the head has said so far."""

    number: int
    lead: Lead
    most: int  # tokens
    rates: AcceptanceRates
    means: Means
    record: Record
    copying: Copying = field(default_factory=Copying)
    chance: float = 1.0  # that all tokens so far hold
    tokens: list[int] = field(default_factory=list)
    evidence: list[int] = field(default_factory=list)  # of the head's tokens
    kinds: list[int] = field(default_factory=list)

    def hope(self) -> float:
        """The chance that one more token holds."""
        return self.chance * with_odds(self.means.rate(len(self.tokens)), self.record.odds)


class DraftDepth:
    """One engine's head; ``source`` is its number among the sources of guesses, ``clock`` gives seconds."""

    def __init__(
        self,
        head: Head,
        source: int,
        clock: Callable[[], float] = time.perf_counter,
        follow: Follow = lambda _number, _after: (),
    ) -> None:
        self._head, self._source, self._clock, self._follow = head, source, clock, follow
        self._seconds: dict[int, float] = {}  # of a step, by rows
        self._fastest: dict[int, float] = {}
        self.spent_s = 0.0  # since the last step of the engine

    def guesses(self, seekers: Sequence[Seeker], gain: float, rows: int, cost: RowCost) -> dict[int, Guess]:
        """Guesses by request number, where they pay.

        ``gain`` is the tokens that the next pass brings without them, ``rows`` its rows then.
        """
        if not seekers:
            return {}
        alive = list(seekers[: self._head.most_rows])
        pace, used = gain / cost.ratio(rows), 0
        for depth in range(DEEPEST):
            if not alive:
                break
            if not self._pays(alive, pace, rows + used, cost):
                self._doubt(len(alive), depth)
                break
            started_s = self._clock()
            if depth == 0:
                self._head.begin([seeker.lead for seeker in alive])
            self._deepen(alive)
            self._time(len(alive), self._clock() - started_s, cost)
            used += len(alive)
            least = pace * (cost.ratio(rows + used + 1) - cost.ratio(rows + used))
            alive = self._kept(alive, least)
        self._recover(seekers)
        return {
            s.number: Guess(self._source, s.evidence[0], s.tokens, 1, 0, s.evidence, s.kinds)
            for s in seekers
            if s.tokens
        }

    def _deepen(self, alive: Sequence[Seeker]) -> None:
        for seeker, (token, evidence) in zip(alive, self._head.deepen(), strict=True):
            kind = head_kind(len(seeker.tokens), evidence)
            seeker.tokens.append(token)
            seeker.evidence.append(evidence)
            seeker.kinds.append(kind)
            seeker.chance *= with_odds(seeker.rates.rates[kind], seeker.record.odds)

    def _is_continued(self, seeker: Seeker) -> bool:
        """Whether what the head has guessed so far goes on elsewhere, better than the head would know.

        Copying a passage often begins so: its first words are the head's, the rest is the passage's.
        """
        if not seeker.copying.is_likely():
            return False
        best, least = None, seeker.means.rate(1)
        for guess in self._follow(seeker.number, seeker.tokens):
            kinds = copied_kinds(guess)
            rate = seeker.rates.rates[kinds[0]]
            if rate > least:
                best, least = (guess.tokens, kinds), rate
        if best is None:
            return False
        seeker.copying.found += 1
        left = min(seeker.most - len(seeker.tokens), len(best[1]))
        seeker.tokens += best[0][:left]
        seeker.kinds += best[1][:left]
        return True

    def _pays(self, alive: Sequence[Seeker], pace: float, rows: int, cost: RowCost) -> bool:
        """Whether one more token each is worth its rows and the head's step."""
        count = len(alive)
        price = cost.ratio(rows + count) - cost.ratio(rows) + self.share(count, cost)
        return sum(seeker.hope() for seeker in alive) > MARGIN * pace * price

    def _kept(self, alive: Sequence[Seeker], least: float) -> list[Seeker]:
        """Those whose next token is the head's to guess and has a chance above ``least``."""
        rows_kept = [
            row
            for row, seeker in enumerate(alive)
            if len(seeker.tokens) < seeker.most and not self._is_continued(seeker) and seeker.hope() > least
        ]
        if rows_kept:
            self._head.keep(rows_kept)
        return [alive[row] for row in rows_kept]

    def share(self, count: int, cost: RowCost) -> float:
        """What a step costs, in passes of ratio 1."""
        plain_s = cost.seconds(1)
        if count not in self._seconds or plain_s <= 0.0:
            return _first_share(count)
        return self._seconds[count] / plain_s * cost.ratio(1)

    def _time(self, count: int, seconds: float, cost: RowCost) -> None:
        """Note what a step took; a jolt counts as twice what is usual, even if it is the first."""
        self.spent_s += seconds
        usual = _first_share(count) * cost.seconds(1) or seconds
        before = self._seconds.get(count, usual)
        self._seconds[count] = before + _FAST * (min(seconds, 2.0 * before) - before)
        self._fastest[count] = min(self._fastest.get(count, usual), seconds)

    def _doubt(self, count: int, depth: int) -> None:
        """A step that is not tried tells nothing: slowly believe that it is as fast as it once was."""
        if depth == 0 and count in self._seconds:
            fastest = self._fastest[count]
            self._seconds[count] += _DOUBT * (fastest - self._seconds[count])

    def _recover(self, seekers: Sequence[Seeker]) -> None:
        for seeker in seekers:
            if not seeker.tokens and seeker.record.odds < 1.0:
                seeker.record.odds += _RECOVERY * (1.0 - seeker.record.odds)


def _first_share(count: int) -> float:
    """What a step of so many rows costs before any was timed, in passes of one row."""
    return _FIRST_SHARE * (1.0 + 0.1 * count)
