"""How deep a head is asked: a scripted head, costs from a table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from miaotui.kernels.draft.draft_fields import MAX_HEAD_DRAFT
from miaotui.speculation.acceptance_rates import AcceptanceRates, MeanRates, RequestRecord, kinds_of
from miaotui.speculation.drafters.head import DraftDepth, HeadDraft, LookupGate
from miaotui.speculation.drafters.protocol import Candidate, HeadInput, HeadToken
from miaotui.speculation.policy import DraftPolicy, RowCost

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
    """A head that says 100 * row + depth, with the same evidence throughout for each of the first inputs."""

    name, computing_s, draft_run = "script", 0.0, None

    def __init__(self, evidence: Sequence[int], most_rows: int = 16) -> None:
        self.evidence, self.most_rows = evidence, most_rows
        self.rows: list[int] = []
        self.asked: list[int] = []

    def begin(self, inputs: Sequence[HeadInput]) -> None:
        self.rows = [each.row for each in inputs]
        self.depth = 0

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def step(self) -> list[HeadToken]:
        self.asked.append(len(self.rows))
        self.depth += 1
        return [HeadToken(100 * row + self.depth, self.evidence[row]) for row in self.rows]


def draft_for(row: int, most: int = 50) -> HeadDraft:
    start, means = HeadInput(row, 1, 10, 0), MeanRates(0)
    for turn in range(1000):
        means.note(turn % 2, turn % 20 < 12)
    return HeadDraft(row, start, most, AcceptanceRates(0).rates, means, RequestRecord())


def drafted(script: Script, slope: float, *drafts: HeadDraft, rows: int | None = None) -> dict[int, list[int]]:
    count = len(drafts)
    found = DraftDepth(script, DraftPolicy()).draft(drafts, float(count), rows or count, Table(slope))
    assert all(each.source == script.name and len(each.head_evidence) == len(each.tokens) for each in found.values())
    return {number: list(each.tokens) for number, each in found.items()}


def test_sure_drafts_go_as_deep_as_allowed_where_rows_are_cheap() -> None:
    assert drafted(Script([SURE]), 0.0, draft_for(0)) == {0: list(range(1, MAX_HEAD_DRAFT + 1))}


def test_nothing_is_asked_where_rows_cost_too_much() -> None:
    script = Script([SURE])
    assert drafted(script, 0.9, draft_for(0)) == {}
    assert script.asked == []


def test_doubtful_drafts_stay_short() -> None:
    doubtful = drafted(Script([DOUBTFUL]), 0.2, draft_for(0))[0]
    sure = drafted(Script([SURE]), 0.2, draft_for(0))[0]
    assert 1 <= len(doubtful) < len(sure)


def test_of_several_requests_only_the_sure_ones_go_on() -> None:
    script = Script([SURE, DOUBTFUL, SURE])
    found = drafted(script, 0.2, *(draft_for(row) for row in range(3)))
    assert len(found[1]) < len(found[0]) == len(found[2])
    assert script.asked[0] == 3
    assert script.asked[-1] == 2
    assert found[2] == [200 + depth for depth in range(1, len(found[2]) + 1)]


def test_no_more_tokens_than_a_request_may_get() -> None:
    found = drafted(Script([SURE, SURE]), 0.0, draft_for(0, most=2), draft_for(1))
    assert (len(found[0]), len(found[1])) == (2, MAX_HEAD_DRAFT)


def test_no_more_requests_than_the_head_has_rows() -> None:
    script = Script([SURE] * 5, most_rows=2)
    assert set(drafted(script, 0.0, *(draft_for(row) for row in range(5)))) == {0, 1}


def test_without_requests_nothing_is_done() -> None:
    assert drafted(Script([]), 0.0) == {}


def test_a_request_whose_drafts_fail_is_left_alone_and_tried_again_later() -> None:
    one = draft_for(0)
    for _ in range(60):
        one.record.note(0.5, accepted=False)
    assert drafted(Script([SURE]), 0.3, one) == {}
    before = one.record.odds_ratio
    depth = DraftDepth(Script([SURE]), DraftPolicy())
    for _ in range(400):
        if depth.draft([one], 1.0, 1, Table(0.3)):
            break
    assert one.record.odds_ratio > before
    assert one.tokens


@pytest.mark.parametrize("heat", [0, 3])
def test_mean_rates_follow_what_is_accepted(heat: int) -> None:
    means = MeanRates(heat)
    for turn in range(500):
        means.note(0, turn % 4 == 0)
        means.note(2, accepted=True)
    assert means.rate(0) == pytest.approx(0.25, abs=0.03)
    assert means.rate(5) > 0.9


class Slow(Script):
    """A head with a clock of its own, on which a step takes as long as it is told."""

    now_s, step_s = 0.0, 1e-5

    def step(self) -> list[HeadToken]:
        self.now_s += self.step_s
        return super().step()


class Quick(Table):
    """Passes of half a millisecond."""

    def seconds(self, rows: int) -> float:
        return 5e-4


def test_a_head_that_stalled_is_tried_again() -> None:
    slow = Slow([SURE])
    depth, cost = DraftDepth(slow, DraftPolicy(), lambda: slow.now_s), Quick(0.1)

    def is_tried() -> bool:
        return bool(depth.draft([draft_for(0, most=1)], 1.0, 1, cost))

    assert is_tried()
    slow.step_s = 0.01
    tried = [is_tried() for _ in range(100)]
    assert not tried[-1]
    slow.step_s = 1e-5
    assert any(is_tried() for _ in range(500))


def test_a_first_step_that_stalls_is_no_verdict() -> None:
    slow = Slow([SURE])
    slow.step_s = 0.01
    depth, cost = DraftDepth(slow, DraftPolicy(), lambda: slow.now_s), Quick(0.1)
    one = depth.draft([draft_for(0, most=1)], 1.0, 1, cost)
    slow.step_s = 1e-5
    tried = [bool(depth.draft([draft_for(0, most=1)], 1.0, 1, cost)) for _ in range(100)]
    assert one
    assert sum(tried) > 50


# what the head has begun goes on elsewhere ---------------------------------------------------------


def continued(candidates: Sequence[Candidate], one: HeadDraft, script: Script) -> tuple[Candidate, list[list[int]]]:
    """The candidate for a request whose texts go on with ``candidates``, and after which tokens they were asked."""
    asked: list[list[int]] = []

    def lookup(number: int, after: Sequence[int]) -> Sequence[Candidate]:
        assert number == one.number
        asked.append(list(after))
        return candidates

    found = DraftDepth(script, DraftPolicy(), lookup=lookup).draft([one], 1.0, 1, Table(0.05))
    return found[one.number], asked


def test_a_passage_that_the_head_begins_is_copied() -> None:
    script = Script([SURE])
    candidate, asked = continued([Candidate("text", 12, [7, 8, 9])], draft_for(0), script)
    assert list(candidate.tokens) == [1, 7, 8, 9]
    assert (candidate.source, len(candidate.head_evidence), len(candidate.kinds)) == ("script", 1, 4)
    assert kinds_of(candidate) == list(candidate.kinds)
    assert (asked, script.asked) == ([[1]], [1])


def test_the_better_of_two_passages_is_copied_as_far_as_there_is_room() -> None:
    candidates = [Candidate("text", 2, [4, 5], 1, 3), Candidate("text", 20, [7, 8, 9])]
    candidate, _ = continued(candidates, draft_for(0, most=3), Script([SURE]))
    assert list(candidate.tokens) == [1, 7, 8]


def test_where_the_head_knows_better_nothing_is_copied() -> None:
    script = Script([SURE])
    candidate, asked = continued([Candidate("text", 1, [7, 8], 1, 3)], draft_for(0), script)
    assert list(candidate.tokens) == list(range(1, MAX_HEAD_DRAFT + 1))
    assert len(asked) == len(script.asked) == MAX_HEAD_DRAFT


def test_texts_that_never_continue_a_draft_are_rarely_searched() -> None:
    copying, calls = LookupGate(), 0
    for _ in range(1000):
        one = draft_for(0, most=2)
        one.copying = copying
        calls += len(continued([], one, Script([DOUBTFUL]))[1])
    assert copying.found == 0
    assert 1000 / 8 < calls < 1000 / 4
