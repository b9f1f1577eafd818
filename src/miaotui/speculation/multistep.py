"""Runs of passes in which tokens are guessed on the way: when they pay, and what is learned from them.

Owns one such run from `prepare` to `learn`. The draft head guesses by itself, and where a text is likely to go on
it is asked what with. Guesses go the same ways as in single steps (see
``deepening`` and ``speculation``), with the numbers known when the run begins. Knows neither pages nor how
compiled code guesses. Invariant: what a run has brought is learned as if it had been asked for step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from miaotui.backends.drafting import DraftRun, Odds, Told
from miaotui.kernels.draft.draft_fields import LONGEST
from miaotui.speculation.acceptance_rates import ALONE, CLASSES, DEEPER, head_kind, with_odds
from miaotui.speculation.draft_depth import MARGIN as STEP_MARGIN
from miaotui.speculation.draft_depth import SURE
from miaotui.speculation.drafters.protocol import Guess, Head
from miaotui.speculation.request_state import DraftState
from miaotui.speculation.row_cost import RowCost

PASS_MARGIN = 1.015  # what a pass with drafts must promise over one without: choosing costs time too
WITHIN = 0.7  # what a step of the head takes within a run, of what it takes when Python asks for it
ONE_IN = 8  # runs that are left out, so that single steps go on telling what rows cost


# What texts go on with after all that a request has: every guess, the best of them, its tokens' chances.
Quotable = Callable[[int], tuple[Sequence[Guess], Guess | None, Sequence[float]]]


class MultistepDrafting:
    """One engine's runs; ``extend`` tells a text its tokens, ``quotable`` what texts go on with."""

    def __init__(self, head: Head, extend: Callable[[int, Sequence[int]], None], quotable: Quotable) -> None:
        assert head.guessing is not None, "a head that can guess within a run"
        self.guessing: DraftRun = head.guessing
        self._extend, self._quotable = extend, quotable
        self.following: DraftState | None = None  # whose next step is to be a run
        self._hope = 0.0  # tokens that the head's guess promises
        self._told = 0  # tokens that the text knows of already
        self.is_watched = True  # whether the run is to ask after each pass what texts promise
        self._is_quoted = False  # whether it begins with what a text goes on with
        # For each pass that quotes: all guesses, and the source of the best.
        self._quoted: list[tuple[Sequence[Guess], int]] = []
        self._runs = self._source = 0
        self._odds = Odds((), (), (), 0.0, STEP_MARGIN, PASS_MARGIN)

    def prepare(self, following: DraftState, source: int, text: Sequence[float], share: float, cost: RowCost) -> bool:
        """Whether the next step of a request is better a run; ``text`` are the chances of what a text goes on with."""
        request, record = following.request, following.of_head
        if following.row < 0 or request.constraint is not None or not request.choice:
            return False
        share *= WITHIN
        means = following.means.rate(0), following.means.rate(1)
        first = with_odds(means[0], record.odds)
        self._hope = first * (1.0 + means[1])
        ratios = [cost.ratio(max(rows, 1)) for rows in range(LONGEST + 2)]
        price = (ratios[2] - ratios[1] + share) / ratios[1]
        self._is_quoted = self._promises(text)
        if not self._is_quoted and first <= STEP_MARGIN * price:
            return False
        self._runs += 1
        if self._runs % ONE_IN == 0:
            return False
        rates = following.rates[source].rates
        first, deeper = ALONE * CLASSES, DEEPER * CLASSES
        chances = rates[first : first + CLASSES] + rates[deeper : deeper + CLASSES]
        self._odds = Odds(
            [with_odds(chance, record.odds) for chance in chances],
            [with_odds(mean, record.odds) for mean in means],
            ratios,
            share,
            STEP_MARGIN,
            PASS_MARGIN,
        )
        self.following, self._source, self._told = following, source, 0
        self._quoted = []
        self.is_watched = self._is_quoted or following.turning.is_likely()
        return True

    def _promises(self, text: Sequence[float]) -> bool:
        """Whether what a text goes on with promises more than the head's guess."""
        return bool(text) and (text[0] >= SURE or sum(text) > self._hope)

    def set_out(self, position: int, most: int) -> DraftRun:
        """The run begins: up to ``most`` tokens after the newest, which is at ``position``."""
        following = self.following
        assert following is not None, "prepared"
        newest = following.request.token_ids[-1]
        self.guessing.set_out(following.row, newest, position, most, self._odds)
        if self._is_quoted:
            self.guessing.wish()
        return self.guessing

    def watch(self, tokens: Sequence[int]) -> bool:
        """In a pass: the one before has brought ``tokens``. If a text promises more now it is asked after the pass."""
        following = self.following
        assert following is not None, "prepared"
        self._tell(tokens)
        if tokens and not self.guessing.is_wished:
            _, _, chances = self._quotable(following.request.number)
            if self._promises(chances):
                following.turning.found += 1
                self.guessing.wish()
        return True

    def quote(self, tokens: Sequence[int]) -> int:
        """Between passes: the last has brought ``tokens``. A draft of what a text goes on with; its size, 0: none."""
        following = self.following
        assert following is not None, "prepared"
        self._tell(tokens)
        guesses, best, chances = self._quotable(following.request.number)
        if best is None or not self._promises(chances):
            return 0
        count = self.guessing.put(best.tokens, chances)
        if count:
            self._quoted.append((guesses, best.source))
        return count

    def _tell(self, tokens: Sequence[int]) -> None:
        if tokens:
            assert self.following is not None, "prepared"
            self._extend(self.following.request.number, tokens)
            self._told += len(tokens)

    def learn(self, tokens: Sequence[int], passes: int) -> Iterator[tuple[int, int, int]]:
        """The run is over; the source and the tokens drafted and accepted of each pass that had a draft."""
        following = self.following
        assert following is not None, "prepared"
        self._extend(following.request.number, tokens[self._told :])
        following.row = self.guessing.row if self.guessing.broken < 0 else -1
        quoted, at = iter(self._quoted), 0
        for told in self.guessing.told(passes):
            came = tokens[at : at + told.came]
            at += told.came
            if told.is_quoted:
                following.guesses, following.source = next(quoted)
                following.judge(came)
            else:
                self._judge_head(following, told, came)
            if told.drafted:
                source = following.source if told.is_quoted else self._source
                yield source, told.drafted, min(told.came - 1, told.drafted)

    def _judge_head(self, following: DraftState, told: Told, came: Sequence[int]) -> None:
        rates = following.rates[self._source]
        for depth, (token, evidence, real) in enumerate(zip(told.tokens, told.evidence, came, strict=False)):
            held = token == real
            following.note_of_head(rates, head_kind(depth, evidence), depth, held)
            if not held:
                break
