"""Turns at the cores: one at a time, promised work first, nothing waits for ever."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from miaotui.engine.turns import FIRST, MOST_WAIT_S, PROMISED, REST, CoreTurns


class Loop:
    """A sharer of a rank."""

    def __init__(self, turns: CoreTurns, rank: int = REST) -> None:
        self.turns, self.rank, self.hurried = turns, rank, 0
        self.shares_cores = False
        turns.join(self)

    def turn_rank(self) -> int:
        return self.rank

    def spare_s(self) -> float:
        return math.inf

    def ahead_s(self) -> float:
        return 0.0

    def hurry(self) -> None:
        self.hurried += 1


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_one_alone_never_waits() -> None:
    turns = CoreTurns()
    loop = Loop(turns)
    for _ in range(3):
        assert turns.enter(loop) == 0.0
        turns.done(loop)


def test_only_loops_that_share_the_cores_need_turns() -> None:
    turns = CoreTurns()
    first = Loop(turns)
    assert not first.shares_cores
    assert turns.ahead_of_s(first) == 0.0
    second = Loop(turns)
    assert first.shares_cores
    assert second.shares_cores
    assert (first.hurried, second.hurried) == (1, 0)  # the run that it began alone ends soon
    turns.leave(second)
    assert not first.shares_cores


def test_turns_never_overlap_and_go_round() -> None:
    turns, order = CoreTurns(), list[int]()
    loops = [Loop(turns) for _ in range(3)]

    def work(number: int) -> None:
        for _ in range(30):
            turns.enter(loops[number])
            order.append(number)
            time.sleep(0.001)
            order.append(number)
            turns.done(loops[number])

    threads = [in_thread(lambda n=n: work(n)) for n in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.join(20)
    assert all(order[i] == order[i + 1] for i in range(0, len(order), 2))
    middle = order[20:100:2]
    assert all(middle.count(number) >= 5 for number in range(3))


def test_promised_work_goes_first_and_hurries_a_run() -> None:
    turns, order = CoreTurns(), list[str]()
    chat, plain, urgent = Loop(turns), Loop(turns), Loop(turns, FIRST)
    turns.enter(chat)
    before = chat.hurried

    def work(loop: Loop, name: str) -> None:
        turns.enter(loop)
        order.append(name)
        turns.done(loop)

    first = in_thread(lambda: work(plain, "plain"))
    time.sleep(0.02)
    second = in_thread(lambda: work(urgent, "urgent"))
    time.sleep(0.02)
    assert chat.hurried == before + 1
    urgent.rank = REST if "urgent" in order else FIRST
    turns.done(chat)
    second.join(10)
    urgent.rank = REST
    first.join(10)
    assert order == ["urgent", "plain"]


def test_work_without_a_promise_waits_for_promises_but_not_for_ever() -> None:
    turns = CoreTurns()
    _chat, plain = Loop(turns, PROMISED), Loop(turns)
    waited_s = turns.enter(plain)
    turns.done(plain)
    assert MOST_WAIT_S * 0.9 <= waited_s < MOST_WAIT_S * 2


def test_one_who_leaves_holds_nobody_up() -> None:
    turns = CoreTurns()
    chat, plain = Loop(turns, PROMISED), Loop(turns)
    turns.leave(chat)
    assert turns.enter(plain) < 0.05
    assert turns.others(plain) == []
