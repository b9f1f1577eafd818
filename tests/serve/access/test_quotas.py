"""Limits per key: requests and tokens per minute, requests at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from miaotui.serve.middleware.keys import Caller, KeyLimits
from miaotui.serve.middleware.quotas import KeyUsage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_per_minute() -> None:
    clock, caller = Clock(), Caller("a", 1, KeyLimits(requests_per_minute=3))
    usage = KeyUsage(clock)
    for _ in range(3):
        assert usage.enter(caller) is None
        usage.leave(caller)
    excess = usage.enter(caller)
    assert excess is not None
    assert excess.retry_after_s == 20
    clock.now += excess.retry_after_s
    assert usage.enter(caller) is None


def test_tokens_per_minute_are_paid_back_before_more() -> None:
    clock, caller = Clock(), Caller("a", 1, KeyLimits(tokens_per_minute=60))
    usage = KeyUsage(clock)
    assert usage.enter(caller) is None
    usage.charge(caller, 90)
    excess = usage.enter(caller)
    assert excess is not None
    assert excess.retry_after_s == 31
    clock.now += 31
    assert usage.enter(caller) is None


def test_requests_at_once() -> None:
    caller, other = Caller("a", 1, KeyLimits(concurrent=2)), Caller("b", 2, KeyLimits(concurrent=2))
    usage = KeyUsage()
    assert usage.enter(caller) is None
    assert usage.enter(caller) is None
    assert usage.enter(caller) is not None
    assert usage.enter(other) is None
    usage.leave(caller)
    assert usage.enter(caller) is None


def test_without_limits_everything_enters() -> None:
    usage, caller = KeyUsage(), Caller("a", 1)
    assert all(usage.enter(caller) is None for _ in range(10_000))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=60))
def test_no_minute_has_more_than_its_share_twice(steps: list[tuple[float, int]]) -> None:
    """Whatever the pattern: in any 60 s at most one bucket plus one minute's refill get in."""
    clock, caller = Clock(), Caller("a", 1, KeyLimits(requests_per_minute=7))
    usage, entered = KeyUsage(clock), list[float]()
    for wait, tries in steps:
        clock.now += wait
        for _ in range(tries):
            if usage.enter(caller) is None:
                entered.append(clock.now)
                usage.leave(caller)
    for first in entered:
        assert sum(first <= moment <= first + 60 for moment in entered) <= 14
