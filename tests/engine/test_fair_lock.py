"""Turns come in order of arrival, and only to those who still wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from miaotui.engine.fair_lock import FairLock


def start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(turns: FairLock) -> int:
    return len(turns._line)


def test_first_come_first_served() -> None:
    turns, order, threads = FairLock(), [], []

    def visit(name: int) -> None:
        with turns:
            order.append(name)

    turns.take()
    for name in range(8):
        threads.append(start(lambda name=name: visit(name)))
        wait_until(lambda name=name: waiting(turns) == name + 1)
    turns.give()
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))
    assert turns.try_take()


def test_who_takes_it_again_and_again_lets_others_in() -> None:
    turns, done = FairLock(), threading.Event()

    def hog() -> None:
        while not done.is_set():
            with turns:
                time.sleep(0.001)

    thread = start(hog)
    for _ in range(20):
        with turns:
            pass
    done.set()
    thread.join(10)
    assert not thread.is_alive()


def test_only_one_has_it() -> None:
    turns, inside, most = FairLock(), [], []

    def visit() -> None:
        for _ in range(200):
            with turns:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [start(visit) for _ in range(4)]
    for thread in threads:
        thread.join(20)
    assert max(most) == 1
    assert len(most) == 800


def test_trying_never_waits() -> None:
    turns = FairLock()
    assert turns.try_take()
    assert not turns.try_take()
    turns.give()
    with turns:
        assert not turns.try_take()
    assert turns.try_take()


def test_the_turn_ends_with_an_error() -> None:
    turns = FairLock()
    with pytest.raises(KeyError), turns:
        raise KeyError
    assert turns.try_take()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="interrupts a thread by a signal")
@pytest.mark.parametrize("comes_just_then", [False, True])
def test_who_is_interrupted_leaves_the_line(comes_just_then: bool) -> None:
    """While it waits; or in the moment in which the turn has come, but cannot be used any more."""
    turns = FairLock()
    turns.take()

    def interrupt(_number: int, _frame: object) -> None:
        if comes_just_then:
            turns.give()
        raise KeyboardInterrupt

    def send() -> None:
        wait_until(lambda: waiting(turns) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        thread = start(send)
        with pytest.raises(KeyboardInterrupt):
            turns.take()
        thread.join(10)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not waiting(turns)
    if not comes_just_then:
        assert not turns.try_take()
        turns.give()
    assert turns.try_take()
