"""The choice of types equals that of trying all choices, and never exceeds its bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.optimize.quantization.allocation import Option, allocate

OPTION = st.builds(Option, st.integers(1, 40), st.floats(0, 9))
MATRICES = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(MATRICES, st.integers(5, 200))
def test_no_other_choice_loses_less(matrices: list[list[Option]], limit: int) -> None:
    fitting = [
        sum(one.loss for one in taken)
        for taken in itertools.product(*matrices)
        if sum(one.size_bytes for one in taken) <= limit
    ]
    if not fitting:
        with pytest.raises(RequestError, match="allow a larger size"):
            allocate(matrices, limit)
        return
    found = allocate(matrices, limit)
    assert found.size_bytes == sum(one[pick].size_bytes for one, pick in zip(matrices, found.chosen, strict=True))
    assert found.size_bytes <= limit
    assert found.loss == pytest.approx(min(fitting))


def test_sizes_of_real_files_stay_within_their_bytes() -> None:
    matrices = [[Option(40_000_000 + 977 * i, 2.0), Option(50_000_000 + 13 * i, 1.0)] for i in range(9)]
    found = allocate(matrices, 400_000_000)
    assert found.size_bytes <= 400_000_000
    assert sum(found.chosen) in (3, 4)
