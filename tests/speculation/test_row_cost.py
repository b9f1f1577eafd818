"""Row costs never fall with the number of rows, whatever is measured, and follow what passes take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.speculation.policy import MAX_ROWS, RowCost, pool_violators

SEEN = (0.91, 1.02, 1.28, 1.81, 1.48, 1.09, 1.4)  # ratios of 1, 2, ... 7 rows, once measured on a noisy machine


def all_costs(cost: RowCost) -> list[float]:
    return [cost.ratio(rows) for rows in range(1, 2 * MAX_ROWS)]


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The weighted isotonic regression by its definition: the greatest mean of those that end least (min-max)."""

    def mean(first: int, last: int) -> float:
        return sum(v * w for v, w in pairs[first : last + 1]) / sum(weights[first : last + 1])

    pairs, count = list(zip(values, weights, strict=True)), len(values)
    return [max(min(mean(i, j) for j in range(at, count)) for i in range(at + 1)) for at in range(count)]


@given(st.lists(st.tuples(st.integers(-1, MAX_ROWS + 2), st.floats(1e-6, 10.0)), max_size=40))
def test_more_rows_never_cost_less(passes: list[tuple[int, float]]) -> None:
    cost = RowCost()
    for rows, seconds in passes:
        cost.note(rows, seconds)
        found = all_costs(cost)
        assert found == sorted(found)
        assert found[0] > 0


@given(
    st.lists(st.floats(0.5, 2.0), min_size=7, max_size=7) | st.just(list(SEEN)),
    st.lists(st.integers(1, 7), min_size=20, max_size=400),
)
def test_dips_of_the_measurement_are_no_negative_prices(ratios: list[float], order: list[int]) -> None:
    cost = RowCost()
    for rows in order:
        cost.note(rows, 0.004 * ratios[rows - 1])
    assert all(after >= before for before, after in itertools.pairwise(cost.costs(1, 40)))


def test_a_dip_becomes_the_mean_of_its_neighbours() -> None:
    cost = RowCost()
    for index in range(7000):
        cost.note(1 + index * 3 % 7, 0.004 * SEEN[index * 3 % 7])
    found = [cost.ratio(rows) / cost.ratio(1) for rows in range(1, 8)]
    wanted = [each / SEEN[0] for each in isotonic(SEEN, [1.0] * 7)]
    assert found[3:6] == pytest.approx([found[3]] * 3, rel=0.01)
    assert found == pytest.approx(wanted, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 5.0)), min_size=2, max_size=12),
    st.integers(1, 11),
    st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3),
)
def test_pooling_is_isotonic_regression(pairs: list[tuple[float, float]], at: int, changed: list[float]) -> None:
    """Of values that ascend but for three that have changed."""
    values = sorted(value for value, _ in pairs)
    weights = [weight for _, weight in pairs]
    first = min(at, len(values)) - 1
    values[first : first + 3] = changed[: len(values) - first]
    table = [0.0, *values]
    pool_violators(table, [1.0, *weights], first + 1, min(first + 3, len(values)))
    assert table[0] == 0.0
    assert table[1:] == sorted(table[1:])
    assert table[1:] == pytest.approx(isotonic(values, weights))


def test_row_costs_converge_to_what_passes_take_through_slow_spells() -> None:
    cost = RowCost()
    true = {1: 1.0, 2: 1.4, 4: 2.0, 8: 3.5}
    for index in range(4000):
        slow = 2.0 if 1000 < index < 1300 else 1.0
        rows = (1, 2, 4, 8)[index * 7 % 4]
        cost.note(rows, 0.003 * slow * true[rows])
    for rows, ratio in true.items():
        assert cost.ratio(rows) / cost.ratio(1) == pytest.approx(ratio, rel=0.1)
        assert cost.seconds(rows) == pytest.approx(0.003 * ratio, rel=0.1)


def test_row_costs_bear_nonsense() -> None:
    cost = RowCost()
    before = all_costs(cost)
    assert before == sorted(before)
    assert cost.seconds(1) == 0.0
    for rows, seconds in ((1, 0.0), (0, 1.0), (-3, 1.0), (10**6, 1.0), (1, -1.0)):
        cost.note(rows, seconds)
    assert all_costs(cost) == before
    for _ in range(500):
        cost.note(3, 1e9)
        cost.note(2, 1e-9)
    assert all(each > 0 for each in all_costs(cost))
    assert all_costs(cost) == sorted(all_costs(cost))
