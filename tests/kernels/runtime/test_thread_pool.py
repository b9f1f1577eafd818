"""The worker team: passes from several callers, through sleep, to its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from deadline import within
from kernel_pass import Floating, table_of

from miaotui.kernels.linear import fields as lin
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, address_of, aligned_bytes, aligned_int64, shared_pool

PATIENCE_S = 60
UNITS = 9


class Counter:
    """A model that counts: each pass adds 1 to every output, one operation after the other."""

    def __init__(self, operations: int = 3) -> None:
        self.weights = aligned_bytes(2 * UNITS * 2048)
        self.weights.view(np.float32)[:] = 1
        self.x = Floating(1, 32, np.eye(1, 32, dtype=np.float32))
        self.out = Floating(1, 32 * UNITS, np.zeros((1, 32 * UNITS), np.float32))
        self.operations, self.passes = operations, 0
        fields = {
            ops.ROWS: ops.RUN_ROWS,
            lin.WEIGHTS: address_of(self.weights),
            lin.TILE_STRIDE: 2048,
            lin.GROUPS: 1,
            lin.UNITS: UNITS,
            lin.X: self.x.address,
            lin.X_STRIDE: self.x.stride,
            lin.MODE: lin.ADD,
            lin.OUT: self.out.address,
            lin.OUT_STRIDE: self.out.stride,
        }
        self.table = table_of([("linear.matmul:linear_f32", fields)] * operations)
        self.run = aligned_int64(ops.RUN_FIELDS)
        self.run[ops.RUN_ROWS] = 1

    def step(self, team: ThreadPool) -> None:
        self.passes += 1
        team.run(address_of(self.table), len(self.table), self.run)

    def check(self) -> None:
        assert (self.out.read() == self.passes * self.operations).all()


def with_team(threads: int, action: Callable[[ThreadPool], None]) -> None:
    """Run ``action`` with a team of its own, and end that."""
    team = ThreadPool(threads)
    within(PATIENCE_S, lambda: action(team))
    within(PATIENCE_S, team.close)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_workers_wake_up_whenever_a_pass_comes(threads: int) -> None:
    """While they spin, while they fall asleep, and long after."""
    counter, pauses = Counter(), random.Random(threads)

    def passes(team: ThreadPool) -> None:
        for _ in range(150):
            counter.step(team)
            time.sleep(pauses.choice([0, 0, 0.0005, 0.001, 0.002]))
        time.sleep(0.1)
        counter.step(team)

    with_team(threads, passes)
    counter.check()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [3, 4])
def test_no_worker_is_ever_forgotten(threads: int) -> None:
    """Several workers that fall asleep and are woken at the same moment, again and again."""
    counter, pauses = Counter(1), random.Random(threads)

    def passes(team: ThreadPool) -> None:
        for _ in range(4000):
            counter.step(team)
            time.sleep(pauses.uniform(0.0005, 0.0025))

    with_team(threads, passes)
    counter.check()


def test_callers_in_several_threads_take_turns() -> None:
    counters = [Counter(n) for n in (1, 2, 3)]

    def passes(team: ThreadPool) -> None:
        def work(counter: Counter) -> None:
            for _ in range(300):
                counter.step(team)

        callers = [threading.Thread(target=work, args=(counter,)) for counter in counters]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    with_team(2, passes)
    for counter in counters:
        assert counter.passes == 300
        counter.check()


@pytest.mark.parametrize("asleep", [False, True], ids=["spinning", "asleep"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_closed_team_leaves_no_thread(threads: int, asleep: bool) -> None:
    before = set(threading.enumerate())
    counter = Counter()

    def passes(team: ThreadPool) -> None:
        counter.step(team)
        assert len(set(threading.enumerate()) - before) >= threads - 1
        if asleep:
            time.sleep(0.05)

    with_team(threads, passes)
    assert set(threading.enumerate()) <= before


def test_a_team_that_has_never_run_can_be_closed() -> None:
    with_team(3, lambda team: None)


def test_teams_of_one_size_are_one() -> None:
    assert shared_pool(2) is shared_pool(2)
    assert shared_pool(1) is not shared_pool(2)
