"""The controller: it learns acceptance rates and row costs, and verifies the drafts that pay."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.kernels.draft.policy_fields import EVIDENCE_BOUNDS, EVIDENCE_CLASSES
from miaotui.schedule.plan import Chunk, Plan
from miaotui.speculation.acceptance_rates import (
    ALONE,
    HALF,
    KINDS,
    LATER,
    LEAST,
    MAX_EVIDENCE,
    MOST,
    MOSTLY,
    RARELY,
    UNANIMOUS,
    AcceptanceRates,
    RequestRecord,
    cumulative_chances,
    kinds_of,
    temperature_class,
)
from miaotui.speculation.controller import IDLE_STEPS, Speculation
from miaotui.speculation.drafters.protocol import Candidate, DraftRequest
from miaotui.speculation.policy import MAX_ROWS, RowCost


@dataclass
class Scripted:
    """A drafter with given candidates."""

    candidates: dict[int, Sequence[Candidate]] = field(default_factory=dict)
    sources: Sequence[str] = ("good", "bad")
    is_certain: bool = False
    log: list[tuple[Any, ...]] = field(default_factory=list)

    def enter(self, request: DraftRequest) -> bool:
        self.log.append(("enter", request.number))
        return True

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        self.log.append(("extend", number, tuple(tokens)))

    def propose(self, number: int, after: Sequence[int] = ()) -> Sequence[Candidate]:
        return self.candidates.get(number, ())

    def leave(self, number: int, finished: bool) -> None:
        self.log.append(("leave", number, finished))


class Asker:
    """The parts of a request that the controller reads."""

    def __init__(self, number: int, temperature: float = 0.0, most: int = 1000) -> None:
        self.number, self.namespace, self.adapter, self.prompt, self.passages = number, 0, 0, (1, 2), ()
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.constraint, self.drawn_from = None, 0
        self.sampler = type("Sampler", (), {"temperature": temperature})
        self.ending = type("Ending", (), {"max_tokens": most})


class Table(RowCost):
    """Costs as given, whatever passes take."""

    def __init__(self, ratios: Sequence[float]) -> None:
        super().__init__()
        self._ratios[1:] = [*ratios, *[ratios[-1]] * (MAX_ROWS - len(ratios))]

    def note(self, rows: int, seconds: float) -> None:
        self._scale_s = 1.0


FLAT = Table([1.0] * MAX_ROWS)
STEEP = Table([float(rows) for rows in range(1, MAX_ROWS + 1)])


def controller(drafter: Scripted, cost: RowCost, *askers: Any) -> Speculation:
    speculation = Speculation(drafter)
    speculation.cost = cost
    for asker in askers:
        speculation.enter(asker)
        give(speculation, asker, [0])
    return speculation


def give(speculation: Speculation, asker: Any, tokens: list[int], draft: Sequence[int] = ()) -> None:
    """A step in which the asker alone got tokens."""
    asker.token_ids += tokens
    chunk = Chunk(asker.number, 0, (0, *draft), (0,), 1 + len(draft))
    speculation.note(Plan((chunk,)), {asker.number: tokens}, 0.001)


# what is verified ------------------------------------------------------------------------------------


def test_all_is_tried_where_rows_cost_nothing_and_nothing_where_they_cost_too_much() -> None:
    asker = Asker(7)
    drafter = Scripted({7: [Candidate("good", 12, [1, 2, 3, 4, 5])]})
    assert controller(drafter, FLAT, asker).propose().drafts == {7: [1, 2, 3, 4, 5]}
    asker.token_ids.clear()
    assert controller(drafter, STEEP, asker).propose().drafts == {}


def test_rows_are_taken_up_to_the_step_in_their_cost() -> None:
    asker = Asker(7)
    cost = Table([1.0, 1.1, 1.2, 1.3, 3.0, 4.0, 5.0, 6.0])
    drafter = Scripted({7: [Candidate("good", 12, list(range(20)))]})
    assert controller(drafter, cost, asker).propose().drafts == {7: [0, 1, 2]}


def test_the_likeliest_tokens_over_all_requests_get_the_rows() -> None:
    sure, unsure = Asker(1), Asker(2)
    cost = Table([1.0, 1.0, 1.05, 1.1, 1.15, 9.0])
    drafter = Scripted({1: [Candidate("good", 40, [5, 6, 7, 8, 9])], 2: [Candidate("good", 1, [5, 6, 7, 8, 9])]})
    assert controller(drafter, cost, sure, unsure).propose().drafts == {1: [5, 6, 7]}


def test_drafts_pay_until_some_steps_after_the_last_one() -> None:
    """Meanwhile the drafters are asked in every step."""
    asker = Asker(7)
    drafter = Scripted({7: [Candidate("good", 12, [1, 2, 3])]})
    speculation = controller(drafter, FLAT, asker)
    speculation.propose()
    drafter.candidates.clear()
    pays = []
    for _ in range(IDLE_STEPS + 3):
        pays.append(speculation.pays)
        speculation.propose()
    assert pays == [True] * IDLE_STEPS + [False] * 3


def test_the_source_that_promises_more_is_verified() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("good", 2, [5, 6]), Candidate("bad", 30, [7, 8])]})
    assert controller(drafter, FLAT, asker).propose().drafts == {1: [7, 8]}


def test_no_more_is_tried_than_the_answer_may_have() -> None:
    asker = Asker(1, most=4)
    drafter = Scripted({1: [Candidate("good", 30, [7, 8, 9, 10])]})
    assert controller(drafter, FLAT, asker).propose().drafts == {1: [7, 8]}  # 1 came, 1 comes anyway
    give(controller(drafter, FLAT, asker), asker, [3, 3])
    assert controller(drafter, FLAT, asker).propose().drafts == {}


def test_prompts_beside_make_rows_cheap() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("good", 30, [7, 8, 9])]})
    speculation = controller(drafter, STEEP, asker)
    assert speculation.propose().drafts == {}
    assert speculation.propose(prompt_rows=100).drafts == {1: [7, 8, 9]}


def test_requests_without_a_first_token_get_no_draft() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("good", 30, [7, 8, 9])]})
    speculation = Speculation(drafter)
    speculation.enter(asker)  # type: ignore[arg-type]
    assert speculation.propose().drafts == {}


@given(
    st.lists(st.lists(st.floats(0.02, 1.0), max_size=8), min_size=1, max_size=5),
    st.lists(st.floats(0.0, 1.0), min_size=50, max_size=50),
)
def test_no_other_division_of_the_rows_is_better(raw: list[list[float]], steps: list[float]) -> None:
    cost = Table(list(itertools.accumulate(steps, initial=1.0)))
    speculation = Speculation(Scripted())
    speculation.cost = cost
    chances = [sorted(each, reverse=True) for each in raw]
    running = len(chances)
    lengths = speculation._lengths(chances, running, running)

    def speed(gain: float, rows: int) -> float:
        return (running + gain) / cost.ratio(running + rows)

    found = speed(sum(sum(c[:n]) for c, n in zip(chances, lengths, strict=True)), sum(lengths))
    ranked = sorted((c for each in chances for c in each), reverse=True)
    best = max(speed(sum(ranked[:n]), n) for n in range(len(ranked) + 1))
    assert found >= best / 1.02


# what is learned ----------------------------------------------------------------------------------


def test_drafts_that_are_never_right_are_given_up() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("bad", 9, [7, 8])]})
    speculation = controller(drafter, Table([1.0, 1.2, 1.4]), asker)
    tried = 0
    for _ in range(200):
        draft = speculation.propose().drafts.get(1, ())
        tried += len(draft)
        give(speculation, asker, [3], draft)
    assert 0 < tried < 60
    assert speculation.propose().drafts == {}


def test_candidates_are_learned_from_without_being_verified() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("bad", 1, [7])]})
    speculation = controller(drafter, Table([1.0, 1.6]), asker)
    assert speculation.propose().drafts == {}
    for _ in range(100):
        speculation.propose()
        give(speculation, asker, [7])
    assert speculation.propose().drafts == {1: [7]}


def test_of_several_drafters_the_best_candidate_is_verified() -> None:
    asker = Asker(1)
    texts = Scripted({1: [Candidate("good", 2, [5, 6])]})
    masked = Scripted({1: [Candidate("dmlm", 40, [7, 8])]}, sources=("dmlm",))
    speculation = Speculation(texts, masked)
    speculation.cost = FLAT
    speculation.enter(asker)  # type: ignore[arg-type]
    give(speculation, asker, [0])
    assert speculation.propose().drafts == {1: [7, 8]}
    give(speculation, asker, [7, 3], [7, 8])
    assert {each.name: each.accepted for each in speculation.report()} == {"good": 0, "bad": 0, "dmlm": 1}
    assert texts.log == masked.log


def test_where_a_drafter_is_certain_no_other_is_asked() -> None:
    asker = Asker(1)
    texts = Scripted({1: [Candidate("good", 40, [5, 6])]})
    forced = Scripted({1: [Candidate("forced", 1, [7])]}, sources=("forced",), is_certain=True)
    speculation = Speculation(forced, texts)
    speculation.cost = FLAT
    speculation.enter(asker)  # type: ignore[arg-type]
    give(speculation, asker, [0])
    assert speculation.propose().drafts == {1: [7]}
    forced.candidates.clear()
    assert speculation.propose().drafts == {1: [5, 6]}


def test_the_report_counts_by_source() -> None:
    asker = Asker(1)
    drafter = Scripted({1: [Candidate("bad", 30, [7, 8, 9])]})
    speculation = controller(drafter, FLAT, asker)
    assert speculation.propose().drafts == {1: [7, 8, 9]}
    give(speculation, asker, [7, 8, 5], [7, 8, 9])
    good, bad = speculation.report()
    assert (good.name, good.drafts, good.proposed, good.mean_accepted) == ("good", 0, 0, 0.0)
    assert (bad.drafts, bad.proposed, bad.accepted, bad.mean_accepted) == (1, 3, 2, 2.0)
    assert bad.saved_s == pytest.approx(2 - (0.001 - 1.0))  # plain passes of a second each


def test_a_drafter_gets_every_token_and_the_end() -> None:
    asker, other = Asker(1), Asker(2)
    drafter = Scripted()
    speculation = controller(drafter, FLAT, asker, other)
    give(speculation, asker, [5, 6], [5])
    asker.finish_reason, other.finish_reason = "stop", "cancelled"
    for each in (asker, other, other):
        speculation.leave(each)  # type: ignore[arg-type]
    assert [entry for entry in drafter.log if entry[1] == 1] == [
        ("enter", 1),
        ("extend", 1, (0,)),
        ("extend", 1, (5, 6)),
        ("leave", 1, True),
    ]
    assert [entry for entry in drafter.log if entry[1] == 2] == [("enter", 2), ("extend", 2, (0,)), ("leave", 2, False)]


def test_evidence_has_its_classes() -> None:
    kinds = kinds_of(Candidate("good", 1, range(100)))
    deeper = [EVIDENCE_CLASSES * LATER + sum(length > bound for bound in EVIDENCE_BOUNDS) for length in range(2, 101)]
    assert kinds == [EVIDENCE_CLASSES * ALONE, *deeper]
    for length in (MAX_EVIDENCE - 2, MAX_EVIDENCE - 1, 10**9):
        kinds = kinds_of(Candidate("good", length, range(3)))
        assert kinds[:3] == [EVIDENCE_CLASSES - 1, KINDS - 1, KINDS - 1]


@pytest.mark.parametrize(
    ("places", "rivals", "agreement"), [(1, 0, ALONE), (2, 0, UNANIMOUS), (3, 2, MOSTLY), (2, 2, HALF), (1, 2, RARELY)]
)
def test_agreement_is_evidence(places: int, rivals: int, agreement: int) -> None:
    assert kinds_of(Candidate("good", 2, [5], places, rivals))[0] == EVIDENCE_CLASSES * agreement + 1


def test_temperatures_have_their_classes() -> None:
    assert [temperature_class(t) for t in (0.0, 0.3, 0.7, 1.0, 5.0)] == [0, 1, 2, 3, 4]


@given(st.lists(st.booleans(), max_size=2000), st.integers(0, KINDS - 1), st.integers(0, 4))
def test_rates_follow_what_was_seen(held: list[bool], kind: int, heat: int) -> None:
    rates, record = AcceptanceRates(heat), RequestRecord()
    for each in held:
        record.note(rates.rates[kind], each)
        rates.note(kind, each)
    assert all(LEAST <= rate <= MOST for rate in rates.rates)
    assert record.odds_ratio > 0
    chances = cumulative_chances(rates.rates, record, kinds_of(Candidate("good", 3, range(24))), 20)
    assert chances == sorted(chances, reverse=True)
    assert all(0.0 < chance < 1.0 for chance in chances)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_rate_converges(share: float) -> None:
    rates = AcceptanceRates(0)
    for index in range(2000):
        rates.note(4, (index * share) % 1.0 < share)
    assert rates.rates[4] == pytest.approx(share, abs=0.05)
