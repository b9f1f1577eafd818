"""What promises allow for the errors of whole answers' forecasts."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.schedule.promises.admission import Admission
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.schedule.promises.forecast import (
    ANSWER_DEVIATIONS,
    ANSWER_MOST_BIAS,
    ANSWER_MOST_SPREAD,
    AnswerErrors,
    SchedulingPolicy,
)
from miaotui.schedule.promises.promise import PromiseRequest
from miaotui.types import Deadline

RATES = CostRates(((1, 0.003), (8, 0.005), (64, 0.026), (256, 0.105)), 1e-4, 1e-6)


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2])
def test_the_allowance_covers_all_but_a_few_of_what_came_before(spread: float) -> None:
    source, errors = random.Random(1), AnswerErrors()
    for _ in range(200):
        errors.add(0.5, 0.5 * source.lognormvariate(0.03, spread))
    later = [source.lognormvariate(0.03, spread) for _ in range(2000)]
    covered = sum(errors.allowed_s(0.5) >= 0.5 * each for each in later) / len(later)
    assert 0.93 <= covered <= 0.999
    assert errors.spread == pytest.approx(spread, rel=0.5)


def test_one_stall_counts_as_one_and_is_forgotten() -> None:
    errors = AnswerErrors()
    for _ in range(50):
        errors.add(1.0, 1.0)
    before_s = errors.allowed_s(1.0)
    errors.add(1.0, 60.0)
    assert errors.allowed_s(1.0) < 1.1 * before_s
    for _ in range(50):
        errors.add(1.0, 1.0)
    assert errors.allowed_s(1.0) == pytest.approx(before_s, rel=0.02)


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1e6)), max_size=60))
def test_it_never_allows_less_than_was_foreseen_nor_without_bound(answers: list[tuple[float, float]]) -> None:
    errors = AnswerErrors()
    for foreseen_s, took_s in answers:
        errors.add(foreseen_s, took_s)
    assert 1.0 <= errors.allowed_s(1.0) <= math.exp(ANSWER_MOST_BIAS + ANSWER_DEVIATIONS * ANSWER_MOST_SPREAD)


def _asked(number: int, arrived_s: float, named: bool = True) -> PromiseRequest:
    return PromiseRequest(number, 100, 0, 50, named, Deadline(total_ms=60_000.0), arrived_s)


def test_only_answers_that_were_alone_and_whole_are_counted() -> None:
    admission = Admission(CostModel(RATES), SchedulingPolicy(8, 256))
    fresh = admission.errors.allowed_s(1.0)

    admission.admit(_asked(0, 1.0), 1.0)
    admission.admit(_asked(1, 1.1), 1.1)  # beside the first
    admission.leave(0, done_s=9.0)
    admission.leave(1, done_s=9.0)
    admission.admit(_asked(2, 10.0), 10.0)
    admission.leave(2)  # it ended before its limit
    admission.admit(_asked(3, 20.0, named=False), 20.0)  # its length was a guess
    admission.leave(3, done_s=29.0)
    assert admission.errors.allowed_s(1.0) == fresh

    admission.admit(_asked(4, 30.0), 30.0)
    admission.leave(4, done_s=39.0)  # far longer than foreseen
    assert admission.errors.allowed_s(1.0) > fresh


def test_a_promise_allows_for_the_errors_of_answers() -> None:
    admission = Admission(CostModel(RATES), SchedulingPolicy(8, 256))
    before_ms = admission.admit(_asked(0, 1.0), 1.0).predicted_ms
    admission.leave(0)
    for _ in range(40):
        admission.errors.add(1.0, 1.3)
        admission.errors.add(1.0, 0.9)
    assert admission.admit(_asked(1, 2.0), 2.0).predicted_ms > 1.1 * before_ms
