"""Cores of threads that wake: never the caller's at first, all of its own afterwards."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from test_thread_pool import Counter, with_team

from miaotui.kernels.runtime.thread_pool import ThreadPool, keep_apart, spread, without

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says where threads may run")


def test_the_callers_core_is_left_out() -> None:
    assert without(1, frozenset({0, 1, 2})) == {0, 2}
    assert without(1, frozenset({1})) == frozenset()
    assert without(-1, frozenset({0, 1})) == frozenset()  # the system does not say


@LINUX
def test_a_thread_may_run_everywhere_once_it_has_woken() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")

    def passes(team: ThreadPool) -> None:
        counter = Counter()
        for _ in range(20):
            time.sleep(0.01)  # longer than threads spin
            counter.step(team)
        counter.check()
        end_s = time.monotonic() + 20
        workers = [thread.native_id for thread in threading.enumerate() if thread.name == "miaotui-1"]
        while any(os.sched_getaffinity(each or 0) != os.sched_getaffinity(0) for each in workers):
            assert time.monotonic() < end_s
            time.sleep(0.01)

    with_team(2, passes)


@LINUX
def test_a_system_that_forbids_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(thread: int, mask: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    assert keep_apart([threading.get_native_id()]) == frozenset()
    spread({0})
