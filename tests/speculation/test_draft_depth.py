"""How deep a head is asked: a scripted head, costs from a table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from miaotui.speculation.acceptance_rates import AcceptanceRates, Record, kinds_of
from miaotui.speculation.draft_depth import DEEPEST, Copying, DraftDepth, Means, Seeker
from miaotui.speculation.drafters.protocol import Guess, HeadToken, Lead
from miaotui.speculation.row_cost import RowCost

SURE, DOUBTFUL = 60, 1  # evidence


class Table(RowCost):
    """A pass of ``n`` rows costs ``1 + slope (n - 1)``."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self._slope = slope

    def ratio(self, rows: int) -> float:
        return 1.0 + self._slope * (rows - 1)

    def seconds(self, rows: int) -> float:
        return 1e6  # beside which a scripted head takes no time


class Script:
    """A head that says 100 * row + depth, with the same evidence throughout for each of the first leads."""

    name, computing_s, guessing = "script", 0.0, None

    def __init__(self, evidence: Sequence[int], most_rows: int = 16) -> None:
        self.evidence, self.most_rows = evidence, most_rows
        self.rows: list[int] = []
        self.asked: list[int] = []

    def begin(self, leads: Sequence[Lead]) -> None:
        self.rows = [lead.row for lead in leads]
        self.depth = 0

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def deepen(self) -> list[HeadToken]:
        self.asked.append(len(self.rows))
        self.depth += 1
        return [HeadToken(100 * row + self.depth, self.evidence[row]) for row in self.rows]


def seeker(row: int, most: int = 50) -> Seeker:
    lead, means = Lead(row, 1, 10, 0), Means(0)
    for turn in range(1000):
        means.note(turn % 2, turn % 20 < 12)
    return Seeker(row, lead, most, AcceptanceRates(0), means, Record())


def guess(script: Script, slope: float, *seekers: Seeker, rows: int | None = None) -> dict[int, list[int]]:
    count = len(seekers)
    found = DraftDepth(script, 3).guesses(seekers, float(count), rows or count, Table(slope))
    assert all(each.source == 3 and len(each.evidence) == len(each.tokens) for each in found.values())
    return {number: list(each.tokens) for number, each in found.items()}


def test_sure_guesses_go_as_deep_as_allowed_where_rows_are_cheap() -> None:
    assert guess(Script([SURE]), 0.0, seeker(0)) == {0: list(range(1, DEEPEST + 1))}


def test_nothing_is_asked_where_rows_cost_too_much() -> None:
    script = Script([SURE])
    assert guess(script, 0.9, seeker(0)) == {}
    assert script.asked == []


def test_doubtful_guesses_are_not_followed_far() -> None:
    doubtful = guess(Script([DOUBTFUL]), 0.2, seeker(0))[0]
    sure = guess(Script([SURE]), 0.2, seeker(0))[0]
    assert 1 <= len(doubtful) < len(sure)


def test_of_several_requests_only_the_sure_ones_go_on() -> None:
    script = Script([SURE, DOUBTFUL, SURE])
    found = guess(script, 0.2, *(seeker(row) for row in range(3)))
    assert len(found[1]) < len(found[0]) == len(found[2])
    assert script.asked[0] == 3
    assert script.asked[-1] == 2
    assert found[2] == [200 + depth for depth in range(1, len(found[2]) + 1)]


def test_no_more_tokens_than_a_request_may_get() -> None:
    found = guess(Script([SURE, SURE]), 0.0, seeker(0, most=2), seeker(1))
    assert (len(found[0]), len(found[1])) == (2, DEEPEST)


def test_no_more_requests_than_the_head_has_rows() -> None:
    script = Script([SURE] * 5, most_rows=2)
    assert set(guess(script, 0.0, *(seeker(row) for row in range(5)))) == {0, 1}


def test_nobody_seeks_nothing_is_done() -> None:
    assert guess(Script([]), 0.0) == {}


