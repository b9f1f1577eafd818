"""The number of replicas that a pool wants: up at once, down slowly, within its range."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.cluster.routing.scaling import SHARE, WINDOW_S, Scaler, ScaleRange
from miaotui.errors import RequestError


def offered(scaler: Scaler, rate: float, work_s: float, start_s: float, end_s: float) -> float:
    """Note requests at an even ``rate`` and return the end."""
    for number in range(int((end_s - start_s) * rate)):
        scaler.note(work_s, False, start_s + number / rate)
    return end_s


def test_it_follows_the_load_up_at_once_and_down_after_a_calm() -> None:
    scaler, limits = Scaler(ScaleRange(1, 8, calm_s=30), 0.0), 8
    now_s = offered(scaler, 4.0, 0.5, 0.0, WINDOW_S)  # two replicas' time each second
    count = scaler.wanted(now_s, 1, 3, 0.0)
    assert count == 3, f"2 of {SHARE} each"
    assert scaler.wanted(offered(scaler, 40.0, 0.5, now_s, now_s + WINDOW_S), count, 9, 0.0) == limits
    peak_s = 2 * WINDOW_S
    assert [scaler.wanted(peak_s + after_s, 3, 1, 0.0) for after_s in (20, 29, 31, 32)] == [3, 3, 2, 3]
    assert scaler.wanted(peak_s + 62, 2, 1, 0.0) == 1, "one at a time"


def test_refused_promises_and_queues_bring_one_more() -> None:
    scaler = Scaler(ScaleRange(1, 4), 0.0)
    assert scaler.wanted(1.0, 1, 1, 0.0) == 1
    scaler.note(0.01, True, 1.0)
    assert scaler.wanted(1.1, 1, 1, 0.0) == 2
    assert scaler.wanted(1.2, 1, 1, 20.0) == 3
    assert scaler.wanted(1.1 + WINDOW_S, 2, 1, 0.0) == 2, "none was refused lately: two stay until it is calm"


def test_the_last_one_ends_only_after_a_time_without_requests() -> None:
    scaler = Scaler(ScaleRange(0, 2, calm_s=5, idle_s=100), 0.0)
    scaler.note(0.1, False, 10.0)
    assert scaler.wanted(60.0, 1, 1, 0.0) == 1, "one runs"
    assert scaler.wanted(159.0, 1, 0, 0.0) == 1
    assert scaler.wanted(161.0, 1, 0, 0.0) == 0
    scaler.note(0.1, False, 162.0)
    assert scaler.wanted(162.0, 0, 1, 0.0) == 1


events = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5), st.booleans(), st.integers(0, 3)), max_size=40)


@given(events, st.integers(0, 3), st.integers(1, 6))
def test_the_number_stays_in_its_range_and_work_has_a_replica(events: Any, least: int, most: int) -> None:
    limits = ScaleRange(min(least, most), most, calm_s=3, idle_s=7)
    scaler, count, now_s = Scaler(limits, 0.0), limits.least, 0.0
    for pause_s, work_s, refused, in_flight in events:
        now_s += pause_s
        if work_s:
            scaler.note(work_s, refused, now_s)
        before, count = count, scaler.wanted(now_s, count, in_flight, work_s)
        assert limits.least <= count <= limits.most
        assert count >= before - 1
        assert count or not in_flight


@pytest.mark.parametrize(
    "wrong", [{"least": 3, "most": 2}, {"most": 0, "least": 0}, {"least": True}, {"most": 2.5}, {"idle_s": 0}]
)
def test_a_range_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="autoscale"):
        ScaleRange(**wrong)
