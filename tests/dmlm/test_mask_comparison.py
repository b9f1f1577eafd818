"""The comparison of masks: shares of tokens, intervals, and runs that two processes must not both compute."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.dmlm.masks import Run, alone_in, interval_of, share_needed, summary

RANDOM = [(100, 5.0), (200, 4.0), (400, 3.0)]


def test_share_of_tokens_lies_between_two_measurements() -> None:
    assert share_needed(RANDOM, RANDOM) == pytest.approx(1.0)
    assert share_needed([(100, 4.0), (200, 2.0), (400, 1.0)], RANDOM) == pytest.approx(150 / 400)
    assert share_needed([(100, 2.5), (400, 2.0)], RANDOM) == pytest.approx(100 / 400)
    assert share_needed([(100, 5.0), (400, 3.1)], RANDOM) is None


def test_interval_is_that_of_students_t() -> None:
    assert interval_of([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert interval_of([1.0]) is None


def test_a_kind_that_misses_the_goal_with_one_seed_has_no_share() -> None:
    random = Run(RANDOM, 3.1)
    found = summary({0: random, 1: Run([(400, 3.5)], 3.4)}, {0: random, 1: random})
    assert found["bound"] == pytest.approx(3.25)  # of the final bounds, which the points of the curves are not
    assert found["share"] is None
    assert found["shares"] == [pytest.approx(1.0), None]


def test_a_run_is_computed_by_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run") as first, alone_in(tmp_path / "run") as second:
        assert first
        assert not second
    with alone_in(tmp_path / "run") as again:
        assert again
