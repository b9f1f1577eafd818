"""Rules that say which proposed tokens stay, held to their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.errors import RequestError

CONFIDENCES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(CONFIDENCES, st.floats(0.01, 1))
def test_threshold_keeps_the_confident_and_at_least_the_best(values: list[float], threshold: float) -> None:
    stays = Acceptance(threshold=threshold).accepted(np.array(values))
    expected = {at for at, value in enumerate(values) if value >= threshold} or {values.index(max(values))}
    assert set(np.flatnonzero(stays)) == expected


@settings(max_examples=60, deadline=None)
@given(CONFIDENCES, st.floats(0.01, 4))
def test_factor_keeps_the_largest_number_that_fits(values: list[float], factor: float) -> None:
    stays = Acceptance(factor=factor).accepted(np.array(values))
    ranked = sorted(values, reverse=True)
    fitting = [n for n in range(1, len(values) + 1) if (n + 1) * (1 - ranked[n - 1]) < factor]
    assert stays.sum() == max(fitting, default=1)
    assert min(np.array(values)[stays]) >= max(np.array(values)[~stays], default=0)


@settings(max_examples=30, deadline=None)
@given(CONFIDENCES, st.integers(1, 50))
def test_count_keeps_so_many(values: list[float], count: int) -> None:
    stays = Acceptance(count=count).accepted(np.array(values))
    assert stays.sum() == min(count, len(values))
    assert min(np.array(values)[stays]) >= max(np.array(values)[~stays], default=0)


def test_of_equals_the_first_stays() -> None:
    assert Acceptance(count=2).accepted(np.full(4, 0.5)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 1.5}, {"factor": -1.0}, {"count": 0}, {"threshold": 0.5, "count": 2}]
)
def test_wrong_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        Acceptance(**wrong)  # type: ignore[arg-type]
