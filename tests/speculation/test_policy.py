"""The draft policy: the rows that bring the most tokens per cost, by one compiled function."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.kernels.draft.policy_fields import (
    EVIDENCE_BOUNDS,
    EVIDENCE_CLASSES,
    MAX_CHANCES,
    MIN_CHANCE,
    PASS_MARGIN,
    STEP_MARGIN,
    evidence_class,
)
from miaotui.speculation.policy import DraftPolicy

POLICY = DraftPolicy()
ODD = st.floats(0.0, 1.0, width=32)


@given(
    st.lists(ODD, max_size=30),
    st.lists(st.floats(0.0, 0.5), min_size=30, max_size=30),
    st.floats(1.0, 16.0),
    st.floats(0.0, 0.3),
)
def test_the_number_of_rows_brings_the_most_tokens_per_cost(
    chances: list[float], prices: list[float], gain: float, extra: float
) -> None:
    chances.sort(reverse=True)
    costs = list(itertools.accumulate(prices, initial=1.0))
    worth, speed = POLICY.rows_worth(chances, costs, gain, extra=extra)
    counted = [chance for chance in chances if chance >= MIN_CHANCE]
    speeds = [(gain + sum(counted[:n])) / (costs[n] + extra) for n in range(1, len(counted) + 1)]
    bound = PASS_MARGIN * gain / costs[0]
    best = max(speeds, default=0.0)
    if best > bound * (1 + 1e-9):
        assert speeds[worth - 1] == pytest.approx(best)
        assert speed == pytest.approx(best)
    elif best < bound * (1 - 1e-9):
        assert (worth, speed) == (0, pytest.approx(bound))


@given(ODD, ODD, st.floats(1.0, 16.0), st.floats(0.1, 9.0))
def test_a_step_is_worth_its_price(tokens: float, price: float, gain: float, cost: float) -> None:
    for margin in (1.0, STEP_MARGIN):
        wanted = tokens * cost > margin * gain * price
        assert POLICY.step_worth(tokens, price, gain, cost, margin) == wanted
    assert POLICY.step_worth(tokens, price, gain, cost) == (tokens * cost > STEP_MARGIN * gain * price)


def test_more_chances_than_a_pass_has_rows_for_are_left_out() -> None:
    many = [0.9] * (2 * MAX_CHANCES)
    assert POLICY.rows_worth(many, [1.0] * (len(many) + 1), 1.0)[0] == MAX_CHANCES


def test_unlikely_tokens_get_no_row_even_where_rows_cost_nothing() -> None:
    assert POLICY.rows_worth([0.9, MIN_CHANCE, MIN_CHANCE / 2], [1.0] * 4, 1.0)[0] == 2


def test_evidence_has_its_classes() -> None:
    assert [evidence_class(bound) for bound in EVIDENCE_BOUNDS] == list(range(EVIDENCE_CLASSES - 1))
    assert [evidence_class(bound + 1) for bound in EVIDENCE_BOUNDS] == list(range(1, EVIDENCE_CLASSES))
