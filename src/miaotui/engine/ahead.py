"""Runs of passes in which the draft head guesses by itself: when they pay, and what is learned from them.

Owns one such run from `prepare` to `learn`. The head's guesses go the same ways as in single steps (see
``deepening`` and ``speculation``), with the numbers known when the run begins. Knows neither pages nor how
compiled code guesses. Invariant: what a run has brought is learned as if it had been asked for step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from miaotui.engine.deepening import MARGIN as STEP_MARGIN
from miaotui.engine.draft import Head
from miaotui.engine.following import Following
from miaotui.engine.guessing import Guessing, Odds
from miaotui.engine.row_cost import RowCost
from miaotui.engine.survival import ALONE, CLASSES, DEEPER, head_kind, with_odds
from miaotui.kernels.guess_fields import DEEPEST

PASS_MARGIN = (
    1.015  # what a pass with drafts must promise over one without: choosing costs time too
)
WITHIN = 0.7  # what a step of the head takes within a run, of what it takes when Python asks for it
ONE_IN = 8  # runs that are left out, so that single steps go on telling what rows cost


class Ahead:
    """One engine's runs; ``extend`` tells a text its tokens, ``promise`` what its best guess is worth."""

    def __init__(
        self,
        head: Head,
        extend: Callable[[int, Sequence[int]], None],
        promise: Callable[[int], float],
    ) -> None:
        assert head.guessing is not None, "a head that can guess within a run"
        self.guessing: Guessing = head.guessing
        self._extend, self._promise = extend, promise
        self.following: Following | None = None  # whose next step is to be a run
        self._hope = 0.0  # that the head's first token holds
        self._told = 0  # tokens that the text knows of already
        self.is_watched = True  # whether the run is to ask after each pass what texts promise
        self._runs = self._source = 0
        self._odds = Odds((), (), (), 0.0, STEP_MARGIN, PASS_MARGIN)

    def prepare(
        self, following: Following, source: int, text: float, share: float, cost: RowCost
    ) -> bool:
        """Whether the next step of a request is better a run than what its text promises in tokens."""
        request, record = following.request, following.of_head
        if following.row < 0 or request.constraint is not None or not request.choice:
            return False
        share *= WITHIN
        means = following.means.rate(0), following.means.rate(1)
        self._hope = with_odds(means[0], record.odds)
        ratios = [cost.ratio(max(rows, 1)) for rows in range(DEEPEST + 2)]
        price = (ratios[2] - ratios[1] + share) / ratios[1]
        if text >= self._hope or self._hope <= STEP_MARGIN * price:
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
            ratios, share, STEP_MARGIN, PASS_MARGIN,
        )  # fmt: skip
        self.following, self._source, self._told = following, source, 0
        self.is_watched = following.turning.is_likely()
        return True

    def set_out(self, position: int, most: int) -> Guessing:
        """The run begins: up to ``most`` tokens after the newest, which is at ``position``."""
        following = self.following
        assert following is not None, "prepared"
        newest = following.request.token_ids[-1]
        self.guessing.set_out(following.row, newest, position, most, self._odds)
        return self.guessing

    def watch(self, tokens: Sequence[int]) -> bool:
        """In a pass: the one before has brought ``tokens``. Whether no text promises more now."""
        following = self.following
        assert following is not None, "prepared"
        if not tokens:
            return True
        number = following.request.number
        self._extend(number, tokens)
        self._told += len(tokens)
        if self._promise(number) < self._hope:
            return True
        following.turning.found += 1
        return False

    def learn(self, tokens: Sequence[int], passes: int) -> Iterator[tuple[int, int]]:
        """The run is over; the tokens drafted and accepted of each pass that had a draft."""
        following = self.following
        assert following is not None, "prepared"
        self._extend(following.request.number, tokens[self._told :])
        following.row = self.guessing.row if self.guessing.broken < 0 else -1
        rates, at = following.rates[self._source], 0
        for told in self.guessing.told(passes):
            came = tokens[at : at + told.came]
            at += told.came
            for depth, (token, evidence, real) in enumerate(
                zip(told.tokens, told.evidence, came, strict=False)
            ):
                held = token == real
                following.note_of_head(rates, head_kind(depth, evidence), depth, held)
                if not held:
                    break
            if told.drafted:
                yield told.drafted, min(told.came - 1, told.drafted)