def test_a_request_for_which_guesses_fail_is_left_alone_and_tried_again_later() -> None:
    one = seeker(0)
    for _ in range(60):
        one.record.note(0.5, held=False)
    assert guess(Script([SURE]), 0.3, one) == {}
    before = one.record.odds
    deepening = DraftDepth(Script([SURE]), 3)
    for _ in range(400):
        if deepening.guesses([one], 1.0, 1, Table(0.3)):
            break
    assert one.record.odds > before
    assert one.tokens


@pytest.mark.parametrize("heat", [0, 3])
def test_means_follow_what_holds(heat: int) -> None:
    means = Means(heat)
    for turn in range(500):
        means.note(0, turn % 4 == 0)
        means.note(2, held=True)
    assert means.rate(0) == pytest.approx(0.25, abs=0.03)
    assert means.rate(5) > 0.9


class Slow(Script):
    """A head with a clock of its own, on which a step takes as long as it is told."""

    now_s, step_s = 0.0, 1e-5

    def deepen(self) -> list[HeadToken]:
        self.now_s += self.step_s
        return super().deepen()


class Quick(Table):
    """Passes of half a millisecond."""

    def seconds(self, rows: int) -> float:
        return 5e-4


def test_a_head_that_stalled_is_tried_again() -> None:
    slow = Slow([SURE])
    deepening, cost = DraftDepth(slow, 3, lambda: slow.now_s), Quick(0.1)

    def is_tried() -> bool:
        return bool(deepening.guesses([seeker(0, most=1)], 1.0, 1, cost))

    assert is_tried()
    slow.step_s = 0.01
    tried = [is_tried() for _ in range(100)]
    assert not tried[-1]
    slow.step_s = 1e-5
    assert any(is_tried() for _ in range(500))


def test_a_first_step_that_stalls_is_no_verdict() -> None:
    slow = Slow([SURE])
    slow.step_s = 0.01
    deepening, cost = DraftDepth(slow, 3, lambda: slow.now_s), Quick(0.1)
    one = deepening.guesses([seeker(0, most=1)], 1.0, 1, cost)
    slow.step_s = 1e-5
    tried = [bool(deepening.guesses([seeker(0, most=1)], 1.0, 1, cost)) for _ in range(100)]
    assert one
    assert sum(tried) > 50


# what the head has begun goes on elsewhere ---------------------------------------------------------


def continued(guesses: Sequence[Guess], one: Seeker, script: Script) -> tuple[Guess, list[list[int]]]:
    """The guess for a request whose texts go on with ``guesses``, and after which tokens they were asked."""
    asked: list[list[int]] = []

    def follow(number: int, after: Sequence[int]) -> Sequence[Guess]:
        assert number == one.number
        asked.append(list(after))
        return guesses

    found = DraftDepth(script, 3, follow=follow).guesses([one], 1.0, 1, Table(0.05))
    return found[one.number], asked


def test_a_passage_that_the_head_begins_is_copied() -> None:
    script = Script([SURE])
    guess, asked = continued([Guess(1, 12, [7, 8, 9])], seeker(0), script)
    assert list(guess.tokens) == [1, 7, 8, 9]
    assert (guess.source, len(guess.evidence), len(guess.kinds)) == (3, 1, 4)
    assert kinds_of(guess) == list(guess.kinds)
    assert (asked, script.asked) == ([[1]], [1])


def test_the_better_of_two_passages_is_copied_as_far_as_there_is_room() -> None:
    guesses = [Guess(0, 2, [4, 5], 1, 3), Guess(1, 20, [7, 8, 9])]
    guess, _ = continued(guesses, seeker(0, most=3), Script([SURE]))
    assert list(guess.tokens) == [1, 7, 8]


def test_where_the_head_knows_better_nothing_is_copied() -> None:
    script = Script([SURE])
    guess, asked = continued([Guess(0, 1, [7, 8], 1, 3)], seeker(0), script)
    assert list(guess.tokens) == list(range(1, DEEPEST + 1))
    assert len(asked) == len(script.asked) == DEEPEST


def test_who_never_copies_is_rarely_asked() -> None:
    copying, calls = Copying(), 0
    for _ in range(1000):
        one = seeker(0, most=2)
        one.copying = copying
        calls += len(continued([], one, Script([DOUBTFUL]))[1])
    assert copying.found == 0
    assert 1000 / 8 < calls < 1000 / 4
